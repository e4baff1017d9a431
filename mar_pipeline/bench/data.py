"""Crops a second that a training is fed with, from shards and from the community layout beside them.

The same 40 pairs of 416 x 416 pixels in both layouts, uncompressed in shards and gzip 4 in the community layout as
`mar simulate` writes them; batches of 16 crops of 64 x 64, mirrored and turned, through the loader of `mar train`. The
loader keeps nothing in memory: a warm set lies in the system's cache. The figure to beat is 2500 crops/s.
"""

import tempfile
import time
from typing import Literal

from mar_pipeline.bench.measure import say
from mar_pipeline.data import IMAGE, DataSettings, make_loaders
from mar_pipeline.data.batches import PairLoader
from simulation.dataset.generate import SimulateSettings, generate

_SLICES, _MASKS = 4, 10
_ROUNDS = 3
_REFERENCE = "community, gzip 4"


def main() -> None:
    """Print crops a second of one process without workers, warm, and the ratio to the community layout."""
    with tempfile.TemporaryDirectory() as folder:
        community, shards = f"{folder}/community", f"{folder}/shards"
        generate(SimulateSettings(community, slices=_SLICES, masks_per_slice=_MASKS, device="cpu"))
        generate(SimulateSettings(shards, convert=community, layout="shards"))
        loaders = {_REFERENCE: _loader("community", community, 4), "shards": _loader("shards", shards, 60)}
        say(f"{_SLICES * _MASKS} pairs, 16 crops of 64 x 64 a batch, one process, best of {_ROUNDS} rounds in turns")
        rates = dict.fromkeys(loaders, (0.0, 0.0))
        for epoch in range(_ROUNDS + 1):  # the first one warms up
            for name, loader in loaders.items():
                own = _rates(loader, epoch)
                if epoch:
                    rates[name] = max(rates[name][0], own[0]), max(rates[name][1], own[1])
    for name, (wall, cpu) in rates.items():
        ratio = wall / rates[_REFERENCE][0]
        say(f"  {name:24}{wall:8.0f} crops/s {cpu:8.0f} a CPU-second {ratio:8.1f} x {_REFERENCE}")


def _loader(kind: Literal["community", "shards"], folder: str, batches: int) -> PairLoader:
    settings = DataSettings(kind, folder, batches_per_epoch=batches, rotations=True, workers=0, cache_mb=0)
    return make_loaders(settings, 0).train


def _rates(loader: PairLoader, epoch: int) -> tuple[float, float]:
    """Return crops a second that passes, and a second of the processor."""
    loader.set_epoch(epoch)
    wall, cpu = time.monotonic(), time.process_time()
    crops = sum(len(batch[IMAGE]) for batch in loader)
    return crops / (time.monotonic() - wall), crops / (time.process_time() - cpu)
