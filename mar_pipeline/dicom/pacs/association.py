"""An association with a DICOM server, or one line that says why there is none."""

import logging
import re
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from simulation.errors import MarError, UsageError

MAX_AE_TITLE = 16

logger = logging.getLogger(__name__)


class SendError(MarError):
    """Nothing could be sent: what was written stays and may be sent later."""

    exit_code = 8


def parse_address(text: str) -> tuple[str, int]:
    """Split HOST:PORT, such as pacs.example:104, 127.0.0.1:4242 or [::1]:4242.

    Raises:
        UsageError: something else.
    """
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not bare or (":" in bare and bare == host) or not re.fullmatch("[0-9]{1,5}", port):
        raise UsageError(f"server: got {text!r}; expected HOST:PORT such as 127.0.0.1:4242")
    return bare, check_port(int(port))


def check_port(port: int) -> int:
    """Return the port, or UsageError if there is no such."""
    if not 1 <= port <= 65535:
        raise UsageError(f"port: got {port}; expected 1 .. 65535")
    return port


def check_ae_title(title: str, what: str) -> str:
    """Return the AE title without spaces around it.

    Raises:
        UsageError: not 1 to 16 characters of ASCII without backslash and control characters.
    """
    bare = title.strip(" ")
    if not (1 <= len(bare) <= MAX_AE_TITLE and bare.isascii() and bare.isprintable() and "\\" not in bare):
        raise UsageError(
            f"{what} AE title: got {title!r}; expected 1 to {MAX_AE_TITLE} ASCII characters without backslash"
        )
    return bare


@contextmanager
def own_words() -> Iterator[None]:
    """Keep pynetdicom's and pydicom's messages to themselves: ours say the same without what the files hold.

    A program that set up their loggers keeps what it asked for. Files are sent as bytes, not decoded and encoded anew;
    pynetdicom has a global switch for that.
    """
    loggers = [logging.getLogger(name) for name in ("pynetdicom", "pydicom")]
    silenced = [own for own in loggers if own.level == logging.NOTSET]
    as_bytes = _config.STORE_SEND_CHUNKED_DATASET
    try:
        for own in silenced:
            own.setLevel(logging.CRITICAL + 1)
        _config.STORE_SEND_CHUNKED_DATASET = True
        yield
    finally:
        _config.STORE_SEND_CHUNKED_DATASET = as_bytes
        for own in silenced:
            own.setLevel(logging.NOTSET)


def associate(
    ae: AE,
    host: str,
    port: int,
    called_aet: str,
    contexts: list[PresentationContext],
    where: str,
    tls: ssl.SSLContext | None,
) -> Association:
    """Return an established association.

    Args:
        ae: ours, with its time limits.
        host: name or address of the server.
        port: of the server.
        called_aet: the server's AE title.
        contexts: what is to be sent.
        where: the server, as messages call it.
        tls: settings of an encrypted connection; None is a plain one.

    Raises:
        SendError: says in one line why there is none.
    """
    opened: list[bool] = []
    handlers = [(evt.EVT_CONN_OPEN, lambda event: opened.append(True))]
    begin = time.monotonic()
    try:
        association = ae.associate(
            host,
            port,
            contexts,
            ae_title=called_aet,
            evt_handlers=handlers,  # type: ignore[arg-type]
            tls_args=(tls, host) if tls else None,
        )
    except (OSError, UnicodeError) as error:
        raise SendError(f"{where}: {_connection_problem(host, port, ae.connection_timeout, tls)}") from error
    if association.is_established:
        return association
    answer = association.acceptor.primitive
    if association.is_rejected and answer is not None:
        reason = f"association rejected: {answer.reason_str}; check both AE titles and what the server allows"
    elif not opened:
        reason = _connection_problem(host, port, ae.connection_timeout, tls)
    elif answer is not None:
        reason = "the server accepts none of the kinds of files that there are"
    elif time.monotonic() - begin >= (ae.acse_timeout or 0):
        reason = f"no answer to the association request within {ae.acse_timeout:g} s; is this a DICOM port?"
    else:
        reason = "the server broke off the association; is this a DICOM port, with or without TLS as asked?"
    raise SendError(f"{where}: {reason}")


def _connection_problem(host: str, port: int, timeout_s: float | None, tls: ssl.SSLContext | None) -> str:
    """Why no connection comes about, found by trying once more: pynetdicom tells it to its log only."""
    try:
        with socket.create_connection((host, port), timeout_s) as connection:
            if tls:
                tls.wrap_socket(connection, server_hostname=host).close()
    except ConnectionRefusedError:
        return "connection refused; is the server running, and the port right?"
    except TimeoutError:
        return f"no connection within {timeout_s:g} s; is the address right, and no firewall between?"
    except (socket.gaierror, UnicodeError):
        return "the host's name is not known"
    except ssl.SSLCertVerificationError as error:
        return f"the server's certificate is not accepted: {error.verify_message}"
    except ssl.SSLError as error:
        return f"TLS failed: {error.reason or 'no TLS answer'}; does the port speak TLS?"
    except OSError as error:
        return error.strerror or "no connection"
    return "the connection broke while it was made; try again"


def echo(association: Association, where: str) -> None:
    """Ask whether the server is there; one that takes no C-ECHO is asked to store all the same."""
    if not any(context.abstract_syntax == Verification for context in association.accepted_contexts):
        logger.info("%s takes no C-ECHO; sending all the same", where)
        return
    status = association.send_c_echo().get("Status")
    if status is None:
        raise SendError(f"{where}: no answer to the C-ECHO; try again, or with a longer time limit")
    if status != 0:
        raise SendError(f"{where}: the C-ECHO failed with status 0x{status:04X}; is storing allowed for this AE title?")
