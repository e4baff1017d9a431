"""The fast copy computes what the network computes, rounded or not, and leaves the network alone."""

import copy

import pytest
import torch
from small_networks import SMALL, inputs, small_batch, small_network
from small_scans import DUAL, dual_network, inputs_of, scan_batch
from torch import Tensor, nn

from mar_pipeline.inference.fast import fast_network
from mar_pipeline.inference.winograd import MAX_WIDTH
from mar_pipeline.networks import NetworkOutput
from mar_pipeline.networks.build import build_network
from mar_pipeline.sample import to_mu, to_network
from simulation.units import hu_to_mu, mu_to_hu

TOLERANCE = 1e-4


def trained(network: nn.Module) -> nn.Module:
    """The network in evaluation mode, as training leaves it: batch norms that all do something of their own."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    with torch.no_grad():
        network.train()(*inputs(small_batch(4)))
    return network.eval()


def plain(network: nn.Module, *images: Tensor) -> Tensor:
    with torch.no_grad():
        return network(*images).image


def relative_error(image: Tensor, reference: Tensor) -> float:
    return ((image - reference).abs().max() / reference.abs().max()).item()


def rmse_hu(image: Tensor, reference: Tensor, target: Tensor) -> float:
    body = target > to_network(hu_to_mu(torch.tensor(-500.0)))
    assert body.float().mean() > 0.5
    return (mu_to_hu(to_mu(image)) - mu_to_hu(to_mu(reference)))[body].square().mean().sqrt().item()


@pytest.mark.parametrize("size", [(32, 32), (37, 53)])
@pytest.mark.parametrize("name", SMALL)
def test_equals_the_plain_forward(name: str, size: tuple[int, int]) -> None:
    network = trained(small_network(name))
    images = inputs(small_batch(2, *size))
    fast = fast_network(network)(*images)
    assert fast.dtype == torch.float32 and fast.is_contiguous()
    assert relative_error(fast, plain(network, *images)) < TOLERANCE


@pytest.mark.parametrize("blocks", [2, 3])
def test_chains_of_blocks(blocks: int) -> None:
    network = trained(small_network("dicdnet", blocks=blocks))
    images = inputs(small_batch(1))
    assert relative_error(fast_network(network)(*images), plain(network, *images)) < TOLERANCE


@pytest.mark.parametrize("name", ["dicdnet", "oscnet", "oscnet_plus", "acdnet"])
def test_rounded_stays_within_two_hu(name: str) -> None:
    maps = {"filters": 2, "rotations": 8} if name.startswith("oscnet") else {"maps": 16}
    network = trained(small_network(name, blocks=2, dual_channels=15, **maps))  # image and dual channels: 16
    batch = small_batch(2, 48, 40)
    images = inputs(batch)
    error = rmse_hu(fast_network(network, "bfloat16")(*images), plain(network, *images), batch["target"])
    assert 1e-3 < error < 2


def test_rounded_unet_stays_within_two_hu() -> None:
    network = small_network("unet").eval()  # corrects LI by little, as a trained one
    batch = small_batch()
    images = inputs(batch)
    rounded = fast_network(network, "bfloat16")(*images)
    assert rounded.dtype == torch.float32
    assert 0 < rmse_hu(rounded, plain(network, *images), batch["target"]) < 2


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_leaves_network_and_threads_alone(precision: str) -> None:
    network = trained(small_network("dicdnet", maps=16)).train()
    before, threads = copy.deepcopy(network.state_dict()), torch.get_num_threads()
    structure, images = str(network), inputs(small_batch(1))
    given = [image.clone() for image in images]
    fast = fast_network(network, precision)  # type: ignore[arg-type]
    first = fast(*images)
    assert network.training and str(network) == structure and torch.get_num_threads() == threads
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert before.keys() == network.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(torch.equal(image, copied) for image, copied in zip(images, given, strict=True))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(7)
    assert torch.equal(fast(*images), first)


def test_the_same_in_several_threads() -> None:
    fast = fast_network(trained(small_network("dicdnet")))
    images, threads = inputs(small_batch(2, 30, 900)), torch.get_num_threads()
    results = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(fast(*images))
    finally:
        torch.set_num_threads(threads)
    assert relative_error(results[1], results[0]) < 1e-6


def test_images_too_wide_for_the_compiled_path() -> None:
    network = trained(small_network("dicdnet", stages=1))
    images = inputs(small_batch(1, 8, MAX_WIDTH + 5))
    assert relative_error(fast_network(network)(*images), plain(network, *images)) < TOLERANCE


def test_double_precision_stays_double_inside() -> None:
    network = trained(small_network("dicdnet")).double()
    images = tuple(image.double() for image in inputs(small_batch(1)))
    assert relative_error(fast_network(network)(*images).double(), plain(network, *images)) < 1e-6


def test_caller_may_be_under_autocast() -> None:
    network = trained(small_network("dicdnet"))
    images, fast = inputs(small_batch(1)), fast_network(network)
    with torch.autocast("cpu", torch.bfloat16):
        inside = fast(*images)
    assert torch.equal(inside, fast(*images))


class Foreign(nn.Module):
    """A network that nobody here wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.ConvTranspose2d(5, 1, 3))

    def forward(self, image: Tensor, li: Tensor, metal_mask: Tensor) -> NetworkOutput:
        return NetworkOutput(li + self.body(torch.cat((image, metal_mask), dim=1)))


def test_a_network_it_does_not_know() -> None:
    network = trained(Foreign())
    images = inputs(small_batch(2, 19, 26))
    assert relative_error(fast_network(network)(*images), plain(network, *images)) < TOLERANCE
    assert not fast_network(network)(*images).requires_grad


def test_strictly_equivariant_network() -> None:
    """Its filters are tensors of five dimensions."""
    name = "mar_pipeline.equivariance.strict.StrictImageNetwork"
    network = build_network(name, {"in_channels": 2, "groups": 2, "depth": 1}).eval()
    images = [torch.rand(1, 1, 24, 24) * 50 for _ in range(2)]
    mask = torch.zeros(1, 1, 24, 24)
    with torch.no_grad():
        expected = network(*images, mask).image
    torch.testing.assert_close(fast_network(network)(*images, mask), expected, rtol=1e-5, atol=1e-4)


def test_unknown_precision_is_named() -> None:
    with pytest.raises(ValueError, match="float32 or bfloat16, got 'float16'"):
        fast_network(Foreign(), "float16")  # type: ignore[arg-type]


def trained_on_scans(name: str, **changes: object) -> nn.Module:
    """A dual-domain network whose batch norms have seen a batch of scans."""
    network = dual_network(name, **changes)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    with torch.no_grad():
        network.train()(*inputs_of(network, scan_batch(2)))
    return network.eval()


@pytest.mark.parametrize("name", DUAL)
def test_dual_domain_networks_equal_the_plain_forward(name: str) -> None:
    network = trained_on_scans(name)
    images = inputs_of(network, scan_batch(3))
    fast = fast_network(network)(*images)
    assert fast.dtype == torch.float32 and fast.is_contiguous()
    assert relative_error(fast, plain(network, *images)) < TOLERANCE


def test_dilated_blocks() -> None:
    network = trained_on_scans("indudonet_plus", blocks=3, dilations=(1, 2, 4))
    images = inputs_of(network, scan_batch(3))
    assert relative_error(fast_network(network)(*images), plain(network, *images)) < TOLERANCE


@pytest.mark.parametrize("name", DUAL)
def test_rounded_dual_domain_networks_stay_within_two_hu(name: str) -> None:
    """Of proximal networks with an image, and of projections, nothing is rounded."""
    network, batch = dual_network(name).eval(), scan_batch(2)
    images = inputs_of(network, batch)
    exact, rounded = plain(network, *images), fast_network(network, "bfloat16")(*images)
    body = batch["target"] > 20
    assert rounded.dtype == torch.float32
    assert (mu_to_hu(to_mu(rounded)) - mu_to_hu(to_mu(exact)))[body].square().mean().sqrt() < 2
