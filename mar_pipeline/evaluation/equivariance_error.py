"""How far a whole network is from equivariant: the one formula of all tables."""

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass
class EquivarianceError:
    """||a - b|| / sqrt((||a||^2 + ||b||^2) / 2) of a = pi f(x) and b = f(pi x), over all samples of one rotation pi.

    0 if equivariant, sqrt 2 if unrelated and of mean zero.

    >>> import torch
    >>> error = EquivarianceError()
    >>> error.add(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    >>> round(error.value, 3)
    1.414
    """

    residual: float = 0.0
    terms: float = 0.0

    def add(self, turned: Tensor, of_turned: Tensor) -> None:
        """Add a batch: pi f(x) and f(pi x), of the same shape."""
        turned, of_turned = turned.double(), of_turned.double()
        self.residual += float((turned - of_turned).square().sum())
        self.terms += float(turned.square().sum() + of_turned.square().sum()) / 2

    @property
    def value(self) -> float:
        """Return the error; 0 where both are 0."""
        return math.sqrt(self.residual / self.terms) if self.terms else 0.0
