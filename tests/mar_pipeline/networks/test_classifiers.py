"""Laws of the classifiers."""

from functools import partial

import pytest
import torch

from mar_pipeline.equivariance import EquivarianceRegularizer, check_structure, project_to_equivariant
from mar_pipeline.networks.classifiers import RotationCNN, StrictRotationCNN
from simulation.errors import InputError, UsageError


def relative_error(network: torch.nn.Module, image: torch.Tensor) -> float:
    """The largest over the quarter turns of ||f(x) - f(pi x)|| / sqrt((||f(x)||^2 + ||f(pi x)||^2) / 2)."""
    with torch.no_grad():
        straight = network(image)
        turned = [network(torch.rot90(image, turns, (-2, -1))) for turns in (1, 2, 3)]
    norm = torch.linalg.vector_norm
    return max(float(norm(straight - t) / ((norm(straight) ** 2 + norm(t) ** 2) / 2).sqrt()) for t in turned)


def with_strict_weights() -> RotationCNN:
    """A plain classifier whose weights, norms included, are strict by projection under its own typed fields."""
    network = RotationCNN(groups=3).eval()
    fields, _ = network.typed_ends(4)
    project_to_equivariant(network, 4, fields=fields)
    return network


def image(side: int = 16) -> torch.Tensor:
    return torch.rand(5, 1, side, side, generator=torch.Generator().manual_seed(3))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("side", [16, 28])
def test_the_strict_classifier_answers_the_same_at_quarter_turns(side: int) -> None:
    network = StrictRotationCNN(groups=3)
    network(image(side))  # the norms learn statistics: nothing is zero
    assert relative_error(network.eval(), image(side)) < 1e-5


def test_the_plain_classifier_does_not() -> None:
    assert relative_error(RotationCNN(groups=3).eval(), image()) > 1e-3


def test_typed_fields_are_those_under_which_strict_weights_make_it_invariant() -> None:
    network = with_strict_weights()
    fields, exclude = network.typed_ends(4)
    assert exclude == ()
    assert set(fields) == {name for name, layer in network.named_modules() if isinstance(layer, torch.nn.Conv2d)}
    assert relative_error(network, image()) < 1e-5


def test_eq_reg_penalises_no_strict_weights() -> None:
    network = with_strict_weights()
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):  # the statistics of a batch would differ between orientations
            layer.forward = partial(
                torch.nn.functional.batch_norm, running_mean=layer.running_mean, running_var=layer.running_var
            )  # type: ignore[method-assign]
    fields, _ = network.typed_ends(4)
    outputs = {name: after for name, (_, after) in fields.items()}
    regularizer = EquivarianceRegularizer(network.train(), fields=outputs, output_weight=1.0, batch_fraction=1.0)
    (doubled,) = regularizer.prepare(image())
    assert float(regularizer.loss(network(doubled)).detach()) < 1e-6
    assert set(regularizer.values) == {*outputs, "output"}


def test_nothing_but_the_convolutions_breaks_the_symmetry() -> None:
    assert check_structure(RotationCNN(groups=3).features, image(28)) == []


def test_both_have_the_same_features_and_the_strict_one_a_fourth_of_the_weights() -> None:
    plain, strict = RotationCNN(groups=3), StrictRotationCNN(groups=3)
    assert plain.features(image()).shape == strict.features(image()).shape

    def weights(network: torch.nn.Module) -> int:
        return sum(own.numel() for name, own in network.named_parameters() if own.dim() >= 4 and "features" in name)

    assert weights(plain) == 4 * weights(strict)


@pytest.mark.parametrize("network_class", [RotationCNN, StrictRotationCNN])
def test_as_many_logits_as_classes(network_class: type[torch.nn.Module]) -> None:
    assert network_class(groups=2, classes=7)(image()).shape == (5, 7)


def test_sizes_that_cannot_be_halved_twice_are_refused() -> None:
    with pytest.raises(InputError, match="18 x 18"):
        RotationCNN(groups=1)(image(18))


def test_impossible_sizes_of_the_network_are_refused() -> None:
    with pytest.raises(UsageError, match="kernel_size must be odd"):
        RotationCNN(kernel_size=4)
    with pytest.raises(UsageError, match="groups must be 1 or more"):
        StrictRotationCNN(groups=0)
