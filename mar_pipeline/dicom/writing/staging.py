"""An output folder that is whole or absent: everything is written beside it and renamed once."""

import fcntl
import glob
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mar_pipeline.dicom.errors import OutputError

logger = logging.getLogger(__name__)

LOCK = ".lock"


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A hidden folder beside `out`, mode 0700, that takes its place once the block is through.

    What a killed run left there is removed first; that of a run that still works is left alone.

    Args:
        out: is absent or an empty folder.

    Raises:
        OutputError: the target holds something or cannot be written.
    """
    out = out.absolute()
    check_target(out)
    beginning = f".{out.name}.partial-"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(out.parent, beginning)
        staging = Path(tempfile.mkdtemp(prefix=beginning, dir=out.parent))
    except OSError as error:
        raise OutputError(f"{out}: cannot be written ({error.strerror}); choose another folder") from error
    lock = (staging / LOCK).open("w")
    fcntl.lockf(lock, fcntl.LOCK_EX)  # of this process alone: one that it forks may outlive it for a moment
    try:
        yield staging
        check_target(out)
        (staging / LOCK).unlink()
        os.replace(staging, out)  # an empty folder gives way
    except OSError as error:
        raise OutputError(f"{out}: cannot be written ({error.strerror or error}); nothing was left there") from error
    finally:
        lock.close()
        shutil.rmtree(staging, ignore_errors=True)


def check_target(out: Path) -> None:
    """Refuses a target that is not absent or an empty folder.

    Raises:
        OutputError: it holds something.
    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise OutputError(f"{out}: is no folder; choose another name")
    if out.is_dir() and any(out.iterdir()):
        raise OutputError(f"{out}: is not empty; nothing is ever overwritten, so choose another folder")


def _remove_abandoned(parent: Path, beginning: str) -> None:
    for folder in parent.glob(f"{glob.escape(beginning)}*"):
        try:
            with (folder / LOCK).open("r+") as lock:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                logger.info("removing what a run left that was killed")
                shutil.rmtree(folder, ignore_errors=True)
        except (BlockingIOError, FileNotFoundError):
            continue  # a run that is at work, or has just begun
