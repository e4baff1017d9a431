import io

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from mar_pipeline.equivariance.feature_maps import turned_maps
from mar_pipeline.equivariance.figures import feature_figure
from mar_pipeline.equivariance.report import equivariance_report
from mar_pipeline.equivariance.strict import StrictImageNetwork


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(4)


def plain_network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(8, 1, 3, padding=1))


def smooth_image(size: int = 32) -> Tensor:
    line = torch.linspace(-1, 1, size)
    return torch.exp(-((line[:, None] - 0.2) ** 2 + 2 * (line + 0.1) ** 2) * 6)[None, None]


def texts(figure: Figure) -> str:
    return "\n".join([text.get_text() for text in figure.texts] + [axes.get_title() for axes in figure.axes])


@pytest.mark.parametrize("angle_deg", [90, 180, 270])
def test_maps_of_a_strict_layer_turn_back_onto_themselves(angle_deg: float) -> None:
    found = turned_maps(StrictImageNetwork(groups=3, depth=1), smooth_image(), angle_deg, count=3)
    assert found.layer == "layers.3"
    assert sorted(found.names) == ["group 0", "group 1", "group 2"]
    torch.testing.assert_close(found.turned_back, found.maps, atol=1e-5, rtol=0)
    assert found.centred_error < 1e-5


def test_maps_of_a_plain_layer_do_not_and_the_error_is_that_of_the_report() -> None:
    network, x = plain_network(), torch.randn(2, 1, 16, 16)
    found = turned_maps(network, x, 90, "0")
    assert float((found.turned_back - found.maps).norm() / found.maps.norm()) > 0.5
    row = equivariance_report(network, x[:1], angles_deg=[90], layers="0").layers[0]
    assert found.centred_error == pytest.approx(row.centred_error, rel=1e-6)
    assert network.training
    assert not any(module._forward_hooks for module in network.modules())


def test_a_map_is_copied_before_an_activation_writes_into_it() -> None:
    assert turned_maps(plain_network(), torch.randn(1, 1, 16, 16), 90, "0").maps.min() < 0


def test_between_orientations_the_mean_of_each_group_is_compared_in_a_disk() -> None:
    found = turned_maps(StrictImageNetwork(groups=3, depth=1), smooth_image(), 120, "layers.0", border=2)
    assert [name.endswith(", mean") for name in found.names] == [True, True]
    assert found.compared is not None
    assert 0 < int(found.compared.sum()) < found.compared.numel()
    assert 0 < found.centred_error < 0.5


def test_the_maps_that_vary_most_are_taken() -> None:
    layer = nn.Conv2d(1, 3, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.1, 3.0, -1.0]).view(3, 1, 1, 1))
    assert turned_maps(layer, smooth_image(), 90, "").names == ("channel 1", "channel 2")
    fields = [("trivial", 1), ("free", 1), ("trivial", 1)]
    assert turned_maps(layer, smooth_image(), 90, "", fields=fields).names == ("channel 2", "channel 0")


@pytest.mark.parametrize(
    ("layer", "message"), [("nowhere", "nowhere"), ("*", "fits 2 layers"), ("unused", "is not called")]
)
def test_a_layer_that_cannot_be_shown_is_refused(layer: str, message: str) -> None:
    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(1, 8, 3)

        def forward(self, image: Tensor) -> Tensor:
            return self.used(image)

    with pytest.raises(ValueError, match=message):
        turned_maps(Skips(), smooth_image(), 90, layer)


def test_the_figure_shows_every_network_with_its_error() -> None:
    networks = {"Plain": plain_network(), "Strict": StrictImageNetwork(groups=2, depth=1)}
    figure = feature_figure(networks, torch.randn(1, 1, 32, 32), 90)
    written = texts(figure)
    for text in ("Plain", "Strict", "layer 0", "layer layers.3", "relative error", "rotated by 90°", "group 0"):
        assert text in written
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == 2 + 3 * 4
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    assert buffer.getbuffer().nbytes > 10_000


def test_the_differences_shown_are_the_differences() -> None:
    network, x = plain_network(), torch.randn(1, 1, 24, 24)
    figure = feature_figure({"Plain": network}, x, 90, "0", maps=1)
    shown = [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images][2:]
    found = turned_maps(network, x, 90, "0", count=1)
    np.testing.assert_allclose(shown[0], found.maps[0].numpy())
    np.testing.assert_allclose(shown[2], (found.turned_back - found.maps)[0].numpy(), atol=1e-6)


def test_what_an_interpolated_rotation_loses_is_grey() -> None:
    figure = feature_figure({"Plain": plain_network()}, smooth_image(48), 120, {"Plain": "0"})
    rotated = figure.axes[1].images[0].get_array()
    assert np.ma.getmaskarray(rotated)[0, 0]
    assert not np.ma.getmaskarray(rotated)[24, 24]
    assert "floor" in texts(figure)


def test_a_constant_map_can_be_shown() -> None:
    layer = nn.Conv2d(1, 4, 1)
    nn.init.zeros_(layer.weight)
    assert feature_figure({"Constant": layer}, smooth_image(), 90).axes


def test_long_names_are_shortened() -> None:
    label = "a network with a very long label of many words " * 4
    assert max(map(len, texts(feature_figure({label: plain_network()}, smooth_image(), maps=1)).splitlines())) < 80


def test_nothing_to_show_is_refused() -> None:
    with pytest.raises(ValueError, match="got 0 networks"):
        feature_figure({}, smooth_image())
    with pytest.raises(ValueError, match="0 maps"):
        feature_figure({"Plain": plain_network()}, smooth_image(), maps=0)
