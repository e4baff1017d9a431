"""Scores of trained networks on the held-out samples of a task, upright and turned."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mar_pipeline.equivariance.fields import Fields
from mar_pipeline.equivariance.residuals import Turn
from mar_pipeline.evaluation.equivariance_error import EquivarianceError
from mar_pipeline.evaluation.method_facts import Measurements
from mar_pipeline.evaluation.methods import Method
from mar_pipeline.evaluation.score_tables import ScoreRow
from mar_pipeline.inference.fast import Precision
from mar_pipeline.networks.build import network_inputs
from mar_pipeline.tasks.task import Batch, HeldOutSet
from mar_pipeline.weights.trained import Trained
from simulation.errors import InputError, MarError

QUARTER_TURNS_DEG = (90.0, 180.0, 270.0)
_DEFAULT_INPUTS = ("image",)


@dataclass
class TaskScores:
    """What was measured of all methods.

    Args:
        rows: one per sample, method and angle.
        errors: name of a trained run -> degrees -> whole-network equivariance error.
        seconds: times of the answers to batches.
        samples: on how many samples the errors were measured.
    """

    rows: list[ScoreRow] = field(default_factory=list)
    errors: dict[str, dict[float, float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    samples: int = 0


def network_answer(trained: Trained, test: HeldOutSet, device: str, precision: Precision) -> Callable[[Batch], Tensor]:
    """Return a trained network as what answers to batches.

    Args:
        trained: the run.
        test: says which part of an answer is scored.
        device: of the network.
        precision: in which it computes.

    Returns:
        batch -> prediction on the CPU, float32.
    """
    keys = network_inputs(trained.network, _DEFAULT_INPUTS)

    def answer(batch: Batch) -> Tensor:
        inputs = [batch[key].to(device) for key in keys]
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            try:
                prediction = test.prediction(trained.network(*inputs)).float().cpu()
            except MarError:
                raise
            except (RuntimeError, TypeError, ValueError) as error:  # torch's words for shapes that do not fit
                reason = " ".join(str(error).split())[:300]
                raise InputError(f"{trained.label}: the network cannot answer to {test.name} ({reason})") from error
        if not prediction.isfinite().all():
            raise InputError(f"{trained.label}: the network answers values that are not finite")
        return prediction

    return answer


def measure(
    test: HeldOutSet, methods: Sequence[Method], measured: Measurements, equivariance_samples: int | None
) -> TaskScores:
    """Score every method on every sample.

    Args:
        test: the samples.
        methods: what answers.
        measured: takes the times.
        equivariance_samples: the least number of samples to turn, whole batches; None turns all. Those whose first
            score is measured at angles are always turned.

    Raises:
        InputError: a sample cannot be read, or a network cannot answer to it.
    """
    scores, residuals = TaskScores(), {one.name: {a: EquivarianceError() for a in QUARTER_TURNS_DEG} for one in methods}
    seconds: dict[str, float] = {one.name: 0.0 for one in methods}
    wanted, done, count = equivariance_samples, 0, len(test.samples)
    for batch in test.loader:
        size = len(next(iter(batch.values())))
        names = test.samples[done : done + size]
        turned_share = count if wanted is None else wanted
        turns = done * turned_share // count < (done + size) * turned_share // count or bool(test.angles_deg)
        for method in methods:
            prediction, spent = measured.timed(lambda: method.answer(batch))  # noqa: B023
            seconds[method.name] += spent
            scores.rows += _rows(method, names, 0.0, test.score(prediction, batch))
            if turns:
                scores.rows += _turned(test, method, batch, names, prediction, residuals[method.name])
        scores.samples += size if turns else 0
        done += size
    scores.seconds = {name: spent / count for name, spent in seconds.items()}
    if scores.samples:
        scores.errors = {
            one.name: {angle: of.value for angle, of in residuals[one.name].items()} for one in methods if one.run
        }
    return scores


def _turned(
    test: HeldOutSet,
    method: Method,
    batch: Batch,
    names: Sequence[str],
    prediction: Tensor,
    residuals: dict[float, EquivarianceError],
) -> list[ScoreRow]:
    """Return scores of the turned batch at the angles that are scored; residuals at quarter turns."""
    rows: list[ScoreRow] = []
    first = next(iter(test.scores))
    angles = [angle for angle in test.angles_deg if angle]
    straight = test.turning_output(prediction, batch)
    for angle in dict.fromkeys((*(QUARTER_TURNS_DEG if method.run else ()), *angles)):
        turn = Turn.of(angle)
        turned = {key: _turned_by(turn, x, test.fields[key]) for key, x in batch.items()}
        answer = method.answer(turned)
        if angle in residuals:
            channels = None if straight.ndim == 2 else (("trivial", straight.shape[1]),)
            residuals[angle].add(_turned_by(turn, straight, channels), test.turning_output(answer, turned))
        if angle in angles:
            rows += _rows(method, names, angle, {first: test.score(answer, turned)[first]})
    return rows


def _turned_by(turn: Turn, x: Tensor, fields: Fields | None) -> Tensor:
    """Turn a tensor; labels and logits stay as they are."""
    return x if fields is None else turn.act(x, fields, 4)


def _rows(method: Method, names: Sequence[str], angle_deg: float, scores: dict[str, list[float]]) -> list[ScoreRow]:
    own = [dict(zip(scores, values, strict=True)) for values in zip(*scores.values(), strict=True)]
    return [
        ScoreRow({"sample": name}, method.column, method.run, method.seed, {"angle_deg": angle_deg}, of_sample)
        for name, of_sample in zip(names, own, strict=True)
    ]
