"""Pairs for training and validation: read from a data set or simulated on the fly, cropped, batched.

A sample is a dictionary of float32 tensors: images [1, rows, columns] under `IMAGE`, `LI`, `TARGET`, `METAL_MASK`, and
what else a `Layout` names, sinograms [1, views, bins] among it; a batch adds a leading dimension. All are in network
units (see `mar_pipeline.sample`).
"""

from mar_pipeline.data.community import CommunityPairs
from mar_pipeline.data.dataset import PairDataset
from mar_pipeline.data.loaders import Loaders, make_loaders
from mar_pipeline.data.settings import DataSettings, check_data_settings
from mar_pipeline.data.shards import ShardPairs
from mar_pipeline.data.simulated import SimulatedPairs
from mar_pipeline.sample import IMAGE, KEYS, LI, METAL_MASK, TARGET, Sample

__all__ = [
    "IMAGE",
    "KEYS",
    "LI",
    "METAL_MASK",
    "TARGET",
    "CommunityPairs",
    "DataSettings",
    "Loaders",
    "PairDataset",
    "Sample",
    "ShardPairs",
    "SimulatedPairs",
    "check_data_settings",
    "make_loaders",
]
