"""The `mar` program. Heavy modules are imported inside the commands, so that `mar --help` answers at once."""

import argparse
import errno
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

from mar_pipeline import __version__
from mar_pipeline.options import read_settings
from mar_pipeline.options.parser import CommandParser
from simulation.errors import MarError, ResourceError, UsageError, exit_codes_text

logger = logging.getLogger(__name__)

OK, SOME_FAILED, INTERRUPTED = 0, 8, 130

EPILOG = f"""\
-v, --verbose says more and -q, --quiet only warnings, before or after the command. mar COMMAND --help lists a command's
options. Results go to standard output, messages to standard error.

{exit_codes_text()}"""


def main(arguments: list[str] | None = None) -> int:
    """Run the program and return its exit code; what the user can mend is one line on standard error.

    Args:
        arguments: the command line without the program's name; None reads that of the process.
    """
    try:
        return _dispatch(sys.argv[1:] if arguments is None else arguments)
    except MarError as error:
        return _complain(str(error), error.exit_code)
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        remedy = "; free some space and start the same command again" if error.errno == errno.ENOSPC else ""
        return _complain(message + remedy, ResourceError.exit_code)
    except KeyboardInterrupt:
        return _complain(
            "interrupted; mar simulate, mar train and mar dicom go on with the same command, others start anew",
            INTERRUPTED,
        )


def _complain(message: str, exit_code: int) -> int:
    logger.debug("traceback of the error below", exc_info=True)
    sys.stderr.write(f"mar: error: {' '.join(message.split())}\n")
    return exit_code


def _dispatch(arguments: list[str]) -> int:
    commands = "\n".join(f"  {name:<10} {line}" for name, (line, _) in COMMANDS.items())
    parser = CommandParser(
        prog="mar",
        usage="mar [-h] [--version] COMMAND ...",
        description=f"CT metal artifact reduction: simulate pairs, train on them, score.\n\ncommands:\n{commands}",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"mar {__version__}")
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args(_configure_logging(arguments))
    if options.command is None:
        parser.error(f"expected a command: {', '.join(COMMANDS)}")
    if options.command not in COMMANDS:
        parser.error(f"unknown command {options.command!r}; expected one of {', '.join(COMMANDS)}")
    _, function = COMMANDS[options.command]
    return function(options.rest)


def _configure_logging(arguments: list[str]) -> list[str]:
    """Set the messages' level from -v and -q, wherever they stand, and return the other arguments."""
    verbose, quiet = {"-v", "--verbose"}, {"-q", "--quiet"}
    level = logging.INFO
    if verbose & set(arguments):
        level = logging.DEBUG
    elif quiet & set(arguments):
        level = logging.WARNING
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING, force=True)
    for package in ("simulation", "mar_pipeline"):
        logging.getLogger(package).setLevel(level)
    return [argument for argument in arguments if argument not in verbose | quiet]


def _finish(result: str, failed: list[str]) -> int:
    """Write a command's result and the items it could not do, and return the exit code."""
    sys.stdout.write(f"{result}\n")
    for item in failed:
        sys.stderr.write(f"failed: {item}\n")
    return SOME_FAILED if failed else OK


def _simulate(arguments: list[str]) -> int:
    from simulation.dataset.generate import SimulateSettings, generate

    report = generate(read_settings("simulate", SimulateSettings, arguments))
    return _finish(report["summary"], report["failed"])


def _evaluate(arguments: list[str]) -> int:
    from mar_pipeline.commands.evaluate import evaluate, read_evaluate_settings

    report = evaluate(read_evaluate_settings(arguments))
    return _finish(report.table, [f"{item.pair}: {item.reason}" for item in report.failed])


def _train(arguments: list[str]) -> int:
    from mar_pipeline.runtime.signals import noted_signals

    with noted_signals():  # from here on, as what is imported and who is met takes its time
        from mar_pipeline.commands.train import plan, train
        from mar_pipeline.runtime.processes import joined
        from mar_pipeline.training.settings import read_train_settings

        with joined() as processes:
            settings = read_train_settings(arguments)
            report = plan(settings) if settings.dry_run else train(settings)
    return _finish(report.summary, []) if processes.leads else OK


def _compare(arguments: list[str]) -> int:
    from mar_pipeline.commands.compare import CompareSettings, compare

    report = compare(read_settings("compare", CompareSettings, arguments))
    return _finish(report.table, list(report.failed))


def _equivariance(arguments: list[str]) -> int:
    from mar_pipeline.commands.equivariance import equivariance, read_equivariance_settings

    report = equivariance(read_equivariance_settings(arguments))
    return _finish(report.table, list(report.failed))


def _export(arguments: list[str]) -> int:
    parser = CommandParser(prog="mar export", description="Weights, model card, hashes and ONNX of a trained network.")
    parser.add_argument("run", metavar="RUN", help="run folder, or weights file of mar train or mar export")
    parser.add_argument("out", metavar="OUT", help="folder to write")
    parser.add_argument(
        "--onnx",
        action=argparse.BooleanOptionalAction,
        help="also write model.onnx (default: yes, except for dual-domain networks)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what is in the folder")
    options = parser.parse_args(arguments)

    from mar_pipeline.commands.export import ExportSettings, export

    return _finish(export(ExportSettings(**vars(options))).summary, [])


def _verify(arguments: list[str]) -> int:
    parser = CommandParser(prog="mar verify", description="Checks a data set for missing, damaged and altered files.")
    parser.add_argument("folder", type=Path, metavar="DIR", help="what mar simulate wrote")
    folder = parser.parse_args(arguments).folder

    from simulation.dataset.verify import verify

    found = verify(folder)
    hashes = "every file compared with its hash" if found.hashed else "no manifest, so no hashes to compare"
    count = "1 problem" if len(found.problems) == 1 else f"{len(found.problems) or 'no'} problems"
    summary = f"{found.slices} slices, {found.pairs} pairs, {hashes}: {count}"
    if found.problems and found.hashed:
        summary += "; the same mar simulate makes what is missing or unfinished, and what is damaged once it is deleted"
    sys.stdout.write("\n".join([*found.problems, f"{folder}: {summary}\n"]))
    return SOME_FAILED if found.problems else OK


def _dicom(arguments: list[str]) -> int:
    try:
        from mar_pipeline.dicom.command import dicom
    except ModuleNotFoundError as error:
        raise UsageError(
            f"mar dicom: needs {error.name}; install the extra: pip install 'mar-pipeline[clinic]'"
        ) from error

    return dicom(CommandParser(prog="mar dicom", allow_abbrev=False), arguments)


def _submit(arguments: list[str]) -> int:
    from mar_pipeline.commands.submit import as_text, submit

    parser = CommandParser(
        prog="mar submit", description="Runs a command as a job of a cluster, by submitit.", allow_abbrev=False
    )
    return _finish(as_text(submit(parser, arguments)), [])


def _info(arguments: list[str]) -> int:
    parser = CommandParser(prog="mar info", description="Versions, machine, GPU, and the names that commands accept.")
    parser.add_argument("--json", action="store_true", help="for programs")
    as_json = parser.parse_args(arguments).json

    from mar_pipeline.commands.info import as_text, collect

    facts = collect()
    sys.stdout.write(f"{json.dumps(facts, indent=2) if as_json else as_text(facts)}\n")
    return OK


COMMANDS: dict[str, tuple[str, Callable[[list[str]], int]]] = {
    "simulate": ("make pairs with and without metal from clean CT slices", _simulate),
    "verify": ("check a data set for missing, damaged and altered files", _verify),
    "train": ("train a network, plain or with EQ-Reg; a folder with a checkpoint resumes", _train),
    "compare": ("train several arms over several seeds and score them side by side", _compare),
    "evaluate": ("score methods against the truth, with a table and pictures", _evaluate),
    "equivariance": ("how far networks follow a rotation, layer by layer, with figures", _equivariance),
    "export": ("weights, model card, hashes and ONNX of a trained network", _export),
    "dicom": ("correct CT series in a DICOM folder; derived series, segmentation and report", _dicom),
    "submit": ("run another command as a job of a cluster: mar submit --gpus 2 -- train ...", _submit),
    "info": ("versions, machine, GPU, and the names that commands accept", _info),
}
