"""`mar evaluate`: scores of methods on held-out pairs, or on the samples of another task, as tables and pictures."""

import logging

from mar_pipeline.commands import run_alone
from mar_pipeline.evaluation.files import EvaluateReport
from mar_pipeline.evaluation.settings import EvaluateSettings
from mar_pipeline.evaluation.task_settings import TaskEvaluateSettings
from mar_pipeline.options import read_settings, value_of

__all__ = ["EvaluateReport", "EvaluateSettings", "TaskEvaluateSettings", "evaluate", "read_evaluate_settings"]

logger = logging.getLogger(__name__)


def read_evaluate_settings(arguments: list[str]) -> EvaluateSettings | TaskEvaluateSettings:
    """Return settings from the command line after ``mar evaluate``; the task decides which keys there are.

    Args:
        arguments: options, and files with ``--settings``.

    Raises:
        UsageError: for an unknown key, a wrong type or a missing value, by name.
    """
    task = value_of("task", arguments)
    if task in (None, "mar"):
        return read_settings("evaluate", EvaluateSettings, arguments)
    from mar_pipeline.tasks.catalogue import TESTS, known_task

    return read_settings("evaluate", TaskEvaluateSettings, arguments, {"data": TESTS[known_task(task)].data})


def evaluate(settings: EvaluateSettings | TaskEvaluateSettings) -> EvaluateReport:
    """Score methods and write results.csv, table.md, report.json and the pictures.

    Args:
        settings: what to score.

    Raises:
        UsageError: unknown methods, or impossible settings.
        InputError: the data or a run cannot be used, or every pair failed.
        NothingToProcessError: no pair has a known mask.
        ResourceError: the folder holds an earlier result, or cannot be written.
        OSError: a file cannot be written.

    Example:
        >>> import tempfile
        >>> from simulation.dataset.generate import generate
        >>> from simulation.dataset.settings import SimulateSettings
        >>> folder = tempfile.mkdtemp()
        >>> _ = generate(SimulateSettings(f"{folder}/data", slices=1, masks_per_slice=1))
        >>> report = evaluate(EvaluateSettings(f"{folder}/data", f"{folder}/out", methods=("input", "li"), figures=0))
        >>> [row.method for row in report.rows]
        ['input', 'li']
    """
    if isinstance(settings, EvaluateSettings):
        from mar_pipeline.evaluation.pairs import evaluate_pairs

        report = evaluate_pairs(settings)
    else:
        from mar_pipeline.evaluation.samples import evaluate_samples

        report = evaluate_samples(settings)
    logger.info("evaluate: %s", report.where(settings.out))
    return report


if __name__ == "__main__":
    run_alone("evaluate")
