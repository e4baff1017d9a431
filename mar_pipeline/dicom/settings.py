"""What `mar dicom` is asked to do."""

import re
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from mar_pipeline.dicom.measures.regions import Sphere
from mar_pipeline.dicom.reading.limits import Limits
from simulation.errors import UsageError
from simulation.files import sha256_of, sha256_of_text

LEAST_THRESHOLD_HU, MOST_THRESHOLD_HU = 1500.0, 30000.0


@dataclass(frozen=True)
class DicomSettings:
    """One run of `mar dicom`.

    Args:
        source: folder of DICOM files, or a zip file of them.
        out: folder to write; None looks for metal and writes nothing.
        method: li, nmar, or a trained network: a run folder, a weights file or a shipped name.
        series: numbers of the listing, or SeriesInstanceUIDs; empty is every eligible CT series.
        metal_threshold: HU from which on a voxel may be metal.
        min_metal_mm2: smallest largest area of a piece of metal.
        all_candidates: take all that is above the threshold for metal, whatever the evidence says.
        metal_mask: the user's own mask in place of a decision; see `dicom.given_mask`.
        strict_harm: refuse a series in which a correction is judged harmful.
        max_trace: share of the projections behind metal above which a slice is refused.
        seg: write a DICOM segmentation of the metal.
        html: write report.html.
        html_slices: most slices of a series in the report.
        csv: write measures.csv.
        show_labels: let report.html and summary.json say how the source calls series and regions.
        rois: spheres to measure.
        nifti: write the corrected volume as NIfTI.
        workers: processes of LI and NMAR, or threads of a network.
        device: cpu or cuda, of a network.
        precision: float32 or bfloat16, of a network on a GPU or a CPU that computes in it.
        repair_uids: accept blank UIDs and make them.
        assume_hu: take values whose RescaleType is unspecified for HU.
        keep_private: keep private tags.
        slice_fallback: what becomes of a slice that cannot be corrected: refuse the series, or keep the original.
        created: date and time to write instead of now.
        limits: of the input.
    """

    source: Path
    out: Path | None = None
    method: str = "nmar"
    series: tuple[str, ...] = ()
    metal_threshold: float = 2500.0
    min_metal_mm2: float = 4.0
    all_candidates: bool = False
    metal_mask: Path | None = None
    strict_harm: bool = False
    max_trace: float = 0.5
    seg: bool = True
    html: bool = True
    html_slices: int = 40
    csv: bool = False
    show_labels: bool = False
    rois: tuple[Sphere, ...] = ()
    nifti: bool = False
    workers: int = 1
    device: str = "cpu"
    precision: Literal["float32", "bfloat16"] = "float32"
    repair_uids: bool = False
    assume_hu: bool = False
    keep_private: bool = False
    slice_fallback: Literal["refuse", "original"] = "refuse"
    created: datetime | None = None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("metal_threshold", self.metal_threshold, LEAST_THRESHOLD_HU, MOST_THRESHOLD_HU),
            ("min_metal_mm2", self.min_metal_mm2, 0.0, 1e5),
            ("max_trace", self.max_trace, 0.01, 0.95),
            ("html_slices", self.html_slices, 1, 10_000),
            ("workers", self.workers, 1, 1024),
        ):
            if not low <= value <= high:
                option = "--" + name.replace("_", "-")
                raise UsageError(f"{option}: got {value:g}, expected {low:g} to {high:g}")

    @property
    def configuration(self) -> dict[str, Any]:
        """What decides the derived images, and is hashed into their UIDs."""
        names = (
            *("method", "metal_threshold", "min_metal_mm2", "all_candidates", "max_trace"),
            *("slice_fallback", "precision"),
            *("repair_uids", "assume_hu", "keep_private"),
        )
        mask = None if self.metal_mask is None else _content_sha256(self.metal_mask)
        return {name: asdict(self)[name] for name in names} | {"metal_mask": mask}

    @property
    def metal_source(self) -> str:
        """Where the metal comes from, in words."""
        if self.metal_mask is not None:
            return "given by the user"
        what = "every candidate" if self.all_candidates else "found by evidence"
        return f"{what} above {self.metal_threshold:g} HU, from {self.min_metal_mm2:g} mm2 on"

    @property
    def given_options(self) -> tuple[str, ...]:
        """What of the configuration differs from the defaults, as on the command line; the method excepted.

        Hashes are cut and paths left out: these words go into headers.

        >>> DicomSettings(Path("in"), metal_threshold=3000).given_options
        ('--metal-threshold 3000',)
        """
        defaults = {one.name: one.default for one in fields(self)}
        given = {name: value for name, value in self.configuration.items() if value != defaults.get(name)}
        given.pop("method", None)
        return tuple(_as_option(name, value) for name, value in given.items())


def _content_sha256(path: Path) -> str:
    """Hash of a file, or of all files of a folder; of a name where there is none, which is refused later."""
    files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    return sha256_of_text("".join(sha256_of(one) if one.is_file() else "" for one in files))


def _as_option(name: str, value: Any) -> str:
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{option}" if value else f"--no-{option}"
    if isinstance(value, int | float):
        return f"--{option} {value:g}"
    if isinstance(value, str) and re.fullmatch(r"[0-9a-z]{1,64}", value):
        return f"--{option} {value[:12]}"
    return f"--{option}"
