"""
Train in your own loop
======================

`PairDataset` is an ordinary `torch.utils.data.Dataset`: any training loop takes it as it is. This makes a small data
set, trains a tiny network on it, and scores it beside linear interpolation (LI). For the networks of the field, with
checkpoints, validation and several GPUs, there is ``mar train``: see :doc:`/how_to/researcher`.
"""

# %%
# A data set to learn from
# ------------------------
# Two slices with four masks each; a third slice is made to test on.
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.utils.data import DataLoader

from mar_pipeline import PairDataset, score
from mar_pipeline.sample import to_mu
from simulation.dataset.generate import generate
from simulation.dataset.settings import SimulateSettings
from simulation.units import mu_to_hu

folder = Path(tempfile.mkdtemp())
generate(SimulateSettings(str(folder / "train"), source="phantom:abdomen", slices=2, masks_per_slice=4, seed=1))
generate(SimulateSettings(str(folder / "test"), source="phantom:abdomen", slices=1, masks_per_slice=2, seed=2))

pairs = PairDataset(folder / "train")  # several folders go together: PairDataset(first, second)
print(len(pairs), "pairs;", pairs.names[0])
print({name: tuple(tensor.shape) for name, tensor in pairs[0].items()})

# %%
# A network and a loop
# --------------------
# All images are in network units, 255 clip(mu, 0, 1) with mu in 1/cm. The network sees the image with metal and LI, and
# learns what to add to LI; its last layer starts at 0, so that it begins as LI. The loss leaves metal out.
torch.manual_seed(0)
layers = [nn.Conv2d(2, 16, 3, padding=1), nn.ReLU()]
for dilation in (2, 4, 8):
    layers += [nn.Conv2d(16, 16, 3, padding=dilation, dilation=dilation), nn.ReLU()]
last = nn.Conv2d(16, 1, 3, padding=1)
nn.init.zeros_(last.weight)
nn.init.zeros_(last.bias)
network = nn.Sequential(*layers, last)
optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)


def corrected(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the corrected image in network units."""
    return batch["li"] + network(torch.cat([batch["image"], batch["li"]], 1) / 255)


for epoch in range(16):
    losses = []
    for batch in DataLoader(pairs, batch_size=2, shuffle=True):
        crop = {name: images[..., 100:316, 100:316] for name, images in batch.items()}  # the middle of the body
        loss = ((corrected(crop) - crop["target"]) * (1 - crop["metal_mask"])).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    if epoch % 5 == 0:
        print(f"epoch {epoch}: mean loss {sum(losses) / len(losses):.2f}")

# %%
# Scores on a slice that it has not seen
# --------------------------------------
for sample in PairDataset(folder / "test"):
    batch = {name: images[None] for name, images in sample.items()}
    with torch.no_grad():
        results = {"with metal": batch["image"], "LI": batch["li"], "this network": corrected(batch)}
    truth_mu, metal_mask = to_mu(sample["target"][0]), sample["metal_mask"][0] > 0
    for name, images in results.items():
        found = score(to_mu(images[0, 0]), truth_mu, metal_mask)
        print(f"{name:>12}: {found['psnr']:.2f} dB, RMSE {found['rmse_hu']:.1f} HU")

figure, axes = plt.subplots(1, 4, figsize=(12, 3.4), layout="constrained")
for axis, (name, images) in zip(axes, {**results, "truth": batch["target"]}.items(), strict=True):
    axis.imshow(mu_to_hu(to_mu(images[0, 0].numpy())), cmap="gray", vmin=-175, vmax=275)
    axis.set_title(f"{name} (-175 .. 275 HU)", fontsize=9)
    axis.axis("off")
