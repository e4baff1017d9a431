"""Sending a folder of DICOM files to a server: C-ECHO, then C-STORE, through pynetdicom."""

import logging
import ssl
import warnings
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_context
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS, code_to_category

from mar_pipeline.dicom.pacs.association import SendError, associate, check_ae_title, check_port, echo, own_words
from simulation.errors import InputError

MAX_CONTEXTS = 128
"""An association identifies its presentation contexts by odd numbers of one byte."""

logger = logging.getLogger(__name__)

Context = tuple[str, str]
"""SOP class UID and transfer syntax UID."""


@dataclass(frozen=True)
class SendReport:
    """What became of the files, named relative to the folder.

    Args:
        sent: files that the server stored.
        warned: (file, what the server remarks) of those it stored with changes or doubts.
        failed: (file, reason) of those it did not store.
    """

    sent: tuple[str, ...]
    warned: tuple[tuple[str, str], ...]
    failed: tuple[tuple[str, str], ...]

    @property
    def summary(self) -> str:
        """One line with the counts."""
        line = f"{len(self.sent)} of {len(self.sent) + len(self.failed)} files sent"
        return line + (f", {len(self.warned)} of them with a warning of the server" if self.warned else "")


@dataclass(frozen=True)
class _File:
    path: Path
    name: str
    context: Context


def send(
    folder: Path,
    host: str,
    port: int,
    called_aet: str,
    calling_aet: str = "MAR",
    *,
    timeout_s: float = 30.0,
    tls: ssl.SSLContext | None = None,
) -> SendReport:
    """Send every .dcm file under a folder in one association, its bytes as they are, after a C-ECHO.

    A server that takes no Explicit VR gets the same values in Implicit VR.

    Args:
        folder: searched with its subfolders; links are not followed.
        host: name or address of the server.
        port: of the server.
        called_aet: the server's AE title.
        calling_aet: ours.
        timeout_s: for the connection and for each answer.
        tls: settings of an encrypted connection, such as `ssl.create_default_context(cafile=...)`.

    Returns:
        What was stored and what not. A connection that breaks in between leaves the rest among the failed.

    Raises:
        UsageError: an AE title or port that cannot be.
        InputError: no .dcm files, or of more kinds than one association can name.
        SendError: no connection, no association, or a C-ECHO that fails.
    """
    called_aet, calling_aet = check_ae_title(called_aet, "called"), check_ae_title(calling_aet, "calling")
    check_port(port)
    files, failed = _list_files(folder)
    contexts = _contexts({file.context for file in files})
    with _asked(host, port, called_aet, calling_aet, contexts, timeout_s, tls) as association:
        return _store_all(association, files, failed)


def check_server(
    host: str,
    port: int,
    called_aet: str,
    calling_aet: str = "MAR",
    *,
    timeout_s: float = 30.0,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Ask a server by C-ECHO whether it is there and takes CT images, before anything is made that it is to store.

    Args:
        host: name or address of the server, as all that follows see `send`.
        port: see there.
        called_aet: see there.
        calling_aet: see there.
        timeout_s: see there.
        tls: see there.

    Raises:
        UsageError: an AE title or port that cannot be.
        SendError: no connection, no association, a C-ECHO that fails, or a server that takes no CT images.

    >>> check_server("127.0.0.1", 4242, "PACS")  # doctest: +SKIP
    """
    called_aet, calling_aet = check_ae_title(called_aet, "called"), check_ae_title(calling_aet, "calling")
    contexts = _contexts({(CTImageStorage, ExplicitVRLittleEndian)})
    with _asked(host, port, called_aet, calling_aet, contexts, timeout_s, tls) as association:
        if all(context.abstract_syntax != CTImageStorage for context in association.accepted_contexts):
            raise SendError(f"{called_aet} at {host}:{port}: takes no CT images; is it a storage server?")


@contextmanager
def _asked(
    host: str,
    port: int,
    called_aet: str,
    calling_aet: str,
    contexts: list[PresentationContext],
    timeout_s: float,
    tls: ssl.SSLContext | None,
) -> Iterator[Association]:
    """Provide an association on which a C-ECHO was answered, and release it afterwards."""
    ae = AE(ae_title=calling_aet)
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = timeout_s
    ae.network_timeout = None  # an answer that does not come is noticed by the one above
    where = f"{called_aet} at {host}:{port}"
    with own_words():
        association = associate(ae, host, port, called_aet, contexts, where, tls)
        try:
            echo(association, where)
            yield association
        finally:
            if association.is_established:
                association.release()
            ae.shutdown()


def _list_files(folder: Path) -> tuple[list[_File], list[tuple[str, str]]]:
    """Return the files with what they hold, and those that are no DICOM files."""
    files: list[_File] = []
    failed: list[tuple[str, str]] = []
    for path in sorted(folder.rglob("*.dcm")):
        if path.is_symlink() or not path.is_file():
            continue
        name = path.relative_to(folder).as_posix()
        try:
            meta = read_file_meta_info(path)
            context = str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)
            files.append(_File(path, name, context))
        except (InvalidDicomError, AttributeError, EOFError, OSError):
            failed.append((name, "not a DICOM file with file meta information"))
    if not files:
        raise InputError(f"nothing to send: no DICOM files with the ending .dcm, {len(failed)} that only end so")
    return files, failed


def _contexts(kinds: Set[Context]) -> list[PresentationContext]:
    """One context for each kind of file, so that the server answers for each; Implicit VR stands by for Explicit."""
    kinds = kinds | {(sop, str(ImplicitVRLittleEndian)) for sop, syntax in kinds if syntax == ExplicitVRLittleEndian}
    if len(kinds) >= MAX_CONTEXTS:
        raise InputError(
            f"got files that need {len(kinds)} presentation contexts; expected at most {MAX_CONTEXTS - 1}; "
            "send them in several folders"
        )
    return [build_context(Verification), *(build_context(sop, [syntax]) for sop, syntax in sorted(kinds))]


def _store_all(association: Association, files: Sequence[_File], unreadable: Sequence[tuple[str, str]]) -> SendReport:
    sent: list[str] = []
    warned: list[tuple[str, str]] = []
    failed = list(unreadable)
    accepted = {
        (str(context.abstract_syntax), str(syntax))
        for context in association.accepted_contexts
        for syntax in context.transfer_syntax
    }
    for number, file in enumerate(files):
        stored, remark = _store(association, file, accepted, number % 65535 + 1)
        if not stored:
            failed.append((file.name, remark))
            continue
        sent.append(file.name)
        if remark:
            warned.append((file.name, remark))
    return SendReport(tuple(sent), tuple(warned), tuple(sorted(failed)))


def _store(association: Association, file: _File, accepted: set[Context], message: int) -> tuple[bool, str]:
    """Send one file; (whether the server stored it, what is to be said of it)."""
    if not association.is_established:
        return False, "not sent: the connection is lost"
    sop_class, syntax = file.context
    in_implicit_vr = syntax == ExplicitVRLittleEndian and (sop_class, ImplicitVRLittleEndian) in accepted
    if file.context not in accepted and not in_implicit_vr:
        return False, f"the server does not take {_name(sop_class)} in {_name(syntax)}"
    try:
        if file.context in accepted:
            status = association.send_c_store(file.path, message).get("Status")
        else:
            with warnings.catch_warnings():  # of odd values, which they quote
                warnings.simplefilter("ignore")
                status = association.send_c_store(dcmread(file.path), message).get("Status")
    except (OSError, ValueError, AttributeError, RuntimeError, EOFError) as error:  # the text may quote the file
        logger.debug("%s: %s", file.name, type(error).__name__)
        return False, "could not be read and sent"
    if status is None:
        association.abort()  # pynetdicom may take it for established still, and wait for answers to the other files too
        return False, "no answer of the server in time, or a broken connection"
    category = code_to_category(status)
    meaning = STORAGE_SERVICE_CLASS_STATUS.get(status, ("", ""))[1]
    remark = f"status 0x{status:04X}" + (f", {meaning}" if meaning else "")
    if category == "Success":
        return True, ""
    return category == "Warning", f"the server answers with {category.lower()}: {remark}"


def _name(uid: str) -> str:
    """Return what the standard calls it."""
    return UID(uid).name if UID(uid).keyword else "something that the standard does not name"
