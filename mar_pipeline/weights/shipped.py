"""Trained weights that come with the package, each with a model card beside it."""

from pathlib import Path

from simulation.errors import InputError
from simulation.files import sha256_of

_FOLDER = Path(__file__).parent / "pretrained"

SHIPPED = {"unet_small": "dc2fc21f406a1e2bd9709cfa0d3be191ee431207787248277c91ae706ac9102e"}
"""Name -> SHA-256 of ``pretrained/NAME.safetensors``. Commands take the name where they take a weights file."""


def shipped_or_path(word: str | Path) -> Path:
    """Return the file of shipped weights, or the path as it is.

    Args:
        word: a key of `SHIPPED`, unless a file or folder of that name is there; or a path.

    Raises:
        InputError: the shipped file is not the one that was shipped.
    """
    path = Path(word)
    if str(word) not in SHIPPED or path.exists():
        return path
    path = _FOLDER / f"{word}.safetensors"
    if not path.is_file() or sha256_of(path) != SHIPPED[str(word)]:
        raise InputError(f"{path}: is not the file that was shipped; install the package once more")
    return path
