"""DICDNet, OSCNet(+) and ACDNet against their formulas, written out with torch's own convolutions."""

import fnmatch
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as functional
from small_networks import inputs, small_batch, small_network
from torch import Tensor, nn

from mar_pipeline.networks import NETWORKS, NetworkOutput
from mar_pipeline.networks.blocks import analyse


def forward_of(maps: Tensor, kernels: Tensor) -> Tensor:
    return functional.conv2d(maps, kernels[None], padding=kernels.shape[-1] // 2)


def transpose_of(residual: Tensor, kernels: Tensor) -> Tensor:
    return functional.conv_transpose2d(residual, kernels[None], padding=kernels.shape[-1] // 2)


Dictionary = Callable[[Tensor], Tensor]
"""Kernels from the current image."""


def dictionary_formula(
    network: nn.Module, dictionary: Dictionary, bias: Tensor, y: Tensor, li: Tensor, i: Tensor
) -> Tensor:
    """The formula of DICDNet and OSCNet(+) for one image, up to the final image."""
    boxes = functional.conv2d(li, network.dual.weight, padding=1)
    start = network.first_prox(torch.cat([li, boxes], dim=1))
    x, q = start[:, :1], start[:, 1:]
    kernels = dictionary(x)
    m = network.map_proxes[0](transpose_of(torch.relu(i * (y - x) - network.threshold), network.initial_kernels) / 10)
    a = forward_of(m, kernels) + bias
    for stage in range(len(network.image_proxes)):
        if stage > 0:
            renewed = dictionary(x)
            if not torch.equal(renewed, kernels):
                kernels, a = renewed, forward_of(m, renewed)
            gradient = transpose_of(i * a - i * (y - x), kernels)
            m = network.map_proxes[stage](m - network.map_steps[stage - 1] / 10 * gradient)
            a = forward_of(m, kernels)
        eta = network.image_steps[stage]
        moved = (1 - eta * i / 10) * x + eta * i / 10 * (y - a)
        state = network.image_proxes[stage](torch.cat([moved, q], dim=1))
        x, q = state[:, :1], state[:, 1:]
    return network.last_prox(torch.cat([x, q], dim=1))[:, :1]


def dictionary_of(name: str, network: nn.Module, y: Tensor) -> tuple[Dictionary, Tensor]:
    """The kernels of a network by their formulas, and the bias of its first artifact layer."""

    def rotated(coefficients: Tensor) -> Tensor:
        return torch.einsum("ijsb,fb->fsij", network.basis, coefficients).flatten(0, 1)

    def predicted(x: Tensor) -> Tensor:
        features = torch.cat([x, y], dim=1)
        for layer in network.predictor.features:
            features = functional.conv2d(features, layer.weight, layer.bias, padding=1)
        rows = torch.relu(network.predictor.linear(features.mean((2, 3)))).reshape(network.predictor.filters, -1)
        return rotated(rows / rows.norm(dim=1, keepdim=True)) / 10

    if name == "dicdnet":
        return lambda x: network.kernels / 10, torch.tensor(0.0)
    return (predicted if name == "oscnet_plus" else lambda x: rotated(network.coefficients)), network.bias


def disturbed(network: nn.Module) -> nn.Module:
    """In double precision, in evaluation mode, no two parameters at the same value."""
    network = network.double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * parameter.abs().mean() * torch.randn_like(parameter) + 0.01
    return network


@pytest.mark.parametrize("name", ["dicdnet", "oscnet", "oscnet_plus"])
def test_network_is_its_formula(name: str) -> None:
    network = disturbed(small_network(name))
    y, li, metal_mask = (value.double() for value in inputs(small_batch(1)))
    with torch.no_grad():
        expected = dictionary_formula(network, *dictionary_of(name, network, y), y, li, 1 - metal_mask)
        torch.testing.assert_close(network(y, li, metal_mask).image, expected)


def acdnet_formula(network: nn.Module, y: Tensor, li: Tensor, i: Tensor, paper_scaling: bool) -> Tensor:
    """The formula of ACDNet for one image, every atom convolved with every map, up to the final image."""
    unfolded = network.unfold(y, li, i)
    x, q, m = unfolded.state[:, :1], unfolded.state[:, 1:], network.mixing(unfolded.maps)
    atoms = network.atoms / 10
    pixels = y.shape[-1] * y.shape[-2]
    for number, stage in enumerate(network.adaptive_stages):
        convolved = functional.conv2d(m.transpose(0, 1), atoms[:, None], padding=atoms.shape[-1] // 2)
        if number == 0:
            inner = (convolved * (i * (y - x))).sum((2, 3))
            step = inner if paper_scaling else stage.kernel_step / (50 * pixels) * inner
        else:
            a = torch.einsum("nd,ndhw->hw", k, convolved)  # noqa: F821 (from the stage before)
            step = k + stage.kernel_step / (50 * pixels) * (convolved * (i * (y - x - a))).sum((2, 3))  # noqa: F821
        k = stage.kernel_prox(step[None])[0]
        kernels = torch.einsum("nd,dij->nij", k, atoms)
        m = stage.map_prox(m + stage.map_step / 10 * transpose_of(i * (y - x - forward_of(m, kernels)), kernels))
        moved = x + stage.image_step / 10 * i * (y - forward_of(m, kernels) - x)
        state = stage.image_prox(torch.cat([moved, q], dim=1))
        x, q = state[:, :1], state[:, 1:]
    return network.last_prox(state)[:, :1]


@pytest.mark.parametrize("paper_scaling", [False, True])
def test_acdnet_is_its_formula(paper_scaling: bool) -> None:
    network = disturbed(small_network("acdnet", paper_scaling=paper_scaling))
    y, li, metal_mask = (value.double() for value in inputs(small_batch(1, 20, 26)))
    with torch.no_grad():
        expected = acdnet_formula(network, y, li, 1 - metal_mask, paper_scaling)
        torch.testing.assert_close(network(y, li, metal_mask).image, expected)


def test_acdnet_starts_with_two_stages_of_a_dictionary_network() -> None:
    network = disturbed(small_network("acdnet"))
    y, li, metal_mask = (value.double() for value in inputs(small_batch(1)))
    with torch.no_grad():
        kernels = network.initial_kernels / 10
        expected = dictionary_formula(network, lambda x: kernels, torch.tensor(0.0), y, li, 1 - metal_mask)
        unfolded = network.unfold(y, li, 1 - metal_mask)
        torch.testing.assert_close(network.last_prox(unfolded.state)[:, :1], expected)


STAGES = {"dual.weight": 1 / 9, "threshold": 1.0, "map_steps": 1.0, "image_steps": 5.0, "map_proxes.*.threshold": 0.5}
"""Starting values of what all dictionary networks share: box filters, tau, eta_M, eta_x, tau of ProxM."""
STARTING_VALUES = {
    "dicdnet": STAGES,
    "oscnet": STAGES | {"bias": 0.0},
    "oscnet_plus": STAGES | {"bias": 0.0},
    "acdnet": STAGES
    | {
        "adaptive_stages.*.kernel_step": 5.0,
        "adaptive_stages.*.map_step": 1.0,
        "adaptive_stages.*.image_step": 5.0,
        "adaptive_stages.*.map_prox.threshold": 0.5,
        "adaptive_stages.*.kernel_prox.threshold": 0.0,
    },
}


@pytest.mark.parametrize("name", STARTING_VALUES)
def test_networks_start_from_the_published_values(name: str) -> None:
    parameters = dict(NETWORKS[name]().named_parameters())
    for pattern, value in STARTING_VALUES[name].items():
        found = [parameters[key] for key in fnmatch.filter(parameters, pattern)]
        assert found, pattern
        for parameter in found:
            torch.testing.assert_close(parameter.detach(), torch.full_like(parameter, value), msg=pattern)


def test_maps_of_acdnet_are_not_mixed_at_first() -> None:
    maps = torch.randn(2, 6, 8, 9)
    assert torch.equal(NETWORKS["acdnet"]().mixing(maps), maps)


def first_kernel_step(paper_scaling: bool, repeats: int) -> Tensor:
    stage = small_network("acdnet", paper_scaling=paper_scaling).adaptive_stages[0].double()
    random = torch.Generator().manual_seed(0)
    maps = torch.rand((1, 2, 16, 16), generator=random, dtype=torch.float64)
    residual = torch.rand((1, 1, 16, 16), generator=random, dtype=torch.float64)
    atoms = torch.rand((3, 5, 5), generator=random, dtype=torch.float64)
    maps, residual = (functional.pad(value, (2, 2, 2, 2)) for value in (maps, residual))  # no border effects
    tiled = (value.repeat(1, 1, repeats, repeats) for value in (maps, residual))
    return stage.kernel_gradient(*tiled, atoms)


def test_first_kernels_of_acdnet_do_not_depend_on_the_image_size_unless_as_published() -> None:
    torch.testing.assert_close(first_kernel_step(False, 3), first_kernel_step(False, 1))
    torch.testing.assert_close(first_kernel_step(True, 3), 9 * first_kernel_step(True, 1))


def test_acdnet_as_published_has_one_step_size_less() -> None:
    names = [dict(small_network("acdnet", paper_scaling=flag).named_parameters()) for flag in (False, True)]
    assert names[0].keys() - names[1].keys() == {"adaptive_stages.0.kernel_step"}


def test_kernels_of_acdnet_are_non_negative_combinations_of_norm_one() -> None:
    prox = small_network("acdnet").adaptive_stages[0].kernel_prox
    rows = prox(torch.rand(5, 2, 3))
    assert (rows >= 0).all()
    norms = rows.norm(dim=2)
    torch.testing.assert_close(norms[norms > 0], torch.ones_like(norms[norms > 0]))


def test_proximal_network_of_the_kernels_is_its_formula() -> None:
    prox = disturbed(small_network("acdnet", maps=3, kernels=4)).adaptive_stages[0].kernel_prox
    coefficients = torch.randn(5, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    coefficients[0, 0] = -100  # a row in which nothing is left
    with torch.no_grad():
        for given, result in zip(coefficients, prox(coefficients), strict=True):
            hidden = (prox.hidden.weight @ given.flatten() + prox.hidden.bias).clamp(min=0)
            moved = given + (prox.output.weight @ hidden + prox.output.bias).reshape(3, 4)
            for row, threshold, got in zip(moved, prox.threshold, result, strict=True):
                rest = (row - threshold).clamp(min=0)
                norm = (rest**2).sum() ** 0.5
                torch.testing.assert_close(got, rest / norm if norm > 0 else rest)


@pytest.mark.parametrize("name", ["oscnet", "oscnet_plus"])
def test_rotated_input_gives_rotated_and_shifted_maps(name: str) -> None:
    network = small_network(name, filters=4, rotations=8, kernel_size=9, frequencies=5).double()
    image, li, _ = (value.double() for value in inputs(small_batch(2)))
    kernels = network.dictionary(li, image)
    residual = image - li

    def groups(maps: Tensor) -> Tensor:
        return maps.unflatten(1, (4, 8))

    straight = groups(analyse(residual, kernels))
    rotated = groups(analyse(residual.rot90(1, (2, 3)), kernels))
    torch.testing.assert_close(rotated, straight.rot90(1, (3, 4)).roll(2, 2))
    assert not torch.allclose(rotated, straight.rot90(1, (3, 4)).roll(-2, 2))


def test_oscnet_plus_predicts_other_filters_for_other_images_and_stages() -> None:
    network = small_network("oscnet_plus")
    image, li, _ = inputs(small_batch(2))
    kernels, others = network.dictionary(li, image), network.dictionary(image, image)
    assert kernels.shape == (2, 8, 5, 5)
    assert not torch.allclose(kernels[0], kernels[1])
    assert not torch.allclose(kernels, others)


def test_filter_basis_is_kept_with_the_weights() -> None:
    state = small_network("oscnet", seed=1).state_dict()
    fresh = small_network("oscnet", seed=2).eval()
    state["basis"] = -state["basis"]
    fresh.load_state_dict(state)
    assert torch.equal(fresh.basis, state["basis"])


def test_intermediate_results_are_those_of_a_shorter_network() -> None:
    network = small_network("dicdnet").eval()
    shorter = small_network("dicdnet", stages=2).eval()
    state = {key: value for key, value in network.state_dict().items() if key in shorter.state_dict()}
    state |= {"map_steps": state["map_steps"][:1], "image_steps": state["image_steps"][:2]}
    shorter.load_state_dict(state)
    with torch.no_grad():
        outputs: list[NetworkOutput] = [own(*inputs(small_batch())) for own in (network, shorter)]
    for long, short in zip(outputs[0].images[:3], outputs[1].images, strict=True):
        assert torch.equal(long, short)
    for long, short in zip(outputs[0].artifacts[:2], outputs[1].artifacts, strict=True):
        assert torch.equal(long, short)
