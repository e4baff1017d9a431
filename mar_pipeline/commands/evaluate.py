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
        UsageError: unknown methods, impossible settings, or a folder that holds an earlier result.
        InputError: the data or a run cannot be used, the folder cannot be written, or nothing could be scored.
        OSError: a file cannot be written.
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
