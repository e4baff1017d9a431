"""Files sent to a server on loopback: what arrives, and what is said when it does not."""

import gc
import logging
import socket
import ssl
import subprocess
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from dicom_files import SECRETS, ct_dataset, fake_uid, save, write_series
from pydicom import dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless
from pynetdicom import AE, evt
from pynetdicom.dsutils import split_dataset
from pynetdicom.sop_class import Verification

from mar_pipeline.cli import main
from mar_pipeline.dicom.pacs.association import SendError, check_ae_title, parse_address
from mar_pipeline.dicom.pacs.send import check_server, send
from simulation.errors import InputError, UsageError

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <s:ResourceWarning")  # pynetdicom forgets sockets that failed
HOST, PACS = "127.0.0.1", "PACS"
ALL_SYNTAXES = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless)


@dataclass
class Server:
    """A storage server: what it was asked and what it answers."""

    port: int = 0
    answers: dict[int, int] = field(default_factory=dict)
    """Status of the nth C-STORE, from 0; others succeed."""
    echo: int = 0
    abort_at: int | None = None
    silent_at: int | None = None
    asked: list[str] = field(default_factory=list)
    stored: list[tuple[str, bytes]] = field(default_factory=list)
    """Transfer syntax and data set as it came."""
    datasets: list = field(default_factory=list)
    titles: list[tuple[str, str]] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)

    def on_echo(self, event):
        self.asked.append("echo")
        self.titles.append((event.assoc.requestor.ae_title, event.assoc.requestor.primitive.called_ae_title))
        return self.echo

    def on_store(self, event):
        number = self.asked.count("store")
        self.asked.append("store")
        if number == self.abort_at:
            event.assoc.abort()
        if number == self.silent_at:
            self.release.wait(20)
        self.stored.append((event.context.transfer_syntax, event.request.DataSet.getvalue()))
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        self.datasets.append(dataset)
        return self.answers.get(number, 0)


@pytest.fixture(autouse=True)
def forgotten_sockets():
    """Found here, where the warning is ignored, and not in a later test."""
    yield
    gc.collect()


@contextmanager
def serving(server=None, syntaxes=ALL_SYNTAXES, verification=True, own_title=False, tls=None):
    """Runs a server on a free port of loopback."""
    server = server or Server()
    ae = AE(ae_title=PACS)
    ae.require_called_aet = own_title
    if verification:
        ae.add_supported_context(Verification)
    ae.add_supported_context(CTImageStorage, syntaxes)
    handlers = [(evt.EVT_C_ECHO, server.on_echo), (evt.EVT_C_STORE, server.on_store)]
    running = ae.start_server((HOST, 0), block=False, evt_handlers=handlers, ssl_context=tls)
    server.port = running.server_address[1]
    try:
        yield server
    finally:
        server.release.set()
        running.shutdown()


def body(path: Path) -> bytes:
    """The bytes behind the file meta information."""
    _, offset = split_dataset(path)
    return path.read_bytes()[offset:]


def test_every_file_arrives_byte_for_byte_after_an_echo(tmp_path):
    paths = write_series(tmp_path / "a", 2) + write_series(tmp_path / "b" / "c", 1, SeriesInstanceUID=fake_uid("other"))
    (tmp_path / "report.html").write_text("not sent")
    with serving() as server:
        report = send(tmp_path, HOST, server.port, PACS)
    assert report.sent == ("a/0.dcm", "a/1.dcm", "b/c/0.dcm")
    assert (report.failed, report.warned, report.summary) == ((), (), "3 of 3 files sent")
    assert server.asked == ["echo", "store", "store", "store"]
    assert server.stored == [(ExplicitVRLittleEndian, body(path)) for path in paths]
    assert server.titles == [("MAR", PACS)]


def test_compressed_files_are_sent_as_they_are(tmp_path):
    (path,) = write_series(tmp_path, 1, transfer_syntax=RLELossless)
    with serving() as server:
        assert send(tmp_path, HOST, server.port, PACS).sent == ("0.dcm",)
    assert server.stored == [(RLELossless, body(path))]


def test_a_server_of_implicit_vr_gets_the_same_values(tmp_path):
    (path,) = write_series(tmp_path, 1)
    with serving(syntaxes=[ImplicitVRLittleEndian]) as server:
        assert send(tmp_path, HOST, server.port, PACS).sent == ("0.dcm",)
    (got,) = server.datasets
    assert server.stored[0][0] == ImplicitVRLittleEndian
    assert got == dcmread(path)


def test_what_the_server_does_not_take_is_named_and_the_rest_is_sent(tmp_path):
    write_series(tmp_path / "plain", 1)
    write_series(tmp_path / "rle", 2, transfer_syntax=RLELossless)
    with serving(syntaxes=[ExplicitVRLittleEndian]) as server:
        report = send(tmp_path, HOST, server.port, PACS)
    assert report.sent == ("plain/0.dcm",)
    assert [name for name, _ in report.failed] == ["rle/0.dcm", "rle/1.dcm"]
    assert all(reason == "the server does not take CT Image Storage in RLE Lossless" for _, reason in report.failed)


def test_statuses_are_told_file_by_file(tmp_path):
    write_series(tmp_path, 5)
    statuses = {0: 0xA700, 1: 0xB000, 3: 0x0124, 4: 0xC123}
    with serving(Server(answers=statuses)) as server:
        report = send(tmp_path, HOST, server.port, PACS)
    assert report.sent == ("1.dcm", "2.dcm")
    ((name, remark),) = report.warned
    assert (name, "0xB000" in remark) == ("1.dcm", True)
    assert [name for name, _ in report.failed] == ["0.dcm", "3.dcm", "4.dcm"]
    for (_, reason), code in zip(report.failed, ("0xA700", "0x0124", "0xC123"), strict=True):
        assert code in reason
    assert report.summary == "2 of 5 files sent, 1 of them with a warning of the server"


def test_files_that_are_no_dicom_are_named_and_links_left_alone(tmp_path):
    folder = tmp_path / "out"
    write_series(folder, 1)
    (folder / "text.dcm").write_text("text")
    (folder / "empty.dcm").touch()
    (folder / "folder.dcm").mkdir()
    (outside,) = write_series(tmp_path / "elsewhere", 1)
    (folder / "link.dcm").symlink_to(outside)
    with serving() as server:
        report = send(folder, HOST, server.port, PACS)
    assert report.sent == ("0.dcm",)
    assert [name for name, _ in report.failed] == ["empty.dcm", "text.dcm"]
    assert server.asked == ["echo", "store"]


def test_nothing_to_send_is_an_error(tmp_path):
    (tmp_path / "text.dcm").write_text("text")
    with pytest.raises(InputError, match="nothing to send"):
        send(tmp_path, HOST, 4242, PACS)


@pytest.mark.parametrize(("kinds", "fits"), [(63, True), (64, False)])
def test_no_more_kinds_than_an_association_can_name(tmp_path, kinds, fits):
    for number in range(kinds):  # each in Explicit VR with Implicit VR beside it, and one context is the echo's
        save(ct_dataset(SOPClassUID=fake_uid("class", number)), tmp_path / f"{number}.dcm")
    with serving() as server:
        if fits:
            assert len(send(tmp_path, HOST, server.port, PACS).failed) == kinds
        else:
            with pytest.raises(InputError, match="presentation contexts"):
                send(tmp_path, HOST, server.port, PACS)


def test_a_server_without_echo_is_sent_to_all_the_same(tmp_path):
    write_series(tmp_path, 1)
    with serving(verification=False) as server:
        assert send(tmp_path, HOST, server.port, PACS).sent == ("0.dcm",)


# --- what goes wrong ---


def refused(tmp_path, port, match, called_aet=PACS, host=HOST, **arguments):
    with pytest.raises(SendError, match=match) as caught:
        send(tmp_path, host, port, called_aet, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert not any(secret in message for secret in SECRETS)
    assert caught.value.exit_code == 8


@pytest.fixture
def folder(tmp_path):
    write_series(tmp_path, 3)
    return tmp_path


@pytest.fixture
def closed_port():
    with socket.socket() as unused:
        unused.bind((HOST, 0))
        yield unused.getsockname()[1]


def test_connection_refused(folder, closed_port):
    refused(folder, closed_port, f"^PACS at 127.0.0.1:{closed_port}: connection refused")


def test_unknown_host(folder):
    refused(folder, 104, "name is not known", host="no-such-host.invalid")


def test_a_port_that_does_not_answer(folder):
    with socket.create_server((HOST, 0)) as silent:
        refused(folder, silent.getsockname()[1], "no answer to the association request within 1 s", timeout_s=1)


def test_a_connection_that_does_not_come_about(folder):
    with socket.socket() as busy:  # takes one connection and leaves the next ones waiting
        busy.bind((HOST, 0))
        busy.listen(0)
        with socket.create_connection(busy.getsockname()):
            refused(folder, busy.getsockname()[1], "no connection within 1 s", timeout_s=1)


def test_association_rejected(folder):
    with serving(own_title=True) as server:
        refused(folder, server.port, "association rejected: .*[Cc]alled AE title", called_aet="OTHER")


def test_a_server_that_speaks_something_else(folder):
    with socket.create_server((HOST, 0)) as server:

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(10)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        refused(folder, server.getsockname()[1], "is this a DICOM port", timeout_s=5)
        thread.join()


def test_an_echo_that_fails(folder):
    with serving(Server(echo=0x0122)) as server:
        refused(folder, server.port, "C-ECHO failed with status 0x0122")
    assert server.asked == ["echo"]


def test_a_server_that_takes_none_of_the_kinds(folder):
    with serving(verification=False, syntaxes=[RLELossless]) as server:
        refused(folder, server.port, "accepts none of the kinds")


def test_a_lost_connection_leaves_the_rest_unsent(folder):
    with serving(Server(abort_at=1)) as server:
        report = send(folder, HOST, server.port, PACS)
    assert report.sent == ("0.dcm",)
    assert [name for name, _ in report.failed] == ["1.dcm", "2.dcm"]
    assert "broken connection" in report.failed[0][1]
    assert "connection is lost" in report.failed[1][1]


def test_no_answer_in_time(folder):
    with serving(Server(silent_at=1)) as server:
        report = send(folder, HOST, server.port, PACS, timeout_s=1)
    assert report.sent == ("0.dcm",)
    assert "no answer" in report.failed[0][1]


def test_a_file_that_vanishes_in_between(folder):
    def vanish(event):
        (folder / "1.dcm").unlink(missing_ok=True)
        return 0

    server = Server()
    server.on_echo = vanish
    with serving(server):
        report = send(folder, HOST, server.port, PACS)
    assert report.sent == ("0.dcm", "2.dcm")
    assert report.failed == (("1.dcm", "could not be read and sent"),)


def test_no_log_holds_what_the_files_hold(folder, closed_port, caplog):
    odd = (folder / "0.dcm").read_bytes().replace(SECRETS[4].encode(), SECRETS[0].encode()[:8])  # no date at all
    (folder / "odd.dcm").write_bytes(odd)
    caplog.set_level(logging.NOTSET)
    before = {name: logging.getLogger(name).level for name in ("pynetdicom", "pydicom")}
    with serving(Server(answers={0: 0xA700}), syntaxes=[ImplicitVRLittleEndian]) as server:
        server_log = len(caplog.records)
        send(folder, HOST, server.port, PACS)
    refused(folder, closed_port, "refused")
    assert not any(secret in caplog.text for secret in SECRETS)
    assert not [
        record.name for record in caplog.records[server_log:] if record.name.startswith(("pynetdicom", "pydicom"))
    ]
    assert before == {name: logging.getLogger(name).level for name in before}


@pytest.mark.parametrize("title", ["", "   ", "A" * 17, "A\\B", "A\nB", "Ä"])
def test_impossible_ae_titles(folder, title):
    for titles in ({"called_aet": title}, {"called_aet": PACS, "calling_aet": title}):
        with pytest.raises(UsageError, match="AE title"):
            send(folder, HOST, 4242, **titles)


def test_possible_ae_titles():
    assert [check_ae_title(title, "called") for title in (" A ", "A" * 16, "MY PACS")] == ["A", "A" * 16, "MY PACS"]


def test_addresses():
    expected = {
        "127.0.0.1:4242": (HOST, 4242),
        "pacs.example:104": ("pacs.example", 104),
        "[::1]:11112": ("::1", 11112),
    }
    assert {text: parse_address(text) for text in expected} == expected


@pytest.mark.parametrize(
    "text", ["", "host", "host:", ":104", "host:0", "host:65536", "host:1o4", "::1:104", "[]:1", "h:-1"]
)
def test_impossible_addresses(text):
    with pytest.raises(UsageError, match=r"server|port"):
        parse_address(text)


# --- before the work ---


def test_a_server_that_stores_is_asked_by_echo_alone():
    with serving() as server:
        check_server(HOST, server.port, PACS)
    assert server.asked == ["echo"] and server.titles == [("MAR", PACS)]


def test_a_server_without_echo_that_stores_will_do():
    with serving(verification=False) as server:
        check_server(HOST, server.port, PACS)
    assert server.asked == []


def test_what_cannot_store_is_told_before_the_work(closed_port):
    with pytest.raises(SendError, match="connection refused"):
        check_server(HOST, closed_port, PACS)
    with serving(Server(echo=0x0122)) as server, pytest.raises(SendError, match="C-ECHO failed with status 0x0122"):
        check_server(HOST, server.port, PACS)
    with serving(own_title=True) as server, pytest.raises(SendError, match="AE titles"):
        check_server(HOST, server.port, "OTHER")
    with serving(syntaxes=[RLELossless]) as server, pytest.raises(SendError, match="takes no CT images"):
        check_server(HOST, server.port, PACS)


def test_the_program_asks_the_server_before_it_reads_anything(tmp_path, closed_port, capsys, monkeypatch):
    write_series(tmp_path / "in", 1)
    read = []
    monkeypatch.setattr("mar_pipeline.dicom.run.discover", lambda *arguments: read.append(arguments))
    assert main(["dicom", str(tmp_path / "in"), str(tmp_path / "out"), "--send", f"{HOST}:{closed_port}"]) == 8
    assert "connection refused" in capsys.readouterr().err.splitlines()[-1]
    assert not read and [path.name for path in tmp_path.iterdir()] == ["in"]


# --- TLS ---


@pytest.fixture(scope="module")
def certificate(tool, tmp_path_factory):
    """A certificate for 127.0.0.1 and its key."""
    folder = tmp_path_factory.mktemp("tls")
    paths = folder / "certificate.pem", folder / "key.pem"
    subject = ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = [tool("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run([*command, "-out", paths[0], "-keyout", paths[1]], check=True, capture_output=True)
    return paths


@pytest.fixture
def tls_server(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


def test_tls_with_a_trusted_certificate(folder, certificate, tls_server):
    with serving(tls=tls_server) as server:
        report = send(folder, HOST, server.port, PACS, tls=ssl.create_default_context(cafile=certificate[0]))
    assert len(report.sent) == 3


def test_tls_with_a_stranger(folder, tls_server):
    with serving(tls=tls_server) as server:
        refused(folder, server.port, "certificate is not accepted", tls=ssl.create_default_context())


def test_tls_where_there_is_none(folder, certificate):
    with serving() as server:
        context = ssl.create_default_context(cafile=certificate[0])
        refused(folder, server.port, "TLS", tls=context, timeout_s=3)
