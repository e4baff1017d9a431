"""EQ-Reg of a training, as its settings ask for it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from mar_pipeline.equivariance import EquivarianceRegularizer, weight_penalty
from mar_pipeline.networks.build import plain, projector_of
from mar_pipeline.networks.typed_fields import typed_layers
from mar_pipeline.training.settings import EquivarianceTraining
from simulation.errors import MarError, UsageError


@contextmanager
def settings_errors() -> Iterator[None]:
    """Raise what the regulariser refuses as the settings' fault."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if isinstance(error, MarError):
            raise
        raise UsageError(f"--equivariance: {error}") from error


def make_regularizer(network: nn.Module, wanted: EquivarianceTraining) -> EquivarianceRegularizer | None:
    """Return EQ-Reg as the settings ask for it, its hooks off; None where no batch has to be rotated.

    Args:
        network: what is trained.
        wanted: the settings.

    Raises:
        UsageError: it does not fit the network.
    """
    if not wanted.enabled or not (wanted.weight or wanted.output_weight):
        return None
    projector = projector_of(network)
    if projector is not None and projector.geometry.views % wanted.group_order:
        raise UsageError(
            f"--equivariance.group_order: got {wanted.group_order}, which does not divide {projector.geometry.views} "
            "views; take 2 or 4"
        )
    try:
        typed = typed_layers(plain(network), wanted.group_order, wanted.layers)
        regularizer = EquivarianceRegularizer(
            plain(network),
            group_order=wanted.group_order,
            mode=wanted.mode,
            layers=wanted.layers,
            fields=typed.outputs,
            exclude=typed.exclude,
            weight=wanted.weight,
            output_weight=wanted.output_weight,
            batch_fraction=wanted.batch_fraction,
            every_k=wanted.every_k,
        )
    except (TypeError, ValueError) as error:
        raise UsageError(f"--equivariance: {error}") from error
    regularizer.detach()
    return regularizer


def weights_term(network: nn.Module, wanted: EquivarianceTraining) -> torch.Tensor | float:
    """Return the penalty of the weights times its weight; 0 where the settings ask for none.

    Args:
        network: what is trained.
        wanted: the settings.

    Raises:
        ValueError: it does not fit the network.
    """
    if not wanted.enabled or not wanted.weight_space:
        return 0.0
    network = plain(network)
    typed = typed_layers(network, wanted.group_order, wanted.layers)
    return wanted.weight_space * weight_penalty(network, wanted.group_order, wanted.layers, typed.ends, typed.exclude)
