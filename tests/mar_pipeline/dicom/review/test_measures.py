"""The numbers of a run: summary.json, measures.csv and the page agree, and are those of the files that were written."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dicom_files import SECRETS, write_series
from metal_slices import discs, with_metal
from pydicom import dcmread
from structure_files import OWN_NAME, write_rtstruct

from mar_pipeline.cli import main
from mar_pipeline.dicom.correction.metal import Component
from mar_pipeline.dicom.correction.methods import method_of
from mar_pipeline.dicom.review.report import write_report
from mar_pipeline.dicom.review.summary import summary_of as summary_of_run
from mar_pipeline.dicom.review.summary import verdict
from mar_pipeline.dicom.run import run
from mar_pipeline.dicom.settings import DicomSettings

SIDE, SPACING_MM, GAP_MM = 96, 3.0, 5.0
METAL_IN = (1, 2)
SPHERE = (10.0, -20.0, 5.0, 14.0)
CORNER_MM = -126.0
"""Of the images of `dicom_files`."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    rng = np.random.default_rng(5)
    body = np.where(discs((SIDE, SIDE), SPACING_MM, (0, 0, 110)), 40.0, -1000.0)
    clean = np.rint(body + rng.normal(0, 10, (4, SIDE, SIDE)) * (body > -500)).astype(np.float32)
    metal = discs((SIDE, SIDE), SPACING_MM, (-10, 30, 12))
    hu = [with_metal(one, metal, SPACING_MM, "steel") if n in METAL_IN else one for n, one in enumerate(clean)]
    wide = {"PixelSpacing": [SPACING_MM] * 2, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1}
    write_series(folder / "ct", 4, hu=np.stack(hu), **wide)
    square = np.array([[x, y, 2 * GAP_MM] for x, y in ((-60, -60), (-30, -60), (-30, -30), (-60, -30))], float)
    write_rtstruct(folder / "rs.dcm", {3: [square]})
    return folder


def corrected(source: Path, out: Path, *options: str) -> Path:
    roi = "ball=" + ",".join(str(value) for value in SPHERE)
    asked = ["--csv", "--roi", roi, "--roi", "far=0,0,4000,2", "--workers", "1"]
    assert main(["dicom", str(source), str(out), *asked, *options]) == 0
    return out


@pytest.fixture(scope="module")
def result(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corrected(source, tmp_path_factory.mktemp("made") / "out")


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())["series"][0]


def hu_of(files: list[Path]) -> np.ndarray:
    datasets = [dcmread(path) for path in files]
    return np.stack([one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept) for one in datasets])


def volumes(source: Path, result: Path) -> tuple[np.ndarray, np.ndarray]:
    before = hu_of([source / "ct" / f"{number}.dcm" for number in range(4)])
    return before, hu_of(sorted(result.glob("series_001/IM*.dcm")))


def regions(facts: dict) -> dict[str, dict]:
    return {region["name"]: region for region in facts["measures"]["regions"]}


def test_measures_csv_says_what_summary_json_says(result: Path) -> None:
    with (result / "measures.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    series = summary_of(result)
    places = {str(n + 1): one for n, one in enumerate(series["per_slice"])} | {"all": series}
    told = {(row["slice"], row["region"], row["image"]): row for row in rows}
    assert len(told) == len(rows)
    expected = {
        (place, name, image): (facts["measures"], region[image], image)
        for place, facts in places.items()
        if "measures" in facts
        for name, region in regions(facts).items()
        for image in ("before", "after")
    }
    assert told.keys() == expected.keys()
    for key, (measures, statistics, image) in expected.items():
        row = told[key]
        for name, value in statistics.items():
            assert row[name] == ("" if value is None else str(value))
        unit = "cm3" if key[0] == "all" else "mm2"
        for column, name in (
            (f"metal_mask_{unit}", f"metal_mask_{unit}"),
            (f"metal_above_threshold_{unit}", f"metal_above_threshold_{image}_{unit}"),
            *((name, name) for name in row if name.startswith("changed_by") or name.endswith("change_mm")),
        ):
            assert row[column] == str(measures.get(name, "")), (key, column)


def test_a_sphere_is_measured_in_every_slice_that_it_meets(source: Path, result: Path) -> None:
    z, y, x = np.mgrid[:4, :SIDE, :SIDE]
    places = np.stack([CORNER_MM + SPACING_MM * x, CORNER_MM + SPACING_MM * y, GAP_MM * z])
    ball = np.linalg.norm(places - np.reshape(SPHERE[:3], (3, 1, 1, 1)), axis=0) <= SPHERE[3]
    for image, hu in zip(("before", "after"), volumes(source, result), strict=True):
        found = regions(summary_of(result))["ball"][image]
        assert found["voxels"] == ball.sum()
        expected = [hu[ball].mean(), hu[ball].std(), hu[ball].min(), hu[ball].max()]
        assert [found[f"{name}_hu"] for name in ("mean", "sd", "min", "max")] == pytest.approx(expected, abs=1e-3)


def test_volumes_are_those_of_the_written_images(source: Path, result: Path) -> None:
    change = np.abs(np.subtract(*volumes(source, result)))
    voxel_cm3 = SPACING_MM**2 * GAP_MM / 1000
    series = summary_of(result)
    for hu in (20, 100):
        name = f"changed_by_more_than_{hu}_hu_cm3"
        assert series["measures"][name] == pytest.approx((change > hu).sum() * voxel_cm3, abs=1e-3)
        slices = [series["per_slice"][number]["measures"][name] for number in METAL_IN]
        assert series["measures"][name] == pytest.approx(sum(slices), abs=2e-3)
    metal_mm2 = sum(one["metal_mm2"] for one in series["per_slice"])
    assert series["measures"]["metal_mask_cm3"] == pytest.approx(metal_mm2 * GAP_MM / 1000, abs=1e-3)


def test_the_artifact_is_less_in_every_ring_and_a_slice_without_metal_has_none(result: Path) -> None:
    series = summary_of(result)
    near = regions(series)["ring 0-10 mm"]
    assert near["after"]["sd_hu"] < near["before"]["sd_hu"]
    assert not any(name.startswith("ring") for name in regions(series["per_slice"][0]))
    assert series["measures"]["proton_path_change_mm"] > 0


def test_regions_of_the_source_go_by_numbers_and_its_own_words_are_not_quoted(source: Path, result: Path) -> None:
    assert set(regions(summary_of(result))) == {
        *("ring 0-10 mm", "ring 10-20 mm", "ring 20-40 mm", "ring 40-80 mm", "ball", "rtstruct1-roi3")
    }
    for name in ("summary.json", "measures.csv", "report.html"):
        told = (result / name).read_text()
        assert not any(word in told for word in (OWN_NAME, *SECRETS, "Hip 5.0 soft", "2024-02-29")), name


def test_a_region_that_holds_nothing_is_a_warning(result: Path) -> None:
    assert [one for one in summary_of(result)["warnings"] if "far" in one] == [
        "the region far holds no voxel of the series"
    ]


def test_labels_are_told_where_the_user_asks_for_them_and_pixels_stay(source: Path, result: Path, tmp_path) -> None:
    out = corrected(source, tmp_path / "out", "--show-labels", "--created", "2026-01-02T03:04:05")
    series, page = summary_of(out), (out / "report.html").read_text()
    assert series["labels"] == {"description": "Hip 5.0 soft", "date": "2024-02-29"}
    assert regions(series)["rtstruct1-roi3"]["label"] == OWN_NAME
    assert "Series 1, Hip 5.0 soft, 2024-02-29" in page and OWN_NAME in page
    assert OWN_NAME not in (out / "measures.csv").read_text()
    np.testing.assert_array_equal(volumes(source, out)[1], volumes(source, result)[1])


def test_the_page_says_what_was_decided(result: Path) -> None:
    page = (result / "report.html").read_text()
    assert "NMAR, metal found by evidence above 2500 HU, from 4 mm2 on: 2 slices corrected, 0 weakened, 0 kept" in page
    assert "% of the field of view" in page and "ring 0-10 mm, " in page


@pytest.mark.parametrize("rois", [["a=1,2,3"], ["a=1,2,3,4", "a=2,3,4,5"]])
def test_a_malformed_region_ends_the_run_before_it_begins(
    source: Path, tmp_path: Path, rois: list[str], capsys
) -> None:
    options = [part for roi in rois for part in ("--roi", roi)]
    assert main(["dicom", str(source), str(tmp_path / "out"), *options]) == 2
    assert "--roi a=" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_dry_run_measures_nothing_of_what_it_did_not_correct(source: Path, capsys) -> None:
    assert main(["dicom", str(source), "--dry-run", "--json", "-", "--roi", "a=0,0,5,9", "--workers", "1"]) == 0
    (series,) = json.loads(capsys.readouterr().out)["series"]
    assert series["measures"] is None
    assert not any("measures" in one for one in series["per_slice"] if one["metal_mm2"] > 0)


def test_decisions_about_pieces_and_slices_are_told_with_their_reasons(source: Path, tmp_path: Path) -> None:
    settings = DicomSettings(source)
    outcome = run(settings)
    (looked,) = outcome.results
    pieces = (
        Component(True, "far brighter than bone", 1, 2, (32, 58), 450.0, 9000.0),
        Component(False, "bone <dense>", 3, 3, (7, 9), 12.34, 2601.0),
    )
    decided = replace(looked.slices[1], decision="original kept", reason="no streaks found")
    slices = (looked.slices[0], decided, replace(looked.slices[2], decision="weakened"), looked.slices[3])
    result = replace(looked, metal=replace(looked.metal, components=pieces), slices=slices)
    assert verdict(result.slices) == {"corrected": 0, "weakened": 1, "original_kept": 1}
    method = method_of(settings)
    told = summary_of_run(outcome.found, [result], (), settings, method)["series"][0]["metal_components"]
    assert [(one["kept_as_metal"], one["reason"], one["first_slice"], one["last_slice"]) for one in told] == [
        (True, "far brighter than bone", 2, 3),
        (False, "bone <dense>", 4, 4),
    ]
    write_report(tmp_path / "report.html", outcome.found, [result], (), settings, method)
    page = (tmp_path / "report.html").read_text()
    for words in (
        "0 slices corrected, 1 weakened, 1 kept the original",
        "kept the original: no streaks found",
        "<td>kept as metal</td><td>far brighter than bone</td><td>2 to 3</td><td>32, 58</td><td>450.0 mm2</td>",
        "<td>left alone</td><td>bone &lt;dense&gt;</td><td>4</td><td>7, 9</td><td>12.3 mm2</td><td>2601 HU</td>",
    ):
        assert words in page, words
