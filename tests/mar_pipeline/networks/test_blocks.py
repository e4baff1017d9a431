"""Laws of the convolutional dictionary and of the steps that the networks share."""

import itertools

import pytest
import torch
import torch.nn.functional as functional
from small_networks import inputs, small_batch, small_network
from torch import Tensor, nn

from mar_pipeline.networks.blocks import (
    ProxNet,
    ResBlock,
    SparseProxNet,
    analyse,
    correlate,
    image_step,
    oriented_kernels,
    synthesise,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_synthesis_is_a_convolution_with_zeros_beyond_the_border() -> None:
    maps, kernels = normal(2, 3, 17, 22), normal(3, 9, 9, seed=1)
    torch.testing.assert_close(synthesise(maps, kernels), functional.conv2d(maps, kernels[None], padding=4))


def test_analysis_is_the_transposed_convolution() -> None:
    residual, kernels = normal(2, 1, 17, 22), normal(3, 9, 9, seed=1)
    torch.testing.assert_close(
        analyse(residual, kernels), functional.conv_transpose2d(residual, kernels[None], padding=4)
    )


def test_kernels_of_each_image_act_on_it_alone() -> None:
    maps, residual, kernels = normal(2, 3, 17, 22), normal(2, 1, 17, 22, seed=1), normal(2, 3, 5, 5, seed=2)
    for index in range(2):
        one = slice(index, index + 1)
        torch.testing.assert_close(synthesise(maps, kernels)[one], synthesise(maps[one], kernels[index]))
        torch.testing.assert_close(analyse(residual, kernels)[one], analyse(residual[one], kernels[index]))


@pytest.mark.parametrize("name", ["dicdnet", "oscnet", "oscnet_plus", "acdnet"])
def test_analysis_is_the_adjoint_of_synthesis_for_each_dictionary(name: str) -> None:
    network = small_network(name).double()
    image, li, _ = (value.double() for value in inputs(small_batch(2, 21, 26)))
    kernels = network.dictionary(li, image)
    maps, residual = normal(2, kernels.shape[-3], 21, 26), normal(2, 1, 21, 26, seed=1)
    left, right = (synthesise(maps, kernels) * residual).sum(), (maps * analyse(residual, kernels)).sum()
    torch.testing.assert_close(left, right, rtol=1e-10, atol=0)


def test_correlation_gives_the_inner_products_with_a_dictionary() -> None:
    maps, residual, atoms = normal(2, 3, 17, 22), normal(2, 1, 17, 22, seed=1), normal(4, 9, 9, seed=2)
    convolved = functional.conv2d(maps.reshape(6, 1, 17, 22), atoms[:, None], padding=4).reshape(2, 3, 4, 17, 22)
    expected = (convolved * residual[:, :, None]).sum((3, 4))
    products = torch.einsum("bnij,dij->bnd", correlate(maps, residual, 9), atoms)
    torch.testing.assert_close(products, expected)


def test_image_step_moves_half_way_outside_metal_and_not_inside() -> None:
    state, image, artifact = normal(2, 4, 8, 8), normal(2, 1, 8, 8, seed=1), normal(2, 1, 8, 8, seed=2)
    outside = (normal(2, 1, 8, 8, seed=3) > 0).double()
    moved = image_step(state, image, artifact, outside, torch.tensor(5.0))
    expected = torch.where(outside > 0, (state[:, :1] + image - artifact) / 2, state[:, :1])
    torch.testing.assert_close(moved[:, :1], expected)
    assert torch.equal(moved[:, 1:], state[:, 1:])


def test_explained_image_is_a_fixed_point_of_the_image_step() -> None:
    state, artifact = normal(2, 4, 8, 8), normal(2, 1, 8, 8, seed=2)
    moved = image_step(state, state[:, :1] + artifact, artifact, torch.ones_like(artifact), torch.tensor(5.0))
    torch.testing.assert_close(moved, state)


def convolved(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """A 3x3 convolution as a sum over its taps of shifted images."""
    height, width = x.shape[-2:]
    padded = functional.pad(x, (1, 1, 1, 1))
    total = layer.bias[None, :, None, None].expand(len(x), -1, height, width)
    for i, j in itertools.product(range(3), repeat=2):
        shifted = padded[..., i : i + height, j : j + width]
        total = total + torch.einsum("oc,bchw->bohw", layer.weight[..., i, j], shifted)
    return total


def normalised(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """Batch norm: with the batch's own statistics in training, with the running ones in evaluation."""
    mean, variance = norm.running_mean, norm.running_var
    if norm.training:
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
    mean, variance, gain, offset = (v[:, None, None] for v in (mean, variance, norm.weight, norm.bias))
    return gain * (x - mean) / (variance + norm.eps) ** 0.5 + offset


def block_formula(x: Tensor, block: ResBlock) -> Tensor:
    inner = normalised(convolved(x, block.conv1), block.norm1).clamp(min=0)
    return (x + normalised(convolved(inner, block.conv2), block.norm2)).clamp(min=0)


def unlike(network: nn.Module) -> nn.Module:
    """In double precision, norms and thresholds away from their starting values."""
    network.double()
    random = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for value in itertools.chain(network.parameters(), network.buffers()):
            if value.is_floating_point() and value.dim() != 4:
                value += 0.5 * torch.rand(value.shape, generator=random, dtype=value.dtype)
    return network


@pytest.mark.parametrize("training", [False, True])
def test_residual_block_is_its_formula(training: bool) -> None:
    block = unlike(ResBlock(3)).train(training)
    x = normal(2, 3, 9, 11)
    expected = block_formula(x, block)  # first: in training the call moves the running statistics
    torch.testing.assert_close(block(x), expected)
    assert (expected == 0).any()


def test_proximal_networks_are_chains_of_blocks_and_the_sparse_one_ends_with_its_threshold() -> None:
    x = normal(2, 3, 9, 11)
    for network in (unlike(ProxNet(3, 2)).eval(), unlike(SparseProxNet(3, 2)).eval()):
        expected = block_formula(block_formula(x, network.blocks[0]), network.blocks[1])
        if isinstance(network, SparseProxNet):
            expected = (expected - torch.stack([network.threshold[0, c] for c in range(3)])).clamp(min=0)
        torch.testing.assert_close(network(x), expected)


def test_maps_below_their_threshold_vanish() -> None:
    prox = SparseProxNet(2, 0)
    maps = torch.tensor([0.4, 2.0]).reshape(1, 2, 1, 1)
    assert prox(maps).flatten().tolist() == [0.0, 1.5]


@pytest.mark.parametrize("count", [1, 4, 32])
def test_initial_kernels_are_elongated_and_of_several_orientations(count: int) -> None:
    kernels = oriented_kernels(count)
    assert kernels.shape == (count, 9, 9)
    assert (kernels >= 0).all()
    sums = kernels.sum((1, 2))
    assert sums.min() >= 0.2 - 1e-6
    assert sums.max() <= 1 + 1e-6
    directions = set()
    axis = torch.arange(9.0) - 4
    for kernel in kernels / sums[:, None, None]:
        xx, yy = (kernel * axis**2).sum(), (kernel * axis[:, None] ** 2).sum()
        xy = (kernel * axis * axis[:, None]).sum()
        least, most = torch.linalg.eigvalsh(torch.stack([torch.stack([xx, xy]), torch.stack([xy, yy])]))
        assert most > 1.5 * least
        directions.add(round(8 * (torch.atan2(2 * xy, xx - yy) / 2).item() / torch.pi) % 8)
    assert len(directions) == min(count, 8)
