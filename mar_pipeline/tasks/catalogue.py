"""The tasks by name: what their data are asked for by, and what makes them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from mar_pipeline.data import DataSettings
from mar_pipeline.tasks.classification.settings import ClassificationData, ClassificationSet
from mar_pipeline.tasks.classification.task import classification_task, classification_test
from mar_pipeline.tasks.inpainting.settings import InpaintingData, InpaintingSet
from mar_pipeline.tasks.inpainting.task import inpainting_task, inpainting_test
from mar_pipeline.tasks.mar import mar_task
from mar_pipeline.tasks.rain.settings import RainData, RainSet
from mar_pipeline.tasks.rain.task import rain_task, rain_test
from mar_pipeline.tasks.task import HeldOutSet, Task, TaskContext
from simulation.errors import UsageError

TaskName = Literal["mar", "rain", "inpainting", "classification"]
SecondaryTask = Literal["rain", "inpainting", "classification"]
TaskData = DataSettings | RainData | InpaintingData | ClassificationData
TaskSet = RainSet | InpaintingSet | ClassificationSet


@dataclass(frozen=True)
class Training:
    """How a training comes to its task.

    Args:
        data: dataclass of the settings' section ``data``.
        make: network and data -> task.
    """

    data: type
    make: Callable[[TaskContext], Task]


@dataclass(frozen=True)
class Testing:
    """How an evaluation comes to its samples.

    Args:
        data: dataclass of the settings' section ``data``, a base of the training's.
        make: data -> samples and scores.
    """

    data: type
    make: Callable[[Any], HeldOutSet]


TRAININGS: dict[str, Training] = {
    "mar": Training(DataSettings, mar_task),
    "rain": Training(RainData, rain_task),
    "inpainting": Training(InpaintingData, inpainting_task),
    "classification": Training(ClassificationData, classification_task),
}
"""Task name -> its training."""

TESTS: dict[str, Testing] = {
    "rain": Testing(RainSet, rain_test),
    "inpainting": Testing(InpaintingSet, inpainting_test),
    "classification": Testing(ClassificationSet, classification_test),
}
"""Task name -> its evaluation; that of metal artifact reduction works on pairs in the community layout."""


def known_task(name: Any) -> str:
    """Return the task that the settings name, mar where they do not.

    Args:
        name: what they say.

    Raises:
        UsageError: no such task.
    """
    if name is None:
        return "mar"
    if not isinstance(name, str) or name not in TRAININGS:
        raise UsageError(f"--task: got {name!r}, expected one of {', '.join(get_args(TaskName))}")
    return str(name)
