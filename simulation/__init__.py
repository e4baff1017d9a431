"""The simulated CT scanner: clean slices in, metal-corrupted sinograms and images out.

The names of `__all__` are the public ones; each is imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
