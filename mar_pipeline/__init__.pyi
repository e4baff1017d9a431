from .commands.evaluate import evaluate
from .commands.train import train
from .data.dataset import PairDataset
from .dicom.run import correct_dicom
from .equivariance.fields import act
from .equivariance.regularizer import EquivarianceRegularizer
from .equivariance.report import equivariance_report
from .networks import NETWORKS
from .tasks.metrics import score
from .weights.trained import load_trained

__all__ = [
    "NETWORKS",
    "EquivarianceRegularizer",
    "PairDataset",
    "act",
    "correct_dicom",
    "equivariance_report",
    "evaluate",
    "load_trained",
    "score",
    "train",
]

__version__: str
