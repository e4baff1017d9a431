import csv
import io
import json
import logging
import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from mar_pipeline.equivariance.fields import act
from mar_pipeline.equivariance.penalty import residual_penalty
from mar_pipeline.equivariance.report import WHOLE_NETWORK, equivariance_report
from mar_pipeline.equivariance.residuals import ResidualSums, Turn
from mar_pipeline.equivariance.strict import StrictImageNetwork


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(11)


def plain_network(channels: int = 8) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(channels), nn.Conv2d(channels, 1, 3, padding=1)
    )


class Answer(NamedTuple):
    image: Tensor
    images: tuple[Tensor, ...]


class TwoInputs(nn.Module):
    """Adds its convolved first input to its second one, and answers with more than one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, image: Tensor, mask: Tensor) -> Answer:
        return Answer(self.convolution(image) + mask, (image,))


class Classifier(nn.Module):
    """The class is the quadrant with the most light."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        self.first(image)
        return nn.functional.adaptive_avg_pool2d(image, 2).flatten(1)


def test_a_strict_network_has_no_error_in_any_layer() -> None:
    network = StrictImageNetwork(groups=2, depth=2).double()
    report = equivariance_report(network, torch.randn(2, 1, 12, 12, dtype=torch.float64))
    assert {row.layer for row in report.layers} == {"layers.0", "layers.3", "layers.6", "layers.9"}
    assert {row.angle_deg for row in report.network} == {90, 180, 270}
    for row in (*report.network, *report.layers):
        assert row.error <= row.centred_error < 1e-12
        assert row.floor == row.centred_floor == 0
    assert all(row.eq_r_db is not None and row.eq_r_db > 200 for row in report.network)
    assert report.left_out == ()


def test_a_random_network_is_as_wrong_as_unrelated_maps() -> None:
    report = equivariance_report(plain_network(16), torch.randn(2, 1, 32, 32), angles_deg=[90])
    first = next(row for row in report.layers if row.layer == "0")
    assert first.fields == (("regular", 4),)
    assert 1.1 < first.centred_error < 1.6
    last = next(row for row in report.layers if row.layer == "3")
    assert last.fields == (("trivial", 1),)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_centred_error_is_the_root_of_the_relative_penalty(n: int) -> None:
    network, x = plain_network(10).eval(), torch.randn(2, 1, 16, 16) + 3
    fields = (("regular", 2), ("trivial", 2))
    row = equivariance_report(network, x, angles_deg=[90 * n]).layers[0]
    assert row.fields == fields
    with torch.no_grad():
        maps, of_turned = network[0](x), network[0](act(x, n, [("trivial", 1)]))
        penalty = residual_penalty(maps, of_turned, n, fields).item()
        residual = act(maps, n, fields) - of_turned
    assert row.centred_error == pytest.approx(math.sqrt(penalty), rel=1e-5)
    energy = (maps.norm() ** 2 + of_turned.norm() ** 2) / 2
    assert row.error == pytest.approx(float(residual.norm() / energy.sqrt()), rel=1e-5)


def test_an_offset_hides_the_error_but_not_the_centred_one() -> None:
    network, x = plain_network(), torch.randn(2, 1, 16, 16)
    before = equivariance_report(network, x, angles_deg=[90]).layers[0]
    nn.init.constant_(network[0].bias, 100.0)
    after = equivariance_report(network, x, angles_deg=[90]).layers[0]
    assert after.error < 0.05 < before.error
    assert after.centred_error == pytest.approx(before.centred_error, rel=0.05)


def test_batches_do_not_change_the_numbers() -> None:
    network, x = plain_network(), torch.randn(5, 1, 16, 16)
    whole = equivariance_report(network, x, angles_deg=[90, 30])
    parts = equivariance_report(network, x, angles_deg=[90, 30], batch_size=2)
    for row, other in zip(whole.network + whole.layers, parts.network + parts.layers, strict=True):
        assert (row.layer, row.angle_deg) == (other.layer, other.angle_deg)
        for name in ("error", "centred_error", "floor", "centred_floor"):
            assert getattr(row, name) == pytest.approx(getattr(other, name), rel=1e-5)


def test_modes_hooks_and_gradients_are_as_they_were() -> None:
    network = plain_network()
    network[2].eval()
    statistics = network[2].running_mean.clone()
    report = equivariance_report(network, torch.randn(2, 1, 8, 8))
    assert [module.training for module in network] == [True, True, False, True]
    assert network.training
    assert not any(module._forward_hooks for module in network.modules())
    assert torch.equal(network[2].running_mean, statistics)
    assert report.network
    with pytest.raises(ValueError, match="no classifier"):
        equivariance_report(network, torch.randn(2, 1, 8, 8), labels=torch.zeros(2))
    assert network.training
    assert not any(module._forward_hooks for module in network.modules())
    assert torch.is_grad_enabled()


def test_all_inputs_are_turned_and_the_first_tensor_is_the_output() -> None:
    network = TwoInputs()
    with torch.no_grad():
        network.convolution.weight.copy_(torch.tensor([[[[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]]]))
    x, mask = torch.randn(2, 1, 10, 10), (torch.rand(2, 1, 10, 10) > 0.5).float()
    report = equivariance_report(network, (x, mask))
    assert max(row.centred_error for row in report.network) < 1e-6
    picked = equivariance_report(network, (x, mask), output=lambda answer, image, mask: answer.images[0] * mask[:1])
    assert max(row.centred_error for row in picked.network) > 0.5


def test_eq_r_is_the_mean_square_in_decibel_of_the_range() -> None:
    network, x = plain_network(), torch.randn(1, 1, 12, 12)
    network.eval()
    with torch.no_grad():
        a, b = torch.rot90(network(x), 1, (2, 3)), network(torch.rot90(x, 1, (2, 3)))
    expected = 10 * math.log10(4.0 / float((a - b).square().mean()))
    given = equivariance_report(network, x, angles_deg=[90], data_range=2.0).network[0]
    assert given.eq_r_db == pytest.approx(expected, abs=1e-4)
    own = equivariance_report(network, x, angles_deg=[90]).network[0]
    span = float(a.max() - a.min())
    assert own.eq_r_db == pytest.approx(expected + 20 * math.log10(span / 2), abs=1e-4)


def test_other_angles_are_reported_beside_their_floor() -> None:
    """A pointwise network follows every rotation; only interpolation makes it differ."""
    line = torch.linspace(-1, 1, 32)
    x = torch.sin(9 * line[:, None] + 5 * line)[None, None]
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 1, 1))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
        network[2].weight.copy_(torch.tensor([1.0, -0.5]).view(1, 2, 1, 1))
    report = equivariance_report(network, x, angles_deg=[90, 30, 120])
    exact, *others = report.network
    assert exact.error < 1e-6
    assert exact.floor == 0
    for row in others:
        assert 0 < row.centred_error < row.centred_floor < 0.1


def test_orientations_without_the_angle_are_compared_by_their_mean() -> None:
    network, x = plain_network(), torch.randn(1, 1, 24, 24)
    row = equivariance_report(network, x, angles_deg=[45]).layers[0]
    assert row.fields == (("regular", 2),)
    with torch.no_grad():
        weight = network[0].weight.unflatten(0, (2, 4)).mean(dim=1)
        bias = network[0].bias.unflatten(0, (2, 4)).mean(dim=1)
        mean = nn.Conv2d(1, 2, 3, padding=1)
        mean.weight.copy_(weight)
        mean.bias.copy_(bias)
    expected = equivariance_report(nn.Sequential(mean), x, angles_deg=[45]).layers[0]
    assert row.error == pytest.approx(expected.error, rel=1e-4)
    assert row.centred_floor == pytest.approx(expected.centred_floor, rel=1e-4)
    eight = equivariance_report(network, x, angles_deg=[45], group_order=8).layers[0]
    assert eight.fields == (("regular", 1),)
    assert eight.error != pytest.approx(row.error, rel=1e-3)


def test_maps_too_small_for_a_disk_are_left_out_and_listed(caplog: pytest.LogCaptureFixture) -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 4, 1), nn.AdaptiveAvgPool2d(2), nn.Conv2d(4, 4, 1), nn.Upsample(scale_factor=8)
    )
    with caplog.at_level(logging.WARNING, logger="mar_pipeline.equivariance"):
        report = equivariance_report(network, torch.randn(1, 1, 16, 16), angles_deg=[90, 45])
    assert [(row.layer, row.angle_deg) for row in report.layers] == [("0", 90), ("2", 90), ("0", 45), ("2", 45)]
    assert report.left_out == ()
    with caplog.at_level(logging.WARNING, logger="mar_pipeline.equivariance"):
        report = equivariance_report(network, torch.randn(1, 1, 16, 16), angles_deg=[90, 45], border=7)
    assert [(row.layer, row.angle_deg) for row in report.layers] == [("0", 90), ("2", 90)]
    assert len(report.left_out) == 3
    assert "2 at 45 degrees: the disk of radius" in caplog.text
    assert "2 at 45 degrees: the disk" in report.to_markdown()


def test_fields_can_be_named() -> None:
    network, x = plain_network(), torch.randn(1, 1, 16, 16)
    report = equivariance_report(network, x, fields={"0": [("trivial", 4), ("free", 4)]}, angles_deg=[90, 45])
    assert [row.layer for row in report.layers] == ["0", "3", "0", "3"]
    free = equivariance_report(network, x, fields={"0": [("regular", 1), ("free", 4)]}, angles_deg=[90]).layers[0]
    with torch.no_grad():
        nn.init.normal_(network[0].weight[4:])
    changed = equivariance_report(network, x, fields={"0": [("regular", 1), ("free", 4)]}, angles_deg=[90]).layers[0]
    assert changed.error == pytest.approx(free.error)


def test_a_layer_called_twice_counts_with_both_calls() -> None:
    layer = nn.Conv2d(4, 4, 3, padding=1)
    network, x = nn.Sequential(layer, nn.ReLU(), layer), torch.randn(2, 4, 12, 12)
    once = equivariance_report(layer, x, layers=nn.Conv2d, angles_deg=[90], output_fields=[("regular", 1)])
    twice = equivariance_report(network, x, angles_deg=[90])
    assert once.layers[0].error == once.network[0].error
    assert len(twice.layers) == 1
    assert twice.layers[0].error != pytest.approx(once.layers[0].error, rel=1e-3)


def test_labels_of_a_classifier() -> None:
    """The brightest quadrant of each sample is known, and so is that of the rotated sample."""
    x = torch.rand(8, 1, 8, 8) * 0.1
    x[:4, :, :4, :4] += 1  # class 0, after 90 degrees counter-clockwise bottom left: class 2
    x[4:, :, :4, 4:] += 1  # class 1, after 90 degrees top left: class 0
    labels = torch.tensor([0] * 6 + [1] * 2)
    report = equivariance_report(Classifier(), x, labels=labels, angles_deg=[90, 180], batch_size=3)
    assert report.network == ()
    assert [(row.angle_deg, row.agreement, row.accuracy) for row in report.labels] == [
        (0, 1, 0.75),
        (90, 0, 0.25),
        (180, 0, 0),
    ]
    assert [row.accuracy for row in equivariance_report(Classifier(), x).labels] == [None] * 4


def test_the_report_as_json_csv_and_markdown() -> None:
    identity = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(identity.weight)
    report = equivariance_report(nn.Sequential(identity), torch.randn(1, 1, 9, 9), angles_deg=[90, 30])
    plain = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert plain["network"][0]["eq_r_db"] == "inf"
    assert plain["input_shapes"] == [[1, 1, 9, 9]]
    lines = list(csv.DictReader(io.StringIO(report.to_csv())))
    assert [(line["layer"], line["angle_deg"]) for line in lines] == [
        (WHOLE_NETWORK, "90"),
        (WHOLE_NETWORK, "30"),
        ("0", "90"),
        ("0", "30"),
    ]
    assert lines[2]["fields"] == "1 trivial"
    assert "| 90° " in report.to_markdown()
    assert "∞" in report.to_markdown()


def test_sinogram_layers_are_shifted() -> None:
    class Sinogram(nn.Module):
        """Twelve views that see the mean of the image's rows; a quarter turn is a shift by three views."""

        def __init__(self) -> None:
            super().__init__()
            self.views = nn.Identity()

        def forward(self, image: Tensor) -> Tensor:
            turned = [torch.rot90(image, -(view // 3), (2, 3)).mean(dim=2) * (1 + view % 3) for view in range(12)]
            self.views(torch.stack(turned, dim=2))
            return image

    fields = {"views": [("views", 1)]}
    report = equivariance_report(Sinogram(), torch.randn(2, 1, 8, 8), fields=fields, layers="views")
    assert [row.error for row in report.layers] == pytest.approx([0, 0, 0], abs=1e-6)
    other = equivariance_report(Sinogram(), torch.randn(2, 1, 8, 8), fields=fields, layers="views", angles_deg=[30])
    assert other.layers[0].error > 0.5
    assert other.layers[0].floor == 0


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.zeros(1, 8, 8), {}, "expected images"),
        ((torch.zeros(1, 1, 8, 8), torch.zeros(2, 1, 8, 8)), {}, "of one batch"),
        (torch.zeros(1, 1, 8, 9), {}, "only square images"),
        (torch.zeros(1, 1, 8, 8), {"angles_deg": [360]}, "angle: got 360"),
        (torch.zeros(1, 1, 8, 8), {"angles_deg": [math.nan]}, "angle: got nan"),
        (torch.zeros(1, 1, 8, 8), {"angles_deg": []}, "one angle"),
        (torch.zeros(1, 1, 8, 8), {"batch_size": 0}, "batch_size"),
        (torch.zeros(1, 1, 8, 8), {"layers": "nowhere"}, "nowhere"),
        (torch.zeros(1, 1, 8, 8), {"fields": {"nowhere": [("regular", 2)]}}, "nowhere"),
        (torch.zeros(1, 1, 8, 8), {"fields": {"0": [("regular", 3)]}}, "layer 0: fields"),
        (torch.zeros(1, 1, 8, 8), {"labels": torch.zeros(3)}, "labels"),
        (torch.zeros(1, 1, 8, 8), {"output": lambda answer, image: answer[0]}, "pick it with output="),
    ],
)
def test_what_cannot_be_measured_is_refused(x: Tensor, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        equivariance_report(plain_network(), x, **options)


def test_images_that_are_not_square_can_be_turned_upside_down() -> None:
    report = equivariance_report(plain_network(), torch.randn(1, 1, 8, 10), angles_deg=[180])
    assert len(report.network) == 1


def test_a_network_without_a_tensor_to_compare_is_refused() -> None:
    class Words(nn.Module):
        def forward(self, image: Tensor) -> dict[str, Tensor]:
            return {"image": image}

    with pytest.raises(ValueError, match="answers dict"):
        equivariance_report(Words(), torch.zeros(1, 1, 8, 8))


def test_turns_know_their_group() -> None:
    assert (Turn.of(120).n, Turn.of(120).order) == (1, 3)
    assert (Turn.of(-90).n, Turn.of(-90).order) == (3, 4)
    assert Turn.of(45).steps(8) == 1
    assert Turn.of(45).steps(4) is None
    assert Turn.of(540).exact
    assert not Turn.of(120).exact


def test_constant_maps_have_no_centred_error_out_of_rounding() -> None:
    sums = ResidualSums(4)
    a = torch.full((1, 4, 8, 8), 0.1)
    sums.add(a, a + 1e-8, [("regular", 1)])
    assert sums.centred_error < 1e-3
