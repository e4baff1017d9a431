"""EQ-Reg on your own network
==========================

A convolutional network shifts its answer when its input is shifted, but a rotated input gives another answer. EQ-Reg
(Bai et al., CVPR 2025) is a penalty that teaches rotation equivariance to any network: it needs no change to the
network, only hooks on its layers. Here a small denoiser learns it. See :doc:`/explanation/eqreg` for what it brings
and what it does not.
"""

# %%
# The network is an ordinary one. `equivariance_report` measures how far each layer is from equivariant: 0 is perfect,
# 1.41 is unrelated.
import matplotlib.pyplot as plt
import torch
from torch import nn

from mar_pipeline import EquivarianceRegularizer, equivariance_report

torch.manual_seed(0)
network = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 1, 3, padding=1))
images = torch.rand(16, 1, 64, 64)
print(equivariance_report(network, images[:1]).to_markdown())

# %%
# Three lines are added to a training loop: make the regulariser, let it prepare the batch (the first half of it, beside
# rotated copies), and add its loss. The penalty of a layer is 0 if it is equivariant, and 2 if its maps are unrelated.
optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
history = []
with EquivarianceRegularizer(network, weight=0.1) as regularizer:
    for _ in range(200):
        noisy, clean = regularizer.prepare(images + 0.1 * torch.randn_like(images), images)
        output = network(noisy)
        loss = nn.functional.mse_loss(output, clean) + regularizer.loss(output)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(regularizer.values)

figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
for name in history[0]:
    axis.semilogy([values[name] for values in history], label=name)
axis.set(xlabel="step", ylabel="penalty of layers 0 and 2, and of the output")
axis.legend()

# %%
# Afterwards the layers follow a rotation.
print(equivariance_report(network, images[:1]).to_markdown())
