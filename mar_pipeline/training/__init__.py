"""A training run: its settings, its folder and state, and the MONAI engines that advance it."""
