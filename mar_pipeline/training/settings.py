"""Everything a training run is decided by: the keys of ``configs/train/*.yaml``."""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from mar_pipeline.data import DataSettings
from mar_pipeline.options import read_settings, settings_files, value_of
from mar_pipeline.runtime.processes import processes
from mar_pipeline.tasks.catalogue import TRAININGS, TaskData, TaskName, known_task
from simulation.errors import UsageError


@dataclass(frozen=True)
class NetworkSettings:
    """The network.

    Args:
        name: unet, dicdnet, oscnet, oscnet_plus, acdnet, indudonet, indudonet_plus, dudonet, cnnmar for metal
            artifact reduction; rcdnet for rain; inpainting_unet; cnn and strict_cnn for classification; or a torch
            class, by its import path or as a file of your own and the class in it (./mynet.py:MyNet): from two channels
            to one for metal artifact reduction, from three to three for rain and inpainting, from one to classes.
        arguments: keyword arguments of its class; empty is the published configuration.
    """

    name: str = "dicdnet"
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OptimizerSettings:
    """The optimiser, stepped once a batch.

    Args:
        name: adam, or adamw (decoupled weight decay).
        lr: learning rate at the start.
        betas: decay of Adam's first and second moments.
        weight_decay: as the optimiser means it.
        milestones: epochs after which the learning rate is multiplied by gamma.
        gamma: the factor.
        clip_norm: largest norm of all gradients together; null leaves them.
        ema_decay: validate and keep an exponential moving average of the weights, such as 0.999; null keeps the
            weights themselves.
    """

    name: Literal["adam", "adamw"] = "adam"
    lr: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    weight_decay: float = 0.0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.5
    clip_norm: float | None = None
    ema_decay: float | None = None


@dataclass(frozen=True)
class EquivarianceTraining:
    """EQ-Reg: rotation equivariance as a regulariser of the training.

    Args:
        enabled: whether the loss has the terms below.
        weight: of the mean penalty of the layers.
        output_weight: of the penalty of the whole network's output.
        weight_space: of the penalty of the filters themselves, which rotates no batch and costs next to nothing.
        mode: relative (0 equivariant, 2 uncorrelated, whatever the patch), mse, or paper (norms summed over layers,
            whose weight depends on batch and patch).
        group_order: t, the rotations are multiples of 360 / t degrees; 4 and 2 are exact, others interpolate.
        layers: names or patterns of the layers; null takes every Conv2d.
        batch_fraction: share of a batch that is kept and paired with its rotated copy; 0.5 costs what a plain step
            does, 1.0 is the public code's scheme.
        every_k: only every kth step is regularised, with k times the weight.
    """

    enabled: bool = False
    weight: float = 1.0
    output_weight: float = 0.0
    weight_space: float = 0.0
    mode: Literal["relative", "mse", "paper"] = "relative"
    group_order: int = 4
    layers: tuple[str, ...] | None = None
    batch_fraction: float = 0.5
    every_k: int = 1


@dataclass(frozen=True)
class TrainSettings:
    """Train a network, on metal-corrupted slices or for another task; a folder with a checkpoint resumes.

    Args:
        task: mar, rain, inpainting or classification; it decides what ``data`` may say (``--task rain --help`` lists
            the keys for rain).
        run: folder of the run: settings, checkpoints, metrics and pictures; if not given runs/train/ and the names of
            the settings files.
        label: what tables call the run; null takes the folder's name. Runs that differ by seed alone share a column.
        seed: decides weights, batches, crops and rotations.
        epochs: how many; a finished run goes on when this is raised.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: bfloat16 autocasts the network (loss and regulariser stay float32); auto takes bfloat16 where the
            device computes in it.
        threads: CPU threads of a process; null shares the usable cores out among the processes of the machine.
        sample_pictures: validation pairs drawn at each validation.
        validate_every: epochs between validations; the last epoch is always validated (so a run in two halves may
            have validated one epoch more than a straight one; the weights learnt are the same).
        allow_changed_settings: go on in a folder whose settings were others.
        dry_run: print the settings, the numbers of pairs, parameters and steps and an estimate of the time, and train
            nothing.
        network: see `NetworkSettings`.
        data: see the settings of the task's data, such as `DataSettings`.
        optimizer: see `OptimizerSettings`.
        equivariance: see `EquivarianceTraining`.
    """

    run: str
    task: TaskName = "mar"
    label: str | None = None
    seed: int = 0
    epochs: int = 200
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: int | None = None
    sample_pictures: int = 1
    validate_every: int = 1
    allow_changed_settings: bool = False
    dry_run: bool = False
    network: NetworkSettings = field(default_factory=NetworkSettings)
    data: TaskData = field(default_factory=DataSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    equivariance: EquivarianceTraining = field(default_factory=EquivarianceTraining)


SETTINGS_FILE = "settings.yaml"
RUNS = Path("runs") / "train"
"""Where runs lie that are not given a folder."""
FREE = (
    "run",
    "label",
    "epochs",
    "device",
    "threads",
    "sample_pictures",
    "allow_changed_settings",
    "dry_run",
    "data.workers",
    "data.cache_mb",
)
"""Keys that a resumed run may change: they decide where and how long it works, not what it learns."""


def read_train_settings(arguments: list[str]) -> TrainSettings:
    """Return settings from files and options; ``--run DIR`` alone takes those that a run was started with.

    A run that neither a file nor an option names is called after the files: ``runs/train/dicdnet_eq``.

    Args:
        arguments: the command line after ``mar train``.

    Raises:
        UsageError: for an unknown key, a wrong type or a missing value, by name.
    """
    given = [argument.partition("=")[0] for argument in arguments]
    if "--run" in given and "--settings" not in given:
        place = given.index("--run")
        run = arguments[place].partition("=")[2] or "".join(arguments[place + 1 : place + 2])
        stored = Path(run) / SETTINGS_FILE
        if len(arguments) <= 2 and not stored.is_file():
            raise UsageError(
                f"--run: {run or 'no folder'} is no training run (there is no {stored}); name one, or start a new one "
                "with --settings FILE.yaml"
            )
        if stored.is_file():
            arguments = [f"--settings={stored}", *arguments]
    files = settings_files(arguments)
    if files and value_of("run", arguments) is None:
        arguments = [*arguments, f"--run={RUNS / '_'.join(Path(file).stem for file in files)}"]
    task = known_task(value_of("task", arguments))
    return read_settings("train", TrainSettings, arguments, {"data": TRAININGS[task].data})


def check_settings(settings: TrainSettings) -> None:
    """Refuse what no data could satisfy.

    Raises:
        UsageError: an impossible number, by name.
    """
    optimizer, equivariance = settings.optimizer, settings.equivariance
    least: tuple[tuple[str, float | None, float], ...] = (
        ("--epochs", settings.epochs, 1),
        ("--seed", settings.seed, 0),
        ("--threads", settings.threads, 1),
        ("--sample-pictures", settings.sample_pictures, 0),
        ("--validate-every", settings.validate_every, 1),
        ("--optimizer.weight_decay", optimizer.weight_decay, 0),
        ("--equivariance.weight", equivariance.weight, 0),
        ("--equivariance.output_weight", equivariance.output_weight, 0),
        ("--equivariance.weight_space", equivariance.weight_space, 0),
        ("--equivariance.every_k", equivariance.every_k, 1),
        ("--equivariance.group_order", equivariance.group_order, 2),
    )
    for name, value, lowest in least:
        if value is not None and not value >= lowest:
            raise UsageError(f"{name}: got {value:g}, expected {lowest:g} or more")
    for name, value in (
        ("--optimizer.lr", optimizer.lr),
        ("--optimizer.gamma", optimizer.gamma),
        ("--optimizer.clip_norm", optimizer.clip_norm),
    ):
        if value is not None and not value > 0:
            raise UsageError(f"{name}: got {value:g}, expected more than 0")
    for name, share in (
        ("--optimizer.ema_decay", optimizer.ema_decay),
        ("--optimizer.betas", min(optimizer.betas)),
        ("--optimizer.betas", max(optimizer.betas)),
    ):
        if share is not None and not 0 <= share < 1:
            raise UsageError(f"{name}: got {share:g}, expected a number from 0 to below 1")
    if not 0 < equivariance.batch_fraction <= 1:
        raise UsageError(
            f"--equivariance.batch_fraction: got {equivariance.batch_fraction:g}, expected more than 0, at most 1"
        )
    if equivariance.enabled and not (equivariance.weight or equivariance.output_weight or equivariance.weight_space):
        raise UsageError("--equivariance.enabled: all of its weights are 0; give one, or leave it off")
    if equivariance.enabled:
        _check_kept(settings.data.batch_size, equivariance.batch_fraction)


def _check_kept(batch_size: int, fraction: float) -> None:
    """Refuse a batch of which EQ-Reg keeps no sample, or of several processes a fraction of one."""
    kept, got = batch_size * fraction, f"got {batch_size} with --equivariance.batch_fraction {fraction:g}"
    if kept < 1:
        raise UsageError(
            f"--data.batch_size: {got}: no sample is left to rotate; take a larger batch or a fraction of 1"
        )
    if processes().world > 1 and not math.isclose(kept, round(kept)):
        raise UsageError(
            f"--data.batch_size: {got}: several processes keep whole numbers of samples each, and {kept:g} is none; "
            "take another batch size or fraction"
        )


def as_plain(settings: Any) -> dict[str, Any]:
    """Return the settings as YAML and JSON hold them: nested dicts, lists, numbers and text."""

    def convert(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: convert(inner) for key, inner in value.items()}
        return [convert(inner) for inner in value] if isinstance(value, (list, tuple)) else value

    return convert(asdict(settings))


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted key; the network's arguments stay one value."""
    values: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict) and key != "arguments":
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[prefix + key] = value
    return values
