"""Classification of rotated digits: plain, strictly equivariant or regularised networks."""
