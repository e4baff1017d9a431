"""Files to Orthanc and back. A program: it runs in a network of its own, as Orthanc listens on all interfaces.

    unshare --net --map-root-user python orthanc_round_trip.py FOLDER

FOLDER holds pacs/ (Orthanc's configuration), and sent/, storescu/ and stow/ with files to send in three ways. What
comes back is written to c_get/ and wado/, and what else there is to tell is one JSON object on standard output.
"""

import base64
import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import CTImageStorage, PatientRootQueryRetrieveInformationModelGet, SegmentationStorage

from mar_pipeline.dicom.pacs.association import SendError
from mar_pipeline.dicom.pacs.send import send

HOST, DICOM_PORT, HTTP_PORT = "127.0.0.1", 4242, 8042
USER, PASSWORD = "mar", "password of a test"
WEB = f"http://{HOST}:{HTTP_PORT}/dicom-web"
DICOM_PARTS = 'multipart/related; type="application/dicom"'


def main(folder: Path) -> dict[str, Any]:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with orthanc(folder):
        told: dict[str, Any] = {
            "without password": status_of(None),
            "wrong password": status_of("wrong"),
            "with password": status_of(PASSWORD),
            "unknown caller": refusal(folder / "sent", "ORTHANC", "STRANGER"),
            "wrong name": refusal(folder / "sent", "OTHER", "MAR"),
            "send": send(folder / "sent", HOST, DICOM_PORT, "ORTHANC").summary,
            "storescu": subprocess.run(storescu(folder / "storescu"), capture_output=True).returncode,
            "stow": stow(sorted((folder / "stow").rglob("*.dcm"))),
        }
        studies = [one["0020000D"]["Value"][0] for one in as_json("/studies")]
        told["series"] = as_json("/series")
        for uid in studies:
            c_get(uid, folder / "c_get")
            wado(uid, folder / "wado")
    return told


def storescu(folder: Path) -> list[str]:
    """The command of README for those who send with dcmtk."""
    options = ["-aet", "MAR", "-aec", "ORTHANC", "--required"]
    scan = ["--scan-directories", "--recurse", "--scan-pattern", "*.dcm"]
    return ["storescu", *options, *scan, HOST, str(DICOM_PORT), str(folder)]


@contextmanager
def orthanc(folder: Path) -> Iterator[None]:
    """Orthanc, once its HTTP server answers; its log is FOLDER/log."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["Orthanc", str(folder / "pacs")], stdout=log, stderr=log)
        try:
            until = time.monotonic() + 60
            while status_of(PASSWORD) != 200:
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"Orthanc does not start: {(folder / 'log').read_text()[-2000:]}")
                time.sleep(0.1)
            yield
        finally:
            process.terminate()
            process.wait(60)


def web(
    path: str, accept: str, body: bytes | None = None, kind: str = "", password: str | None = PASSWORD
) -> tuple[str, bytes]:
    """Content type and content of DICOMweb's answer; with a body it is asked by POST."""
    request = urllib.request.Request(WEB + path, body, {"Accept": accept} | ({"Content-Type": kind} if kind else {}))
    if password is not None:
        request.add_header("Authorization", "Basic " + base64.b64encode(f"{USER}:{password}".encode()).decode())
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.headers["Content-Type"], answer.read()


def as_json(path: str, body: bytes | None = None, kind: str = "") -> Any:
    return json.loads(web(path, "application/dicom+json", body, kind)[1])


def status_of(password: str | None) -> int:
    """HTTP status that a password gets, 0 while nothing answers."""
    try:
        web("/studies", "application/dicom+json", password=password)
    except urllib.error.HTTPError as error:
        return error.code
    except urllib.error.URLError:
        return 0
    return 200


def refusal(folder: Path, called: str, calling: str) -> str:
    """What `send` says to AE titles that Orthanc does not take."""
    try:
        return send(folder, HOST, DICOM_PORT, called, calling).summary
    except SendError as error:
        return str(error)


def stow(paths: list[Path]) -> int:
    """Sends files by STOW-RS; how many were stored."""
    parts = [b"--part\r\nContent-Type: application/dicom\r\n\r\n" + path.read_bytes() + b"\r\n" for path in paths]
    body = b"".join(parts) + b"--part--\r\n"
    answer = as_json("/studies", body, f"{DICOM_PARTS}; boundary=part")
    return len(answer["00081199"]["Value"])


def wado(study: str, folder: Path) -> None:
    """Fetches a study by WADO-RS."""
    kind, answer = web(f"/studies/{study}", f"{DICOM_PARTS}; transfer-syntax=*")
    found = re.search('boundary="?([^";]+)', kind)
    if found is None:
        raise RuntimeError(f"WADO answers {kind}")
    for number, part in enumerate(answer.split(b"--" + found[1].encode())[1:-1]):
        (folder / f"{study}_{number}.dcm").write_bytes(part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n"))


KINDS = (CTImageStorage, SegmentationStorage)


def c_get(study: str, folder: Path) -> None:
    """Fetches a study by C-GET."""

    def keep(event: evt.Event) -> int:
        with (folder / f"{event.request.AffectedSOPInstanceUID}.dcm").open("wb") as file:
            file.write(bytes(128) + b"DICM")
            write_file_meta_info(file, event.file_meta)
            file.write(event.request.DataSet.getvalue())
        return 0

    ae = AE("MAR")
    ae.add_requested_context(PatientRootQueryRetrieveInformationModelGet)
    for kind in KINDS:
        ae.add_requested_context(kind, ExplicitVRLittleEndian)
    query = Dataset()
    query.QueryRetrieveLevel, query.StudyInstanceUID, query.PatientID = "STUDY", study, "*"
    roles = [build_role(kind, scp_role=True) for kind in KINDS]
    association = ae.associate(
        HOST, DICOM_PORT, ae_title="ORTHANC", ext_neg=roles, evt_handlers=[(evt.EVT_C_STORE, keep)]
    )
    answers = [status for status, _ in association.send_c_get(query, PatientRootQueryRetrieveInformationModelGet)]
    association.release()
    if not answers or answers[-1].get("Status") != 0:
        raise RuntimeError(f"C-GET answers {answers}")


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]))))
