"""Data sets on disk: planned, built, read, verified and converted, in two layouts."""
