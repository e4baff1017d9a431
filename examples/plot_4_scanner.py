"""
A scanner of your own
=====================

A scanner is a geometry (`FanBeam`) and the physics of a preset around it. This makes a small one, looks at its
projections, and puts metal in front of it. On the command line the same is ``--scanner.source_mm 570`` and so on, or a
block ``scanner:`` in the settings of ``mar simulate``.
"""

# %%
# The geometry
# ------------
# Distances and lengths are in mm. The detector is flat, or an arc with ``detector="arc"``; views lie evenly on a full
# circle.
import matplotlib.pyplot as plt
import numpy as np

from simulation import FanBeam, ImplantLibrary, Projector, Simulator
from simulation.phantoms import phantom
from simulation.physics.grid import to_grid
from simulation.units import hu_to_mu, mu_to_hu

geometry = FanBeam(
    image_shape=(256, 256), pixel_mm=1.6, source_mm=570, detector_mm=470, views=600, bins=600, pitch_mm=1.4
)
print(f"field of view {geometry.field_of_view_mm:.0f} mm, magnification {geometry.magnification:.2f}")

# %%
# Its projector works on numpy arrays and on torch tensors. On the CPU `adjoint` is the exact transpose of `forward`:
# both sums below are the same number.
projector = Projector(geometry, device="cpu")
rng = np.random.default_rng(0)
image = rng.random(geometry.image_shape, np.float32)
sinogram = rng.random(geometry.sinogram_shape, np.float32)
print(float((projector.forward(image) * sinogram).sum()), float((image * projector.adjoint(sinogram)).sum()))

# %%
# Simulate with it
# ----------------
# `Simulator(geometry)` takes the physics of the preset ``clinical``: spectrum, dose, scatter, electronic noise, and
# metal that replaces tissue.
simulator = Simulator(geometry, device="cpu")
hu, pixel_mm = phantom("pelvis", rng)
image_mu = to_grid(hu_to_mu(hu.clip(-1000)), pixel_mm, simulator.protocol)
metal_mask, _ = ImplantLibrary(("hip",), geometry.pixel_mm, "steel").sample(image_mu, rng)
sample = simulator.simulate(image_mu, metal_mask, rng)

figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
axes[0].imshow(sample.ma_sinogram, cmap="gray", aspect="auto")
axes[0].set(title="line integrals", xlabel="bin", ylabel="view")
for axis, (name, mu) in zip(axes[1:], {"with metal": sample.ma_CT, "LI": sample.LI_CT}.items(), strict=True):
    axis.imshow(mu_to_hu(mu), cmap="gray", vmin=-300, vmax=400)
    axis.set_title(f"{name} (-300 .. 400 HU)", fontsize=9)
    axis.axis("off")
