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

import torch
from torch import nn
from torch.utils.data import DataLoader

from mar_pipeline import PairDataset, score
from mar_pipeline.sample import to_mu
from simulation.dataset.generate import generate
from simulation.dataset.settings import SimulateSettings

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
# learns what to add to LI. The loss leaves metal out.
torch.manual_seed(0)
layers = [nn.Conv2d(2, 16, 3, padding=1), nn.ReLU()]
for dilation in (2, 4, 8):
    layers += [nn.Conv2d(16, 16, 3, padding=dilation, dilation=dilation), nn.ReLU()]
network = nn.Sequential(*layers, nn.Conv2d(16, 1, 3, padding=1))
optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)


def corrected(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the corrected image in network units."""
    return batch["li"] + network(torch.cat([batch["image"], batch["li"]], 1) / 255 - 0.2)


for epoch in range(8):
    for batch in DataLoader(pairs, batch_size=4, shuffle=True):
        crop = {name: tensor[..., 100:316, 100:316] for name, tensor in batch.items()}
        error = (corrected(crop) - crop["target"]) * (1 - crop["metal_mask"])
        loss = error.abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {loss.item():.3f}")

# %%
# Scores on slices that it has not seen
# -------------------------------------
for sample in PairDataset(folder / "test"):
    batch = {name: tensor[None] for name, tensor in sample.items()}
    with torch.no_grad():
        image = corrected(batch)
    truth, mask = to_mu(sample["target"][0]), sample["metal_mask"][0] > 0
    for name, result in (("with metal", batch["image"]), ("LI", batch["li"]), ("this network", image)):
        found = score(to_mu(result[0, 0]), truth, mask)
        print(f"{name:>12}: {found['psnr']:.2f} dB, RMSE {found['rmse_hu']:.1f} HU")
