"""InDuDoNet, InDuDoNet+, DuDoNet and CNNMAR: their formulas by hand, learning, precision, and what they refuse."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from small_scanner import SMALL
from small_scans import DUAL, dual_network, inputs_of, scan_batch
from torch import Tensor, nn

from mar_pipeline.data import CommunityPairs
from mar_pipeline.data.selection import Selection
from mar_pipeline.networks import NETWORKS
from mar_pipeline.networks.blocks import ResBlock
from mar_pipeline.networks.build import build_network, has_projector, loss_of, network_inputs
from mar_pipeline.networks.scan import Scan
from mar_pipeline.sample import IMAGES, SINOGRAMS, Layout, to_mu
from mar_pipeline.tasks.metrics import score
from mar_pipeline.training.regularization import make_regularizer
from mar_pipeline.training.settings import EquivarianceTraining
from simulation.correction import replace_trace, tissue_prior
from simulation.errors import InputError, UsageError
from simulation.physics.projector import Projector

UNFOLDED = ("indudonet", "indudonet_plus")
names = pytest.mark.parametrize("name", DUAL)


def run(network: nn.Module, batch: dict[str, Tensor]) -> Any:
    return network(*inputs_of(network, batch))


@names
def test_images_and_sinograms_keep_their_shapes(name: str) -> None:
    network, batch = dual_network(name), scan_batch()
    for training in (True, False):
        with torch.no_grad():
            output = run(network.train(training), batch)
        assert all(image.shape == (2, 1, 64, 64) for image in (output.image, *output.images))
        assert all(sinogram.shape == (2, 1, 64, 81) for sinogram in output.sinograms)
        stages = {"indudonet": (1, 2), "indudonet_plus": (1, 2), "dudonet": (1, 1), "cnnmar": (int(not training), 0)}
        assert (len(output.images), len(output.sinograms)) == stages[name]


@pytest.mark.parametrize(
    ("name", "changes"), [("indudonet", {}), ("indudonet_plus", {}), ("indudonet_plus", {"start": "nmar"})]
)
def test_the_unfolding_is_the_published_one(name: str, changes: dict[str, str]) -> None:
    """Two stages by the formulas, with the transposed projector of the scan; the start alone may be another one."""
    network, batch = dual_network(name, **changes), scan_batch()
    projector, scale = Projector(SMALL, "cpu", threads=1), 255 / 4
    weight = 2.04889**-1 * (2 * np.pi / SMALL.views * 0.1 * SMALL.pitch_mm / 0.24**2) / 0.4880694  # of this geometry

    def project(x: Tensor) -> Tensor:
        return projector.forward(x / 255) * scale

    with torch.no_grad():
        for block in (module for module in network.modules() if isinstance(module, ResBlock)):
            block.norm2.weight.fill_(1)
        for number, stage in enumerate(network.stages):
            stage.sinogram_step.fill_(1.5 - number)
            stage.image_step.fill_(4.0 + number)
            stage.consistency.fill_(0.3 + number)
        output = run(network.eval(), batch)
        li, s = batch["li"], batch["li_sinogram"]
        if name == "indudonet":
            prior_image = li + network.prior(torch.cat((batch["image"], li), 1))
        else:
            prior_image = network.prior_weights(batch["image"]) * batch["prior"]
        y = project(functional.relu(network.prior_norm(prior_image)))
        outside, measured = (batch["metal_trace"] == 0).float(), batch["ma_sinogram"]
        if changes:
            assert torch.equal(prior_image, batch["prior"])
            li, s, seen = batch["nmar"], batch["nmar_sinogram"] * y / (y**2 + 0.01), batch["image"]
            assert (y * s - batch["nmar_sinogram"])[y > 1].abs().max() < 0.011 * batch["nmar_sinogram"].max()
            seen_sinogram = measured * y / (y**2 + 0.01)
        else:
            seen, seen_sinogram = li, s
        box = torch.full((3, 1, 3, 3), 1 / 9)
        x_state = network.first_prox(torch.cat((li, functional.conv2d(seen, box, padding=1)), 1))
        s_state = network.first_sinogram_prox(torch.cat((s, functional.conv2d(seen_sinogram, box, padding=1)), 1))
        images, sinograms = [], []
        for stage in network.stages:
            x, s = x_state[:, :1], s_state[:, :1]
            gradient = y * (y * s - project(x)) + stage.consistency * outside**2 * y * (y * s - measured)
            s_state = stage.sinogram_prox(torch.cat((s - stage.sinogram_step / 10 * gradient, s_state[:, 1:]), 1))
            difference = 4 / 255 * (project(x) - y * s_state[:, :1])
            gradient = projector.adjoint(difference) * weight
            x_state = stage.image_prox(torch.cat((x - stage.image_step / 10 * gradient, x_state[:, 1:]), 1))
            images.append(x_state[:, :1])
            sinograms.append(y * s_state[:, :1])
    for got, expected in zip((*output.images, output.image), images, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-3)
    for got, expected in zip(output.sinograms, sinograms, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-2 * expected.abs().max().item())


def test_the_warm_start_begins_as_nmar() -> None:
    """Without its two steps the untrained network answers NMAR's image and sinogram."""
    network, batch = dual_network("indudonet_plus", start="nmar"), scan_batch()
    with torch.no_grad():
        for stage in network.stages:
            stage.sinogram_step.zero_()
            stage.image_step.zero_()
        output = run(network.eval(), batch)
        y = network.scan.project(functional.relu(network.prior_norm(batch["prior"])))
    torch.testing.assert_close(output.image, batch["nmar"].clamp_min(0))
    body = y > 1
    error = (output.sinograms[-1] - batch["nmar_sinogram"])[body].abs().max()
    assert body.float().mean() > 0.3 and error < 0.011 * batch["nmar_sinogram"].max()


def test_sizes_of_images_and_sinograms_differ_where_asked() -> None:
    network = dual_network("indudonet_plus", blocks=3, sinogram_blocks=1, dilations=(1, 2))
    for stage in network.stages:
        assert [block.conv1.dilation for block in stage.image_prox.blocks] == [(1, 1), (2, 2), (1, 1)]
        assert [block.conv2.dilation for block in stage.sinogram_prox.blocks] == [(1, 1)]
    output = run(network.eval(), scan_batch())
    assert output.image.shape == (2, 1, 64, 64)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"dilations": (1, 0)}, "dilations"),
        ({"dilations": ()}, "dilations"),
        ({"sinogram_blocks": 0}, "sinogram_blocks"),
    ],
)
def test_sizes_that_cannot_be_are_refused(changes, name: str) -> None:
    with pytest.raises(UsageError, match=f"network: {name} must be 1 or more, got 0"):
        dual_network("indudonet_plus", **changes)


def test_dudonet_changes_the_sinogram_on_the_trace_alone_and_reconstructs_it() -> None:
    network, batch = dual_network("dudonet").eval(), scan_batch()
    with torch.no_grad():
        output = run(network, batch)
        (reconstructed,), (sinogram,) = output.images, output.sinograms
        outside = batch["metal_trace"] == 0
        assert torch.equal(sinogram[outside], batch["li_sinogram"][outside])
        assert not torch.equal(sinogram, batch["li_sinogram"])
        expected = Projector(SMALL, "cpu", 1).fbp(sinogram * 4 / 255) * 255
        torch.testing.assert_close(reconstructed, expected)
        correction = network.image_unet(torch.cat((reconstructed, batch["li"]), 1) / 255)
        torch.testing.assert_close(output.image, batch["li"] + correction)
        without = network(
            batch["image"], batch["li"], batch["metal_mask"], batch["li_sinogram"], 0 * batch["metal_trace"]
        )
    assert torch.equal(without.sinograms[0], batch["li_sinogram"])


def test_the_image_loss_of_dudonet_reaches_its_sinogram_network() -> None:
    network, batch = dual_network("dudonet"), scan_batch()
    (run(network, batch).image - batch["target"]).square().mean().backward()
    assert all(own.grad.any() for own in network.sinogram_unet.parameters() if own.ndim == 4)


def test_cnnmar_replaces_the_trace_in_evaluation_alone() -> None:
    network, batch = dual_network("cnnmar"), scan_batch()
    with torch.no_grad():
        trained = run(network.train(), batch)
        output = run(network.eval(), batch)
        stack = torch.cat((batch["image"], batch["hardening_corrected"], batch["li"]), 1) / 255
        estimate = batch["li"] + network.body(stack)
    assert torch.equal(trained.image, estimate) and torch.equal(output.images[0], estimate)
    projector = Projector(SMALL, "cpu", 1)
    for index in range(2):
        prior_mu = tissue_prior(estimate[index, 0] / 255, batch["metal_mask"][index, 0])
        sinogram, trace = (batch[key][index, 0] for key in ("ma_sinogram", "metal_trace"))
        _, image_mu = replace_trace(sinogram * 4 / 255, trace, prior_mu, projector)
        torch.testing.assert_close(output.image[index, 0], image_mu.clamp(0, 1) * 255, rtol=1e-5, atol=1e-4)


@names
def test_gradient_reaches_every_parameter(name: str) -> None:
    """Batch statistics make the gradient of a bias before them zero; CNNMAR has none, and only trains in training."""
    network = dual_network(name, precision="float64").double().train(name == "cnnmar")
    batch = {key: value.double() for key, value in scan_batch().items()}
    output = run(network, batch)
    assert output.image.dtype == torch.float64
    loss_of(NETWORKS[name])(output, batch).backward()
    without = [key for key, own in network.named_parameters() if own.grad is None or not own.grad.any()]
    assert without == []


def losses_of_steps(network: nn.Module, name: str, batch: dict[str, Tensor], lr: float, steps: int = 1) -> list[float]:
    """The own loss before and after so many steps."""
    optimizer, losses = torch.optim.Adam(network.parameters(), lr), []
    for _ in range(steps):
        loss = loss_of(NETWORKS[name])(run(network, batch), batch)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return [*losses, loss_of(NETWORKS[name])(run(network, batch), batch).item()]


@names
def test_a_step_lowers_the_own_loss(name: str) -> None:
    before, after = losses_of_steps(dual_network(name), name, scan_batch(), 1e-3)
    assert after < before


@names
def test_training_lowers_the_own_loss(name: str) -> None:
    losses = losses_of_steps(dual_network(name), name, scan_batch(), 5e-3, 15)
    assert losses[-1] < 0.95 * losses[0]


REDUCED: dict[str, dict[str, Any]] = {
    "indudonet": {"stages": 1, "blocks": 1, "dual_channels": 8, "prior_width": 8},
    "indudonet_plus": {"stages": 1, "blocks": 1, "dual_channels": 8},
    "dudonet": {"sinogram_width": 8, "image_width": 8},
    "cnnmar": {},
}


@names
def test_a_step_on_a_real_pair_lowers_the_own_loss(name: str, shared_data: Path) -> None:
    layout = Layout.of((*IMAGES, *SINOGRAMS))
    folder = shared_data / "syndeeplesion"
    pairs = CommunityPairs(Selection(folder / "train", mask_stack=str(folder / "testmask.npy"), limit=1, layout=layout))
    batch = {key: value[None] for key, value in pairs[0].items()}
    torch.manual_seed(0)
    before, after = losses_of_steps(build_network(name, REDUCED[name]), name, batch, 2e-4)
    assert after < before


@pytest.mark.slow
def test_three_stages_overfit_a_real_pair_in_sixty_steps(shared_data: Path) -> None:
    """From NMAR; the published start is 1.4 dB above LI by then."""
    layout, folder = Layout.of((*IMAGES, *SINOGRAMS)), shared_data / "syndeeplesion"
    pairs = CommunityPairs(Selection(folder / "train", mask_stack=str(folder / "testmask.npy"), limit=1, layout=layout))
    batch = {key: value[None] for key, value in pairs[0].items()}
    torch.manual_seed(0)
    arguments = {"stages": 3, "blocks": 1, "dual_channels": 15, "prior_width": 16, "start": "nmar"}
    network = build_network("indudonet_plus", arguments)
    losses_of_steps(network, "indudonet_plus", batch, 1e-2, 60)
    with torch.no_grad():
        image = run(network.eval(), batch).image
    psnr = [
        score(to_mu(own[0, 0].numpy()), to_mu(batch["target"][0, 0].numpy()), batch["metal_mask"][0, 0].numpy() > 0)
        for own in (image, batch["li"])
    ]
    assert psnr[0]["psnr"] > psnr[1]["psnr"] + 3


@pytest.mark.gpu
@names
def test_astra_projects_for_networks_on_a_gpu(name: str) -> None:
    """Images as on the CPU, and gradients of every parameter that are as good."""
    network, batch = dual_network(name), scan_batch()
    torch.manual_seed(0)
    other = NETWORKS[name](**DUAL[name], projector=Projector(SMALL, "cuda")).cuda()
    other.load_state_dict(network.state_dict())
    there = {key: value.cuda() for key, value in batch.items()}
    for own, given in ((network, batch), (other, there)):
        loss_of(NETWORKS[name])(run(own.train(), given), given).backward()
    with torch.no_grad():
        images = [run(own.eval(), given).image.cpu() for own, given in ((network, batch), (other, there))]
    assert (images[0] - images[1]).norm() < 5e-3 * images[0].norm()
    for key, own in network.named_parameters():
        gradient = other.get_parameter(key).grad.cpu()
        assert (gradient - own.grad).norm() <= 5e-2 * own.grad.norm() + 1e-4, key


@names
def test_each_slice_of_a_batch_is_corrected_as_if_alone(name: str) -> None:
    network, batch = dual_network(name).eval(), scan_batch(3)
    with torch.no_grad():
        together = run(network, batch).image
        alone = [run(network, {key: own[n : n + 1] for key, own in batch.items()}).image for n in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", UNFOLDED)
def test_autocast_keeps_images_and_sinograms_in_float32(name: str) -> None:
    network, batch = dual_network(name).eval(), scan_batch()
    with torch.no_grad():
        exact = run(network, batch)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = run(network, batch)
    for array in (mixed.image, *mixed.images, *mixed.sinograms):
        assert array.dtype == torch.float32
        assert (array[array != 0] != array[array != 0].bfloat16()).float().mean() > 0.9
    assert not torch.equal(mixed.image, exact.image)


@names
def test_names_of_inputs_are_those_of_forward(name: str) -> None:
    network = dual_network(name)
    signature = list(type(network).forward.__annotations__)[:-1]
    assert list(network_inputs(network)) == signature
    assert has_projector(network) and not has_projector(NETWORKS["unet"](4, 1))


@names
def test_it_is_built_with_the_presets_scanner(name: str) -> None:
    benchmark, clinical = (build_network(name, DUAL[name], preset) for preset in ("syndeeplesion", "clinical"))
    assert isinstance(benchmark.scan, Scan) and benchmark.scan.projector.device == "cpu"
    shapes = [network.scan.projector.geometry.image_shape for network in (benchmark, clinical)]
    assert shapes == [(416, 416), (512, 512)]
    if name in ("dudonet", "cnnmar"):
        assert (benchmark.scan.weighting, clinical.scan.weighting) == ("benchmark", "standard")


def test_an_unknown_start_is_refused() -> None:
    with pytest.raises(UsageError, match="start: got 'fbp', expected li or nmar"):
        build_network("indudonet_plus", {"start": "fbp"})


def test_arguments_that_are_refused_do_not_name_the_operators() -> None:
    with pytest.raises(UsageError, match=r"network dudonet: .*; it takes sinogram_width, image_width, poolings$"):
        build_network("dudonet", {"width": 3})
    with pytest.raises(UsageError, match="stages must be 1 or more, got 0"):
        build_network("indudonet", {"stages": 0})
    with pytest.raises(UsageError, match="prior_width must be 1 or more, got 0"):
        build_network("indudonet_plus", {"prior_width": 0})


@names
def test_data_of_another_scan_are_refused_in_one_line(name: str) -> None:
    network, batch = dual_network(name).eval(), scan_batch(1)
    for key in network_inputs(network):
        if (key, name) in {("metal_mask", own) for own in DUAL if own != "cnnmar"} | {("image", "dudonet")}:
            continue  # not used
        what = "sinograms of 64 x 40" if key in SINOGRAMS else "images of 64 x 40"
        with pytest.raises(
            InputError, match=f"^network: got {what}, but those of its projector have .*; give"
        ) as caught:
            run(network, batch | {key: batch[key][..., :40]})
        assert "\n" not in str(caught.value)


@names
def test_another_device_than_the_projectors_is_refused(name: str) -> None:
    network, batch = dual_network(name).eval().to("meta"), scan_batch(1)
    with pytest.raises(
        InputError, match=r"^network: got tensors on meta, but its projector computes on cpu; build both"
    ):
        run(network, {key: value.to("meta") for key, value in batch.items()})


def test_the_projector_is_no_argument_of_the_user() -> None:
    with pytest.raises(UsageError, match="got projector among its arguments, which the preset of the data"):
        build_network("cnnmar", {"projector": "x"})


def test_a_group_that_shifts_no_whole_view_is_refused_before_training() -> None:
    wanted = EquivarianceTraining(enabled=True, group_order=3)
    with pytest.raises(UsageError, match=r"group_order: got 3, which does not divide 64 views; take 2 or 4"):
        make_regularizer(dual_network("indudonet_plus"), wanted)
