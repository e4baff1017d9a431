"""The simulated CT scanner: clean slices in, metal-corrupted sinograms and images out."""
