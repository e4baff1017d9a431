"""Clean slices from five formats, all as one value: DeepLesion, NIfTI, DICOM, the community layout, the phantom."""

from simulation.sources.listing import SPLITS, is_evenly_spaced, list_slices
from simulation.sources.slices import CleanSlice, SliceRef, screen

__all__ = ["SPLITS", "CleanSlice", "SliceRef", "is_evenly_spaced", "list_slices", "screen"]
