"""An output folder that is whole or absent: everything is written beside it and renamed once."""

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from simulation.errors import ResourceError

logger = logging.getLogger(__name__)

LOCK, JOURNAL, KEY = ".lock", ".journal", "key"


@contextmanager
def staged(out: Path, key: str) -> Iterator[Path]:
    """Give a hidden folder beside `out`, mode 0700, that takes its place once the block is through.

    A run that was killed, interrupted or found no space leaves the folder if its journal holds records (.json); a run
    with the same key finds them. What runs with other keys left is removed. Hidden entries do not come along.

    Args:
        out: is absent or an empty folder.
        key: of all that decides what is written.

    Raises:
        ResourceError: the target holds something, cannot be written, or another run is writing it.
    """
    out = out.absolute()
    check_target(out)
    staging = out.with_name(f".{out.name}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock = _locked(staging, out)
        _take_over(staging, key)
    except OSError as error:
        raise ResourceError(f"{out}: cannot be written ({error.strerror}); choose another folder") from error
    keep, done = False, False
    try:
        yield staging
        check_target(out)
        for path in sorted(staging.glob(".*")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        os.replace(staging, out)  # an empty folder gives way
        done = True
    except OSError as error:
        keep = _has_records(staging)
        left = "what is finished waits for the same command" if keep else "nothing was left there"
        raise ResourceError(f"{out}: cannot be written ({error.strerror or error}); {left}") from error
    except KeyboardInterrupt:
        keep = _has_records(staging)
        raise
    finally:
        if not (keep or done):
            shutil.rmtree(staging, ignore_errors=True)
        lock.close()


def check_target(out: Path) -> None:
    """Refuse a target that is not absent or an empty folder.

    Raises:
        ResourceError: it holds something.
    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise ResourceError(f"{out}: is no folder; choose another name")
    if out.is_dir() and any(out.iterdir()):
        raise ResourceError(f"{out}: is not empty; nothing is ever overwritten, so choose another folder")


def _locked(staging: Path, out: Path) -> TextIO:
    """Return the staging folder's lock, of this process alone: one that it forks may outlive it for a moment."""
    while True:
        staging.mkdir(mode=0o700, exist_ok=True)
        found = staging.lstat()
        if staging.is_symlink() or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise ResourceError(
                f"{out}: its hidden folder {staging.name} is not this user's alone; choose another folder"
            )
        lock = (staging / LOCK).open("a")
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            lock.close()
            raise ResourceError(
                f"{out}: another run is writing it; wait for its end or choose another folder"
            ) from None
        try:
            if os.path.samestat(os.fstat(lock.fileno()), (staging / LOCK).stat()):
                return lock
        except FileNotFoundError:
            pass  # a run has ended since the file was opened
        lock.close()


def _take_over(staging: Path, key: str) -> None:
    """Leave what a run with the same key finished; nothing of any other."""
    place = staging / JOURNAL / KEY
    if place.is_file() and place.read_text() == key:
        if _has_records(staging):
            logger.warning("going on with a run that was interrupted: what it finished is taken over")
        return
    if _has_records(staging):
        logger.warning("removing what an interrupted run with other settings or another input has finished")
    for path in staging.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()
    place.parent.mkdir()
    place.write_text(key)


def _has_records(staging: Path) -> bool:
    return any((staging / JOURNAL).glob("*.json"))
