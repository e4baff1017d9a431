"""A scanner that says in DICOM's own words of 2026 that it reduced metal artifacts is believed."""

from pathlib import Path
from typing import Any

import pytest
from dicom_files import ct_dataset, save
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from mar_pipeline.dicom.reading.discovery import discover

WARNING = "MetalArtifactReductionApplied says YES: the scanner may have corrected metal artifacts already"


def reduced(said: str) -> dict[str, Any]:
    item = Dataset()
    item.MetalArtifactReductionApplied = said
    return {"MetalArtifactReductionSequence": [item]}


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        (reduced("YES"), (WARNING,)),
        ({"MetalArtifactReductionApplied": "YES"}, (WARNING,)),
        (reduced("NO"), ()),
        ({"MetalArtifactReductionSequence": []}, ()),
        ({}, ()),
    ],
)
def test_yes_gives_a_warning(
    syntax: str, attributes: dict[str, Any], expected: tuple[str, ...], tmp_path: Path
) -> None:
    save(ct_dataset(0), tmp_path / "0.dcm", syntax)
    save(ct_dataset(1, **attributes), tmp_path / "1.dcm", syntax)
    (series,) = discover(tmp_path).series
    assert series.warnings == expected


def test_what_is_no_sequence_says_nothing(tmp_path: Path) -> None:
    path = save(ct_dataset(**reduced("YES")), tmp_path / "0.dcm")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\x18\x00\x90\x93SQ", b"\x18\x00\x90\x93OB"))
    assert path.read_bytes() != content
    (series,) = discover(tmp_path).series
    assert series.warnings == ()
