"""RCDNet against its formula, its parameter count, and what a quarter turn does to its layers."""

import pytest
import torch
import torch.nn.functional as functional
from torch import nn

from mar_pipeline.equivariance import act
from mar_pipeline.equivariance.fields import check_fields
from mar_pipeline.equivariance.selection import lookup, select_layers
from mar_pipeline.equivariance.weight_space import project_to_equivariant
from mar_pipeline.networks.rcdnet import RCDNet, rain_layer, rain_maps
from simulation.errors import UsageError

SMALL = {"stages": 3, "blocks": 1, "maps": 4, "dual_channels": 8, "kernel_size": 5}


@pytest.fixture
def network():
    """Weights away from their symmetric start, and norms with statistics."""
    torch.manual_seed(0)
    network = RCDNet(**SMALL)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        network(255 * torch.rand(4, 3, 16, 16))
    return network.eval()


def test_published_parameters_are_those_of_the_paper():
    """3.05 M are those of the public code, which holds a ProxM and a step that it never uses."""
    stages, blocks, maps, dual, size = 17, 4, 32, 32, 9

    def prox(channels):
        return blocks * 2 * (channels * channels * 9 + channels + 2 * channels)

    map_prox = prox(maps) + maps
    used = (
        (stages + 2) * prox(3 + dual)
        + stages * map_prox
        + 2 * 3 * maps * size**2  # kernels of the first stage and of all
        + dual * 3 * 3 * 3
        + (stages - 1)
        + stages
        + 1
    )
    assert sum(parameter.numel() for parameter in RCDNet().parameters()) == used == 2_975_186
    assert used + map_prox + 1 == 3_049_715


def test_every_parameter_is_trained():
    network = RCDNet(**SMALL)
    output = network(255 * torch.rand(2, 3, 12, 12))
    (output.image.square().mean() + sum(rain.square().mean() for rain in output.rains)).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_answer_is_the_formula(network):
    """Stage by stage, with torch's own transposed convolution."""
    rainy = 255 * torch.rand(2, 3, 13, 18)
    with torch.no_grad():
        output = network(rainy)
        kernels, first = network.kernels / 10, network.initial_kernels / 10
        z = functional.conv2d(rainy, network.dual.weight, padding=1)
        state = network.first_prox(torch.cat([rainy, z], 1))
        b, z, backgrounds, rains = state[:, :3], state[:, 3:], [state[:, :3]], []
        for stage in range(3):
            if stage == 0:
                excess = torch.relu(rainy - b - network.threshold)
                m = functional.conv_transpose2d(excess, first, padding=2)
            else:
                residual = functional.conv2d(m, kernels, padding=2) - (rainy - b)
                m = m - network.map_steps[stage - 1] / 10 * functional.conv_transpose2d(residual, kernels, padding=2)
            m = network.map_proxes[stage](m)
            rains.append(functional.conv2d(m, kernels, padding=2))
            moved = b - network.image_steps[stage] / 10 * (b - (rainy - rains[-1]))
            state = network.image_proxes[stage](torch.cat([moved, z], 1))
            b, z = state[:, :3], state[:, 3:]
            backgrounds.append(b)
        final = network.last_prox(state)[:, :3]
    assert len(output.images) == 4 and len(output.rains) == 3
    for own, expected in zip((output.image, *output.images, *output.rains), (final, *backgrounds, *rains), strict=True):
        assert torch.allclose(own, expected, rtol=1e-4, atol=1e-3)


def test_rain_maps_are_the_transpose_of_the_rain_layer():
    torch.manual_seed(0)
    kernels = torch.randn(3, 4, 5, 5, dtype=torch.float64)
    maps, rain = torch.randn(2, 4, 9, 7, dtype=torch.float64), torch.randn(2, 3, 9, 7, dtype=torch.float64)
    left, right = (rain_layer(maps, kernels) * rain).sum(), (maps * rain_maps(rain, kernels)).sum()
    assert torch.allclose(left, right, rtol=1e-12)


def test_image_channels_stay_in_float32_under_autocast(network):
    rainy = 255 * torch.rand(1, 3, 16, 16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        output = network(rainy)
    assert all(image.dtype == torch.float32 for image in (output.image, *output.images, *output.rains))


def test_only_background_nets_are_typed_and_rain_is_left_out(network):
    patterns, exclude = network.typed_ends(4)
    convolutions = {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)}
    chosen = select_layers(network, None, exclude)
    assert set(convolutions) - set(chosen) == {name for name in convolutions if name.startswith("map_proxes.")}
    for name, layer in chosen.items():
        before, after = lookup(patterns, name)
        check_fields(before, layer.in_channels, 4)
        check_fields(after, layer.out_channels, 4)
        assert tuple(after) == ((("trivial", 3), ("regular", 2)) if name != "dual" else (("regular", 2),))


def test_projected_background_nets_turn_with_their_fields(network):
    """Strict weights of these fields make whole nets strict: the colours first, then the orientations."""
    network = network.double()
    patterns, exclude = network.typed_ends(4)
    with torch.no_grad():
        project_to_equivariant(network, 4, fields=patterns, exclude=exclude)
        colours, state = patterns["dual"][0], patterns["last_prox.*"][0]
        for net, before, after in ((network.dual, colours, state[1:]), (network.image_proxes[1], state, state)):
            x = torch.randn(1, 3 if net is network.dual else 11, 8, 8, dtype=torch.float64)
            for n in (1, 2, 3):
                assert torch.allclose(net(act(x, n, before)), act(net(x), n, after), atol=1e-10)


@pytest.mark.parametrize("sizes", [{"stages": 0}, {"kernel_size": 4}, {"maps": 0}])
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(UsageError, match=next(iter(sizes))):
        RCDNet(**(SMALL | sizes))
