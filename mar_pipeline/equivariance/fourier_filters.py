"""Filters as Fourier series, which can be sampled at any rotation."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

EDGE = 0.2
"""How softly filters end outside of the inscribed circle, in squared radii; at 0.2 a corner keeps exp(-5)."""

_LEAST_VARIATION = 0.04
_SMALLEST_EIGENVALUE = 1e-4


class FourierBasis(NamedTuple):
    """What `rotated_fourier_basis` gives: the sampled functions and how much each of them counts."""

    functions: Tensor
    """Float[Tensor, "size size rotations n_basis"]: orthonormal functions times their weights."""
    weights: Tensor
    """Float[Tensor, "n_basis"], 0 to 1: small for a function that looks another one at some rotations."""


def rotated_fourier_basis(
    size: int, in_p: int | None = None, rotations: int = 8, edge: float | None = EDGE, dtype: torch.dtype | None = None
) -> FourierBasis:
    """Return a basis of filters, each sampled at every rotation; index s is rotated by s * 360 / rotations degrees.

    The functions are cos and sin of v (k X + l Y), v = pi (p - 1) / p, with k and l in 0..p-1, those above p / 2 less
    p, on the grid [-1, 1]^2 rotated by each angle and faded out beyond the inscribed circle by exp(-max(r^2 - 1, 0) /
    edge). An SVD over grid and rotations together orthonormalises them. With e(s) the energy of a function at rotation
    s (size^2 sum f^2 plus (sum f)^2), its variation is the standard deviation of both parts over s divided by the mean
    of e: functions of variation 1 and more are dropped, the others weighted by 0.04 / max(variation, 0.04).

    Rotations of 90 degrees, if among the angles, are exact: ``functions[:, :, s + rotations // 4]`` is ``rot90`` of
    ``functions[:, :, s]`` to the last bit. Which of many orthonormal bases an SVD gives may differ between machines:
    keep the basis with the coefficients (in a persistent buffer).

    Xie et al., "Fourier Series Expansion Based Filter Parametrization for Equivariant Convolutions", TPAMI 2022.

    Args:
        size: filters are size x size pixels.
        in_p: number p of frequencies per axis; None takes ``size``.
        rotations: number of angles t.
        edge: see `EDGE`; None does not fade, which is right for angles that leave the square grid as it is.
        dtype: of the result, which is computed in float64; None is torch's default.

    Returns:
        The functions and their weights: 25 of them at size 9, in_p 5, rotations 8.

    Raises:
        ValueError: a size below 2, or a number below 1.
    """
    in_p = size if in_p is None else in_p
    if size < 2 or in_p < 1 or rotations < 1 or (edge is not None and not edge > 0):
        raise ValueError(
            f"Fourier basis: got size {size}, in_p {in_p}, rotations {rotations}, edge {edge}; "
            "expected a size of 2 or more, in_p and rotations of 1 or more and a positive edge"
        )
    functions = _orthonormal(_fourier_functions(size, in_p, rotations, edge))
    variation = _variation(functions)
    kept = variation < 1 - 1e-9
    weights = _LEAST_VARIATION / variation[kept].clamp(min=_LEAST_VARIATION)
    functions = _exact_quarter_turns(functions[..., kept] * weights)
    dtype = torch.get_default_dtype() if dtype is None else dtype
    return FourierBasis(functions.to(dtype), weights.to(dtype))


def sample_filters(coefficients: Tensor, functions: Tensor) -> Tensor:
    """Filter of Fourier coefficients, at every rotation: psi(s) = sum over b of c[b] functions[:, :, s, b].

    Args:
        coefficients: Float[Tensor, "*leading n_basis"].
        functions: Float[Tensor, "size size rotations n_basis"].

    Returns:
        Float[Tensor, "*leading rotations size size"].
    """
    return torch.einsum("ijsb,...b->...sij", functions, coefficients)


def initial_coefficients(shape: tuple[int, ...], weights: Tensor, fan_in: int = 1) -> Tensor:
    """Random coefficients for ReLU networks: U(-1, 1) sqrt(6 / (fan_in n_basis)) times the weights of the basis.

    Args:
        shape: leading dimensions.
        weights: Float[Tensor, "n_basis"], of the basis.
        fan_in: number of filters that are summed into one output.

    Returns:
        Float[Tensor, "*shape n_basis"].
    """
    uniform = 2 * torch.rand((*shape, len(weights)), dtype=weights.dtype) - 1
    return uniform * math.sqrt(6 / (fan_in * len(weights))) * weights


def _fourier_functions(size: int, in_p: int, rotations: int, edge: float | None) -> Tensor:
    """Float[Tensor, "size size rotations 2*in_p^2"], cosines first; many of them are the same up to the sign."""
    line = torch.linspace(-1, 1, size, dtype=torch.float64)
    down, right = torch.meshgrid(line, line, indexing="ij")
    angle = 2 * math.pi * torch.arange(rotations, dtype=torch.float64) / rotations
    x = angle.cos() * right[..., None] - angle.sin() * down[..., None]
    y = angle.cos() * down[..., None] + angle.sin() * right[..., None]
    index = torch.arange(in_p, dtype=torch.float64)
    frequency = math.pi * (in_p - 1) / in_p * torch.where(index > in_p / 2, index - in_p, index)
    phase = frequency[:, None] * x[..., None, None] + frequency * y[..., None, None]
    phase = phase.flatten(start_dim=3)
    functions = torch.cat([phase.cos(), phase.sin()], dim=3)
    if edge is not None:
        functions *= torch.exp(-(right**2 + down**2 - 1).clamp(min=0) / edge)[..., None, None]
    return functions


def _orthonormal(functions: Tensor) -> Tensor:
    """Orthonormal functions of the same span, over grid and rotations; strongest first."""
    left, singular, _ = torch.linalg.svd(functions.flatten(end_dim=2), full_matrices=False)
    return left[:, singular**2 > _SMALLEST_EIGENVALUE].unflatten(0, functions.shape[:3])


def _variation(functions: Tensor) -> Tensor:
    """How much the energy of each function differs between its rotations, relative to its mean."""
    energy = functions.shape[0] ** 2 * functions.square().sum(dim=(0, 1))
    constant = functions.sum(dim=(0, 1)).square()
    deviation = energy.std(dim=0, correction=0) + constant.std(dim=0, correction=0)
    return deviation / (energy + constant).mean(dim=0)


def _exact_quarter_turns(functions: Tensor) -> Tensor:
    """Return the same functions, without the rounding errors between rotations that differ by 90 or 180 degrees."""
    rotations = functions.shape[2]
    turns = math.gcd(4, rotations)
    own = functions[:, :, : rotations // turns]
    return torch.cat([torch.rot90(own, turn * 4 // turns) for turn in range(turns)], dim=2)
