"""Laws that every network keeps: size, shapes, gradients, learning, precision."""

import pytest
import torch
from small_networks import SMALL, inputs, small_batch, small_network
from torch import nn

from mar_pipeline.networks import NETWORKS
from mar_pipeline.networks.build import loss_of
from simulation.errors import UsageError

PUBLISHED_PARAMETERS = {
    "unet": 3_351_969,
    "dicdnet": 1_277_332,
    "oscnet": 1_274_841,
    "oscnet_plus": 1_276_215,
    "acdnet": 1_602_809,
    "indudonet": 5_094_977,
    "indudonet_plus": 1_752_929,
    "cnnmar": 28_929,
}
UNUSED_PARAMETERS = {"acdnet": 1}
"""Published but without any effect, hence not here: ACDNet's second scalar threshold of the initialisation."""

DICTIONARY_NETWORKS = ["dicdnet", "oscnet", "oscnet_plus", "acdnet"]


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("name", PUBLISHED_PARAMETERS)
def test_parameters_are_the_published_ones(name: str) -> None:
    assert parameters(NETWORKS[name]()) == PUBLISHED_PARAMETERS[name] - UNUSED_PARAMETERS.get(name, 0)


def test_dudonet_is_two_of_the_published_unets() -> None:
    """The narrow one for sinograms has the trace beside its image and, 1 x 64 x 9 weights, beside its second level."""
    assert parameters(NETWORKS["dudonet"]()) == 3_351_969 + 576 + 13_394_753


def test_wider_unet_has_the_published_parameters() -> None:
    assert parameters(NETWORKS["unet"](width=64)) == 13_394_753


@pytest.mark.parametrize("shape", [(32, 32), (37, 50), (50, 33)])
@pytest.mark.parametrize("name", SMALL)
def test_images_of_any_size_keep_it(name: str, shape: tuple[int, int]) -> None:
    with torch.no_grad():
        output = small_network(name)(*inputs(small_batch(2, *shape)))
    for image in (output.image, *output.images, *output.artifacts):
        assert image.shape == (2, 1, *shape)


@pytest.mark.parametrize(("name", "before"), [("dicdnet", 0), ("oscnet", 0), ("oscnet_plus", 0), ("acdnet", 2)])
def test_every_stage_shows_its_image_and_artifact(name: str, before: int) -> None:
    stages = SMALL[name]["stages"] + before
    output = small_network(name)(*inputs(small_batch()))
    assert (len(output.images), len(output.artifacts)) == (1 + stages, stages)


@pytest.mark.parametrize("name", SMALL)
def test_gradient_reaches_every_parameter(name: str) -> None:
    # In evaluation mode: batch statistics make the gradient of a bias before them zero.
    network = small_network(name).double().eval()
    batch = {key: value.double() for key, value in small_batch(3).items()}
    loss_of(NETWORKS[name])(network(*inputs(batch)), batch).backward()
    without = [
        key for key, parameter in network.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert without == []


@pytest.mark.parametrize("name", SMALL)
def test_training_lowers_the_own_loss(name: str) -> None:
    network, batch = small_network(name), small_batch()
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    losses = []
    for _ in range(15):
        loss = loss_of(NETWORKS[name])(network(*inputs(batch)), batch)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", SMALL)
def test_each_image_of_a_batch_is_corrected_as_if_alone(name: str) -> None:
    network, batch = small_network(name).double().eval(), small_batch(3)
    images = [value.double() for value in inputs(batch)]
    with torch.no_grad():
        together = network(*images).image
        alone = torch.cat([network(*(value[index : index + 1] for value in images)).image for index in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", DICTIONARY_NETWORKS)
def test_autocast_keeps_the_images_in_float32(name: str) -> None:
    network, images = small_network(name).eval(), inputs(small_batch())
    with torch.no_grad():
        exact = network(*images)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = network(*images)
    for image in (mixed.image, *mixed.images, *mixed.artifacts):
        assert image.dtype == torch.float32
        values = image[image != 0]
        assert (values != values.bfloat16()).float().mean() > 0.9
    assert not torch.equal(mixed.image, exact.image)
    assert (mixed.image - exact.image).abs().mean() < 0.01 * exact.image.abs().mean()


@pytest.mark.parametrize("name", ["dicdnet", "oscnet", "acdnet"])
def test_values_on_metal_do_not_matter(name: str) -> None:
    network = small_network(name).eval()
    image, li, metal_mask = inputs(small_batch())
    with torch.no_grad():
        assert torch.equal(
            network(image, li, metal_mask).image, network(image + 1000 * metal_mask, li, metal_mask).image
        )


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("dicdnet", {"stages": 0}, "stages must be 1 or more, got 0"),
        ("oscnet", {"kernel_size": 8}, "kernel_size must be odd, got 8"),
        ("acdnet", {"kernels": -1}, "kernels must be 1 or more, got -1"),
        ("unet", {"width": 0}, "width must be 1 or more, got 0"),
    ],
)
def test_impossible_sizes_are_named(name: str, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        small_network(name, **arguments)
