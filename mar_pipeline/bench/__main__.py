"""Runs the benchmarks that are named, all by default."""

import argparse
from collections.abc import Callable
from importlib import import_module

BENCHES = ("simulate", "data", "train", "infer", "dicom", "gpu")


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmarks that are named, all by default; each prints a line for each figure."""
    parser = argparse.ArgumentParser(prog="./scripts/bench", description=import_module("mar_pipeline.bench").__doc__)
    parser.add_argument(
        "what", nargs="*", choices=[*BENCHES, []], metavar="what", help=f"any of {', '.join(BENCHES)}; all by default"
    )
    for name in parser.parse_args(arguments).what or BENCHES:
        bench: Callable[[], None] = import_module(f"mar_pipeline.bench.{name}").main
        bench()


if __name__ == "__main__":
    main()
