"""Trained networks made fast on a CPU."""
