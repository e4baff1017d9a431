"""A zip file is a folder: its slices are found and read where they lie, and it unpacks to no more than it may."""

import shutil
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from dicom_files import contents, ct_dataset, disc_hu, save, write_series

from mar_pipeline.dicom.reading.discovery import Discovery, discover
from mar_pipeline.dicom.reading.limits import Limits
from mar_pipeline.dicom.reading.pixels import read_slice
from simulation.errors import InputError, LimitError, UsageError

NOISE = np.random.default_rng(0).integers(-100, 100, (64, 64)).astype(np.float32)
"""Does not shrink, so that the archive has a middle to damage."""


def slices(tmp_path: Path, count: int = 3) -> dict[str, bytes]:
    """Name and content of the slices of a series."""
    paths = write_series(tmp_path / "unpacked", count, hu=disc_hu() + NOISE)
    return {path.name: path.read_bytes() for path in paths}


def pack(path: Path, members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def reasons(found: Discovery) -> dict[str, str]:
    return {one.name: one.reason for one in found.skipped}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def test_a_zip_file_alone_is_as_good_as_its_folder(tmp_path: Path, method: int) -> None:
    members = slices(tmp_path)
    archive = pack(tmp_path / "scan", {f"a/b/{name}": content for name, content in reversed(members.items())}, method)
    (series,) = discover(archive).series
    (unpacked,) = discover(tmp_path / "unpacked").series
    assert [file.name for file in series.slices] == ["a/b/0.dcm", "a/b/1.dcm", "a/b/2.dcm"]
    assert (series.series_uid, series.gap_mm, series.refusal) == (unpacked.series_uid, unpacked.gap_mm, None)
    for packed, plain in zip(series.slices, unpacked.slices, strict=True):
        (header, pixels), (expected, other) = read_slice(packed, series), read_slice(plain, unpacked)
        assert header == expected
        np.testing.assert_array_equal(pixels.stored, other.stored)


def test_a_zip_file_in_a_folder_is_a_folder(tmp_path: Path) -> None:
    members = slices(tmp_path, 4)
    folder = tmp_path / "in"
    pack(folder / "x" / "some.zip", {name: members[name] for name in ("1.dcm", "2.dcm")} | {"note.txt": b"hello"})
    for name in ("0.dcm", "3.dcm"):
        (folder / name).write_bytes(members[name])
    found = discover(folder)
    (series,) = found.series
    assert [file.name for file in series.slices] == ["0.dcm", "x/some.zip/1.dcm", "x/some.zip/2.dcm", "3.dcm"]
    assert series.refusal is None and reasons(found) == {"x/some.zip/note.txt": "not a DICOM file"}


def test_names_that_climb_out_are_only_texts(tmp_path: Path) -> None:
    members = slices(tmp_path)
    names = ("../../x.dcm", "/etc/y.dcm", "z\x1b[2J.dcm")
    archive = pack(tmp_path / "in" / "a.zip", dict(zip(names, members.values(), strict=True)))
    before = contents(tmp_path)
    (series,) = discover(archive.parent).series
    assert series.refusal is None and len(series.slices) == 3
    assert {file.name for file in series.slices} == {"a.zip/../../x.dcm", "a.zip//etc/y.dcm", "a.zip/z\\x1b[2J.dcm"}
    assert [read_slice(file, series)[1].stored.shape for file in series.slices] == [(64, 64)] * 3
    assert contents(tmp_path) == before


def test_a_zip_file_within_a_zip_file_is_not_opened(tmp_path: Path) -> None:
    inner = pack(tmp_path / "inner.zip", slices(tmp_path)).read_bytes()
    found = discover(pack(tmp_path / "outer.zip", {"inner.zip": inner}))
    assert found.series == () and "within a zip file" in reasons(found)["inner.zip"]


def test_a_zip_file_of_other_things_is_one_line(tmp_path: Path) -> None:
    pack(tmp_path / "in" / "report.docx", {"word/document.xml": b"<xml/>", "media/1.png": b"\x89PNG"})
    pack(tmp_path / "in" / "empty.zip", {})
    found = discover(tmp_path / "in")
    assert reasons(found) == dict.fromkeys(("empty.zip", "report.docx"), "a zip file without DICOM files")


def test_an_encrypted_slice_is_no_silent_gap(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", slices(tmp_path))
    whole = bytearray(archive.read_bytes())
    for start, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        whole[whole.index(start) + flags] |= 1
    archive.write_bytes(whole)
    found = discover(archive)
    assert "encrypted" in reasons(found)["0.dcm"] and "encrypted" in str(found.series[0].refusal)


def test_an_unknown_compression_is_named(tmp_path: Path) -> None:
    found = discover(
        pack(tmp_path / "a.zip", {"0.dcm": save(ct_dataset(), tmp_path / "x").read_bytes()}, zipfile.ZIP_LZMA)
    )
    assert "compression" in reasons(found)["0.dcm"]


def bomb(path: Path, mib: int) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("zeros.dcm", "w") as file:
        for _ in range(mib):
            file.write(bytes(1 << 20))
    return path


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "in"
    write_series(folder, 2)
    bomb(folder / "bomb.zip", 24)
    monkeypatch.setattr(zlib, "decompressobj", lambda *_: pytest.fail("unpacked"))
    found = discover(folder, Limits(max_file_mb=16))
    assert found.series[0].refusal is None and [one.limit_hit for one in found.skipped] == [True]
    assert "unpacks to 24 MiB" in reasons(found)["bomb.zip"]
    with pytest.raises(LimitError, match="the input: got a zip file"):
        discover(folder / "bomb.zip", Limits(max_file_mb=16))


def test_a_member_that_is_larger_than_a_file_may_be_is_not_unpacked(tmp_path: Path, monkeypatch) -> None:
    archive = pack(tmp_path / "a.zip", {"large": np.random.default_rng(0).bytes(3 << 20)})
    monkeypatch.setattr(zlib, "decompressobj", lambda *_: pytest.fail("unpacked"))
    found = discover(archive, Limits(max_file_mb=2))
    assert found.skipped[0].limit_hit and "got 3 MiB within a zip file" in reasons(found)["large"]


def test_a_member_that_lies_about_its_size_is_not_unpacked_beyond_it(tmp_path: Path) -> None:
    archive = bomb(tmp_path / "a.zip", 64)
    whole = bytearray(archive.read_bytes())
    struct.pack_into("<L", whole, whole.index(b"PK\x01\x02") + 24, 1000)
    archive.write_bytes(whole)
    tracemalloc.start()
    found = discover(archive)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()
    assert "damaged within its zip file" in reasons(found)["zeros.dcm"]


def test_members_that_overlap_are_refused(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", slices(tmp_path, 2))
    whole = bytearray(archive.read_bytes())
    second = whole.index(b"PK\x01\x02", whole.index(b"PK\x01\x02") + 4)
    struct.pack_into("<L", whole, second + 42, 0)  # both begin at 0
    archive.write_bytes(whole)
    with pytest.raises(InputError, match="overlap"):
        discover(archive)


def test_too_many_members_are_a_limit(tmp_path: Path) -> None:
    archive = pack(tmp_path / "in" / "a.zip", slices(tmp_path, 3))
    for limits in (Limits(max_files=2), Limits(max_files=1)):
        with pytest.raises(LimitError):
            discover(archive, limits)
    shutil.copy(archive, archive.parent / "b.zip")
    with pytest.raises(LimitError):
        discover(archive.parent, Limits(max_files=5))
    assert len(discover(archive.parent, Limits(max_files=6)).series[0].slices) == 3


def test_a_directory_is_not_read_without_end(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        entry = zipfile.ZipInfo("0.txt")
        entry.comment = bytes(60_000)
        archive.writestr(entry, b"")
    assert discover(tmp_path / "a.zip").series == ()
    with pytest.raises(LimitError):
        discover(tmp_path / "a.zip", Limits(max_files=100))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def test_a_damaged_member_fails_its_series(tmp_path: Path, method: int) -> None:
    archive = pack(tmp_path / "a.zip", slices(tmp_path), method)
    whole = bytearray(archive.read_bytes())
    whole[len(whole) // 2] ^= 255
    archive.write_bytes(whole)
    found = discover(archive)
    assert "damaged within its zip file" in reasons(found)["1.dcm"]
    assert "1.dcm: cannot be read: it is damaged" in str(found.series[0].refusal)


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
def test_a_zip_file_cut_short_is_said(tmp_path: Path, keep: float) -> None:
    archive = pack(tmp_path / "in" / "a.zip", slices(tmp_path))
    archive.write_bytes(archive.read_bytes()[: int(keep * archive.stat().st_size)])
    assert reasons(discover(archive.parent)) == {"a.zip": "is a damaged zip file; fetch it again"}
    with pytest.raises(InputError, match="the input: is a damaged zip file"):
        discover(archive)


def test_damaged_bytes_end_in_a_listing_or_in_a_refusal(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", slices(tmp_path))
    whole, random = archive.read_bytes(), np.random.default_rng(4)
    for number in range(150):
        damaged = bytearray(whole)
        first = len(whole) - 300 if number % 2 else 0
        for at in random.integers(first, len(whole), 3):
            damaged[at] = random.integers(256)
        archive.write_bytes(damaged)
        try:
            discover(archive)
        except (InputError, LimitError, UsageError):
            continue


def test_an_archive_that_changed_after_it_was_listed_is_refused(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", slices(tmp_path))
    (series,) = discover(archive).series
    archive.write_bytes(archive.read_bytes()[:100])
    with pytest.raises(InputError, match=r"1\.dcm: cannot be read"):
        read_slice(series.slices[1], series)
    archive.unlink()
    with pytest.raises(InputError, match=r"1\.dcm: cannot be read") as caught:
        read_slice(series.slices[1], series)
    assert str(tmp_path) not in str(caught.value)
