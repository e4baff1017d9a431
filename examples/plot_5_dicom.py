"""Correct a DICOM series
======================

`mar dicom` takes a folder of DICOM files and writes, for each CT series with metal, a derived series, a segmentation of
what was taken for metal, and a page to look at. This makes a small series of a phantom with steel hips and corrects it
from Python. On the command line it is

.. code-block:: bash

    python -m mar_pipeline.dicom.example EXPORT
    mar dicom EXPORT OUT

Research software, not a medical device: review the result with the original series.
"""

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pydicom

from mar_pipeline import correct_dicom
from mar_pipeline.dicom.example import write_example

folder = Path(tempfile.mkdtemp())
write_example(folder / "EXPORT", slices=3, with_metal=[1], size=256)
run = correct_dicom(folder / "EXPORT", folder / "OUT")
for path in sorted((folder / "OUT").rglob("*")):
    print(path.relative_to(folder))

# %%
# Every slice has a decision with its reason. A judge compares the corrected slice with the original and keeps the
# original where the correction does not help; :doc:`/explanation/judge` says how.
for report in run.results[0].slices:
    print(report.number, f"{report.metal_mm2:.0f} mm2 of metal:", report.decision, report.reason or "")

# %%
# The derived image has the geometry, the bit depth and the rescaling of the original, and says what was done to it.
original = pydicom.dcmread(folder / "EXPORT" / "002.dcm")
derived = pydicom.dcmread(folder / "OUT" / "series_001" / "IM00002.dcm")
print(derived.SeriesDescription, "|", derived.DerivationDescription)

figure, axes = plt.subplots(1, 2, figsize=(8, 4.2), layout="constrained")
for axis, (name, image) in zip(axes, {"original": original, "derived": derived}.items(), strict=True):
    hu = image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept)
    axis.imshow(hu, cmap="gray", vmin=-160, vmax=240)
    axis.set_title(f"{name} (-160 .. 240 HU)", fontsize=9)
    axis.axis("off")
