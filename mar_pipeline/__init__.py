"""Metal artifact reduction: evaluation, training and clinical use of the simulated scanner's data."""

__version__ = "0.1.0"
