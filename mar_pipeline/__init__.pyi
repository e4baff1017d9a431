from .equivariance.fields import act
from .equivariance.regularizer import EquivarianceRegularizer
from .equivariance.report import equivariance_report
from .networks import NETWORKS
from .tasks.metrics import score
from .weights.trained import load_trained

__all__ = ["NETWORKS", "EquivarianceRegularizer", "act", "equivariance_report", "load_trained", "score"]

__version__: str
