"""What happens to the pixels: metal, the scan that stands in for raw data, LI, NMAR and networks."""
