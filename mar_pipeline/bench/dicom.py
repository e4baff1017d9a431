"""Cost of `mar dicom`, with every file read, written and checked, beside ASTRA's CPU projector in the same run."""

import logging
import tempfile
from datetime import datetime
from pathlib import Path

import astra
import numpy as np

from mar_pipeline.bench.measure import say, wall_and_cpu_seconds
from mar_pipeline.dicom.correction.virtual_scan import virtual_scan
from mar_pipeline.dicom.example import write_example
from mar_pipeline.dicom.run import run
from mar_pipeline.dicom.settings import DicomSettings
from simulation.physics.projector_cpu import usable_cores
from simulation.physics.projector_cuda import astra_geometries

_SLICES = 12


def main() -> None:
    """Print wall seconds of a slice with metal and of one without, and ratios to ASTRA's pair of projections."""
    logging.getLogger("mar_pipeline").setLevel(logging.ERROR)
    workers = usable_cores()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_example(folder / "warm", 2, (0,))
        _seconds(folder / "warm", folder, workers)  # compiles the kernels
        write_example(folder / "few", _SLICES, (0,))
        write_example(folder / "all", _SLICES, range(_SLICES))
        few, all_slices = _seconds(folder / "few", folder, workers), _seconds(folder / "all", folder, workers)
    without = (few - all_slices / _SLICES) / (_SLICES - 1)
    reference = _astra_pair_seconds()
    say(f"512 x 512, NMAR, {workers} workers, read, corrected, written and checked; report and segmentation left out")
    say(f"slice with metal                                {all_slices / _SLICES:8.3f} s")
    say(f"slice without                                   {without:8.3f} s")
    say(f"reference: ASTRA line_fanflat, one projection and one back projection, one thread {reference:8.3f} s")
    say(f"slice with metal / reference                    {all_slices / _SLICES / reference:8.2f} x")


def _seconds(source: Path, folder: Path, workers: int) -> float:
    settings = DicomSettings(
        source, folder / f"{source.name}_out", workers=workers, seg=False, html=False, created=datetime(2026, 1, 1)
    )
    return wall_and_cpu_seconds(lambda: run(settings))[0]


def _astra_pair_seconds() -> float:
    """Wall seconds of a forward and a back projection on the geometry of a 512 x 512 slice."""
    _, geometry = virtual_scan((512, 512), (0.8, 0.8))
    projector = astra.create_projector("line_fanflat", *astra_geometries(geometry))
    image = np.random.default_rng(0).random(geometry.image_shape, np.float32)

    def pair() -> None:
        identifier, sinogram = astra.create_sino(image, projector)
        other, _ = astra.create_backprojection(sinogram, projector)
        astra.data2d.delete([identifier, other])

    return wall_and_cpu_seconds(pair)[0]
