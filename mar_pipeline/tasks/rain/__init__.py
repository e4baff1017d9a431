"""Rain removal: RCDNet and others on synthetic rain, or on the public data sets."""
