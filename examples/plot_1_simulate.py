"""Simulate a data set
===================

Clean CT slices go in; pairs with and without metal come out, in the folder layout of the public SynDeepLesion
benchmark. This takes the built-in anatomical phantom, so that nothing has to be downloaded. On the command line it is

.. code-block:: bash

    mar simulate --source phantom --slices 2 --masks-per-slice 2 --out data/phantom
"""

# %%
# One slice, step by step
# -----------------------
# The simulator works on images of linear attenuation in 1/cm on its own grid. A slice of yours is an array in HU with
# row 0 anterior, and the side of its pixels in mm.
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from simulation import ImplantLibrary, Simulator, nmar, nmar_prior, read_pair, verify
from simulation.dataset.generate import generate
from simulation.dataset.settings import SimulateSettings
from simulation.phantoms import phantom
from simulation.physics.grid import to_grid
from simulation.units import hu_to_mu, mu_to_hu

rng = np.random.default_rng(0)
hu, pixel_mm = phantom("pelvis", rng)
simulator = Simulator("syndeeplesion")
image_mu = to_grid(hu_to_mu(hu.clip(-1000)), pixel_mm, simulator.protocol)
metal_mask, implant = ImplantLibrary(kinds=("hip",)).sample(image_mu, rng)
sample = simulator.simulate(image_mu, metal_mask, rng)
print(implant["kind"], "of", implant["pixels"], "pixels; sinogram", sample.ma_sinogram.shape)

# %%
# The sample holds the scan with metal, its correction by linear interpolation (LI), and the metal trace: the bins whose
# ray meets metal. NMAR needs a prior image, made from LI.
prior_mu = nmar_prior(sample.LI_CT, metal_mask > 0)
_, nmar_mu = nmar(sample.ma_sinogram, sample.metal_trace, prior_mu, simulator.projector)

images = {"truth": image_mu, "with metal": sample.ma_CT, "LI": sample.LI_CT, "NMAR": nmar_mu}
figure, axes = plt.subplots(1, 4, figsize=(12, 3.4), layout="constrained")
for axis, (name, mu) in zip(axes, images.items(), strict=True):
    axis.imshow(mu_to_hu(mu), cmap="gray", vmin=-175, vmax=275)
    axis.set_title(f"{name} (-175 .. 275 HU)", fontsize=9)
    axis.axis("off")

# %%
# A whole set
# -----------
# The same settings give the same bytes, whatever the number of workers. When it is interrupted, the same call makes
# what is missing.
folder = Path(tempfile.mkdtemp()) / "set"
report = generate(SimulateSettings(str(folder), slices=2, masks_per_slice=2, seed=1))
print(report["summary"].replace(str(folder), "set"))
for path in sorted(folder.rglob("*.h5")):
    print(path.relative_to(folder))

# %%
# `read_pair` reads a pair with its truth, and `verify` compares every file with its hash.
pair = read_pair(next(folder.rglob("0.h5")))
print(pair.image.shape, pair.ma_sinogram.shape, f"largest attenuation {pair.ma_CT.max():.2f} /cm")
print("problems:", verify(folder).problems)
