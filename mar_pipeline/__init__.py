"""Metal artifact reduction: evaluation, training and clinical use of the simulated scanner's data.

The names of `__all__` are the public ones; each is imported when it is first used.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]
