"""Every setting of a training reaches what it is for: optimiser, moving average, validation, threads, EQ-Reg."""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from training_set import write_settings, write_training_set

from mar_pipeline.commands.train import TrainReport, train
from mar_pipeline.data import IMAGE, LI, METAL_MASK, TARGET, DataSettings, make_loaders
from mar_pipeline.equivariance import EquivarianceRegularizer, weight_penalty
from mar_pipeline.networks import NetworkOutput
from mar_pipeline.sample import to_mu
from mar_pipeline.tasks.catalogue import TRAININGS, Training
from mar_pipeline.tasks.mar import mar_task
from mar_pipeline.tasks.metrics import score
from mar_pipeline.tasks.task import TaskContext
from mar_pipeline.training.regularization import make_regularizer
from mar_pipeline.training.settings import EquivarianceTraining, read_train_settings
from mar_pipeline.weights.files import load_weights
from mar_pipeline.weights.trained import load_trained
from simulation.errors import UsageError
from simulation.physics.projector_cpu import usable_cores

Run = Callable[..., tuple[Path, TrainReport]]
PLAIN = {"enabled": False}


@pytest.fixture
def data(small_scanner: None, tmp_path: Path) -> Path:
    return write_training_set(tmp_path / "data")


@pytest.fixture
def run(data: Path, tmp_path: Path) -> Iterator[Run]:
    """Trains with some settings changed: the run folder and the report."""
    threads = torch.get_num_threads()

    def start(name: str = "run", **sections: object) -> tuple[Path, TrainReport]:
        file = write_settings(tmp_path / f"{name}.yaml", data, **sections)
        return tmp_path / name, train(read_train_settings([f"--settings={file}", f"--run={tmp_path / name}"]))

    yield start
    torch.set_num_threads(threads)


def metrics(folder: Path) -> list[dict[str, float]]:
    """The rows of metrics.csv without their empty cells."""
    with (folder / "metrics.csv").open() as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


@dataclass
class Step:
    """Weights before and after one step of the optimiser, and the gradients it was given."""

    before: list[Tensor]
    gradients: list[Tensor]
    after: list[Tensor] = field(default_factory=list)


@pytest.fixture
def steps() -> Iterator[list[Step]]:
    """All steps that optimisers make."""
    made: list[Step] = []

    def copies(optimizer: Any, attribute: str) -> list[Tensor]:
        weights = optimizer.param_groups[0]["params"]
        return [getattr(weight, attribute).detach().clone().double() for weight in weights]

    def before(optimizer: Any, *_: Any) -> None:
        made.append(Step(copies(optimizer, "data"), copies(optimizer, "grad")))

    def after(optimizer: Any, *_: Any) -> None:
        made[-1].after = copies(optimizer, "data")

    handles = [register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)]
    yield made
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_steps_are_the_formula_of_the_optimiser(run: Run, steps: list[Step], name: str) -> None:
    lr, (first, second), decay = 1e-2, (0.3, 0.8), 0.5
    optimizer = {"name": name, "lr": lr, "betas": [first, second], "weight_decay": decay, "milestones": [1]}
    run(epochs=2, data={"batches_per_epoch": 2}, equivariance=PLAIN, optimizer=optimizer | {"gamma": 0.1})
    assert len(steps) == 4
    means = squares = [torch.zeros_like(weight) for weight in steps[0].before]
    for count, (step, rate) in enumerate(zip(steps, (lr, lr, lr / 10, lr / 10), strict=True), 1):
        pairs = list(zip(step.before, step.gradients, strict=True))
        gradients = [g + decay * w if name == "adam" else g for w, g in pairs]
        means = [first * m + (1 - first) * g for m, g in zip(means, gradients, strict=True)]
        squares = [second * v + (1 - second) * g**2 for v, g in zip(squares, gradients, strict=True)]
        for weight, mean, square, after in zip(step.before, means, squares, step.after, strict=True):
            move = mean / (1 - first**count) / ((square / (1 - second**count)).sqrt() + 1e-8)
            shrunk = weight * (1 - rate * decay) if name == "adamw" else weight
            torch.testing.assert_close(after, shrunk - rate * move, rtol=1e-5, atol=1e-3 * rate)


def test_gradients_are_clipped_to_the_norm_and_keep_their_direction(run: Run, steps: list[Step]) -> None:
    limit = 1e-3
    for name, clip in (("free", None), ("clipped", limit)):
        run(name, epochs=1, equivariance=PLAIN, optimizer={"clip_norm": clip})
    gradients = [torch.cat([g.flatten() for g in step.gradients]) for step in steps]
    free, clipped = gradients[:3], gradients[3:]
    assert all(own.norm() > 10 * limit for own in free)
    assert [own.norm().item() for own in clipped] == pytest.approx([limit] * 3, rel=1e-3)
    torch.testing.assert_close(clipped[0], limit * free[0] / free[0].norm(), rtol=1e-3, atol=1e-9)


def test_moving_average_is_its_formula_and_is_what_is_validated_and_kept(
    run: Run, steps: list[Step], data: Path
) -> None:
    decay = 0.9
    folder, report = run(epochs=1, equivariance=PLAIN, optimizer={"lr": 1e-2, "ema_decay": decay})
    average = steps[0].before
    for step in steps:
        average = [decay * old + (1 - decay) * new for old, new in zip(average, step.after, strict=True)]
    last = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    kept, _ = load_weights(folder / "checkpoints" / "best.safetensors")
    trained = load_trained(folder).network
    names = [name for name, _ in trained.named_parameters()]
    for name, expected in zip(names, average, strict=True):
        torch.testing.assert_close(last["ema"][name].double(), expected, rtol=1e-5, atol=1e-7)
    assert kept.keys() == last["ema"].keys()
    assert all(torch.equal(kept[name], last["ema"][name]) for name in kept)
    assert not any(torch.equal(last["network"][name], kept[name]) for name in names)
    settings = read_train_settings([f"--run={folder}"])
    scores = []
    for batch in make_loaders(settings.data, settings.seed).validation:
        with torch.inference_mode():
            image = trained(batch[IMAGE], batch[LI], batch[METAL_MASK]).image
        output, truth, metal = (tensor[0, 0].numpy() for tensor in (image, batch[TARGET], batch[METAL_MASK]))
        scores.append(score(to_mu(output), to_mu(truth), metal > 0)["psnr"])
    assert report.best_score == pytest.approx(sum(scores) / len(scores), abs=1e-4)


def test_epochs_between_validations(run: Run) -> None:
    folder, _ = run(epochs=5, validate_every=2, equivariance=PLAIN, data={"batches_per_epoch": 1})
    rows = metrics(folder)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["epoch"] for row in rows if "psnr" in row] == [2, 4, 5]


@pytest.mark.parametrize("threads", [usable_cores() + 1, None])
def test_threads_are_those_asked_for_or_the_usable_cores(run: Run, threads: int | None) -> None:
    torch.set_num_threads(usable_cores() + 2)
    folder, _ = run(threads=threads, epochs=1, equivariance=PLAIN, data={"batches_per_epoch": 1})
    assert torch.get_num_threads() == (threads or usable_cores())
    assert json.loads((folder / "report.json").read_text())["threads"] == torch.get_num_threads()


@dataclass
class Seen:
    """What the loss of a task was given in one step."""

    output: NetworkOutput
    batch: dict[str, Tensor]

    @property
    def turns(self) -> int:
        """n of the prepared batch."""
        first, second = self.batch[IMAGE].chunk(2)
        return next(n for n in (1, 2, 3) if torch.equal(torch.rot90(first, n, (-2, -1)), second))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Seen]:
    """Every step of trainings whose task itself has no loss: what is left is the regularisation."""
    steps: list[Seen] = []

    def silenced(*arguments: Any) -> Any:
        def loss(output: NetworkOutput, batch: dict[str, Tensor]) -> Tensor:
            steps.extend([Seen(output, batch)] * torch.is_grad_enabled())  # without: what an empty image would cost
            return 0 * output.image.sum()

        return replace(mar_task(*arguments), loss=loss)

    monkeypatch.setitem(TRAININGS, "mar", Training(DataSettings, silenced))
    return steps


ONE_STEP = {"epochs": 1, "data": {"batches_per_epoch": 1}, "optimizer": {"lr": 1e-30}}
"""A training whose weights stay as they are."""


@pytest.mark.parametrize("output_weight", [0.0, 1.3])
def test_loss_is_the_weighted_sum_of_layers_and_correction(run: Run, seen: list[Seen], output_weight: float) -> None:
    folder, _ = run(equivariance={"weight": 0.7, "output_weight": output_weight}, **ONE_STEP)
    (row,), (step,) = metrics(folder), seen
    expected = 0.7 * row["equivariance_layers"] + output_weight * row["equivariance_output"]
    assert row["loss"] == pytest.approx(expected, rel=1e-5)
    first, second = (step.output.image - step.batch[LI]).detach().double().chunk(2)
    residual = torch.rot90(first, step.turns, (-2, -1)) - second
    variance = (first.var(correction=0) + second.var(correction=0)) / 2
    assert row["equivariance_output"] == pytest.approx((residual.square().mean() / variance).item(), rel=1e-3)
    assert row["equivariance_output"] > 0.01


def test_penalty_of_the_filters_is_that_of_the_layers_asked_for(run: Run, seen: list[Seen]) -> None:
    section = {"weight": 0.0, "weight_space": 3.0, "layers": ["unet.first.0"]}
    folder, _ = run(equivariance=section, **ONE_STEP)
    network = load_trained(folder).network
    chosen, every = weight_penalty(network, layers=("unet.first.0",)).item(), weight_penalty(network).item()
    assert chosen != pytest.approx(every, rel=1e-2)
    assert metrics(folder)[0]["loss"] == pytest.approx(3 * chosen, rel=1e-5)


def test_rotations_are_others_in_every_epoch_and_for_every_seed(run: Run, seen: list[Seen]) -> None:
    for seed in (0, 1):
        run(f"seed{seed}", epochs=3, seed=seed, data={"batches_per_epoch": 6})
    turns = [step.turns for step in seen]
    epochs = {tuple(turns[start : start + 6]) for start in range(0, 36, 6)}
    assert len(epochs) == 6
    assert set(turns) == {1, 2, 3}


def test_output_term_sees_what_the_network_adds_to_li(data: Path, tmp_path: Path) -> None:
    file = write_settings(tmp_path / "s.yaml", data)
    settings = read_train_settings([f"--settings={file}", f"--run={tmp_path / 'run'}"])
    task = mar_task(TaskContext(settings.network.name, settings.network.arguments, settings.data, 0))
    batch = next(iter(task.loaders.train))
    correction = torch.rand_like(batch[LI])
    output = NetworkOutput(batch[LI] + correction, (), ())
    torch.testing.assert_close(task.turning_output(output, batch), correction, rtol=0, atol=1e-4)
    assert not task.turning_output(NetworkOutput(batch[LI], (), ()), batch).any()


def convolutions() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.Conv2d(4, 4, 3, bias=False))


def regularizer_of(network: nn.Module, **wanted: Any) -> EquivarianceRegularizer:
    made = make_regularizer(network, EquivarianceTraining(enabled=True, **wanted))
    assert made is not None
    made.attach()
    return made


def step_of(regularizer: EquivarianceRegularizer, network: nn.Module, samples: int = 8) -> tuple[Tensor, float]:
    """One step on random images: the prepared batch and the loss."""
    images = torch.randn((samples, 1, 12, 12), generator=torch.Generator().manual_seed(1))
    (prepared,) = regularizer.prepare(images)
    return prepared, regularizer.loss(network(prepared)).item()


@pytest.mark.parametrize(("fraction", "samples"), [(0.25, 4), (0.5, 8), (1.0, 16)])
def test_share_of_the_batch_that_is_turned(fraction: float, samples: int) -> None:
    network = convolutions()
    prepared, _ = step_of(regularizer_of(network, batch_fraction=fraction), network)
    assert len(prepared) == samples


def test_only_every_kth_step_is_regularised_with_k_times_the_weight() -> None:
    network = convolutions()
    single, every = step_of(regularizer_of(network), network)[1], regularizer_of(network, every_k=3)
    losses = [step_of(every, network)[1] for _ in range(6)]
    assert [loss > 0 for loss in losses] == [True, False, False] * 2
    assert losses[0] == pytest.approx(3 * single, rel=1e-5)


@pytest.mark.parametrize(("mode", "factor"), [("relative", 1), ("mse", 9), ("paper", 3)])
def test_modes_differ_in_what_the_scale_of_the_output_does(mode: str, factor: float) -> None:
    network = convolutions()
    regularizer = regularizer_of(network, mode=mode, layers=("1",))
    before = step_of(regularizer, network)[1]
    with torch.no_grad():
        network[1].weight *= 3
    regularizer.reseed(0)
    assert step_of(regularizer, network)[1] == pytest.approx(factor * before, rel=1e-4)


def test_layers_are_those_asked_for_and_weights_multiply_their_terms() -> None:
    network = convolutions()
    regularizer = regularizer_of(network, layers=("0",), weight=2.0, output_weight=5.0)
    _, loss = step_of(regularizer, network)
    assert set(regularizer.values) == {"0", "output"}
    assert loss == pytest.approx(2 * regularizer.values["0"] + 5 * regularizer.values["output"], rel=1e-5)


def test_group_of_half_turns_turns_by_them_alone() -> None:
    network = convolutions()
    regularizer = regularizer_of(network, group_order=2)
    for _ in range(4):
        first, second = step_of(regularizer, network)[0].chunk(2)
        assert torch.equal(first.flip((-2, -1)), second)


def test_options_win_wherever_they_stand(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("epochs: 3\noptimizer: {lr: 0.1}\n")
    settings = read_train_settings(["--epochs", "7", f"--settings={file}", "--run", "run"])
    assert (settings.epochs, settings.optimizer.lr) == (7, 0.1)


@pytest.mark.parametrize("content", [b"optimizer: null\n", b"data: 5\n", b"optimizer: []\n", b"\xff\xfea\x00"])
def test_files_that_are_no_settings_are_refused_in_one_line(tmp_path, content):
    file = tmp_path / "settings.yaml"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=r"^--settings"):
        read_train_settings([f"--settings={file}", "--run", "run"])
