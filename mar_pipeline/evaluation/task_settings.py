"""What an evaluation of a secondary task is asked for: the options of `mar evaluate --task TASK`."""

from dataclasses import dataclass
from typing import Literal

from mar_pipeline.tasks.catalogue import TESTS, SecondaryTask, TaskSet, known_task
from simulation.errors import UsageError


@dataclass(frozen=True)
class TaskEvaluateSettings:
    """Score networks on the held-out samples of a task, with a table and pictures.

    Args:
        task: rain, inpainting or classification; it decides what ``data`` may say.
        data: see the settings of the task's data.
        out: folder for results.csv, table.md, report.json and the pictures.
        methods: in this order: run folders and weights files of the task, and input, the sample as it is.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: in which the networks compute: float32, or bfloat16 (faster).
        equivariance_samples: the equivariance error is measured on so many samples at least, spread over the set; all
            of them if not given. Classification scores turned samples anyway and always takes all.
        overwrite: replace an earlier result in the output folder.
        figures: number of samples with a picture, spread over the set.
    """

    task: SecondaryTask
    data: TaskSet
    out: str
    methods: tuple[str, ...] = ()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    equivariance_samples: int | None = None
    overwrite: bool = False
    figures: int = 3


def check_task_settings(settings: TaskEvaluateSettings) -> None:
    """Refuse what no data could satisfy.

    Raises:
        UsageError: no such task, no method or one named twice, or an impossible number.
    """
    if known_task(settings.task) not in TESTS:
        raise UsageError(f"--task: got {settings.task}, expected one of {', '.join(TESTS)}")
    if not settings.methods or len(set(settings.methods)) < len(settings.methods):
        raise UsageError(
            f"--methods: got {' '.join(settings.methods) or 'none'}; name run folders or weights files, each once"
        )
    for option, number, least in (
        ("figures", settings.figures, 0),
        ("equivariance-samples", settings.equivariance_samples, 0),
    ):
        if number is not None and number < least:
            raise UsageError(f"--{option}: got {number}, expected {least} or more")
