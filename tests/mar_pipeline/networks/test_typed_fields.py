"""The typed fields of the networks: what a quarter turn really does to the channels of their layers."""

import re
from typing import Any

import pytest
import torch
from small_networks import inputs, small_batch, small_network
from small_scanner import SMALL
from small_scans import DUAL, dual_network, inputs_of, scan_batch
from torch import Tensor, nn

from mar_pipeline.data.turning import field_of
from mar_pipeline.equivariance import EquivarianceRegularizer, act, project_to_equivariant, weight_penalty
from mar_pipeline.equivariance.fields import check_fields
from mar_pipeline.networks.blocks import analyse
from mar_pipeline.networks.build import MAR, build_network, networks_for
from mar_pipeline.networks.losses import image_loss
from mar_pipeline.networks.typed_fields import typed_layers
from mar_pipeline.training.regularization import make_regularizer
from mar_pipeline.training.settings import EquivarianceTraining

EXCLUDED = {
    "unet": (),
    "dicdnet": (),
    "oscnet": ("map_proxes",),
    "oscnet_plus": ("map_proxes", "predictor"),
    "acdnet": ("map_proxes", "mixing", *(f"adaptive_stages.{stage}.map_prox" for stage in range(10))),
    "indudonet": (),
    "indudonet_plus": (),
    "dudonet": (),
    "cnnmar": (),
}
"""Left out under quarter turns, on purpose."""
PROJECTED = (nn.Conv2d, nn.BatchNorm2d)
IMAGE = [("trivial", 1)]


@pytest.fixture(scope="module")
def published() -> dict[str, nn.Module]:
    return {name: network() for name, network in networks_for(MAR).items()}


@pytest.mark.parametrize("group_order", [2, 3, 4, 8])
@pytest.mark.parametrize("name", networks_for(MAR))
def test_every_convolution_is_typed_or_left_out(name: str, group_order: int, published: dict[str, nn.Module]) -> None:
    network = published[name]
    typed = typed_layers(network, group_order)
    if group_order in (2, 4):
        assert typed.exclude == EXCLUDED[name]
    convolutions = {key: layer for key, layer in network.named_modules() if isinstance(layer, nn.Conv2d)}
    left_out = {key for key in convolutions if key.startswith(tuple(f"{module}." for module in typed.exclude))}
    assert set(typed.ends) | left_out == set(convolutions)
    assert not set(typed.ends) & left_out
    for key, (before, after) in typed.ends.items():
        check_fields(before, convolutions[key].in_channels, group_order)
        check_fields(after, convolutions[key].out_channels, group_order)


def test_images_are_trivial_and_dual_channels_regular(published: dict[str, nn.Module]) -> None:
    state = (("trivial", 1), ("regular", 8))
    for name in ("dicdnet", "oscnet", "oscnet_plus", "acdnet"):
        ends = typed_layers(published[name]).ends
        assert ends["dual"] == ((("trivial", 1),), (("regular", 8),))
        layers = [key for key in ends if re.search("first_prox|image_prox|last_prox", key)]
        assert len(layers) == (84 if name == "acdnet" else 72)
        assert {ends[key] for key in layers} == {(state, state)}
    assert typed_layers(published["unet"], 2).ends["unet.first.0"][0] == (("trivial", 2),)
    narrow = typed_layers(small_network("unet", width=6)).ends
    assert narrow["unet.up.1.0"][0] == (("regular", 1), ("trivial", 2)) * 2


def test_sinograms_are_views_and_images_are_not(published: dict[str, nn.Module]) -> None:
    sinogram_layers = {
        "indudonet": ("sinogram_dual", r"first_sinogram_prox\..*", r"stages\.\d+\.sinogram_prox\..*"),
        "indudonet_plus": ("sinogram_dual", r"first_sinogram_prox\..*", r"stages\.\d+\.sinogram_prox\..*"),
        "dudonet": (r"sinogram_unet\..*",),
        "cnnmar": (),
    }
    for name, patterns in sinogram_layers.items():
        ends = typed_layers(published[name]).ends
        views = {key for key, (before, after) in ends.items() if "views" in {kind for kind, _ in (*before, *after)}}
        assert views == {key for key in ends if any(re.fullmatch(pattern, key) for pattern in patterns)}
    plus = typed_layers(published["indudonet_plus"]).ends
    assert plus["stages.9.sinogram_prox.blocks.3.conv2"] == ((("views", 33),), (("views", 33),))
    assert plus["stages.9.image_prox.blocks.3.conv2"] == ((("trivial", 1), ("regular", 8)),) * 2
    assert plus["prior_weights.0"] == ((("trivial", 1),), (("regular", 8),))
    assert typed_layers(published["cnnmar"], 2).ends["body.0"][0] == (("trivial", 3),)
    assert typed_layers(published["dudonet"], 2).ends["image_unet.first.0"][0] == (("trivial", 2),)


def test_other_networks_stay_automatic() -> None:
    assert typed_layers(nn.Conv2d(2, 8, 3)) == ({}, ())


def test_a_group_order_above_all_channels_is_refused(published: dict[str, nn.Module]) -> None:
    for network in published.values():
        with pytest.raises(ValueError, match="group_order 999 fits no layer"):
            typed_layers(network, 999)


def rotated_copies(filters: Tensor) -> Tensor:
    """Float["4 count k k"] from Float["count k k"], the rotation fastest."""
    return torch.stack([torch.rot90(filters, s, (-2, -1)) for s in range(4)], dim=1).flatten(0, 1)


def random_network(name: str, **changes: Any) -> nn.Module:
    """With two groups of everything, norms that are no identities, and a dictionary of rotated copies."""
    network = small_network(name, blocks=2, dual_channels=8, stages=2, **changes).double().eval()
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                for values in (layer.weight, layer.running_var):
                    values.uniform_(0.5, 1.5)
                for values in (layer.bias, layer.running_mean):
                    values.normal_()
        network.dual.weight.normal_(0, 0.3)
        if name == "dicdnet":
            for kernels in (network.initial_kernels, network.kernels):
                kernels.copy_(rotated_copies(torch.rand(2, 5, 5)))
    return network


def output_error(network: nn.Module, n: int) -> float:
    """Of the correction of LI, relative."""
    batch = [image.double() for image in inputs(small_batch())]
    turned = [act(image, n, IMAGE) for image in batch]
    with torch.no_grad():
        a = act(network(*batch).image - batch[1], n, IMAGE)
        b = network(*turned).image - turned[1]
    return ((a - b).norm() / a.norm()).item()


def test_dicdnet_is_strict_once_projected_under_its_fields_only() -> None:
    network = random_network("dicdnet", maps=8)
    typed = typed_layers(network, 4, PROJECTED)
    project_to_equivariant(network, layers=PROJECTED, fields=typed.ends, exclude=typed.exclude)
    assert max(output_error(network, n) for n in (1, 2, 3)) < 1e-5
    conv_ends = typed_layers(network)
    assert weight_penalty(network, fields=conv_ends.ends) < 1e-25
    for automatic in (random_network("dicdnet", maps=8), network):
        project_to_equivariant(automatic)
        assert min(output_error(automatic, n) for n in (1, 3)) > 0.01


def test_unet_is_strict_once_projected_under_its_fields_only() -> None:
    """A width that is no multiple of 4: the decoder's inputs are two times groups and a rest."""
    errors = []
    for named in (True, False):
        network = small_network("unet", width=6).double().eval()
        typed = typed_layers(network, 4, PROJECTED)
        project_to_equivariant(network, fields=typed.ends if named else None)
        errors.append(output_error(network, 1))
    assert errors[0] < 1e-10
    assert errors[1] > 1e-3


def test_a_quarter_turn_rolls_the_maps_of_oscnet_by_two() -> None:
    """So groups of 4 channels would be wrong, and its maps are regular under 8 rotations only."""
    network = small_network("oscnet", filters=2, rotations=8, kernel_size=5).double()
    kernels = network.dictionary(None, None).detach()
    residual = torch.randn(1, 1, 24, 24, dtype=torch.float64)
    maps, of_turned = (analyse(image, kernels) for image in (residual, torch.rot90(residual, 1, (-2, -1))))
    right, wrong = (act(maps, n, [("regular", 16 // t)], t) for n, t in ((2, 8), (1, 4)))
    assert (right - of_turned).norm() < 1e-10 * of_turned.norm()
    assert (wrong - of_turned).norm() > 0.5 * of_turned.norm()
    assert not any(key.startswith("map_proxes") for key in typed_layers(network, 4).ends)
    assert typed_layers(network, 8).outputs["map_proxes.0.blocks.0.conv1"] == (("regular", 2),)


@pytest.mark.parametrize("name", sorted(set(networks_for(MAR)) - set(DUAL)))
def test_training_asks_under_these_fields(name: str) -> None:
    """A projected network has no penalty, of its layers as of its weights."""
    network = random_network(name, **({"maps": 8} if name == "dicdnet" else {})) if name != "unet" else None
    network = network or small_network(name, width=8).double()
    typed = typed_layers(network, 4, PROJECTED)
    project_to_equivariant(network, layers=PROJECTED, fields=typed.ends, exclude=typed.exclude)
    regularizer = make_regularizer(network, EquivarianceTraining(enabled=True, batch_fraction=1.0))
    assert isinstance(regularizer, EquivarianceRegularizer)
    network.train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    with regularizer:
        network(*regularizer.prepare(*(image.double() for image in inputs(small_batch()))))
        regularizer.loss()
    assert set(regularizer.values) == set(typed_layers(network).ends)
    strict = regularizer.values if name in ("dicdnet", "unet") else {"dual": regularizer.values["dual"]}
    assert max(strict.values()) < 1e-10


def circular_network(name: str) -> nn.Module:
    """In float64, projected onto its fields, norms that are no identities, sinograms without a first and last view."""
    wide = {
        "indudonet": {"dual_channels": 8, "prior_width": 8},
        "indudonet_plus": {"dual_channels": 8, "prior_width": 8},
    }
    unets = {"dudonet": {"sinogram_width": 8, "image_width": 8}}
    changes = (wide | unets).get(name, {})
    network = dual_network(name, precision="float64", **changes).double()
    typed = typed_layers(network, 4, PROJECTED)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                for values in (layer.weight, layer.running_var):
                    values.uniform_(0.5, 1.5)
                layer.running_mean.normal_()
        for key, layer in network.named_modules():
            if "sinogram" in key and isinstance(layer, nn.Conv2d):
                layer.padding_mode = "circular"
        if name == "dudonet":  # upsampling does not go around
            network.sinogram_unet.last.weight.zero_()
            network.sinogram_unet.last.bias.zero_()
    project_to_equivariant(network, layers=PROJECTED, fields=typed.ends, exclude=typed.exclude)
    return network


@pytest.mark.parametrize("name", DUAL)
def test_training_of_dual_domain_networks_asks_under_these_fields(name: str) -> None:
    """Where sinograms go around the views, a projected network has no penalty, neither in its images nor sinograms."""
    network, batch = circular_network(name), {key: own.double() for key, own in scan_batch().items()}
    regularizer = make_regularizer(network, EquivarianceTraining(enabled=True, batch_fraction=1.0, output_weight=1.0))
    assert isinstance(regularizer, EquivarianceRegularizer)
    network.train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    for _ in range(3):  # other rotations
        with regularizer:
            prepared = regularizer.prepare(*batch.values(), fields=[field_of(key) for key in batch])
            output = network(*inputs_of(network, dict(zip(batch, prepared, strict=True))))
            regularizer.loss(output.image)
        assert set(regularizer.values) == {*typed_layers(network).ends, "output"}
        strict = {key: own for key, own in regularizer.values.items() if not key.startswith("sinogram_unet.up")}
        assert max(strict.values()) < 1e-10


@pytest.mark.parametrize("name", DUAL)
def test_their_whole_answer_turns_and_the_views_have_a_direction(name: str) -> None:
    network, batch = circular_network(name).eval(), {key: own.double() for key, own in scan_batch(1).items()}
    if name == "cnnmar":
        network.train()  # of its sinograms only evaluation makes use

    def error(n: int, back: int) -> float:
        turned = {
            key: act(own, back if own.shape[-2:] == SMALL.sinogram_shape else n, field_of(key))
            for key, own in batch.items()
        }
        with torch.no_grad():
            a = act(network(*inputs_of(network, batch)).image - batch["li"], n, IMAGE)
            b = network(*inputs_of(network, turned)).image - turned["li"]
        return ((a - b).norm() / a.norm()).item()

    right = error(1, 1)
    assert right < 1e-6
    assert name == "cnnmar" or error(1, -1) > 10 * right + 1e-6


def test_the_strict_baseline_is_built_by_its_path_and_turns_exactly() -> None:
    torch.manual_seed(0)
    network = build_network("mar_pipeline.equivariance.strict.StrictImageNetwork", {"in_channels": 2, "groups": 2})
    assert max(output_error(network.double().eval(), n) for n in (1, 2, 3)) < 1e-10
    batch = [image.double() for image in inputs(small_batch())]
    assert (network(*batch).image - batch[1]).abs().max() > 1e-3
    image_loss(network.train()(*batch), small_batch()).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_an_output_weight_alone_needs_no_fields() -> None:
    wanted = EquivarianceTraining(enabled=True, weight=0.0, output_weight=1.0)
    assert make_regularizer(small_network("oscnet"), wanted) is not None


def test_layers_that_are_named_are_enough() -> None:
    wanted = EquivarianceTraining(enabled=True, layers=("last_prox.*",))
    assert make_regularizer(small_network("dicdnet"), wanted) is not None
