"""Inpainting of noisy images: Poisson noise and missing pixels, supervised or not."""
