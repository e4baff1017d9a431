"""Laws of the convolutional dictionary and of the steps that the networks share."""

import pytest
import torch
import torch.nn.functional as functional
from small_networks import inputs, small_batch, small_network
from torch import Tensor

from mar_pipeline.networks.blocks import SparseProxNet, analyse, correlate, image_step, oriented_kernels, synthesise


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
