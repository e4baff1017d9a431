"""Weights: the projection makes layers strict, the penalty vanishes on them and agrees with the activations'."""

import pytest
import torch
from c4_layers import convolution, group, lift, relative_error, strict_network, to_image
from torch import nn

from mar_pipeline.equivariance import project_to_equivariant, weight_penalty
from mar_pipeline.equivariance.fields import automatic_fields
from mar_pipeline.equivariance.penalty import residual_penalty

IMAGE, REGULAR = [("trivial", 3)], [("regular", 2)]
MIXED = [("trivial", 2), ("regular", 1), ("trivial", 1)]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def noise(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("fields_in", [IMAGE, REGULAR, MIXED])
@pytest.mark.parametrize("fields_out", [IMAGE, REGULAR, MIXED])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
@pytest.mark.parametrize("group_order", [2, 4])
def test_a_projected_layer_is_strict(fields_in, fields_out, kind, group_order):
    size = [sum(c * group_order if k == "regular" else c for k, c in fields) for fields in (fields_in, fields_out)]
    layer = kind(*size, 3, padding=1).double()
    fields = {"": (fields_in, fields_out)}
    x = noise(1, size[0], 7, 7)

    before = [
        relative_error(layer, x, n, fields_in, fields_out, group_order=group_order) for n in range(1, group_order)
    ]
    assert min(before) > 0.3
    assert weight_penalty(layer, group_order, fields=fields) > 0.3
    assert project_to_equivariant(layer, group_order, fields=fields) == ("",)
    for n in range(1, group_order):
        assert relative_error(layer, x, n, fields_in, fields_out, group_order=group_order) < 1e-10
    assert weight_penalty(layer, group_order, fields=fields) < 1e-30


def test_layers_from_the_formulas_have_no_penalty_and_are_not_changed():
    layers = {
        "lift": (convolution(lift(noise(2, 3, 3, 3))), IMAGE, REGULAR),
        "group": (convolution(group(noise(2, 2, 4, 3, 3))), REGULAR, REGULAR),
        "image": (convolution(to_image(noise(3, 2, 5, 5))), REGULAR, IMAGE),
    }
    for layer, *ends in layers.values():
        weight = layer.weight.detach().clone()
        assert weight_penalty(layer, fields={"": tuple(ends)}) < 1e-30
        project_to_equivariant(layer, fields={"": tuple(ends)})
        torch.testing.assert_close(layer.weight.detach(), weight)


def test_the_projection_is_orthogonal():
    layer = nn.Conv2d(8, 8, 3).double()
    weight = layer.weight.detach().clone()
    penalty = weight_penalty(layer).item()
    project_to_equivariant(layer)
    projected = layer.weight.detach()

    assert torch.sum((weight - projected) * projected).item() == pytest.approx(0, abs=1e-12)
    assert penalty == pytest.approx(1 - (projected.norm() / weight.norm()).item() ** 2)


@pytest.mark.parametrize("softness", [0.0, 0.4, 1.0])
def test_it_equals_the_activation_penalty_on_white_noise(softness):
    strict = convolution(group(noise(4, 4, 4, 3, 3)))
    strict.weight.data += softness * strict.weight.std() * noise(*strict.weight.shape)
    x, fields = noise(4, 16, 64, 64), [("regular", 4)]

    with torch.no_grad():
        on_noise = [
            residual_penalty(
                strict(x), strict(torch.rot90(x, n, (-2, -1)).unflatten(1, (4, 4)).roll(n, 2).flatten(1, 2)), n, fields
            )
            for n in (1, 2, 3)
        ]
        assert weight_penalty(strict) == pytest.approx(3 / 8 * sum(on_noise).item() / 3, rel=0.03, abs=1e-20)


def test_random_weights_have_the_penalty_of_their_free_directions():
    assert weight_penalty(nn.Conv2d(64, 64, 3)).item() == pytest.approx(3 / 4, abs=0.01)


def test_free_channels_pass_through():
    layer = nn.Conv2d(6, 6, 3).double()
    fields = {"": ([("free", 2), ("regular", 1)], [("regular", 1), ("free", 2)])}
    weight = layer.weight.detach().clone()
    project_to_equivariant(layer, fields=fields)

    assert torch.equal(layer.weight[:, :2], weight[:, :2])
    assert torch.equal(layer.weight[4:], weight[4:])
    assert not torch.equal(layer.weight[:4, 2:], weight[:4, 2:])
    assert weight_penalty(layer, fields=fields) < 1e-30


@pytest.mark.parametrize("groups", [8, 2])
def test_groups_of_whole_fields_are_projected_and_others_refused(groups):
    layer = nn.Conv2d(8, 8, 3, padding=1, groups=groups).double()
    project_to_equivariant(layer)

    assert relative_error(layer, noise(1, 8, 7, 7), 1, REGULAR, REGULAR) < 1e-10
    with pytest.raises(ValueError, match="4 groups cut"):
        weight_penalty(nn.Conv2d(8, 8, 3, groups=4))


def test_a_soft_network_becomes_strict_with_its_norms_and_activations():
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.PReLU(8),
        nn.Conv2d(8, 12, 2, stride=2),
        nn.InstanceNorm2d(12, affine=True),
        nn.ConvTranspose2d(12, 8, 2, stride=2),
        nn.GroupNorm(2, 8),
        nn.Conv2d(8, 1, 1),
    ).double()
    for values in (*network.parameters(), network[1].running_mean, network[1].running_var):
        values.data.uniform_(0.1, 1)
    network.eval()
    x = noise(1, 1, 12, 12)

    assert relative_error(network, x, 1, [("trivial", 1)], [("trivial", 1)]) > 1e-2
    assert len(project_to_equivariant(network)) == 8
    for n in (1, 2, 3):
        assert relative_error(network, x, n, [("trivial", 1)], [("trivial", 1)]) < 1e-10


def test_training_on_the_penalty_leads_to_a_strict_network():
    network = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    first = weight_penalty(network).item()
    for _ in range(50):
        optimizer.zero_grad()
        weight_penalty(network).backward()
        optimizer.step()
    assert all(p.grad is not None for name, p in network.named_parameters() if "weight" in name)
    assert weight_penalty(network).item() < 0.05 * first


def test_eighths_are_projected_on_the_quarter_turns_among_them():
    layer = nn.Conv2d(8, 8, 3, padding=1).double()
    fields = [("regular", 1)]
    project_to_equivariant(layer, 8)

    for n in (2, 4, 6):
        assert relative_error(layer, noise(1, 8, 9, 9), n, fields, fields, group_order=8) < 1e-10


@pytest.mark.parametrize(
    ("layer", "options", "words"),
    [
        (nn.Conv2d(4, 4, 3), {"group_order": 3}, "no quarter or half turn"),
        (nn.Conv2d(4, 4, (3, 1)), {}, "no quarter turn keeps"),
        (nn.Conv2d(4, 6, 3), {"strict": True}, "not a multiple"),
        (nn.Conv2d(4, 4, 3), {"fields": {"": ([("regular", 2)], [("regular", 1)])}}, "describe 8 channels"),
        (nn.Sequential(nn.Conv2d(4, 4, 3)), {"fields": {"body": ([], [])}}, "'body' fits none"),
        (nn.ReLU(), {}, "no convolution"),
        (nn.Sequential(nn.Conv2d(4, 4, 3)), {"exclude": "0"}, "no convolution"),
    ],
)
def test_what_cannot_be_strict_is_refused(layer, options, words):
    with pytest.raises(ValueError, match=words):
        weight_penalty(layer, **options)


def test_views_ask_nothing_of_the_weights():
    layer = nn.Conv2d(2, 3, (3, 3), padding=1, padding_mode="circular")
    weight = layer.weight.detach().clone()
    project_to_equivariant(layer, fields={"": ([("views", 2)], [("views", 3)])})
    assert torch.equal(layer.weight, weight)


def test_a_strict_network_has_penalty_zero_with_automatic_fields():
    assert weight_penalty(strict_network()) < 1e-30
    assert automatic_fields(12) == (("regular", 3),)
