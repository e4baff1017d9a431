"""Clean slices from six formats, all as one value: DeepLesion, NIfTI, DICOM, community layout, CT-MAR, the phantom."""

from simulation.sources.listing import SPLITS, is_evenly_spaced, list_slices
from simulation.sources.slices import CleanSlice, SliceRef, screen

__all__ = ["SPLITS", "CleanSlice", "SliceRef", "is_evenly_spaced", "list_slices", "screen"]
