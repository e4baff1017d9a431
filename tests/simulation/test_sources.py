"""Clean slices: the same patient read from any format is the same image, and every bad input is one clear line."""

import gzip
import itertools
import pickle
import shutil
import sys
import warnings

import h5py
import nibabel
import numpy as np
import pytest
from PIL import Image

from simulation.errors import InputError, NothingToProcessError, UsageError
from simulation.sources import list_slices, phantom, screen
from simulation.sources.slices import (
    evenly_spaced,
    grown_selection,
    image_from_hu,
    pad_to_square,
    safe_name,
    unique_names,
)
from simulation.units import hu_to_mu, mu_to_hu

HEADER = "File_name,Slice_range,Spacing_mm_px_,Train_Val_Test"
ROWS = ('000001_01_01_103.png,"100, 110","0.8, 0.8, 1",1', '000002_01_01_020.png,"15, 25","0.7, 0.7, 5",3')


def body_hu(rows=64, columns=64):
    """An asymmetric body in whole HU: muscle in air, bone posterior, a lesion at the patient's left (image right)."""
    y, x = np.mgrid[:rows, :columns]
    y, x = (y - rows / 2) / (rows / 2), (x - columns / 2) / (columns / 2)
    hu = np.where(x**2 / 0.6 + y**2 / 0.4 < 1, 40, -1000)
    hu[(x**2 + (y - 0.4) ** 2) < 0.02] = 700
    hu[((x - 0.4) ** 2 + y**2) < 0.03] = 120
    return hu.astype(np.int32)


def body_volume():
    """HU [slice from inferior, row, column]: slices of different brightness, 24 x 32 x 32."""
    body = body_hu(32, 32)
    return np.stack([np.where(body > -1000, body + number, body) for number in range(24)])


def one_line(call, *words, kind=InputError):
    """The call raises one readable line that holds the words and no path of this machine; its cause is chained."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert "Traceback" not in message
    assert all(word in message for word in words), message
    return message


def load_all(source, **options):
    return [ref.load() for ref in list_slices(str(source), **options)]


def load_one(source, **options):
    (ref,) = list_slices(str(source), **options)
    return ref.load()


# --- references and values ---


def test_slice_is_float32_attenuation_clipped_at_air(tmp_path):
    hu = body_hu()
    hu[0, 0] = -3024
    write_png(tmp_path, "000001_01_01", "103", hu)
    write_table(tmp_path)
    clean = load_one(tmp_path)
    assert (clean.case, clean.name, clean.pixel_mm) == ("000001_01_01", "103", 0.8)
    assert clean.origin == "Images_png/000001_01_01/103.png"
    assert clean.image_mu.dtype == np.float32
    assert clean.image_mu.min() == 0
    np.testing.assert_array_equal(np.rint(mu_to_hu(clean.image_mu.astype(np.float64))), np.maximum(hu, -1000))


def test_references_are_small_picklable_and_repeatable(tmp_path):
    write_png(tmp_path, "000001_01_01", "103", body_hu())
    write_table(tmp_path)
    refs = list_slices(str(tmp_path))
    assert refs == list_slices(str(tmp_path))
    packed = pickle.dumps(refs)
    assert len(packed) < 1000
    np.testing.assert_array_equal(pickle.loads(packed)[0].load().image_mu, refs[0].load().image_mu)


def test_evenly_spaced_keeps_order_and_spans():
    assert evenly_spaced(range(10), 3) == [1, 5, 8]
    assert evenly_spaced(range(10), 1) == [5]
    assert evenly_spaced(range(3), 5) == evenly_spaced(range(3), None) == [0, 1, 2]


def test_names_are_safe_and_unique():
    assert safe_name("../../tmp/evil name") == "tmp_evil_name"
    assert safe_name("...") == safe_name("") == "case"
    assert unique_names(["a", "A", "b", "a"]) == ["a", "A_2", "b", "a_3"]


def test_padding_is_air_around_the_centred_slice():
    image = image_from_hu(body_hu(20, 31))
    padded = pad_to_square(image)
    assert padded.shape == (31, 31)
    np.testing.assert_array_equal(padded[5:25], image)
    assert not padded[:5].any()
    assert not padded[25:].any()


# --- what is asked for ---


def test_usage_errors(tmp_path):
    one_line(lambda: list_slices(str(tmp_path / "absent")), "no such file", "expected", kind=UsageError)
    one_line(lambda: list_slices(str(tmp_path)), "an empty folder", "DL_info.csv", "dir.txt", kind=UsageError)
    (tmp_path / "notes.txt").write_text("nothing")
    one_line(lambda: list_slices(str(tmp_path)), "notes.txt", "phantom", kind=UsageError)
    one_line(lambda: list_slices(str(tmp_path / "notes.txt")), "no known format", kind=UsageError)
    one_line(lambda: list_slices("phantom", split="training"), "training", "train, val, test", kind=UsageError)
    one_line(lambda: list_slices("phantom", count=0), "at least one", kind=UsageError)
    one_line(lambda: list_slices("phantom", seed=-1), "-1", kind=UsageError)
    one_line(lambda: list_slices("phantom:knee"), "knee", "pelvis", kind=UsageError)


# --- phantom ---


def test_phantom_slices_go_through_the_regions_and_the_seed(monkeypatch):
    def stub(region, rng, size=512):
        return np.full((size, size), rng.uniform(0, 100), dtype=np.float32), 0.75

    monkeypatch.setattr(phantom, "phantom", stub)
    refs = list_slices("phantom", count=6)
    assert [ref.case[:13] for ref in refs] == [f"phantom_{number:04d}_" for number in range(6)]
    assert [ref.case[13:] for ref in refs] == [tuple(phantom.REGIONS)[number % 4] for number in range(6)]
    assert [ref.case for ref in list_slices("phantom:pelvis", count=2)] == [
        "phantom_0000_pelvis",
        "phantom_0001_pelvis",
    ]
    assert len(list_slices("phantom")) == 4
    values = [ref.load().image_mu[0, 0] for ref in refs]
    assert len(set(values)) == 6
    assert values[:2] == [ref.load().image_mu[0, 0] for ref in list_slices("phantom", count=2)]
    assert values[0] != list_slices("phantom", seed=1)[0].load().image_mu[0, 0]


def test_real_phantom_is_clean():
    clean = list_slices("phantom:pelvis", count=1)[0].load()
    assert clean.image_mu.shape == (512, 512)
    assert 0.3 < clean.pixel_mm < 1.2
    assert screen(clean.image_mu) is None


# --- DeepLesion ---


def write_png(root, series, name, hu, offset=32768):
    folder = root / "Images_png" / series
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    Image.fromarray((hu + offset).astype(np.uint16)).save(path)
    assert path.read_bytes()[24:26] == b"\x10\x00"  # 16 bit, grey
    return path


def write_table(root, rows=ROWS, header=HEADER):
    (root / "DL_info.csv").write_text("\n".join([header, *rows]) + "\n")


@pytest.fixture
def deeplesion(tmp_path):
    for series, names in {"000002_01_01": ["020", "021"], "000001_01_01": ["104", "103"]}.items():
        for name in names:
            write_png(tmp_path, series, name, body_hu())
    write_table(tmp_path)
    return tmp_path


def test_deeplesion_obeys_the_official_split(deeplesion):
    assert [(ref.case, ref.name) for ref in list_slices(str(deeplesion))] == [
        ("000001_01_01", "103"),
        ("000001_01_01", "104"),
    ]
    assert [ref.name for ref in list_slices(str(deeplesion), split="test")] == ["020", "021"]
    one_line(
        lambda: list_slices(str(deeplesion), split="val"), "'val'", "4 of other splits", kind=NothingToProcessError
    )
    assert [ref.name for ref in list_slices(str(deeplesion), count=1)] == ["104"]


def test_deeplesion_accepts_the_images_folder_and_links_to_it(deeplesion, tmp_path_factory, monkeypatch):
    whole = list_slices(str(deeplesion))
    assert list_slices(str(deeplesion / "Images_png")) == whole
    monkeypatch.chdir(deeplesion / "Images_png")
    assert list_slices(".") == whole
    linked = tmp_path_factory.mktemp("linked")
    (linked / "Images_png").symlink_to(deeplesion / "Images_png")
    write_table(linked, [ROWS[0].replace("0.8, 0.8", "0.9, 0.9"), ROWS[1]])
    assert list_slices(str(linked / "Images_png"))[0].load().pixel_mm == 0.9


def test_deeplesion_row_is_the_one_whose_range_holds_the_slice(tmp_path):
    for name in ("103", "140", "300"):
        write_png(tmp_path, "000001_01_01", name, body_hu())
    write_table(tmp_path, [ROWS[0], '000001_01_01_140.png,"135, 145","0.9, 0.9, 1",1'])
    assert [clean.pixel_mm for clean in load_all(tmp_path)] == [0.8, 0.9, 0.8]


def test_png_without_a_row_fails_alone(deeplesion):
    write_png(deeplesion, "000009_01_01", "001", body_hu())
    *good, orphan = list_slices(str(deeplesion))
    assert [ref.load().case for ref in good] == ["000001_01_01"] * 2
    one_line(orphan.load, "000009_01_01/001.png", "DL_info.csv has no row")


@pytest.mark.parametrize("keep", [0, 10, 60, 0.5, -30, -8, -1])
def test_truncated_png(deeplesion, keep):
    path = deeplesion / "Images_png/000001_01_01/103.png"
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    one_line(list_slices(str(deeplesion))[0].load, "103.png", "truncated", "16-bit")


def test_damaged_png(deeplesion):
    path = deeplesion / "Images_png/000001_01_01/103.png"
    with Image.open(path) as image:
        image.save(path, compress_level=0)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    one_line(list_slices(str(deeplesion))[0].load, "103.png", "broken")


@pytest.mark.parametrize(("mode", "word"), [("L", "8-bit"), ("RGB", "colour"), ("P", "palette"), ("LA", "alpha")])
def test_png_of_another_kind(deeplesion, mode, word):
    Image.new(mode, (64, 64)).save(deeplesion / "Images_png/000001_01_01/103.png")
    one_line(list_slices(str(deeplesion))[0].load, "103.png", word, "16-bit grey")


def test_png_without_the_offset_of_32768(tmp_path):
    write_png(tmp_path, "000001_01_01", "103", body_hu(), offset=1024)
    write_table(tmp_path)
    one_line(list_slices(str(tmp_path))[0].load, "103.png", "32768")


@pytest.mark.parametrize(("counts", "count", "expected"), [((), 4, 4), ((4,), 6, 6), ((4, 6), 9, 9), ((4,), None, 20)])
def test_a_grown_selection_begins_with_the_earlier_ones(counts, count, expected):
    items = list(range(20))
    grown = grown_selection(items, counts, count)
    assert len(set(grown)) == expected
    for number, earlier in enumerate(counts):
        assert grown[:earlier] == grown_selection(items, counts[:number], earlier)
    assert grown == grown_selection(items, (*counts, expected), count)  # the same command again
    assert grown_selection(items, counts, 3) == evenly_spaced(items, 3)


def test_nifti_that_is_not_square_is_padded_and_said_once(tmp_path, caplog):
    write_nifti(tmp_path / "wide.nii.gz", body_volume()[:, 4:-4])
    write_nifti(tmp_path / "square.nii.gz", body_volume())
    with caplog.at_level("INFO", logger="simulation"):
        refs = list_slices(str(tmp_path))
    side = max(body_volume().shape[:2])
    assert {ref.load().image_mu.shape for ref in refs} == {(side, side)}
    (line,) = (message for message in caplog.messages if "not square" in message)
    assert line.startswith("1 of 2 volumes are not square")
    assert "padded with air" in line
    caplog.clear()
    with caplog.at_level("INFO", logger="simulation"):
        one_line(list_slices(str(tmp_path / "wide.nii.gz"), pad_square=False)[0].load, "--pad-square")
    assert not any("padded" in message for message in caplog.messages)


def test_non_square_slice_needs_the_flag(tmp_path):
    write_png(tmp_path, "000001_01_01", "103", body_hu(40, 64))
    write_table(tmp_path)
    one_line(list_slices(str(tmp_path), pad_square=False)[0].load, "40 x 64", "--pad-square")
    assert load_one(tmp_path, pad_square=True).image_mu.shape == (64, 64)


@pytest.mark.parametrize("spacing", ["0.8, 0.9, 1", "0, 0, 1", "nan, nan, 1", "wide", ""])
def test_impossible_spacing(tmp_path, spacing):
    write_png(tmp_path, "000001_01_01", "103", body_hu())
    write_table(tmp_path, [f'000001_01_01_103.png,"100, 110","{spacing}",1'])
    one_line(list_slices(str(tmp_path))[0].load, "103.png", "DL_info.csv", "expected")


def test_unusable_table(deeplesion):
    write_table(deeplesion, ['000001_01_01_103.png,"100, 110","0.8, 0.8, 1",7'])
    one_line(lambda: list_slices(str(deeplesion)), "line 2", "'7'", "1, 2 or 3")
    write_table(deeplesion, header="File_name,Slice_range,Spacing,Train_Val_Test")
    one_line(lambda: list_slices(str(deeplesion)), "no column Spacing_mm_px_")
    (deeplesion / "DL_info.csv").unlink()
    one_line(lambda: list_slices(str(deeplesion)), "no DL_info.csv", kind=UsageError)


# --- NIfTI ---

LPS = np.diag([-1.0, -1.0, 1.0])


def write_nifti(path, volume, axes=LPS, spacing=(1.5, 1.5, 3.0), unit="mm", dtype=np.int16, kind=nibabel.Nifti1Image):
    """Store [slice, row, column] with array axes (column, row, slice) along the columns of `axes` (right, ant, sup)."""
    affine = np.eye(4)
    affine[:3, :3] = axes * np.array(spacing)
    image = kind(np.ascontiguousarray(volume.transpose(2, 1, 0)).astype(dtype), affine)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, path)
    return path


def reorient(volume, order, flips):
    """The array axes (column, row, slice) reordered and flipped, and the directions that keep the patient the same."""
    stored = volume.transpose(2, 1, 0).transpose(order)
    axes = LPS[:, order]
    for axis, flip in enumerate(flips):
        if flip:
            stored, axes = np.flip(stored, axis), axes * np.where(np.arange(3) == axis, -1, 1)
    return stored.transpose(2, 1, 0), axes


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_nifti_of_any_storage_order_is_the_same_patient(tmp_path, order):
    volume = body_volume()
    spacing = np.array((1.5, 1.5, 3.0))[list(order)]
    for number, flips in enumerate(itertools.product((False, True), repeat=3)):
        stored, axes = reorient(volume, list(order), flips)
        loaded = load_all(write_nifti(tmp_path / f"v{number}.nii", stored, axes, spacing))
        assert [clean.name for clean in loaded] == [f"{index:03d}" for index in range(24)]
        assert {clean.pixel_mm for clean in loaded} == {1.5}
        np.testing.assert_array_equal(np.stack([clean.image_mu for clean in loaded]), image_from_hu(volume))


def test_nifti_folder_count_spans_all_volumes(tmp_path):
    for name in ("b.nii.gz", "a (1).nii.gz", "a 1.nii.gz"):
        write_nifti(tmp_path / name, body_volume())
    refs = list_slices(str(tmp_path), count=3)
    assert [(ref.case, ref.name) for ref in refs] == [("a_1", "012"), ("a_1_2", "012"), ("b", "012")]
    assert refs[2].origin == "b.nii.gz[12]"
    assert len(list_slices(str(tmp_path), split="test")) == 72


def test_nifti_scaling_and_second_version(tmp_path):
    image = nibabel.Nifti2Image((body_volume().transpose(2, 1, 0) + 1024).astype(np.int16), np.diag([-1.0, -1, 1, 1]))
    image.header.set_slope_inter(1, -1024)
    nibabel.save(image, tmp_path / "scaled.nii.gz")
    np.testing.assert_allclose(
        np.stack([clean.image_mu for clean in load_all(tmp_path)]), image_from_hu(body_volume()), atol=1e-7
    )


def test_nifti_volume_is_read_once(tmp_path, monkeypatch):
    write_nifti(tmp_path / "a.nii.gz", body_volume())
    refs = list_slices(str(tmp_path))
    opened = []
    unzip = gzip.open
    monkeypatch.setattr(gzip, "open", lambda *arguments: opened.append(1) or unzip(*arguments))
    for ref in refs:
        ref.load()
    assert len(opened) == 1
    write_nifti(tmp_path / "a.nii.gz", body_volume() * 1.0, dtype=np.float32)  # a changed file is read again
    refs[0].load()
    assert len(opened) == 2


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("micron", 1000), ("meter", 0.001), ("unknown", 1)])
def test_nifti_units(tmp_path, unit, factor):
    write_nifti(tmp_path / "a.nii", body_volume(), spacing=np.array((1.5, 1.5, 3)) * factor, unit=unit)
    assert list_slices(str(tmp_path), count=1)[0].load().pixel_mm == pytest.approx(1.5, rel=1e-5)


def tilted(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ LPS


def test_bad_nifti(tmp_path):
    path, volume = tmp_path / "a.nii.gz", body_volume()

    def fails(*words):
        refs = list_slices(str(path))
        return one_line(refs[0].load, "a.nii.gz", *words)

    write_nifti(path, volume, spacing=(1500, 1500, 3000), unit="unknown")
    fails("1500", "unknown unit", "xyzt_units")
    write_nifti(path, volume, spacing=(1.5, 1.6, 3))
    fails("1.6 x 1.5", "resample")
    write_nifti(path, volume, tilted(8))
    fails("oblique", "8.0 degrees", "resample")
    write_nifti(path, volume + 1024)
    fails("HU + 1024", "scl_inter")
    write_nifti(path, hu_to_mu(volume.astype(np.float32)), dtype=np.float32)
    fails("1/cm", "0.192")
    write_nifti(path, np.maximum(volume, 0))
    fails("expected HU with air")
    write_nifti(path, np.where(volume == 40, np.nan, volume), dtype=np.float32)
    fails("NaN")
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4, 2), np.int16), np.eye(4)), path)
    fails("(4, 4, 4, 2)", "3-D")
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.complex64), np.eye(4)), path)
    fails("complex64")
    no_orientation = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), None)
    nibabel.save(no_orientation, path)
    fails("qform_code")
    path.write_bytes(gzip.compress(b"no NIfTI at all" * 100))
    fails("broken or truncated")


def test_slightly_oblique_nifti_is_accepted(tmp_path):
    write_nifti(tmp_path / "a.nii", body_volume(), tilted(0.5))
    assert list_slices(str(tmp_path), count=1)[0].load().image_mu.shape == (32, 32)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("keep", [0, 2, 200, 0.5, 0.99, -1])
def test_truncated_nifti(tmp_path, suffix, keep):
    path = write_nifti(tmp_path / f"a{suffix}", body_volume())
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    for ref in list_slices(str(path))[:2]:
        one_line(ref.load, f"a{suffix}", "truncated")


def test_damaged_nifti_is_found_by_its_checksum(tmp_path):
    path = tmp_path / "a.nii.gz"
    write_nifti(tmp_path / "b.nii", body_volume())
    data = bytearray(gzip.compress((tmp_path / "b.nii").read_bytes(), compresslevel=0))
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    one_line(list_slices(str(path))[0].load, "a.nii.gz", "broken")


# --- DICOM ---

AXIAL = [1, 0, 0, 0, 1, 0]


def write_dicom(*arguments, **tags):
    """Write one CT slice; tags replace or (None) remove what it would have."""
    with warnings.catch_warnings(action="ignore"):  # pydicom knows when a value is wrong
        return _write_dicom(*arguments, **tags)


def _write_dicom(path, hu, position=0.0, **tags):
    pydicom = pytest.importorskip("pydicom", reason="the extra clinic is not installed")
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    dataset.SeriesInstanceUID, dataset.PatientName = "1.2.3", "Secret^Name"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, position], AXIAL
    dataset.PixelSpacing, dataset.RescaleSlope, dataset.RescaleIntercept = [0.7, 0.7], 2, -1024
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = hu.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.PixelData = ((hu + 1024) // 2).astype("<i2").tobytes()
    for name, value in tags.items():
        if value is None:
            del dataset[name]
        else:
            setattr(dataset, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_dicom_is_sorted_by_position_and_rescaled(tmp_path):
    volume = body_volume() * 2
    for index in (2, 0, 1):
        write_dicom(tmp_path / f"p 1/s/{9 - index}", volume[index], position=-50 + 3 * index)
    loaded = load_all(tmp_path)
    assert [(clean.case, clean.name, clean.pixel_mm) for clean in loaded] == [
        ("p_1_s", "000", 0.7),
        ("p_1_s", "001", 0.7),
        ("p_1_s", "002", 0.7),
    ]
    assert loaded[0].origin == "p 1/s/9"
    for index, clean in enumerate(loaded):
        np.testing.assert_array_equal(clean.image_mu, image_from_hu(volume[index]))


def test_dicom_series_cases_and_other_objects(tmp_path):
    hu = body_hu()
    for number, uid in enumerate(["1.2.3", "", "../../../tmp/evil"]):
        write_dicom(tmp_path / f"a/{number}.dcm", hu, SeriesInstanceUID=uid, position=number)
    write_dicom(tmp_path / "b/mr.dcm", hu, SOPClassUID="1.2.840.10008.5.1.4.1.1.4")
    write_dicom(tmp_path / "b/scout.dcm", hu, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_dicom(tmp_path / "b/ct.dcm", hu)
    (tmp_path / "b/readme.txt").write_text("not DICOM")
    assert [ref.case for ref in list_slices(str(tmp_path))] == ["a", "a_2", "a_3", "b"]
    assert list_slices(str(tmp_path / "b"))[0].case == "b"
    assert len(list_slices(str(tmp_path), count=2)) == 2


@pytest.mark.parametrize("value", [-2000, 63536])
def test_dicom_padding_is_air(tmp_path, value):
    hu = body_hu() * 2
    stored = ((hu + 1024) // 2).astype("<i2")
    stored[:3] = -2000
    path = write_dicom(tmp_path / "a.dcm", hu, PixelData=stored.tobytes(), RescaleSlope=-2, PixelPaddingValue=-2000)
    if value != -2000:  # as unsigned, a common mistake
        data = path.read_bytes().replace(b"\x28\x00\x20\x01SS", b"\x28\x00\x20\x01US")
        path.write_bytes(data)
    assert not load_one(tmp_path).image_mu[:3].any()  # without padding: 2976 HU


BAD_DICOM = [
    ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, ["90 degrees", "resample"]),
    ({"ImageOrientationPatient": [1, 0, 0, 0, 0.98, -0.199]}, ["11 degrees"]),
    ({"ImageOrientationPatient": [-1, 0, 0, 0, -1, 0]}, ["180 degrees"]),
    ({"ImageOrientationPatient": None}, ["ImageOrientationPatient"]),
    ({"PixelSpacing": [0.7, 0.8]}, ["0.8 x 0.7"]),
    ({"PixelSpacing": None}, ["PixelSpacing"]),
    ({"PixelSpacing": [0, 0]}, ["positive"]),
    ({"RescaleSlope": None}, ["RescaleSlope"]),
    ({"RescaleType": "US"}, ["RescaleType", "HU"]),
    ({"PhotometricInterpretation": "MONOCHROME1"}, ["MONOCHROME1"]),
    ({"Rows": 60000, "Columns": 60000}, ["60000", "4096"]),
    ({"NumberOfFrames": 3}, ["3 frames"]),
    ({"PixelData": b"\0" * 100}, ["truncated"]),
    ({"PixelData": None}, ["without pixels"]),
    ({"Rows": 32}, ["truncated"]),
]


@pytest.mark.parametrize(("tags", "words"), BAD_DICOM)
def test_bad_dicom(tmp_path, tags, words):
    write_dicom(tmp_path / "s/bad.dcm", body_hu(), **tags)
    write_dicom(tmp_path / "s/good.dcm", body_hu(), position=1)
    refs = {ref.origin: ref for ref in list_slices(str(tmp_path))}
    message = one_line(refs["s/bad.dcm"].load, "s/bad.dcm", *words)
    assert "Secret" not in message
    refs["s/good.dcm"].load()


@pytest.mark.parametrize("keep", [0, 100, 140, 400, 0.5, -2])
def test_truncated_dicom_is_named_and_the_others_load(tmp_path, keep):
    path = write_dicom(tmp_path / "s/bad.dcm", body_hu())
    write_dicom(tmp_path / "s/good.dcm", body_hu(), position=1)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    refs = {ref.origin: ref for ref in list_slices(str(tmp_path))}
    one_line(refs["s/bad.dcm"].load, "s/bad.dcm", "truncated")
    assert {ref.case for ref in refs.values()} == {"s"}
    refs["s/good.dcm"].load()


def test_dicom_without_ct(tmp_path):
    write_dicom(tmp_path / "mr.dcm", body_hu(), SOPClassUID="1.2.840.10008.5.1.4.1.1.4")
    one_line(lambda: list_slices(str(tmp_path)), "1 DICOM files", "CT Image Storage")


def test_deflated_dicom_is_refused(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", body_hu())
    data = path.read_bytes()
    uid, deflated = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99"
    length = (len(uid)).to_bytes(2, "little")
    assert data.count(length + uid) == 1
    path.write_bytes(data.replace(length + uid, len(deflated).to_bytes(2, "little") + deflated))
    one_line(list_slices(str(tmp_path))[0].load, "a.dcm", "Deflated")


def test_missing_pydicom_and_missing_decoder_name_the_extra(tmp_path, monkeypatch):
    pydicom = pytest.importorskip("pydicom", reason="the extra clinic is not installed")
    path = write_dicom(tmp_path / "a.dcm", body_hu())
    refs = list_slices(str(tmp_path))
    decoder = type("Decoder", (), {"is_available": False})
    with monkeypatch.context() as patch:
        patch.setattr(pydicom.pixels, "get_decoder", lambda uid: decoder)
        one_line(refs[0].load, path.name, "Explicit VR Little Endian", "1.2.840.10008.1.2.1", "mar-pipeline[clinic]")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    one_line(lambda: list_slices(str(tmp_path)), "mar-pipeline[clinic]")
    one_line(refs[0].load, "mar-pipeline[clinic]")


# --- community layout ---


def write_gt(root, case, name, **datasets):
    folder = root / case / name
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / "gt.h5", "w") as file:
        for key, values in datasets.items():
            file[key] = values
    return folder / "gt.h5"


@pytest.fixture
def image_mu():
    return np.random.default_rng(3).uniform(0, 0.6, (416, 416)).astype(np.float32)


def test_community_image_is_used_bit_for_bit_in_the_order_of_the_list(tmp_path, image_mu):
    for case in ("b", "a", "unlisted"):
        write_gt(tmp_path / "train_640geo", case, "011", image=image_mu, poly_CT=image_mu)
    (tmp_path / "train_640geo_dir.txt").write_text("b/011/gt.h5\na/011/gt.h5\n\nb/011/gt.h5\n")
    loaded = load_all(tmp_path)
    assert [(clean.case, clean.name, clean.pixel_mm) for clean in loaded] == [("b", "011", None), ("a", "011", None)]
    assert loaded[0].origin == "train_640geo/b/011/gt.h5"
    assert loaded[0].image_mu.tobytes() == image_mu.tobytes()
    assert [ref.case for ref in list_slices(str(tmp_path), count=1)] == ["b"]
    assert [ref.case for ref in list_slices(str(tmp_path / "train_640geo"))] == ["a", "b", "unlisted"]
    one_line(lambda: list_slices(str(tmp_path), split="test"), "train_640geo_dir.txt", "'test'", kind=UsageError)


@pytest.mark.parametrize("line", ["../b/gt.h5", "/etc/gt.h5", "b/011", "a/../b/gt.h5"])
def test_community_list_stays_in_its_folder(tmp_path, line):
    (tmp_path / "train_640geo_dir.txt").write_text(f"b/011/gt.h5\n{line}\n")
    one_line(lambda: list_slices(str(tmp_path)), "line 2", "case/slice/gt.h5")


def test_bad_gt(tmp_path, image_mu):
    def fails(*words, **datasets):
        write_gt(tmp_path, "a", "1", **datasets)
        return one_line(list_slices(str(tmp_path))[0].load, "a/1/gt.h5", *words)

    fails("poly_CT", "'image'", poly_CT=image_mu)
    fails("-1000", "mu = 0.192", image=mu_to_hu(image_mu) - 1000 - mu_to_hu(image_mu).min())
    fails("int16", image=image_mu.astype(np.int16))
    fails("NaN", image=np.full((416, 416), np.nan, np.float32))
    fails("400 x 416", image=image_mu[:400])
    fails("shape", image=image_mu[None])
    path = write_gt(tmp_path, "a", "1", image=image_mu)
    data = path.read_bytes()
    for keep in (0, 50, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:keep])
        one_line(list_slices(str(tmp_path))[0].load, "a/1/gt.h5", "truncated")
    (ref,) = list_slices(str(tmp_path))
    path.unlink()
    one_line(ref.load, "a/1/gt.h5", "No such file")


# --- the screen ---


def test_screen():
    clean = image_from_hu(body_hu(128, 128))
    assert screen(clean) is None
    for hu, size, expected in [(8000, 4, "metal"), (3000, 2, "metal"), (8000, 1, None), (2990, 6, None)]:
        image = clean.copy()
        image[60 : 60 + size, 60] = hu_to_mu(hu)
        assert screen(image) == expected, (hu, size)
    assert screen(np.zeros((64, 64), np.float32)) == "empty"
    table = np.zeros((100, 100), np.float32)
    table[90, :] = table[80, ::2] = 0.3
    assert screen(table) == "empty"  # 1 % and crumbs
    table[89:91, :50] = 0.3
    table[85:91, :40] = 0.3
    assert screen(table) is None


# --- real data ---


@pytest.mark.shared_data
def test_real_png_and_dicom_are_the_same_patient(shared_data):
    gantry = {clean.origin: clean.image_mu for clean in load_all(shared_data / "dicom")}
    pairs = dict(zip(["108", "109", "110"], [f"ct_3slices/{name}.dcm" for name in ("03", "02", "01")], strict=True))
    siemens = [origin for origin in gantry if origin.startswith("siemens")]  # from inferior
    pairs |= dict(zip(["037", "038", "039", "040", "041", "042"], siemens[9::2], strict=True))
    slices = load_all(shared_data / "deeplesion_format", split="test") + load_all(shared_data / "deeplesion_format")
    assert {clean.name for clean in slices} == set(pairs)
    for clean in slices:
        np.testing.assert_array_equal(clean.image_mu, gantry[pairs[clean.name]])


@pytest.mark.shared_data
@pytest.mark.parametrize(("source", "pixels_mm", "shape"), [
    ("deeplesion_format", {0.976562}, (512, 512)),
    ("dicom/ct_3slices", {0.810547}, (512, 512)),
    ("dicom/siemens_ct_20slices", {0.9765625}, (512, 512)),
    ("syndeeplesion", {None}, (416, 416)),
])  # fmt: skip
def test_real_clean_slices_pass_the_screen(shared_data, source, pixels_mm, shape):
    for clean in load_all(shared_data / source):
        assert screen(clean.image_mu) is None
        assert clean.image_mu.shape == shape
        assert clean.pixel_mm in pixels_mm
        with_steel = clean.image_mu.copy()
        with_steel[shape[0] // 2 :][:3, shape[1] // 2 :][:, :3] = 2.6
        assert screen(with_steel) == "metal"


@pytest.mark.shared_data
def test_real_volumes_with_metal_are_screened(shared_data):
    found = {}
    for ref in list_slices(str(shared_data / "nifti"), pad_square=True):
        found.setdefault(ref.case, []).append(screen(ref.load().image_mu))
    assert {case: len(verdicts) for case, verdicts in found.items()} == {
        "lung_1p5mm": 112,
        "thorax_1p5mm": 164,
        "trunk_3mm": 112,
    }
    assert found["trunk_3mm"] == ["metal"] * 12 + [None] * 100  # a hip screw, then pelvis and abdomen
    assert set(found["thorax_1p5mm"][136:163]) == {"metal"}  # sternal wires, undiluted contrast medium
    one_line(list_slices(str(shared_data / "nifti"), pad_square=False)[0].load, "lung_1p5mm.nii.gz[0]", "--pad-square")


@pytest.mark.shared_data
@pytest.mark.parametrize("source", ["deeplesion_format", "nifti/trunk_3mm.nii.gz"])
def test_real_patients_lie_on_their_back(shared_data, source):
    """In the middle of every slice above the pelvis the bone, the spine, is posterior (the sternum is smaller)."""
    for ref in list_slices(str(shared_data / source), pad_square=True)[-40:]:
        image = ref.load().image_mu
        rows, columns = (np.flatnonzero((image > 0.12).any(axis=axis)) for axis in (1, 0))
        width = columns[-1] - columns[0]
        bone = image[:, columns[0] + 2 * width // 5 : columns[0] + 3 * width // 5] > hu_to_mu(250)
        middle = (rows[0] + rows[-1]) // 2
        assert bone[middle:].sum() > 2 * bone[:middle].sum(), ref.origin


@pytest.mark.shared_data
@pytest.mark.parametrize("source", ["deeplesion_format", "dicom"])
def test_real_livers_are_at_image_left(shared_data, source):
    """In slices of the upper abdomen: more soft tissue of 30..200 HU, the liver, in the patient's right half."""
    for clean in load_all(shared_data / source):
        columns = np.flatnonzero((clean.image_mu > 0.12).any(axis=0))
        middle = (columns[0] + columns[-1]) // 2
        tissue = (clean.image_mu > hu_to_mu(30)) & (clean.image_mu < hu_to_mu(200))
        assert tissue[:, :middle].sum() > 1.1 * tissue[:, middle:].sum(), clean.origin


@pytest.mark.shared_data
@pytest.mark.parametrize("file", ["dicom/siemens_ct_20slices", "dicom/ct_3slices"])
def test_real_truncated_dicom(shared_data, tmp_path, file):
    first = sorted((shared_data / file).iterdir())[0]
    data = first.read_bytes()
    for keep in (0.2, 0.7, 0.99):
        (tmp_path / "slice").write_bytes(data[: int(keep * len(data))])
        one_line(list_slices(str(tmp_path))[0].load, "slice", "truncated")


@pytest.mark.shared_data
def test_real_truncated_community_file(shared_data, tmp_path):
    tree = shared_data / "syndeeplesion/train"
    relative = (tree / "train_640geo_dir.txt").read_text().split()[0]
    target = tmp_path / "train_640geo" / relative
    target.parent.mkdir(parents=True)
    shutil.copy(tree / "train_640geo_dir.txt", tmp_path)
    target.write_bytes((tree / "train_640geo" / relative).read_bytes()[:100_000])
    one_line(list_slices(str(tmp_path))[0].load, relative, "truncated")
