"""Progress of long work: a bar on a terminal, a log line now and then elsewhere."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

logger = logging.getLogger(__name__)

_LOG_EVERY_S = 15.0
Item = TypeVar("Item")


def with_progress(items: Iterable[Item], total: int, task: str, unit: str) -> Iterator[Item]:
    """Yield the items as they come, and report how many are done.

    Args:
        items: what is worked on.
        total: how many there will be.
        task: what is being done, such as "simulate".
        unit: what an item is, such as "slice".
    """
    last = time.monotonic()
    bar = tqdm(items, total=total, unit=unit, desc=task, disable=not sys.stderr.isatty())
    for done, item in enumerate(bar, start=1):
        yield item
        if time.monotonic() - last > _LOG_EVERY_S and done < total:
            last = time.monotonic()
            logger.info("%s: %d of %d %ss", task, done, total, unit)
    logger.info("%s: %d of %d %ss", task, total, total, unit)
