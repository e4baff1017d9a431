from .correction import linear_interpolation, metal_trace, nmar, nmar_prior
from .dataset.community import write_case
from .dataset.reader import read_pair
from .dataset.verify import verify
from .implants.library import ImplantLibrary
from .physics.geometry import FanBeam
from .physics.projector import Projector
from .simulator import Sample, Simulator

__all__ = [
    "FanBeam",
    "ImplantLibrary",
    "Projector",
    "Sample",
    "Simulator",
    "linear_interpolation",
    "metal_trace",
    "nmar",
    "nmar_prior",
    "read_pair",
    "verify",
    "write_case",
]
