"""What a result was made with: versions of this package and its libraries."""

import platform
from importlib import metadata

LIBRARIES = (
    "mar-pipeline",
    "astra-toolbox",
    "h5py",
    "jsonargparse",
    "matplotlib",
    "monai",
    "nibabel",
    "numba",
    "numpy",
    "pillow",
    "pydicom",
    "pytorch-ignite",
    "safetensors",
    "scikit-image",
    "scipy",
    "spekpy",
    "torch",
    "xraydb",
)


def library_versions() -> dict[str, str | None]:
    """Return version of Python and of each of `LIBRARIES`, None for one that is not installed; nothing is imported."""
    return {"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}}


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
