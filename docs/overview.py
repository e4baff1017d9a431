"""Draw the picture of README: python docs/overview.py [docs/_static/overview.png]."""

import sys

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from simulation import ImplantLibrary, Simulator, nmar, nmar_prior
from simulation.phantoms import phantom
from simulation.physics.grid import to_grid
from simulation.units import hu_to_mu, mu_to_hu

rng = np.random.default_rng(5)
hu, pixel_mm = phantom("pelvis", rng)
simulator = Simulator("syndeeplesion", device="cpu")
image_mu = to_grid(hu_to_mu(hu.clip(-1000)), pixel_mm, simulator.protocol)
metal_mask, _ = ImplantLibrary(("hip",), metal="steel").sample(image_mu, rng)
sample = simulator.simulate(image_mu, metal_mask, rng)
prior_mu = nmar_prior(sample.LI_CT, metal_mask > 0)
_, nmar_mu = nmar(sample.ma_sinogram, sample.metal_trace, prior_mu, simulator.projector)

images = {"truth, metal outlined": image_mu, "with metal": sample.ma_CT, "LI": sample.LI_CT, "NMAR": nmar_mu}
figure, axes = plt.subplots(1, 4, figsize=(9, 1.85), dpi=100, layout="constrained")
for axis, (name, mu) in zip(axes, images.items(), strict=True):
    axis.imshow(mu_to_hu(mu)[50:366], cmap="gray", vmin=-175, vmax=275)
    axis.set_title(name, fontsize=9)
    axis.axis("off")
axes[0].contour((metal_mask > 0)[50:366], [0.5], colors="tab:red", linewidths=0.6)
figure.canvas.draw()
picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
few_colours = picture.quantize(64, Image.Quantize.FASTOCTREE)  # a small file
few_colours.save(sys.argv[1] if len(sys.argv) > 1 else "docs/_static/overview.png", optimize=True)
