"""The benchmark's scanner with fewer, larger pixels, on which a pair takes milliseconds, and what lies in it.

Its views can be halved twice and still be shifted by a quarter turn.
"""

import numpy as np

from simulation.physics.geometry import FanBeam

SIZE = 64
SMALL = FanBeam((SIZE, SIZE), 2.4, 400.0, 400.0, 64, 81, 434.4 / 81)
NAME = "syndeeplesion"
PROGRAM = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the test's own process does with Ctrl-C
from dataclasses import replace
from simulation.physics import protocols
from simulation.physics.geometry import FanBeam
protocols.PROTOCOLS["{NAME}"] = replace(protocols.PROTOCOLS["{NAME}"], geometry={SMALL!r})
from mar_pipeline.cli import main
if __name__ == "__main__":
    sys.exit(main())
"""
"""The program `mar` on this scanner, for `python -c`."""


def disc(radius, size=SIZE, row=0.0, column=0.0):
    """Bool (size, size), centre relative to the middle, in pixels."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return (y - row) ** 2 + (x - column) ** 2 < radius**2


def body_hu(kind="clean", tissue_hu=40, bone_column=12):
    """HU (64, 64) of a round body with a bone; kind "metal" holds metal, "empty" next to nothing."""
    hu = np.where(disc(4 if kind == "empty" else 26), tissue_hu, -1000)
    hu[disc(5, column=bone_column)] = 900
    if kind == "metal":
        hu[30:34, 20:24] = 5000
    return hu
