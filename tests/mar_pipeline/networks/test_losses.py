"""The losses against the published formulas, and what they must not depend on."""

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor

from mar_pipeline.networks import NETWORKS, NetworkOutput
from mar_pipeline.networks.build import MAR, loss_of, networks_for

STAGES = 3
ARTIFACTS = {"dicdnet": STAGES, "oscnet": STAGES, "oscnet_plus": STAGES, "acdnet": 2 + STAGES}
DUAL = {"indudonet": (STAGES - 1, STAGES), "indudonet_plus": (STAGES - 1, STAGES), "dudonet": (1, 1)}
"""Images besides the last one, and sinograms."""


def random_case(name: str, batch: int = 2, size: int = 64) -> tuple[NetworkOutput, dict[str, Tensor]]:
    random = torch.Generator().manual_seed(0)

    def image() -> Tensor:
        return 60 * torch.rand((batch, 1, size, size), generator=random, dtype=torch.float64)

    def sinogram() -> Tensor:
        return 60 * torch.rand((batch, 1, size // 2, size // 4), generator=random, dtype=torch.float64)

    values = {"image": image(), "li": image(), "target": image(), "metal_mask": (image() > 55).double()}
    artifacts = tuple(image() - 30 for _ in range(ARTIFACTS.get(name, 0)))
    images = tuple(image() for _ in range(ARTIFACTS[name] + 1)) if artifacts else ()
    if name in DUAL:
        values["target_sinogram"] = sinogram()
        images, sinograms = (
            tuple(make() for _ in range(count)) for make, count in zip((image, sinogram), DUAL[name], strict=True)
        )
        return NetworkOutput(image(), images, sinograms=sinograms), values
    return NetworkOutput(image(), images, artifacts), values


def published_sums(x: list[Tensor], a: list[Tensor], x0: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Squares averaged, absolute values summed and weighted 5e-4, as the papers' public code trains."""
    i, gt = 1 - batch["metal_mask"], batch["target"]
    artifact = i * (batch["image"] - gt)
    *stages, final = [i * (image - gt) for image in x]
    layers = [i * layer - artifact for layer in a]
    start = i * (x0 - gt)
    squares = final.square().mean() + 0.1 * start.square().mean() + 0.1 * sum(s.square().mean() for s in stages)
    image_sums = final.abs().sum() + 0.1 * start.abs().sum() + 0.1 * sum(s.abs().sum() for s in stages)
    artifact_sums = layers[-1].abs().sum() + 0.1 * sum(layer.abs().sum() for layer in layers)
    return squares + 5e-4 * image_sums + 5e-4 * artifact_sums


@pytest.mark.parametrize("name", ["dicdnet", "oscnet", "oscnet_plus"])
def test_dictionary_loss_is_the_published_one_at_16_patches_of_64(name: str) -> None:
    output, batch = random_case(name, batch=16)
    x0, *stages = output.images
    expected = published_sums([*stages, output.image], list(output.artifacts), x0, batch)
    torch.testing.assert_close(loss_of(NETWORKS[name])(output, batch), expected, rtol=1e-12, atol=0)


def test_acdnet_loss_is_the_published_one_at_32_patches_of_64() -> None:
    output, batch = random_case("acdnet", batch=32)
    x0, first, second, *stages = output.images
    early, late, *layers = output.artifacts
    expected = published_sums([*stages, output.image], layers, x0, batch)
    i, gt = 1 - batch["metal_mask"], batch["target"]
    for weight, image, layer in ((0.1, first, early), (1.0, second, late)):
        expected += weight * (i * (image - gt)).square().mean()
        expected += 5e-4 * weight * (i * (image - gt)).abs().sum()
        expected += 5e-4 * weight * (i * (layer - (batch["image"] - gt))).abs().sum()
    torch.testing.assert_close(loss_of(NETWORKS["acdnet"])(output, batch), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["unet", "cnnmar"])
def test_image_loss_is_the_mean_square_outside_metal(name: str) -> None:
    output, batch = random_case(name)
    outside = batch["metal_mask"] == 0
    expected = (output.image - batch["target"])[outside].square().sum() / outside.numel()
    torch.testing.assert_close(loss_of(NETWORKS[name])(output, batch), expected)


@pytest.mark.parametrize("name", ["indudonet", "indudonet_plus"])
def test_dual_domain_loss_is_the_published_one(name: str) -> None:
    """0.1 [MSE(Ybar S_N, P Xgt) + 0.1 mid] + MSE(I X_N, I Xgt) + 0.1 mid, and nothing is detached."""
    output, batch = random_case(name)
    leaves = [own.requires_grad_() for own in (*output.images, output.image, *output.sinograms)]
    i, gt = 1 - batch["metal_mask"], batch["target"]
    x = [functional.mse_loss(i * image, i * gt) for image in (*output.images, output.image)]
    s = [functional.mse_loss(sinogram, batch["target_sinogram"]) for sinogram in output.sinograms]
    assert (len(x), len(s)) == (STAGES, STAGES)
    expected = 0.1 * (s[-1] + 0.1 * sum(s[:-1])) + x[-1] + 0.1 * sum(x[:-1])
    loss = loss_of(NETWORKS[name])(output, batch)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    for got, own in zip(torch.autograd.grad(loss, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(got, own)
        assert got.any()


def test_dudonet_loss_is_the_published_one() -> None:
    output, batch = random_case("dudonet")
    i, gt = 1 - batch["metal_mask"], batch["target"]
    expected = functional.l1_loss(output.sinograms[0], batch["target_sinogram"])
    expected = (
        expected + functional.l1_loss(i * output.images[0], i * gt) + functional.l1_loss(i * output.image, i * gt)
    )
    torch.testing.assert_close(loss_of(NETWORKS["dudonet"])(output, batch), expected, rtol=1e-12, atol=0)


def tiled(tensor: Tensor) -> Tensor:
    return tensor.repeat(3, 1, 2, 2)


@pytest.mark.parametrize("name", networks_for(MAR))
def test_losses_depend_neither_on_batch_nor_on_patch_size(name: str) -> None:
    output, batch = random_case(name, batch=2, size=24)
    larger = NetworkOutput(tiled(output.image), *(tuple(map(tiled, own)) for own in output[1:]))
    loss = loss_of(NETWORKS[name])(larger, {key: tiled(value) for key, value in batch.items()})
    torch.testing.assert_close(loss, loss_of(NETWORKS[name])(output, batch), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", networks_for(MAR))
def test_metal_does_not_count(name: str) -> None:
    output, batch = random_case(name)
    noise = 100 * batch["metal_mask"]
    changed = NetworkOutput(
        output.image + noise,
        tuple(image - noise for image in output.images),
        tuple(layer + noise for layer in output.artifacts),
        output.sinograms,
    )
    assert loss_of(NETWORKS[name])(changed, batch) == loss_of(NETWORKS[name])(output, batch)


@pytest.mark.parametrize("name", networks_for(MAR))
def test_perfect_output_costs_nothing(name: str) -> None:
    output, batch = random_case(name)
    truth, artifact = batch["target"], batch["image"] - batch["target"]
    perfect = NetworkOutput(
        truth,
        tuple(truth for _ in output.images),
        tuple(artifact for _ in output.artifacts),
        tuple(batch["target_sinogram"] for _ in output.sinograms),
    )
    assert loss_of(NETWORKS[name])(perfect, batch) == 0


def test_every_network_has_a_loss() -> None:
    assert all(hasattr(network_class, "loss") for network_class in networks_for(MAR).values())
