"""What `mar` does, one module a command; each runs by itself too: `python -m mar_pipeline.commands.train --help`."""

import runpy
import sys


def run_alone(command: str) -> None:
    """Run the program with a command before the words of the command line.

    Args:
        command: of `mar`.
    """
    sys.argv.insert(1, command)
    runpy.run_module("mar_pipeline", run_name="__main__", alter_sys=True)
