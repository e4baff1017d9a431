"""Pairs for training and validation: read from a data set or simulated on the fly, cropped, batched.

A sample is a dictionary of float32 tensors [1, rows, columns] under the names `IMAGE`, `LI`, `TARGET` and `METAL_MASK`;
a batch adds a leading dimension. Images are in network units (see `mar_pipeline.network_units`).
"""

from mar_pipeline.data.community import CommunityPairs
from mar_pipeline.data.loaders import Loaders, make_loaders
from mar_pipeline.data.sample import IMAGE, KEYS, LI, METAL_MASK, TARGET, Sample
from mar_pipeline.data.settings import DataSettings, check_data_settings
from mar_pipeline.data.simulated import SimulatedPairs

__all__ = [
    "IMAGE",
    "KEYS",
    "LI",
    "METAL_MASK",
    "TARGET",
    "CommunityPairs",
    "DataSettings",
    "Loaders",
    "Sample",
    "SimulatedPairs",
    "check_data_settings",
    "make_loaders",
]
