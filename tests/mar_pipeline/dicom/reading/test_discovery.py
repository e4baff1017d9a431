"""What a folder holds: every CT image is in one series, refused or not; every other file has its reason."""

import os
import shutil
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import (
    PATIENT_AND_STUDY,
    SECRETS,
    contents,
    ct_dataset,
    disc_hu,
    fake_uid,
    save,
    strip_meta,
    write_series,
)
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
    RLELossless,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    XRayRadiationDoseSRStorage,
)

from mar_pipeline.dicom.identifiers import MANUFACTURER
from mar_pipeline.dicom.reading import discovery
from mar_pipeline.dicom.reading.discovery import Discovery, Series, discover
from mar_pipeline.dicom.reading.limits import Limits
from mar_pipeline.dicom.reading.pixels import read_slice
from simulation.errors import InputError, LimitError, UsageError


def only(found: Discovery) -> Series:
    assert len(found.series) == 1
    return found.series[0]


def reasons(found: Discovery) -> dict[str, str]:
    return {one.name: one.reason for one in found.skipped}


def messages(found: Discovery) -> str:
    return repr([(one.warnings, one.refusal) for one in found.series]) + repr(found.skipped)


def test_a_series_is_found_whatever_its_files_are_called(tmp_path: Path) -> None:
    paths = write_series(tmp_path, 4, spacing_mm=2.5)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for number, (path, name) in enumerate(zip(paths, ("deep/er/IM0", "deep/x.txt", "b.jpg", ".hidden"), strict=True)):
        path.rename(tmp_path / name)
        paths[number] = tmp_path / name
    series = only(discover(tmp_path))
    assert [file.path for file in series.slices] == paths
    assert [file.name for file in series.slices] == ["deep/er/IM0", "deep/x.txt", "b.jpg", ".hidden"]
    assert [file.position_mm for file in series.slices] == [0, 2.5, 5, 7.5]
    assert [file.sop_uid for file in series.slices] == [fake_uid("image", number) for number in range(4)]
    assert (series.study_uid, series.series_uid, series.frame_uid) == tuple(map(fake_uid, ("study", "series", "frame")))
    assert (series.number, series.shape, series.spacing_mm, series.gap_mm) == (1, (64, 64), (4, 4), 2.5)
    assert (series.tilt_deg, series.warnings, series.refusal, series.error) == (0, (), None, None)


def test_the_listing_changes_nothing_and_is_the_same_again(tmp_path: Path) -> None:
    write_series(tmp_path / "b", 3)
    write_series(tmp_path / "a", 2, SeriesInstanceUID=fake_uid("other"))
    before = contents(tmp_path)
    first = discover(tmp_path)
    assert discover(tmp_path) == first and contents(tmp_path) == before
    assert [(one.number, one.slices[0].name) for one in first.series] == [(1, "a/0.dcm"), (2, "b/0.dcm")]


def test_slices_are_sorted_by_position_and_not_by_instance_number(tmp_path: Path) -> None:
    for number, z in enumerate((10.0, 0.0, 5.0)):
        dataset = ct_dataset(number, ImagePositionPatient=[0, 0, z])
        save(dataset, tmp_path / f"{number}.dcm", ImplicitVRLittleEndian)
    series = only(discover(tmp_path))
    assert [(file.position_mm, file.instance_number) for file in series.slices] == [(0, 2), (5, 3), (10, 1)]
    assert {file.transfer_syntax for file in series.slices} == {ImplicitVRLittleEndian}


def test_slices_that_are_shifted_within_their_planes_are_refused(tmp_path: Path) -> None:
    for number in range(6):
        place = [40.0 if number > 2 else 0.0, 0, 3.0 * number]
        save(ct_dataset(number, ImagePositionPatient=place), tmp_path / f"{number}.dcm")
    assert "shifted against each other by" in str(only(discover(tmp_path)).refusal)


def test_tilt_follows_from_geometry_and_not_from_the_tag(tmp_path: Path) -> None:
    tilt = np.radians(20)
    for number in range(3):
        save(
            ct_dataset(
                number,
                ImageOrientationPatient=[1, 0, 0, 0, round(np.cos(tilt), 6), round(-np.sin(tilt), 6)],
                ImagePositionPatient=[0, 0, 6.0 * number],
                GantryDetectorTilt="3",
            ),
            tmp_path / f"{number}.dcm",
        )
    series = only(discover(tmp_path))
    assert series.refusal is None
    assert series.tilt_deg == pytest.approx(20, abs=1e-3)
    assert series.gap_mm == pytest.approx(6 * np.cos(tilt), abs=1e-4)
    assert any("20.0 degrees" in warning for warning in series.warnings)


def test_an_oblique_stack_is_as_good_as_an_axial_one(tmp_path: Path) -> None:
    rotation = np.linalg.qr(np.array([[1, 0.4, 0.2], [0.3, 1, -0.5], [-0.2, 0.1, 1]]))[0]
    row, column = rotation[:, 0], rotation[:, 1]
    normal = np.cross(row, column)
    for number, distance in enumerate((4.0, 0.0, 2.0)):
        place = np.array([-10.0, 20.0, 30.0]) + distance * normal
        save(
            ct_dataset(
                number,
                ImageOrientationPatient=[f"{value:.9f}" for value in (*row, *column)],
                ImagePositionPatient=[f"{value:.6f}" for value in place],
            ),
            tmp_path / f"{number}.dcm",
        )
    series = only(discover(tmp_path))
    assert [file.name for file in series.slices] == ["1.dcm", "2.dcm", "0.dcm"]
    assert series.gap_mm == pytest.approx(2, abs=1e-4)
    assert series.tilt_deg == pytest.approx(0, abs=0.01) and not series.warnings and not series.refusal


def positioned(folder: Path, *positions_mm: float) -> Series:
    for number, z in enumerate(positions_mm):
        save(ct_dataset(number, ImagePositionPatient=[0, 0, z]), folder / f"{number}.dcm")
    return only(discover(folder))


def test_uneven_spacing_passes_with_a_warning(tmp_path: Path) -> None:
    series = positioned(tmp_path, 0, 5, 10, 14, 19)
    assert series.refusal is None and series.gap_mm == 5
    assert series.warnings == ("uneven spacing: gaps of 4.00 to 5.00 mm",)
    assert positioned(tmp_path / "rounded", 0, 0.62, 1.25, 1.88, 2.5).warnings == ()


def test_a_missing_slice_is_named_by_its_neighbours(tmp_path: Path) -> None:
    series = positioned(tmp_path, 0, 5, 15, 20)
    assert series.refusal is None and series.gap_mm == 5
    (warning,) = series.warnings
    assert "missing" in warning and "between 1.dcm and 2.dcm (10.00 mm)" in warning


def test_slices_turned_against_each_other_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path, 2)
    save(ct_dataset(2, ImageOrientationPatient=[0.99, 0.141067, 0, -0.141067, 0.99, 0]), tmp_path / "2.dcm")
    refusal = only(discover(tmp_path)).refusal
    assert refusal and "0.dcm and 2.dcm" in refusal and "ImageOrientationPatient" in refusal


@pytest.mark.parametrize(
    "orientation", [[1, 0, 0, 0, 0.9, 0], [1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0]], ids=["short", "parallel", "zero"]
)
def test_an_orientation_that_is_no_rectangle_is_refused(tmp_path: Path, orientation: list[float]) -> None:
    write_series(tmp_path, 2, ImageOrientationPatient=orientation)
    assert "orthogonal unit vectors" in str(only(discover(tmp_path)).refusal)


OTHERS = {
    "localizer": ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
    "modality": ({"Modality": "MR"}, "modality 'MR'"),
    "colour": ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3, "PixelData": bytes(64 * 64 * 6)}, "3 x RGB"),
    "inverted": ({"PhotometricInterpretation": "MONOCHROME1"}, "MONOCHROME1"),
    "no HU": ({"RescaleType": "US"}, "RescaleType 'US'"),
    "MIP": ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "CT_SOM5 MIP"]}, "MIP"),
    "minimum": ({"ImageType": ["DERIVED", "SECONDARY", "MIN_IP"]}, "MINIP"),
    "MPR": ({"ImageType": ["DERIVED", "SECONDARY", "MPR"]}, "MPR"),
    "own": ({"Manufacturer": MANUFACTURER}, "written by mar-pipeline"),
    "dose screen": ({"ImagePositionPatient": None}, "has no ImagePositionPatient"),
    "unturned": ({"ImageOrientationPatient": None}, "has no ImageOrientationPatient"),
    "unscaled": ({"PixelSpacing": None}, "has no PixelSpacing"),
    "no slope": ({"RescaleSlope": None}, "has no RescaleSlope"),
    "no intercept": ({"RescaleIntercept": None}, "has no RescaleIntercept"),
    "enhanced": ({"SOPClassUID": EnhancedCTImageStorage}, "Enhanced CT is not supported yet; export as classic CT"),
    "structures": ({"SOPClassUID": RTStructureSetStorage}, "RT Structure Set Storage"),
    "segmentation": ({"SOPClassUID": SegmentationStorage}, "Segmentation Storage"),
    "dose report": ({"SOPClassUID": XRayRadiationDoseSRStorage}, "X-Ray Radiation Dose SR Storage"),
    "screenshot": ({"SOPClassUID": SecondaryCaptureImageStorage}, "Secondary Capture Image Storage"),
    "directory": ({"SOPClassUID": MediaStorageDirectoryStorage}, "DICOMDIR"),
    "private": ({"SOPClassUID": "1.3.46.670589.2.5.1.1"}, "private SOP class"),
}


@pytest.mark.parametrize(("attributes", "reason"), OTHERS.values(), ids=OTHERS)
def test_what_is_no_ct_slice_is_skipped_with_its_reason(
    tmp_path: Path, attributes: dict[str, object], reason: str
) -> None:
    write_series(tmp_path, 3)
    other = {"SeriesInstanceUID": fake_uid("other series"), "SOPInstanceUID": fake_uid("other")} | attributes
    save(ct_dataset(9, **other), tmp_path / "other")
    found = discover(tmp_path)
    assert only(found).refusal is None and only(found).warnings == () and len(only(found).slices) == 3
    assert list(reasons(found)) == ["other"] and reason in reasons(found)["other"]


def test_rescale_without_a_type_is_in_hu(tmp_path: Path) -> None:
    write_series(tmp_path, 2, RescaleType=None)
    assert only(discover(tmp_path)).refusal is None


@pytest.mark.parametrize(
    "unit",
    ["HU ", "hu", "H.U.", "Hounsfield", "Hounsfield Unit", "Hounsfield Units", "Houndsfield Unit", "Housndfield Unit",
     "HOUNSFIELD_UNITS", "Hounsfield units (HU)", "[HU]"],
)  # fmt: skip
def test_the_unit_may_be_spelt_in_any_way(tmp_path: Path, unit: str) -> None:
    write_series(tmp_path, 2, RescaleType=unit)
    series = only(discover(tmp_path))
    assert (series.refusal, series.warnings, series.assumed_hu) == (None, (), False)
    assert read_slice(series.slices[0], series)[0].RescaleType == unit.strip()


@pytest.mark.parametrize("unit", ["HU_MOD", "ED", "MGML", "Z_EFF", "PCT", "units", "Modified Hounsfield Unit"])
def test_another_unit_is_none(tmp_path: Path, unit: str) -> None:
    write_series(tmp_path, 2, RescaleType=unit)
    for assume in (False, True):
        found = discover(tmp_path, assume_hu=assume)
        assert not found.series and "expected HU" in found.skipped[0].reason


def test_an_unspecified_unit_is_hu_on_request(tmp_path: Path) -> None:
    write_series(tmp_path, 2, RescaleType="US")
    assert "--assume-hu" in discover(tmp_path).skipped[0].reason
    series = only(discover(tmp_path, assume_hu=True))
    assert series.refusal is None and "--assume-hu" in series.warnings[0]
    np.testing.assert_array_equal(read_slice(series.slices[1], series)[1].hu, disc_hu(1))


def test_one_slice_of_another_unit_has_its_series_refused_not_shortened(tmp_path: Path) -> None:
    first, *_ = write_series(tmp_path, 3)
    dataset = pydicom.dcmread(first)
    dataset.RescaleType = "US"
    dataset.save_as(first)
    assert "RescaleType 'US'" in str(only(discover(tmp_path)).refusal)
    series = only(discover(tmp_path, assume_hu=True))
    assert series.refusal is None and len(series.slices) == 3


def test_what_does_not_look_like_hu_is_not_taken_for_it(tmp_path: Path) -> None:
    write_series(tmp_path, 1, RescaleType="US", RescaleIntercept="0", hu=disc_hu() + 1024)
    series = only(discover(tmp_path, assume_hu=True))
    with pytest.raises(InputError, match=r"0\.dcm: got no value below 0"):
        read_slice(series.slices[0], series)


def test_a_segmentation_and_structures_beside_the_ct_leave_it_alone(tmp_path: Path) -> None:
    write_series(tmp_path, 2)
    save(ct_dataset(0, SOPClassUID=RTStructureSetStorage, SOPInstanceUID=fake_uid("rt")), tmp_path / "0.rt")
    save(ct_dataset(0, SOPClassUID=SegmentationStorage, SOPInstanceUID=fake_uid("seg")), tmp_path / "0.seg")
    found = discover(tmp_path)
    assert only(found).refusal is None
    assert [file.name for file in only(found).slices] == ["0.dcm", "1.dcm"]
    assert sorted(reasons(found)) == ["0.rt", "0.seg"]


@pytest.mark.parametrize("keep_meta", [False, True], ids=["bare", "with meta"])
@pytest.mark.parametrize(
    "transfer_syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian], ids=["implicit", "explicit"]
)
def test_a_slice_without_preamble_is_a_slice(tmp_path: Path, transfer_syntax: str, keep_meta: bool) -> None:
    paths = write_series(tmp_path, 3, transfer_syntax=transfer_syntax)
    strip_meta(paths[1], keep_meta).rename(tmp_path / "1.txt")
    series = only(discover(tmp_path))
    assert (series.refusal, series.warnings) == (None, ())
    assert [file.name for file in series.slices] == ["0.dcm", "1.txt", "2.dcm"]
    assert {file.transfer_syntax for file in series.slices} == {transfer_syntax}
    header, pixels = read_slice(series.slices[1], series)
    np.testing.assert_array_equal(pixels.hu, disc_hu(1))
    assert header.SOPInstanceUID == fake_uid("image", 1)


def test_a_whole_series_without_preambles_is_one(tmp_path: Path) -> None:
    for path in write_series(tmp_path, 3, transfer_syntax=ImplicitVRLittleEndian):
        strip_meta(path)
    plan = {"SOPClassUID": RTStructureSetStorage, "Modality": "RTSTRUCT", "SOPInstanceUID": fake_uid("rt")}
    strip_meta(save(ct_dataset(0, **plan), tmp_path / "plan"))
    found = discover(tmp_path)
    assert len(only(found).slices) == 3 and only(found).refusal is None
    assert reasons(found) == {"plan": "RT Structure Set Storage; expected CT Image Storage"}


def test_a_slice_without_preamble_cut_anywhere_never_leaves_its_series_silently_short(tmp_path: Path) -> None:
    paths = write_series(tmp_path, 3, transfer_syntax=ImplicitVRLittleEndian)
    whole = strip_meta(paths[1]).read_bytes()
    known_from = whole.index(b"1.2.840.10008.5.1.4.1.1.2") + 26
    for length in (*range(known_from, known_from + 200), *range(known_from + 200, len(whole) - 1, 97)):
        paths[1].write_bytes(whole[:length])
        refused = [one for one in discover(tmp_path).series if one.refusal and "1.dcm" in one.refusal]
        assert any(len(one.slices) == 2 for one in refused), f"{length} of {len(whole)} bytes"


def test_other_files_are_not_taken_for_data_sets(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    starts = (b"", b"\x08\0", b"\x08\0\x05\0", b"\x08\0\x16\0UI", b"\x08\0\x60\0CS\x02\0", b"\x02\0\0\0UL\x04\0")
    for number in range(120):
        content = starts[number % len(starts)] + random.bytes(int(random.integers(2000)))
        (tmp_path / f"{number}.dcm").write_bytes(content)
    (tmp_path / "zeros").write_bytes(bytes(4096))
    (tmp_path / "nested").write_bytes(
        struct.pack("<HHL", 8, 6, 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF) * 99
    )
    (tmp_path / "long").write_bytes(struct.pack("<HHL", 8, 8, 0xFFFFFF00) + bytes(100))
    found = discover(tmp_path)
    assert found.series == () and set(reasons(found).values()) == {"not a DICOM file"}


def test_files_that_are_not_dicom_are_listed(tmp_path: Path) -> None:
    write_series(tmp_path, 1)
    (tmp_path / "notes.dcm").write_text("not DICOM")
    (tmp_path / "empty.txt").touch()
    found = discover(tmp_path)
    assert reasons(found) == {"notes.dcm": "not a DICOM file", "empty.txt": "not a DICOM file"}
    assert only(found).refusal is None


def test_an_empty_folder_holds_nothing_and_a_file_is_no_folder(tmp_path: Path) -> None:
    assert discover(tmp_path) == Discovery((), ())
    path = save(ct_dataset(), tmp_path / "secret name" / "file.dcm")
    for wrong in (path, tmp_path / "absent"):
        with pytest.raises(UsageError) as caught:
            discover(wrong)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("SeriesDescription", "Hip iMAR soft"),
        ("SeriesDescription", "HIP_O-MAR_2"),
        ("ProtocolName", "Hip SEMAR"),
        ("ConvolutionKernel", "Smart MAR"),
        ("ImageType", ["ORIGINAL", "PRIMARY", "AXIAL", "IMAR"]),
    ],
)
def test_series_that_the_scanner_corrected_are_pointed_out(tmp_path: Path, keyword: str, text: object) -> None:
    write_series(tmp_path, 2, **{keyword: text})
    (warning,) = only(discover(tmp_path)).warnings
    assert warning.startswith(keyword) and "MAR" in warning


def test_ordinary_names_are_not_taken_for_a_correction(tmp_path: Path) -> None:
    write_series(
        tmp_path, 1, SeriesDescription="Smart prep", ProtocolName="Bone marrow, Lamar", ConvolutionKernel="B30"
    )
    assert only(discover(tmp_path)).warnings == ()


def test_loss_is_pointed_out_by_tag_and_by_transfer_syntax(tmp_path: Path) -> None:
    write_series(tmp_path / "tag", 1, LossyImageCompression="01")
    save(ct_dataset(), tmp_path / "syntax" / "0.dcm", JPEG2000, j2k_psnr=[60])
    for folder in ("tag", "syntax"):
        assert only(discover(tmp_path / folder)).warnings == ("its images were compressed with loss",)
    write_series(tmp_path / "none", 1, LossyImageCompression="00")
    assert only(discover(tmp_path / "none")).warnings == ()


def test_one_series_of_two_spacings_is_two_with_a_warning(tmp_path: Path) -> None:
    write_series(tmp_path, 2)
    for number in (2, 3):
        save(ct_dataset(number, PixelSpacing=[2, 2]), tmp_path / f"{number}.dcm")
    first, second = discover(tmp_path).series
    assert (first.spacing_mm, second.spacing_mm) == ((4, 4), (2, 2))
    assert [len(one.slices) for one in (first, second)] == [2, 2]
    for one in (first, second):
        assert one.refusal is None and "2 series that differ in PixelSpacing" in one.warnings[0]


def test_spacings_that_differ_by_rounding_are_one(tmp_path: Path) -> None:
    for number, digits in enumerate((1.5955, 1.59554, 1.59554, 1.596)):
        save(ct_dataset(number, PixelSpacing=[digits, digits]), tmp_path / f"{number}.dcm")
    series = only(discover(tmp_path))
    assert (series.spacing_mm, series.refusal, series.warnings) == ((1.59554, 1.59554), None, ())
    assert [len(read_slice(file, series)[1].stored) for file in series.slices] == [64] * 4
    assert read_slice(series.slices[0], series)[0].PixelSpacing == [1.5955, 1.5955]
    save(ct_dataset(4, PixelSpacing=[1.5955, 1.598]), tmp_path / "4.dcm")
    assert [len(one.slices) for one in discover(tmp_path).series] == [4, 1]


def write_phases(folder: Path, **values: tuple[object, ...]) -> None:
    """Three slices for each value, mixed in one folder under one SeriesInstanceUID."""
    count = max(map(len, values.values()))
    for phase in range(count):
        attributes = {keyword: value[phase] for keyword, value in values.items()}
        for number in range(3):
            made = ct_dataset(number, SOPInstanceUID=fake_uid("phase", phase, number), **attributes)
            save(made, folder / f"{number}_{phase}.dcm")


PHASES: dict[str, dict[str, tuple[object, ...]]] = {
    "AcquisitionNumber": {"AcquisitionNumber": (1, 2, 3)},
    "TemporalPositionIdentifier": {"TemporalPositionIdentifier": (1, 2)},
    "ConvolutionKernel": {"ConvolutionKernel": ("B30", "B70")},
    "ContentTime": {"ContentTime": ("101602", "101702")},
    "AcquisitionNumber and ConvolutionKernel": {
        "AcquisitionNumber": (1, 1, 2, 2),
        "ConvolutionKernel": ("B30", "B70", "B30", "B70"),
    },
}


@pytest.mark.parametrize(("keywords", "values"), PHASES.items(), ids=PHASES)
def test_phases_under_one_uid_are_series_of_their_own(
    tmp_path: Path, keywords: str, values: dict[str, tuple[object, ...]]
) -> None:
    write_phases(tmp_path, **values)
    found, count = discover(tmp_path), len(next(iter(values.values())))
    assert [[file.name for file in one.slices] for one in found.series] == [
        [f"{number}_{phase}.dcm" for number in range(3)] for phase in range(count)
    ]
    for one in found.series:
        assert one.refusal is None and one.series_uid == fake_uid("series")
        (warning,) = one.warnings
        assert f"{count} series at the same positions, told apart by {keywords}" in warning


def test_the_listing_does_not_depend_on_the_order_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_phases(tmp_path, PixelSpacing=([1, 1], [1.0005, 1.0005], [1.0012, 1.0012]), AcquisitionNumber=(1, 2, 1))
    write_phases(tmp_path / "b", AcquisitionNumber=(1, 2), SeriesInstanceUID=("1.2", "1.2"))
    for name in ("x", "y"):
        (tmp_path / name).write_bytes((tmp_path / "0_0.dcm").read_bytes()[:400])
    save(ct_dataset(0, SeriesInstanceUID="1.3", NumberOfFrames=2), tmp_path / "c" / "0.dcm")
    save(ct_dataset(1, SeriesInstanceUID="1.3", ImageOrientationPatient=[0] * 6), tmp_path / "c" / "1.dcm")
    first, files = discover(tmp_path), discovery._files
    monkeypatch.setattr(discovery, "_files", lambda *given: reversed(list(files(*given))))
    assert discover(tmp_path) == first and len(first.series) == 6


@pytest.mark.parametrize(
    ("keyword", "values"),
    [("ContentTime", range(6)), ("ContentTime", (0, 1, 2, 2, 0, 1)), ("AcquisitionNumber", range(6))],
    ids=["time of a slice", "time of a pair", "number of a slice"],
)
def test_what_tells_slices_apart_tells_no_phases_apart(tmp_path: Path, keyword: str, values: Sequence[int]) -> None:
    """Two slices at each of three positions; the times of pairs would make three parts without a conflict."""
    for index, value in enumerate(values):
        given = value if keyword == "AcquisitionNumber" else f"10160{value}"
        made = ct_dataset(index % 3, SOPInstanceUID=fake_uid("phase", index), **{keyword: given})
        save(made, tmp_path / f"{index % 3}_{index // 3}.dcm")
    refusal = only(discover(tmp_path)).refusal
    assert refusal and "0_0.dcm and 0_1.dcm lie at one position" in refusal


def test_acquisitions_one_behind_the_other_stay_one_series(tmp_path: Path) -> None:
    for number in range(4):
        save(ct_dataset(number, AcquisitionNumber=number // 2), tmp_path / f"{number}.dcm")
    assert only(discover(tmp_path)).warnings == ()


def test_a_damaged_slice_fails_both_phases(tmp_path: Path) -> None:
    write_phases(tmp_path, AcquisitionNumber=(1, 2))
    (tmp_path / "cut").write_bytes((tmp_path / "0_0.dcm").read_bytes()[:400])
    (tmp_path / "0_0.dcm").unlink()
    assert ["cut" in str(one.refusal) for one in discover(tmp_path).series] == [True, True]


def test_one_series_in_two_studies_is_said(tmp_path: Path) -> None:
    write_series(tmp_path / "a", 2)
    for number in (2, 3):
        save(ct_dataset(number, StudyInstanceUID="1.2"), tmp_path / "b" / f"{number}.dcm")
    for one in discover(tmp_path).series:
        assert one.refusal is None and "in 2 studies" in one.warnings[0]


@pytest.mark.parametrize(
    "attributes",
    [{"StudyInstanceUID": "1.2"}, {"SeriesInstanceUID": "1.2"}, {"FrameOfReferenceUID": "1.2"}, {"hu": disc_hu(1, 32)}],
    ids=["study", "series", "frame", "size"],
)
def test_images_of_different_kinds_are_not_stacked(tmp_path: Path, attributes: dict[str, object]) -> None:
    write_series(tmp_path, 2)
    save(ct_dataset(5, **attributes), tmp_path / "5.dcm")  # type: ignore[arg-type]
    assert [len(one.slices) for one in discover(tmp_path).series] == [2, 1]


def test_pixels_that_are_not_square_keep_their_two_spacings(tmp_path: Path) -> None:
    write_series(tmp_path, 2, PixelSpacing=[0.5, 0.75])
    series = only(discover(tmp_path))
    assert series.spacing_mm == (0.5, 0.75) and series.refusal is None


def test_an_exact_copy_is_left_out_with_a_warning(tmp_path: Path) -> None:
    paths = write_series(tmp_path, 2)
    shutil.copy(paths[1], tmp_path / "copy.dcm")
    save(pydicom.dcmread(paths[0]), tmp_path / "encoded.dcm", RLELossless)
    series = only(discover(tmp_path))
    assert series.refusal is None and [file.name for file in series.slices] == ["0.dcm", "1.dcm"]
    (warning,) = series.warnings
    assert "2 exact copies" in warning and "copy.dcm" in warning and "encoded.dcm" in warning


@pytest.mark.parametrize(
    "difference",
    [{"hu": disc_hu(7)}, {"ImagePositionPatient": [-126, -126, 2.5]}, {"RescaleIntercept": "-1000", "PixelData": None}],
    ids=["pixels", "position", "rescale"],
)
def test_one_uid_of_two_images_is_refused_by_both_names(tmp_path: Path, difference: dict[str, object]) -> None:
    write_series(tmp_path, 2)
    pixels = ct_dataset(0).PixelData
    difference = {key: pixels if key == "PixelData" else value for key, value in difference.items()}
    save(ct_dataset(0, **difference), tmp_path / "again.dcm")  # type: ignore[arg-type]
    refusal = only(discover(tmp_path)).refusal
    assert refusal and "0.dcm and again.dcm" in refusal and "SOPInstanceUID" in refusal


def test_two_images_at_one_position_are_refused_by_both_names(tmp_path: Path) -> None:
    write_series(tmp_path, 3)
    save(ct_dataset(1, SOPInstanceUID=fake_uid("second phase")), tmp_path / "phase.dcm")
    refusal = only(discover(tmp_path)).refusal
    assert refusal and "1.dcm and phase.dcm" in refusal and "position" in refusal


def test_one_uid_in_two_series_is_refused_in_both(tmp_path: Path) -> None:
    write_series(tmp_path / "a", 2)
    save(ct_dataset(0, SeriesInstanceUID="1.2.3", SOPInstanceUID=fake_uid("image", 0)), tmp_path / "b" / "0.dcm")
    for one in discover(tmp_path).series:
        assert one.refusal and "a/0.dcm and b/0.dcm" in one.refusal


@pytest.mark.parametrize(
    "blank",
    [("SOPInstanceUID",), ("StudyInstanceUID",), ("SeriesInstanceUID",), ("FrameOfReferenceUID",), ("SOPClassUID",)],
    ids=lambda keywords: keywords[0],
)
@pytest.mark.parametrize("value", ["", None], ids=["blank", "missing"])
def test_blank_uids_are_refused_or_repaired(tmp_path: Path, blank: tuple[str, ...], value: str | None) -> None:
    write_series(tmp_path, 3, **dict.fromkeys(blank, value))
    refused = only(discover(tmp_path))
    assert refused.refusal and f"blank {blank[0]}" in refused.refusal and "--repair-uids" in refused.refusal
    repaired = only(discover(tmp_path, repair_uids=True))
    assert repaired.refusal is None and any(f"blank {blank[0]}" in warning for warning in repaired.warnings)
    assert [file.sop_uid for file in repaired.slices] == [fake_uid("image", number) for number in range(3)]
    assert all((repaired.study_uid, repaired.series_uid, repaired.frame_uid))
    assert only(discover(tmp_path, repair_uids=True)) == repaired


def test_made_uids_follow_from_the_images(tmp_path: Path) -> None:
    def uids(folder: Path, **attributes: object) -> set[str]:
        blank = {"StudyInstanceUID": "", "SeriesInstanceUID": "", "FrameOfReferenceUID": ""}
        write_series(folder, 2, **blank, **attributes)
        one = only(discover(folder, repair_uids=True))
        return {one.study_uid, one.series_uid, one.frame_uid}

    first = uids(tmp_path / "a")
    assert len(first) == 3 and all(uid.startswith("2.25.") for uid in first)
    assert uids(tmp_path / "b") == first
    other = tmp_path / "c"
    write_series(other, 3, SeriesInstanceUID="")
    assert only(discover(other, repair_uids=True)).series_uid not in first


def test_no_uid_anywhere_cannot_be_repaired(tmp_path: Path) -> None:
    (path,) = write_series(tmp_path, 1)
    dataset = pydicom.dcmread(path)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = ""
    dataset.save_as(path, enforce_file_format=False)
    refusal = only(discover(tmp_path, repair_uids=True)).refusal
    assert refusal and "0.dcm" in refusal and "SOPInstanceUID" in refusal


def test_nameless_series_of_two_folders_are_not_mixed(tmp_path: Path) -> None:
    for number, folder in enumerate(("a", "b")):
        save(ct_dataset(number, SeriesInstanceUID=""), tmp_path / folder / "0.dcm")
    first, second = discover(tmp_path, repair_uids=True).series
    assert first.series_uid != second.series_uid and len(first.slices) == len(second.slices) == 1


@pytest.mark.parametrize("keep", [0.02, 0.2, 0.5, 0.999])
def test_a_truncated_slice_fails_its_series_and_no_other(tmp_path: Path, keep: float) -> None:
    write_series(tmp_path / "good", 2, SeriesInstanceUID="1.2.3")
    paths = write_series(tmp_path / "bad", 3)
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[: int(keep * len(whole))])
    bad, good = discover(tmp_path).series
    assert good.refusal is None and len(good.slices) == 2
    assert bad.refusal and "bad/1.dcm" in bad.refusal and not bad.limit_hit
    assert isinstance(bad.error, InputError)


def test_a_slice_cut_anywhere_never_leaves_its_series_silently_short(tmp_path: Path) -> None:
    paths = write_series(tmp_path, 3)
    whole = paths[1].read_bytes()
    uid_at = whole.index(fake_uid("series").encode())
    for length in (*range(132, len(whole) - 1, 61), *range(uid_at - 12, uid_at + 48)):
        paths[1].write_bytes(whole[:length])
        found = discover(tmp_path)
        refused = [one for one in found.series if one.refusal and "1.dcm" in one.refusal]
        assert any(len(one.slices) == 2 for one in refused), f"{length} of {len(whole)} bytes"


def test_a_damaged_file_of_an_unknown_series_is_a_warning_to_several(tmp_path: Path) -> None:
    for number, uid in enumerate(("1.2.3", "1.2.4")):
        save(ct_dataset(number, SeriesInstanceUID=uid), tmp_path / f"{number}.dcm")
    paths = write_series(tmp_path / "other", 1)
    (tmp_path / "cut").write_bytes(paths[0].read_bytes()[:400])
    shutil.rmtree(tmp_path / "other")
    found = discover(tmp_path)
    for one in found.series:
        assert one.refusal is None and any("cut" in warning for warning in one.warnings)
    assert "header" in reasons(found)["cut"]


@pytest.mark.parametrize("limits", [Limits(max_side=64), Limits(max_series_mb=1)], ids=["side", "series"])
def test_limits_are_told_from_other_refusals(tmp_path: Path, limits: Limits) -> None:
    write_series(tmp_path / "small", 3)
    write_series(tmp_path / "large", 3, hu=np.zeros((512, 512)), SeriesInstanceUID="1.2")
    write_series(tmp_path / "wrong", 3, hu=np.zeros((512, 512)), SeriesInstanceUID="1.3", FrameOfReferenceUID="")
    large, small, wrong = discover(tmp_path, limits).series
    assert small.refusal is None
    assert large.limit_hit and isinstance(large.error, LimitError) and large.error.exit_code == 7
    assert wrong.refusal and not wrong.limit_hit and isinstance(wrong.error, InputError)  # no option would help
    assert wrong.error.exit_code == 5
    assert not any(one.refusal for one in discover(tmp_path, Limits(512, max_series_mb=2)).series[:2])


def test_a_tiny_file_that_claims_an_enormous_image_is_a_limit(tmp_path: Path) -> None:
    path = save(ct_dataset(), tmp_path / "bomb.dcm", RLELossless)
    dataset = pydicom.dcmread(path)
    dataset.Rows = dataset.Columns = 60000
    dataset.save_as(path)
    series = only(discover(tmp_path))
    assert series.limit_hit and "bomb.dcm" in str(series.refusal) and "4096" in str(series.refusal)


def test_several_frames_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path, 1, NumberOfFrames=2)
    assert "2 frames" in str(only(discover(tmp_path)).refusal)


def test_a_deflated_file_is_refused_before_it_is_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = write_series(tmp_path, 1)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path)
    monkeypatch.setattr(zlib, "decompress", lambda *_: pytest.fail("inflated"))
    found = discover(tmp_path)
    assert found.series == () and "Deflated" in reasons(found)["0.dcm"]


def test_a_large_file_and_too_many_files_are_limits(tmp_path: Path) -> None:
    write_series(tmp_path, 2, hu=np.zeros((800, 800)))
    found = discover(tmp_path, Limits(max_file_mb=1))
    assert found.series == () and [one.limit_hit for one in found.skipped] == [True, True]
    with pytest.raises(LimitError):
        discover(tmp_path, Limits(max_files=1))
    assert len(discover(tmp_path, Limits(max_files=2)).series) == 1


def test_a_header_is_not_read_without_end(tmp_path: Path) -> None:
    (path,) = write_series(tmp_path, 1)
    whole = path.read_bytes()
    at = whole.index(struct.pack("<HH2s", 0x7FE0, 0x10, b"OW"))
    item = struct.pack("<HHL", 0xFFFE, 0xE000, 0)
    items = item * (3 * (1 << 20) // 2 // len(item)) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    path.write_bytes(whole[:at] + struct.pack("<HH2sHL", 0x0099, 0x1010, b"SQ", 0, 0xFFFFFFFF) + items + whole[at:])
    found = discover(tmp_path, Limits(max_header_mb=1))
    assert found.series == () and found.skipped[0].limit_hit and "1 MiB" in found.skipped[0].reason


def test_links_are_not_followed(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    write_series(inside, 1)
    write_series(outside, 3, SeriesInstanceUID="1.2.3")
    (inside / "folder").symlink_to(outside)
    (inside / "file.dcm").symlink_to(outside / "2.dcm")
    (inside / "loop").symlink_to(inside)
    (inside / "dangling").symlink_to(outside / "absent")
    os.mkfifo(inside / "pipe")
    found = discover(inside)
    assert [file.name for file in only(found).slices] == ["0.dcm"]
    link = "a link, which is not followed"
    assert reasons(found) == dict.fromkeys(("dangling", "file.dcm", "folder", "loop"), link) | {
        "pipe": "not a regular file"
    }


def test_a_uid_that_climbs_out_of_the_folder_is_only_a_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_series(tmp_path / "in", 2)
    for path in (tmp_path / "in").iterdir():  # pydicom refuses to set it, not to read it
        old = fake_uid("series").encode()
        path.write_bytes(path.read_bytes().replace(old, b"../../../tmp/evil".ljust(len(old), b"\0")))
    before = contents(tmp_path)
    caplog.clear()
    series = only(discover(tmp_path / "in"))
    assert not caplog.records  # pydicom would quote it
    assert series.series_uid == "../../../tmp/evil" and series.refusal is None
    assert {file.path.parent for file in series.slices} == {tmp_path / "in"} and contents(tmp_path) == before


def test_names_are_printable(tmp_path: Path) -> None:
    save(ct_dataset(0), tmp_path / "esc\x1b[2J\n.dcm")
    save(ct_dataset(1), tmp_path / os.fsdecode(b"latin\xe9.dcm"))
    names = [file.name for file in only(discover(tmp_path)).slices]
    assert names == ["esc\\x1b[2J\\n.dcm", "latin\\xe9.dcm"]


def replace_bytes(path: Path, old: bytes, new: bytes) -> None:
    """Writes what pydicom would not."""
    whole = path.read_bytes()
    assert old in whole and len(old) == len(new)
    path.write_bytes(whole.replace(old, new))


def test_nothing_of_the_patient_is_in_a_message(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    secrets = {*SECRETS, *PATIENT_AND_STUDY.values(), str(tmp_path), fake_uid("series"), fake_uid("study"), "Fake"}
    write_series(tmp_path / "x", 3, SeriesDescription="Fake^Patient iMAR")
    paths = write_series(tmp_path / "y", 2, PixelSpacing=[4.125, 4.125], SeriesInstanceUID="1.2")
    replace_bytes(paths[0], b"4.125\\4.125", b"Fake^Patien")
    for path in tmp_path.rglob("*.dcm"):
        replace_bytes(path, SECRETS[3].encode(), b"not-date")
    paths = write_series(tmp_path / "z", 3, SeriesInstanceUID="1.3")
    paths[0].write_bytes(paths[0].read_bytes()[:800])
    save(ct_dataset(7, SOPInstanceUID="", SeriesInstanceUID="1.4"), tmp_path / "b" / "z.dcm", ExplicitVRBigEndian)
    found = discover(tmp_path)
    said = messages(found) + "".join(capfd.readouterr())
    assert [one.refusal is None for one in found.series] == [False, True, False, False]
    assert "iMAR" in said and "PixelSpacing is malformed" in said and "ends within its header" in said
    assert not [secret for secret in secrets if len(secret) > 2 and secret in said]


def test_real_data(shared_data: Path) -> None:
    folder = shared_data / "dicom"
    three, blank = discover(folder).series
    assert (len(three.slices), three.shape, three.refusal, three.warnings) == (3, (512, 512), None, ())
    assert three.spacing_mm == (0.810547, 0.810547) and three.gap_mm == pytest.approx(1, abs=1e-4)
    assert len(blank.slices) == 20 and "--repair-uids" in str(blank.refusal)
    same, repaired = discover(folder, repair_uids=True).series
    assert same == three and repaired.refusal is None
    assert len({file.sop_uid for file in repaired.slices} - {""}) == 20
    assert repaired.gap_mm == pytest.approx(2) and repaired.series_uid.startswith("2.25.")


def test_images_of_different_patients_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path, 3)
    image = pydicom.dcmread(tmp_path / "1.dcm")
    image.PatientID = "another"
    image.save_as(tmp_path / "1.dcm")
    (series,) = discover(tmp_path).series
    assert "different patients" in series.refusal and "another" not in series.refusal


def test_coronal_slices_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path, 2, ImageOrientationPatient=[1, 0, 0, 0, 0, -1], ImagePositionPatient=None)
    for number in range(2):
        image = pydicom.dcmread(tmp_path / f"{number}.dcm")
        image.ImagePositionPatient = [0, 5 * number, 0]
        image.save_as(tmp_path / f"{number}.dcm")
    (series,) = discover(tmp_path).series
    assert "coronal or sagittal" in series.refusal


def test_an_empty_file_beside_slices_is_a_damaged_slice(tmp_path: Path) -> None:
    write_series(tmp_path, 3)
    (tmp_path / "1.dcm").write_bytes(b"")
    (series,) = discover(tmp_path).series
    assert "1.dcm: is empty" in series.refusal
