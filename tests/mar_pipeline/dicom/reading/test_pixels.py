"""Pixels of a slice: what is stored is what is read, in every encoding, and goes back bit by bit."""

import resource
import struct
import subprocess
import tracemalloc
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK
from derived_files import errors_of
from dicom_files import SECRETS, contents, ct_dataset, disc_hu, fake_uid, save, write_series
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import (
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from mar_pipeline.dicom.reading import decoding
from mar_pipeline.dicom.reading.discovery import Series, discover
from mar_pipeline.dicom.reading.limits import Limits
from mar_pipeline.dicom.reading.pixels import SlicePixels, read_slice
from mar_pipeline.dicom.writing.check import check_derived
from mar_pipeline.dicom.writing.derivation import Derivation
from mar_pipeline.dicom.writing.derive import derived_slice, write_dataset
from simulation.errors import InputError, LimitError

LOSSLESS = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    RLELossless,
    JPEGLSLossless,
    JPEG2000Lossless,
)
encapsulated = pytest.mark.parametrize(
    "transfer_syntax", [JPEGLSLossless, JPEG2000Lossless, RLELossless], ids=lambda uid: uid.keyword
)
FORMATS: dict[str, dict[str, Any]] = {
    "12 bits": {},
    "12 bits, signed": {"PixelRepresentation": 1, "RescaleIntercept": "0"},
    "16 bits": {"BitsStored": 16, "HighBit": 15, "RescaleIntercept": "-8192"},
    "16 bits, signed": {"BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1, "RescaleIntercept": "0"},
    "half units": {"BitsStored": 14, "HighBit": 13, "RescaleSlope": "0.5", "RescaleIntercept": "-1024.5"},
}


def only(folder: Path, **options: Any) -> Series:
    (series,) = discover(folder, **options).series
    assert series.refusal is None
    return series


def read(folder: Path, **options: Any) -> tuple[FileDataset, SlicePixels]:
    """The only slice of a folder."""
    series = only(folder, **options)
    return read_slice(series.slices[0], series, **options)


def refused(folder: Path, limits: Limits | None = None) -> str:
    """Why the only slice cannot be read, though its header can."""
    series = only(folder)
    with pytest.raises(InputError) as caught:
        read_slice(series.slices[0], series, limits or Limits())
    message = str(caught.value)
    assert series.slices[0].name in message and str(folder) not in message
    assert not [secret for secret in (*SECRETS, fake_uid("series"), fake_uid("study")) if secret in message]
    return message


def busy_hu() -> np.ndarray:
    """Every kind of value that 12 bits hold: noise, its ends, and smooth parts."""
    hu = np.random.default_rng(0).integers(-1024, 1024, (64, 48)).astype(np.float32)
    hu[10:20] = disc_hu(0)[10:20, :48]
    hu[0, :3] = -1024, 1023, 0
    return hu


@pytest.mark.parametrize("transfer_syntax", LOSSLESS, ids=lambda uid: UID(uid).keyword)
@pytest.mark.parametrize("attributes", FORMATS.values(), ids=FORMATS)
def test_what_was_stored_is_read(tmp_path: Path, transfer_syntax: str, attributes: dict[str, Any]) -> None:
    hu = busy_hu()
    save(ct_dataset(0, hu, **attributes), tmp_path / "0.dcm", transfer_syntax)
    dataset, pixels = read(tmp_path)
    slope, intercept = float(dataset.RescaleSlope), float(dataset.RescaleIntercept)
    np.testing.assert_array_equal(pixels.stored, np.round((hu - intercept) / slope))
    assert pixels.stored.dtype == np.int32 and pixels.hu.dtype == np.float32
    assert (pixels.slope, pixels.intercept) == (slope, intercept)
    np.testing.assert_allclose(pixels.hu, hu, atol=slope / 2)
    assert not pixels.padding.any()
    assert "PixelData" not in dataset and dataset.file_meta.TransferSyntaxUID == transfer_syntax


@pytest.mark.parametrize(
    ("transfer_syntax", "encoding", "error_hu"),
    [(JPEG2000, {"j2k_psnr": [70]}, 10), (JPEGLSNearLossless, {"jls_error": 3}, 3)],
    ids=["JPEG2000", "JPEGLSNearLossless"],
)
def test_lossy_pixels_are_near_what_was_stored(
    tmp_path: Path, transfer_syntax: str, encoding: dict[str, Any], error_hu: float
) -> None:
    save(ct_dataset(), tmp_path / "0.dcm", transfer_syntax, **encoding)
    error = np.abs(read(tmp_path)[1].hu - disc_hu())
    assert 0 < error.max() <= error_hu


@pytest.mark.parametrize(
    ("option", "transfer_syntax"), [("+e1", JPEGLosslessSV1), ("+el", JPEGLossless)], ids=["SV1", "process 14"]
)
@pytest.mark.parametrize("attributes", FORMATS.values(), ids=FORMATS)
def test_jpeg_lossless(
    tmp_path: Path, tool: Callable[[str], str], option: str, transfer_syntax: str, attributes: dict[str, Any]
) -> None:
    plain = save(ct_dataset(0, busy_hu(), **attributes), tmp_path / "plain" / "0.dcm")
    path = tmp_path / "jpeg" / "0.dcm"
    path.parent.mkdir()
    subprocess.run([tool("dcmcjpeg"), option, plain, path], check=True)
    assert pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID == transfer_syntax
    stored = read(plain.parent)[1].stored
    np.testing.assert_array_equal(read(path.parent)[1].stored, stored)
    whole = get_frame(pydicom.dcmread(path).PixelData, 0, number_of_frames=1).rstrip(b"\0")
    for padded_frame in pad_variants(whole):
        set_frame(path, padded_frame)
        np.testing.assert_array_equal(read(path.parent)[1].stored, stored)
    for cut in (1, 2, 20, len(whole) // 2):  # its decoder makes up the rest without a word
        set_frame(path, whole[:-cut])
        assert "ends early" in refused(path.parent)


def test_jpeg_of_12_bits(tmp_path: Path, tool: Callable[[str], str]) -> None:
    plain, path = save(ct_dataset(), tmp_path / "plain" / "0.dcm"), tmp_path / "jpeg" / "0.dcm"
    path.parent.mkdir()
    subprocess.run([tool("dcmcjpeg"), "+ee", plain, path], check=True)
    assert pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID == JPEGExtended12Bit
    np.testing.assert_allclose(read(path.parent)[1].hu, itk_hu(path), atol=1)


def itk_hu(path: Path) -> np.ndarray:
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))[0].astype(np.float32)


@pytest.mark.parametrize("transfer_syntax", LOSSLESS, ids=lambda uid: UID(uid).keyword)
@pytest.mark.parametrize("attributes", FORMATS.values(), ids=FORMATS)
def test_another_library_reads_the_same_hu(tmp_path: Path, transfer_syntax: str, attributes: dict[str, Any]) -> None:
    path = save(ct_dataset(0, busy_hu(), **attributes), tmp_path / "0.dcm", transfer_syntax)
    np.testing.assert_allclose(read(tmp_path)[1].hu, itk_hu(path), atol=1e-3)


@pytest.mark.parametrize("transfer_syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("high_bit", [11, 13, 15])
def test_values_lie_up_to_the_high_bit(tmp_path: Path, transfer_syntax: str, signed: int, high_bit: int) -> None:
    intercept = "0" if signed else "-1024"
    hu = busy_hu()
    dataset = ct_dataset(0, hu, HighBit=high_bit, PixelRepresentation=signed, RescaleIntercept=intercept)
    save(dataset, tmp_path / "0.dcm", transfer_syntax)
    np.testing.assert_array_equal(read(tmp_path)[1].hu, hu)


@pytest.mark.parametrize("signed", [0, 1])
def test_bits_that_are_not_stored_do_not_count(tmp_path: Path, signed: int) -> None:
    hu = busy_hu()
    dataset = ct_dataset(0, hu, PixelRepresentation=signed, RescaleIntercept="0" if signed else "-1024")
    words = np.frombuffer(dataset.PixelData, "<u2")
    overlay = np.random.default_rng(1).integers(0, 16, words.shape).astype("<u2") << 12  # an old overlay
    dataset.PixelData = (words & 0x0FFF | overlay).tobytes()
    save(dataset, tmp_path / "0.dcm")
    np.testing.assert_array_equal(read(tmp_path)[1].hu, hu)


def with_overlay(drawing: np.ndarray, position: int, group: int = 0x6000, **attributes: Any) -> FileDataset:
    """An image with a drawing in one bit of its pixels."""
    dataset = ct_dataset(0, busy_hu(), **attributes)
    words = np.frombuffer(dataset.PixelData, "<u2").reshape(drawing.shape)
    dataset.PixelData = (words & ~np.uint16(1 << position) | drawing.astype("<u2") << position).tobytes()
    rows, columns = drawing.shape
    for element, vr, value in (
        *((0x10, "US", rows), (0x11, "US", columns), (0x40, "CS", "G"), (0x50, "SS", [1, 1])),
        *((0x100, "US", 16), (0x102, "US", position)),
    ):
        dataset.add_new((group, element), vr, value)
    return dataset


@pytest.mark.parametrize(
    "transfer_syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless]
)
@pytest.mark.parametrize(
    ("position", "attributes"),
    [(12, {}), (15, {"PixelRepresentation": 1, "RescaleIntercept": "0"}), (0, {"HighBit": 12})],
    ids=["above", "signed", "below"],
)
def test_an_overlay_in_the_pixels_becomes_one_of_its_own(
    tmp_path: Path, tool: Callable[[str], str], transfer_syntax: str, position: int, attributes: dict[str, Any]
) -> None:
    drawing = np.random.default_rng(1).random((64, 48)) < 0.5
    save(with_overlay(drawing, position, **attributes), tmp_path / "0.dcm", transfer_syntax)
    series = only(tmp_path)
    assert series.warnings == (
        "its overlays lie in unused bits of the pixels; they are written as overlays of their own (60xx)",
    )
    header, pixels = read_slice(series.slices[0], series)
    np.testing.assert_array_equal(pixels.hu, busy_hu())
    made = derivation_of(header, pixels, tmp_path / "derived.dcm")
    np.testing.assert_array_equal(made.overlay_array(0x6000), drawing)
    assert (made[0x60000100].value, made[0x60000102].value) == (1, 0)
    assert errors_of(tool("dciodvfy"), tmp_path / "derived.dcm") == []


def derivation_of(header: FileDataset, pixels: SlicePixels, path: Path) -> FileDataset:
    """The image written unchanged, checked as a run checks it, and read again by pydicom."""
    made = Derivation("NMAR", "1.0", "0" * 64, None, fake_uid("derived"), 1003, datetime(2026, 1, 2))
    write_dataset(derived_slice(header, pixels, pixels.stored, made), path)
    assert check_derived(path, header, made, changed=False) == []
    return pydicom.dcmread(path)


@pytest.mark.parametrize(
    "change",
    [{"position": 11}, {"position": 12, "transfer_syntax": JPEGLSLossless}, {"position": 12, "rows": 32}],
    ids=["in the values", "encoded", "of another size"],
)
def test_an_overlay_that_cannot_be_kept_is_said(tmp_path: Path, change: dict[str, Any]) -> None:
    dataset = with_overlay(np.ones((64, 48), bool), 12)
    dataset.PixelData = ct_dataset(0, busy_hu()).PixelData  # an encoder takes no others
    dataset[0x60000102].value = change["position"]
    dataset[0x60000010].value = change.get("rows", 64)
    save(dataset, tmp_path / "0.dcm", change.get("transfer_syntax", ExplicitVRLittleEndian))
    series = only(tmp_path)
    assert "are left out" in series.warnings[0]
    header, pixels = read_slice(series.slices[0], series)
    assert (0x6000, 0x0010) not in derivation_of(header, pixels, tmp_path / "derived.dcm")


def test_an_overlay_with_data_of_its_own_comes_as_it_is(tmp_path: Path) -> None:
    dataset = with_overlay(np.zeros((64, 48), bool), 0)
    dataset.PixelData = ct_dataset(0, busy_hu()).PixelData
    dataset.add_new(0x60003000, "OW", bytes(range(128)) * 3)
    save(dataset, tmp_path / "0.dcm")
    assert only(tmp_path).warnings == ()
    assert derivation_of(*read(tmp_path), tmp_path / "derived.dcm")[0x60003000].value == bytes(range(128)) * 3


def test_rescale_is_that_of_each_slice(tmp_path: Path) -> None:
    for number, (slope, intercept) in enumerate((("1", "-1024"), ("0.5", "-1000"), ("2", "-1200"))):
        save(
            ct_dataset(number, RescaleSlope=slope, RescaleIntercept=intercept, BitsStored=16, HighBit=15),
            tmp_path / f"{number}.dcm",
        )
    series = only(tmp_path)
    for number, file in enumerate(series.slices):
        np.testing.assert_allclose(read_slice(file, series)[1].hu, disc_hu(number), atol=1)


def padded(value_hu: float = -2000) -> tuple[np.ndarray, np.ndarray]:
    """A disc with one value outside the circle, and where that is."""
    hu = disc_hu()
    outside = np.hypot(*np.mgrid[-1:1:64j, -1:1:64j]) > 1
    hu[outside] = value_hu
    return hu, outside


def test_values_that_wrapped_are_refused(tmp_path: Path) -> None:
    """Air of -1000 taken for 64536, as a decoder does that does not know of signs."""
    stored = disc_hu().astype("<i2")
    wide = {"BitsStored": 16, "HighBit": 15, "RescaleIntercept": "0", "PixelData": stored.tobytes()}
    save(ct_dataset(0, **wide, PixelRepresentation=1), tmp_path / "0.dcm")
    np.testing.assert_array_equal(read(tmp_path)[1].hu, disc_hu())
    save(ct_dataset(0, **wide, PixelRepresentation=0), tmp_path / "0.dcm")
    assert "signed values were encoded or decoded as unsigned" in refused(tmp_path)


def half_of(value_hu: float) -> np.ndarray:
    """Air in the corners, a value in the upper half of the circle."""
    hu, (y, x) = disc_hu(), np.mgrid[-1:1:64j, -1:1:64j]
    hu[(y < 0) & (np.hypot(y, x) < 0.95)] = value_hu
    return hu


@pytest.mark.parametrize(("value_hu", "within"), [(-1100, True), (-1101, False), (4000, True), (4001, False)])
def test_a_third_of_a_scan_is_neither_below_air_nor_above_bone(tmp_path: Path, value_hu: float, within: bool) -> None:
    save(ct_dataset(0, half_of(value_hu), **SIGNED), tmp_path / "0.dcm")
    if within:
        assert (read(tmp_path)[1].hu == value_hu).mean() > 1 / 3
    else:
        assert "outside -1100 .. 4000 HU" in refused(tmp_path)


def test_padding_and_what_lies_outside_the_circle_are_no_values(tmp_path: Path) -> None:
    save(ct_dataset(0, half_of(-2000), **SIGNED, PixelPaddingValue=-2000), tmp_path / "0.dcm")
    assert read(tmp_path)[1].padding.mean() > 1 / 3
    hu, outside = padded(-1200)  # not as low as padding
    hu[10:20][~outside[10:20]] = -1200
    assert (hu == -1200).mean() > 1 / 3 > (hu == -1200)[~outside].mean()
    save(ct_dataset(0, hu, **SIGNED), tmp_path / "0.dcm")
    assert not read(tmp_path)[1].padding.any()


SIGNED = {"BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1, "RescaleIntercept": "0"}


@pytest.mark.parametrize("tag", [{"PixelPaddingValue": -2000}, {}], ids=["tag", "no tag"])
@pytest.mark.parametrize("transfer_syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_padding_is_air_and_goes_back_as_it_was(tmp_path: Path, tag: dict[str, Any], transfer_syntax: str) -> None:
    hu, outside = padded()
    save(ct_dataset(0, hu, **SIGNED, **tag), tmp_path / "0.dcm", transfer_syntax)
    pixels = read(tmp_path)[1]
    np.testing.assert_array_equal(pixels.padding, outside)
    assert (pixels.hu[outside] == -1000).all() and (pixels.stored[outside] == -2000).all()
    np.testing.assert_array_equal(pixels.hu[~outside], hu[~outside])
    stored, clipped = pixels.to_stored(np.full_like(hu, 55.0), np.ones_like(outside))
    assert (stored[outside] == -2000).all() and (stored[~outside] == 55).all() and clipped == 0


def test_padding_written_as_an_unsigned_number(tmp_path: Path) -> None:
    hu, block = disc_hu(), np.zeros((64, 64), bool)
    block[30:34, 30:34] = True  # not in a corner, so that only the tag can tell
    hu[block] = -2000
    path = save(ct_dataset(0, hu, **SIGNED, PixelPaddingValue=-2000), tmp_path / "0.dcm")
    tag = struct.pack("<HH2sHh", 0x28, 0x120, b"SS", 2, -2000)
    assert tag in path.read_bytes()
    for vr in (b"SS", b"US"):
        path.write_bytes(path.read_bytes().replace(tag, tag.replace(b"SS", vr)))
        np.testing.assert_array_equal(read(tmp_path)[1].padding, block)


@pytest.mark.parametrize(("first", "last"), [(20, 24), (24, 20)])
def test_padding_may_be_a_range(tmp_path: Path, first: int, last: int) -> None:
    save(ct_dataset(0, PixelPaddingValue=first, PixelPaddingRangeLimit=last), tmp_path / "0.dcm")
    pixels = read(tmp_path)[1]
    np.testing.assert_array_equal(pixels.padding, (disc_hu() == -1000))  # air is stored as 24
    save(ct_dataset(0, PixelPaddingValue=first), tmp_path / "0.dcm")
    assert read(tmp_path)[1].padding.any() == (first == 24)


def test_only_one_value_in_a_corner_is_padding_without_a_tag(tmp_path: Path) -> None:
    streak = disc_hu()
    streak[30] = -2000  # dark, but no corner
    save(ct_dataset(0, streak, **SIGNED), tmp_path / "0.dcm")
    assert not read(tmp_path)[1].padding.any()
    both, outside = padded()
    both[30, 30:34] = -1800
    save(ct_dataset(0, both, **SIGNED), tmp_path / "0.dcm")
    np.testing.assert_array_equal(read(tmp_path)[1].padding, outside)
    save(ct_dataset(0, padded(-1400)[0], **SIGNED), tmp_path / "0.dcm")  # dark air
    assert not read(tmp_path)[1].padding.any()


def test_clipped_metal_is_read_as_it_is_and_may_not_grow(tmp_path: Path) -> None:
    hu = disc_hu()
    hu[30:34, 30:34] = 9000
    save(ct_dataset(0, hu), tmp_path / "0.dcm")
    pixels = read(tmp_path)[1]
    assert (pixels.hu[30:34, 30:34] == 3071).all() and (pixels.lowest, pixels.highest) == (0, 4095)
    stored, clipped = pixels.to_stored(hu, np.ones(hu.shape, bool))
    assert clipped == 16 and stored.max() == 4095


@pytest.mark.parametrize("attributes", FORMATS.values(), ids=FORMATS)
def test_the_way_back_rounds_clips_and_leaves_the_rest(tmp_path: Path, attributes: dict[str, Any]) -> None:
    save(ct_dataset(0, busy_hu(), **attributes), tmp_path / "0.dcm")
    pixels = read(tmp_path)[1]
    everywhere = np.ones(pixels.stored.shape, bool)
    stored, clipped = pixels.to_stored(pixels.hu, everywhere)
    np.testing.assert_array_equal(stored, pixels.stored)
    assert clipped == 0 and stored.dtype == np.int32
    changed = np.random.default_rng(2).random(everywhere.shape) < 0.3
    aim = np.random.default_rng(3).uniform(-900, 900, everywhere.shape).astype(np.float32)
    stored, clipped = pixels.to_stored(np.where(changed, aim, np.nan), changed)
    np.testing.assert_array_equal(stored[~changed], pixels.stored[~changed])
    assert np.abs(stored[changed] * pixels.slope + pixels.intercept - aim[changed]).max() <= pixels.slope / 2 + 1e-3
    ends = [np.float32(end * pixels.slope + pixels.intercept) for end in (pixels.lowest, pixels.highest)]
    for end, beyond in zip((pixels.lowest, pixels.highest), (ends[0] - 9, ends[1] + 9), strict=True):
        stored, clipped = pixels.to_stored(np.full(everywhere.shape, beyond), changed)
        assert (stored[changed] == end).all() and clipped == changed.sum()


def test_the_way_back_refuses_what_is_no_image(tmp_path: Path) -> None:
    save(ct_dataset(), tmp_path / "0.dcm")
    pixels = read(tmp_path)[1]
    with pytest.raises(ValueError, match="finite"):
        pixels.to_stored(np.full((64, 64), np.nan), np.ones((64, 64), bool))
    with pytest.raises(ValueError, match="expected"):
        pixels.to_stored(np.zeros((64, 1)), np.ones((64, 64), bool))


def test_pixels_that_are_not_square_are_not_touched(tmp_path: Path) -> None:
    hu = busy_hu()
    write_series(tmp_path, 1, hu=hu, PixelSpacing=[0.5, 0.75])
    series = only(tmp_path)
    assert series.spacing_mm == (0.5, 0.75) and series.shape == (64, 48)
    np.testing.assert_array_equal(read_slice(series.slices[0], series)[1].hu, hu)


def test_the_header_comes_as_it_is_in_the_file(tmp_path: Path) -> None:
    path = save(ct_dataset(PixelPaddingValue=5), tmp_path / "0.dcm", ExplicitVRBigEndian)
    dataset, _ = read(tmp_path)
    whole = pydicom.dcmread(path)
    for tag in dataset.keys():  # noqa: SIM118 - pydicom converts what it is asked for
        assert dataset.get_item(tag) == whole.get_item(tag)
    del whole.PixelData
    assert dataset == whole and dataset.original_encoding == whole.original_encoding
    assert dataset.filename is None and dataset.buffer is None


def set_frame(path: Path, frame: bytes, **attributes: Any) -> None:
    """Replaces the encoded frame of a file."""
    dataset = pydicom.dcmread(path)
    dataset.PixelData = encapsulate([frame])
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)


@encapsulated
@pytest.mark.parametrize("cut", [0.3, 0.9, 0.99])
def test_a_frame_cut_short_is_refused(tmp_path: Path, transfer_syntax: UID, cut: float) -> None:
    path = save(ct_dataset(), tmp_path / "0.dcm", transfer_syntax)
    frame = get_frame(pydicom.dcmread(path).PixelData, 0, number_of_frames=1).rstrip(b"\0")
    set_frame(path, frame[: int(cut * len(frame))])
    assert "fetch the file again" in refused(tmp_path)


def pad_variants(frame: bytes) -> list[bytes]:
    """A frame of odd length with each kind of byte behind it that was seen; of an even one with none."""
    return [frame + pad for pad in ((b"\x00", b"\x01", b"\x20", b"\xd9", b"\xff") if len(frame) % 2 else (b"",))]


@encapsulated
@pytest.mark.parametrize("number", range(4))
def test_the_byte_that_pads_a_frame_may_have_any_value(tmp_path: Path, transfer_syntax: UID, number: int) -> None:
    """Four images, as half of all frames have an even length."""
    hu = np.roll(busy_hu(), number, axis=1)
    path = save(ct_dataset(0, hu), tmp_path / "0.dcm", transfer_syntax)
    frame = get_frame(pydicom.dcmread(path).PixelData, 0, number_of_frames=1)
    whole = frame if transfer_syntax == RLELossless else frame[: frame.rindex(b"\xff\xd9") + 2]
    for padded_frame in pad_variants(whole):
        set_frame(path, padded_frame)
        np.testing.assert_array_equal(read(tmp_path)[1].hu, hu)


@encapsulated
def test_a_file_cut_short_is_refused(tmp_path: Path, transfer_syntax: UID) -> None:
    path = save(ct_dataset(), tmp_path / "0.dcm", transfer_syntax)
    whole = path.read_bytes()
    for length in [len(whole) - cut for cut in (1, 4, 5, 8, 9, 200)]:
        path.write_bytes(whole[:length])
        assert "fetch the file again" in refused(tmp_path)


def test_a_file_cut_after_it_was_listed_is_refused(tmp_path: Path) -> None:
    (path,) = write_series(tmp_path, 1)
    series = only(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"0\.dcm.*fetch the file again"):
        read_slice(series.slices[0], series)
    path.unlink()
    with pytest.raises(InputError, match=r"0\.dcm: cannot be read") as caught:
        read_slice(series.slices[0], series)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [{"number": 1}, {"SeriesInstanceUID": "1.2"}, {"PixelSpacing": [1, 1]}, {"Modality": "MR"}, {"hu": disc_hu(0, 32)}],
    ids=lambda change: next(iter(change)),
)
def test_a_file_replaced_after_it_was_listed_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    write_series(tmp_path, 1)
    series = only(tmp_path)
    kept = {"SOPInstanceUID": fake_uid("image", 0)} if "number" not in change else {}
    save(ct_dataset(**change, **kept), tmp_path / "0.dcm")
    with pytest.raises(InputError, match="not as it was listed"):
        read_slice(series.slices[0], series)


@encapsulated
@pytest.mark.parametrize("shape", [(64, 128), (128, 64), (32, 32), (128, 128)])
def test_a_frame_of_another_size_than_the_header_says_is_refused(
    tmp_path: Path, transfer_syntax: UID, shape: tuple[int, int]
) -> None:
    other = save(ct_dataset(0, disc_hu(0, *shape)), tmp_path / "other" / "0.dcm", transfer_syntax)
    frame = get_frame(pydicom.dcmread(other).PixelData, 0, number_of_frames=1)
    path = save(ct_dataset(), tmp_path / "in" / "0.dcm", transfer_syntax)
    set_frame(path, frame)
    refused(tmp_path / "in")


def claims(frame: bytes, rows: int, columns: int) -> bytes:
    """A JPEG-LS or JPEG 2000 frame with another size in its header."""
    changed = bytearray(frame)
    start = frame.find(b"\xff\x4f\xff\x51")
    if start >= 0:
        struct.pack_into(">II", changed, start + 8, columns, rows)
        struct.pack_into(">II", changed, start + 24, columns, rows)  # one tile
    else:
        struct.pack_into(">HH", changed, frame.index(b"\xff\xf7") + 5, rows, columns)
    return bytes(changed)


@pytest.mark.parametrize("transfer_syntax", [JPEGLSLossless, JPEG2000Lossless], ids=lambda uid: uid.keyword)
def test_a_frame_that_claims_an_enormous_size_is_not_decoded(
    tmp_path: Path, transfer_syntax: UID, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(ct_dataset(), tmp_path / "0.dcm", transfer_syntax)
    frame = get_frame(pydicom.dcmread(path).PixelData, 0, number_of_frames=1)
    monkeypatch.setattr(decoding, "_decoded", lambda *_: pytest.fail("decoded"))
    for size in ((60000, 60000), (64, 65), (0, 0)):
        set_frame(path, claims(frame, *size))
        assert "claims" in refused(tmp_path)


def test_a_tiny_rle_file_that_claims_an_enormous_image_allocates_nothing(tmp_path: Path) -> None:
    path = save(ct_dataset(), tmp_path / "0.dcm", RLELossless)
    series = only(tmp_path)
    frame = get_frame(pydicom.dcmread(path).PixelData, 0, number_of_frames=1)
    set_frame(path, frame, Rows=60000, Columns=60000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (listed,) = discover(tmp_path).series
    assert listed.limit_hit and listed.slices == ()
    with pytest.raises((LimitError, InputError)):
        read_slice(series.slices[0], series)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB


@pytest.mark.parametrize(("runs", "reason"), [(1 << 18, "longer than its pixels"), (10_000, "unpacks to [1280000")])
def test_an_rle_frame_that_unpacks_beyond_its_image_is_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: int, reason: str
) -> None:
    monkeypatch.setattr(decoding, "_decoded", lambda *_: pytest.fail("decoded"))
    path = save(ct_dataset(), tmp_path / "0.dcm", RLELossless)
    segment = bytes([129, 7]) * runs  # each two bytes stand for 128
    header = struct.pack("<16L", 2, 64, 64 + len(segment), *[0] * 13)
    set_frame(path, header + segment + segment)
    tracemalloc.start()
    assert reason in refused(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("size", [64 * 64 * 2 - 2, 64 * 64 * 4])
def test_native_pixels_of_another_size_are_refused(tmp_path: Path, size: int) -> None:
    dataset = ct_dataset()
    dataset.PixelData = dataset.PixelData.ljust(size, b"\0")[:size]
    save(dataset, tmp_path / "0.dcm")
    (series,) = discover(tmp_path).series
    if series.refusal:
        assert "0.dcm" in series.refusal and size < 64 * 64 * 2
    else:
        assert f"got {size} bytes" in refused(tmp_path)


def test_some_bytes_behind_the_pixels_do_no_harm(tmp_path: Path) -> None:
    dataset = ct_dataset()
    dataset.PixelData += bytes(30)
    save(dataset, tmp_path / "0.dcm")
    np.testing.assert_array_equal(read(tmp_path)[1].hu, disc_hu())


@pytest.mark.parametrize("transfer_syntax", LOSSLESS, ids=lambda uid: UID(uid).keyword)
def test_damaged_bytes_end_in_a_refusal_or_in_pixels(tmp_path: Path, transfer_syntax: str) -> None:
    whole = save(ct_dataset(), tmp_path / "source", transfer_syntax).read_bytes()
    path = tmp_path / "in" / "0.dcm"
    path.parent.mkdir()
    random = np.random.default_rng(5)
    for number in range(60):
        damaged = bytearray(whole)
        for at in random.integers(132, len(whole) if number % 2 else 1500, 3):
            damaged[at] = random.integers(256)
        path.write_bytes(damaged)
        for series in discover(path.parent, repair_uids=True).series:
            for file in series.slices:
                try:
                    pixels = read_slice(file, series, repair_uids=True)[1]
                except (InputError, LimitError):
                    continue
                assert pixels.hu.shape == series.shape and np.isfinite(pixels.hu).all()


@encapsulated
def test_a_missing_decoder_is_named_with_its_remedy(
    tmp_path: Path, transfer_syntax: UID, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoDecoder:
        is_available, available_plugins = False, ()

    save(ct_dataset(), tmp_path / "0.dcm", transfer_syntax)
    monkeypatch.setattr(decoding, "get_decoder", lambda uid: NoDecoder())
    decoding._has_decoder.cache_clear()
    message = refused(tmp_path)
    decoding._has_decoder.cache_clear()
    assert transfer_syntax.name in message and "mar-pipeline[clinic]" in message


def test_an_unknown_transfer_syntax_is_named(tmp_path: Path) -> None:
    path = save(ct_dataset(), tmp_path / "0.dcm", RLELossless)
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.5\0", b"1.2.840.10008.1.2.8\0"))
    (series,) = discover(tmp_path).series
    assert series.refusal and "1.2.840.10008.1.2.8" in series.refusal


@pytest.mark.parametrize(
    "attributes",
    [
        {"BitsAllocated": 32, "PixelData": bytes(64 * 64 * 4)},
        {"BitsStored": 17},
        {"HighBit": 10},
        {"HighBit": 16},
        {"PixelRepresentation": 2, "PixelData": bytes(64 * 64 * 2)},
        {"RescaleSlope": "0", "PixelData": bytes(64 * 64 * 2)},
    ],
    ids=lambda attributes: next(iter(attributes)),
)
def test_impossible_numbers_are_refused(tmp_path: Path, attributes: dict[str, Any]) -> None:
    dataset = ct_dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    save(dataset, tmp_path / "0.dcm")
    (series,) = discover(tmp_path).series
    assert series.refusal and "0.dcm" in series.refusal and next(iter(attributes)) in series.refusal


def test_limits_hold_when_a_slice_is_read(tmp_path: Path) -> None:
    write_series(tmp_path, 1, hu=np.zeros((800, 800)))
    series = only(tmp_path)
    for limits in (Limits(max_side=799), Limits(max_file_mb=1)):
        with pytest.raises(LimitError):
            read_slice(series.slices[0], series, limits)


def test_a_header_is_read_up_to_the_limit_and_no_further(tmp_path: Path) -> None:
    dataset = ct_dataset()
    dataset.private_block(0x0099, "FAKE", create=True).add_new(1, "OB", bytes(20 << 20))
    save(dataset, tmp_path / "0.dcm")
    series = only(tmp_path)
    assert read_slice(series.slices[0], series, Limits(max_header_mb=21))[1].stored.shape == (64, 64)
    tracemalloc.start()
    with pytest.raises(LimitError, match="1 MiB"):
        read_slice(series.slices[0], series, Limits(max_header_mb=1))
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_repaired_uids_are_those_of_the_listing(tmp_path: Path) -> None:
    blank = dict.fromkeys(("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"), "")
    write_series(tmp_path, 2, **blank)
    before = contents(tmp_path)
    series = only(tmp_path, repair_uids=True)
    for file in series.slices:
        with pytest.raises(InputError, match="repair-uids"):
            read_slice(file, series)
        dataset, _ = read_slice(file, series, repair_uids=True)
        assert dataset.SOPInstanceUID == file.sop_uid and dataset.StudyInstanceUID == series.study_uid
        assert (dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID) == (series.series_uid, series.frame_uid)
    assert contents(tmp_path) == before


def test_memory_does_not_grow_with_the_series(tmp_path: Path) -> None:
    write_series(tmp_path, 24, hu=np.zeros((128, 128)))

    def peak(count: int) -> int:
        tracemalloc.start()
        for file in series.slices[:count]:
            read_slice(file, series)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    series = only(tmp_path)
    peak(2)
    assert peak(24) < 1.2 * peak(4)
    tracemalloc.start()
    listed = discover(tmp_path)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(listed.series) == 1 and held < 24 * 4096  # an image has 32 KiB


def test_real_data(shared_data: Path) -> None:
    three, twenty = discover(shared_data / "dicom", repair_uids=True).series
    for file in three.slices:
        pixels = read_slice(file, three)[1]
        np.testing.assert_array_equal(pixels.padding, pixels.stored == -2000)
        assert pixels.padding.mean() > 0.1 and pixels.hu[pixels.padding].max() == -1000
        np.testing.assert_array_equal(pixels.hu[~pixels.padding], itk_hu(file.path)[~pixels.padding])
    for file in twenty.slices[::6]:
        dataset, pixels = read_slice(file, twenty, repair_uids=True)
        np.testing.assert_array_equal(pixels.hu, itk_hu(file.path))
        assert dataset.SeriesInstanceUID == twenty.series_uid and not pixels.padding.any()
