"""The physics of a scan: geometry, materials, spectra, detector and projectors, as functions of what they are given."""
