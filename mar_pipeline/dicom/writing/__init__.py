"""Derived series: headers, pixels, segmentation, files that are whole or absent."""
