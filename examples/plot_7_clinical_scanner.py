"""
The clinical scanner, effect by effect
======================================

The preset ``clinical`` follows XCIST, the public simulator of the AAPM CT-MAR challenge: bowtie filter,
energy-integrating detector, crosstalk, scatter and its correction, low-signal correction, reconstruction kernels. This
switches them off one by one and shows what they do to an image. On the command line it is
``mar simulate --preset clinical --without scatter``.
"""

# %%
# A pelvis with a steel hip
# -------------------------
# A quarter of the preset's resolution is enough to see the effects.
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np

from simulation import ImplantLibrary, Simulator
from simulation.phantoms import phantom
from simulation.physics.grid import to_grid
from simulation.physics.protocols import EFFECTS, protocol, without
from simulation.units import hu_to_mu, mu_to_hu

clinical = protocol("clinical")
geometry = replace(clinical.geometry, image_shape=(256, 256), pixel_mm=500 / 256, views=500, bins=450, pitch_mm=2.0)
scan = replace(clinical, geometry=replace(geometry, column_offset=-0.625))
hu, pixel_mm = phantom("pelvis", np.random.default_rng(0))
image_mu = to_grid(hu_to_mu(hu.clip(-1000)), pixel_mm, scan)
metal_mask, _ = ImplantLibrary(("hip",), geometry.pixel_mm, "steel").sample(image_mu, np.random.default_rng(3))


def scanned_hu(protocol) -> np.ndarray:
    return mu_to_hu(Simulator(protocol, "cpu").simulate(image_mu, metal_mask, np.random.default_rng(0)).ma_CT)


def show(images: dict[str, np.ndarray], low_hu: float, high_hu: float, columns: int = 4) -> None:
    rows = -(-len(images) // columns)
    _, axes = plt.subplots(rows, columns, figsize=(11, 2.3 * rows), layout="constrained", squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (name, image) in zip(axes.flat, images.items(), strict=False):
        axis.imshow(image[60:196, 30:226], cmap="gray", vmin=low_hu, vmax=high_hu)
        axis.set_title(f"{name} ({low_hu} .. {high_hu} HU)", fontsize=8)


whole = scanned_hu(scan)
show({"clinical": whole, "truth": mu_to_hu(image_mu)}, -300, 400, columns=2)

# %%
# What each effect does
# ---------------------
# The image with all effects, less that without one of them.
show({f"due to {name}": whole - scanned_hu(without(scan, name)) for name in EFFECTS}, -200, 200)

# %%
# Kernels and dose
# ----------------
# A kernel is a window on the ramp filter: the softer, the less noise and the wider an edge. Dose is tube current times
# rotation time, and slice thickness.
images = {f"kernel {name}": scanned_hu(replace(scan, kernel=name)) for name in ("ramp", "bone", "standard", "soft")}
images |= {f"{mas} mAs": scanned_hu(replace(scan, mas=mas)) for mas in (25, 100, 250, 1000)}
show(images, -300, 400)
