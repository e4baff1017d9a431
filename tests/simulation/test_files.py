"""A file is whole or absent: what a reader finds under the final name is never half of it."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from simulation import files
from simulation.files import PARTIAL, sha256_of, sha256_of_text, whole_file, write_json


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_final_name_appears_only_when_the_block_is_through(tmp_path):
    path = tmp_path / "a.h5"
    with whole_file(path) as partial:
        partial.write_bytes(b"first half")
        assert not path.exists()
        assert partial.name.endswith(PARTIAL)
        assert partial.parent == path.parent  # a rename within one file system cannot be torn
        partial.write_bytes(b"whole")
    assert path.read_bytes() == b"whole"
    assert names(tmp_path) == ["a.h5"]


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_what_stood_there_stays_when_the_block_fails(tmp_path, error):
    path = tmp_path / "a.h5"
    path.write_bytes(b"before")
    with pytest.raises(type(error)), whole_file(path) as partial:
        partial.write_bytes(b"half")
        raise error
    assert path.read_bytes() == b"before"
    assert names(tmp_path) == ["a.h5"]


def test_bytes_are_on_disk_before_the_name_is(tmp_path, monkeypatch):
    """A rename that overtakes the data leaves an empty file after a power cut."""
    order = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor):
        order.append(("flushed", os.fstat(descriptor).st_size))
        fsync(descriptor)

    def noted_replace(source, target):
        order.append(("named", Path(target).name))
        replace(source, target)

    monkeypatch.setattr(files.os, "fsync", noted_fsync)
    monkeypatch.setattr(files.os, "replace", noted_replace)
    with whole_file(tmp_path / "a") as partial:
        partial.write_bytes(b"12345")
    assert order == [("flushed", 5), ("named", "a")]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_error_names_the_file_the_user_knows_and_leaves_nothing(tmp_path, monkeypatch, call):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, call, full)
    path = tmp_path / "a.h5"
    with pytest.raises(OSError, match="No space left") as caught, whole_file(path) as partial:
        partial.write_bytes(b"whole")
    assert caught.value.filename == str(path)
    assert caught.value.errno == errno.ENOSPC
    assert names(tmp_path) == []


def test_an_absent_folder_is_named(tmp_path):
    path = tmp_path / "absent" / "a.json"
    with pytest.raises(FileNotFoundError) as caught:
        write_json(path, {})
    assert caught.value.filename == str(path)


def test_a_killed_writer_leaves_no_final_name(tmp_path):
    script = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom simulation.files import whole_file\n"
        "with whole_file(Path(sys.argv[1])) as partial:\n"
        "    partial.write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "a.h5"
    process = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert process.returncode == -signal.SIGKILL
    assert not path.exists()
    assert [name.endswith(PARTIAL) for name in names(tmp_path)] == [True]


def test_two_processes_do_not_share_a_temporary_name(tmp_path, monkeypatch):
    with whole_file(tmp_path / "a") as mine:
        monkeypatch.setattr(files.os, "getpid", lambda: -1)
        with whole_file(tmp_path / "a") as other:
            assert mine != other
            other.write_bytes(b"other")
        mine.write_bytes(b"mine")
    assert (tmp_path / "a").read_bytes() == b"mine"


def test_json_is_readable_by_strict_parsers(tmp_path):
    write_json(tmp_path / "a.json", {"a": [1, "b", None]})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"a": [1, "b", None]}
    assert text.endswith("\n")
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "b.json", {"a": float("nan")})
    assert names(tmp_path) == ["a.json"]


def test_hashes_are_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()
    assert sha256_of_text("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
