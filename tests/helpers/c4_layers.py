"""Strictly equivariant layers by the formulas, a soft network, and how residuals are measured on them."""

import torch
from torch import nn

from mar_pipeline.equivariance import EquivarianceRegularizer, act


def lift(psi):
    """W[o, s] = rot90^s psi[o] for psi [O, I, k, k]."""
    return torch.stack([torch.rot90(psi, s, (-2, -1)) for s in range(4)], 1).flatten(0, 1)


def group(psi):
    """W[o, s; i, r] = rot90^s psi[o, i, (r - s) mod t] for psi [O, I, t, k, k]."""
    return torch.stack([torch.rot90(psi, s, (-2, -1)).roll(s, 2) for s in range(4)], 1).flatten(0, 1).flatten(1, 2)


def to_image(psi):
    """W[o; i, r] = rot90^r psi[o, i] for psi [O, I, k, k]."""
    return torch.stack([torch.rot90(psi, r, (-2, -1)) for r in range(4)], 2).flatten(1, 2)


def convolution(weight, bias=None, **options):
    """A Conv2d of given weights that keeps the size of the image."""
    out, inputs, k, _ = weight.shape
    layer = nn.Conv2d(inputs, out, k, padding=k // 2, bias=bias is not None, **options).to(weight.dtype)
    layer.weight.data.copy_(weight)
    if bias is not None:
        layer.bias.data.copy_(bias)
    return layer


def strict_network(width=3, dtype=torch.float64):
    """Image -> regular -> regular -> image, equivariant by construction."""

    def psi(*shape):
        return torch.randn(*shape, dtype=dtype)

    def shared(groups):
        return psi(groups).repeat_interleave(4)

    return nn.Sequential(
        convolution(lift(psi(width, 1, 3, 3)), shared(width)),
        nn.Tanh(),
        convolution(group(psi(width, width, 4, 5, 5)), shared(width)),
        nn.ReLU(inplace=True),
        convolution(to_image(psi(1, width, 3, 3)), psi(1)),
    )


def relative_error(layer, x, n, fields_in, fields_out, roll=1, group_order=4):
    """||pi_n f(x) - f(pi_n x)|| / ||f(x)||; roll = -1 turns the orientations the wrong way."""
    with torch.no_grad():
        moved = act(layer(x), n, fields_out, group_order)
        if roll == -1:
            moved = moved.unflatten(1, (-1, group_order)).roll(-2 * n, 2).flatten(1, 2)
        other = layer(act(x, n, fields_in, group_order))
        return float((moved - other).norm() / moved.norm())


def soft_network(width=8, dtype=torch.float32, **options):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, **options),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, padding=1, **options),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, 1, 3, padding=1, **options),
    ).to(dtype)


def step(regularizer, network, *images, output=True):
    x, *_ = prepared = regularizer.prepare(*images)
    y = network(x)
    return regularizer.loss(y if output else None), y, prepared


def penalties(network, x, **options):
    """Values of one step on all samples of x."""
    with EquivarianceRegularizer(network, batch_fraction=1, **options) as regularizer:
        step(regularizer, network, x)
        return regularizer.values
