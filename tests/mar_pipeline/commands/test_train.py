"""A run: what it learns, keeps, resumes and refuses."""

import csv
import dataclasses
import json
import math
import os
import re
import signal

import numpy as np
import pytest
import torch
import yaml
from training_set import SETTINGS, write_settings, write_training_set

from mar_pipeline.commands.train import train
from mar_pipeline.data import IMAGE, LI, METAL_MASK, TARGET, DataSettings, make_loaders
from mar_pipeline.equivariance import EquivarianceRegularizer, weight_penalty
from mar_pipeline.networks.build import ResidualNetwork, build_network, plain
from mar_pipeline.sample import to_mu
from mar_pipeline.tasks.catalogue import TRAININGS, Training
from mar_pipeline.tasks.mar import mar_task
from mar_pipeline.tasks.metrics import score
from mar_pipeline.tasks.task import TaskContext
from mar_pipeline.training.precision import AutocastInferer, autocast_dtype
from mar_pipeline.training.regularization import make_regularizer
from mar_pipeline.training.run_folder import RunFolder
from mar_pipeline.training.settings import read_train_settings
from mar_pipeline.weights.files import load_weights, save_weights
from mar_pipeline.weights.trained import load_trained
from simulation.errors import InputError, MarError, StoppedError, UsageError

CLOCKS = ("seconds", "cpu_seconds")
"""What no two runs share."""


@pytest.fixture
def data(small_scanner, tmp_path):
    return write_training_set(tmp_path / "data")


@pytest.fixture
def run(data, tmp_path):
    """Trains with some settings changed: the run folder and the report."""

    def start(name="run", **sections):
        file = write_settings(tmp_path / f"{name}.yaml", data, **sections)
        folder = tmp_path / name
        return folder, train(read_train_settings([f"--settings={file}", f"--run={folder}"]))

    return start


def metrics(folder):
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{key: value for key, value in row.items() if key not in CLOCKS} for row in rows]


def last(folder):
    return torch.load(folder / "checkpoints" / "last.pt", weights_only=True)


def same(first, second):
    """Whether two nested states hold the same bits."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        told = [key for key in first if key not in CLOCKS]
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in told)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


FULL = {"optimizer": {"ema_decay": 0.9, "clip_norm": 1.0, "milestones": [1, 3]}}


def test_two_and_two_epochs_are_four(run):
    straight, report = run("straight", **FULL)
    halves, first = run("halves", epochs=2, **FULL)
    assert (report.epochs, first.epochs) == (4, 2)
    _, second = run("halves", **FULL)
    assert (second.resumed_from, second.epochs) == (2, 4)
    assert metrics(straight) == metrics(halves)
    assert same(last(straight), last(halves))
    assert not same(last(straight)["network"], last(straight)["ema"])
    weights = [load_weights(folder / "checkpoints" / "best.safetensors")[0] for folder in (straight, halves)]
    assert same(*weights)


def test_killed_in_an_epoch_loses_that_epoch_only(run, monkeypatch):
    straight, _ = run("straight")
    seen = []
    task = mar_task

    def failing(*arguments):
        made = task(*arguments)

        def loss(output, batch):
            seen.extend([1] * torch.is_grad_enabled())  # the first epoch also asks what an empty image would cost
            if len(seen) == 8:  # the second step of the third epoch
                raise KeyboardInterrupt
            return made.loss(output, batch)

        return type(made)(**{**vars(made), "loss": loss})

    monkeypatch.setitem(TRAININGS, "mar", Training(DataSettings, failing))
    with pytest.raises(KeyboardInterrupt):
        run("killed")
    folder, report = run("killed")
    assert report.resumed_from == 2
    assert metrics(folder) == metrics(straight)
    assert same(last(folder)["network"], last(straight)["network"])


def test_checkpoint_is_written_last(run, monkeypatch):
    """Killed between best weights and checkpoint, the epoch is repeated, not skipped."""
    straight, _ = run("straight")
    save = RunFolder.save_state

    def dying(self, state):
        if len(state["rows"]) == 2:
            raise KeyboardInterrupt
        save(self, state)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_state", dying)
        with pytest.raises(KeyboardInterrupt):
            run("killed")
    folder, report = run("killed")
    assert report.resumed_from == 1
    assert metrics(folder) == metrics(straight)


def test_seed_decides(run):
    first, second, third = (run(name, seed=seed, epochs=1)[0] for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert same(last(first)["network"], last(second)["network"])
    assert not same(last(first)["network"], last(third)["network"])
    groups = {load_trained(folder).group for folder in (first, second, third)}
    assert len(groups) == 1
    assert load_trained(third).seed == 2


def test_finished_run_says_so_and_changes_nothing(run):
    folder, report = run()
    before = (folder / "checkpoints" / "last.pt").stat().st_mtime_ns
    _, again = run()
    assert again.resumed_from == again.epochs == report.epochs == 4
    assert (folder / "checkpoints" / "last.pt").stat().st_mtime_ns == before
    assert (folder / "DONE").is_file()


def test_training_lowers_the_loss_with_and_without_eq_reg(run):
    for name, enabled in (("plain", False), ("regularised", True)):
        more = {"data": {"batches_per_epoch": 15}, "optimizer": {"lr": 1e-2}}
        folder, _ = run(name, epochs=6, equivariance={"enabled": enabled}, **more)
        rows = metrics(folder)
        assert float(rows[-1]["loss"]) < 0.9 * float(rows[0]["loss"])
        assert ("equivariance_layers" in rows[0]) == enabled
    assert float(rows[-1]["equivariance_layers"]) < 0.8 * float(rows[0]["equivariance_layers"])


def test_penalty_of_the_weights_makes_filters_equivariant(run):
    found = []
    for name, weight in (("free", 1e-9), ("held", 100.0)):
        section = {"weight": 0.0, "weight_space": weight}
        folder, _ = run(name, epochs=3, equivariance=section, data={"batches_per_epoch": 10}, optimizer={"lr": 1e-2})
        found.append(weight_penalty(load_trained(folder).network).item())
        assert "equivariance_layers" not in metrics(folder)[0]
    assert found[1] < 0.5 * found[0]


def test_validation_is_the_score_of_the_kept_weights(run, data):
    folder, report = run()
    trained = load_trained(folder)
    settings = read_train_settings([f"--run={folder}"])
    scores = []
    for batch in make_loaders(settings.data, settings.seed).validation:
        with torch.inference_mode():
            image = trained.network(batch[IMAGE], batch[LI], batch[METAL_MASK]).image
        arrays = [tensor[0, 0].numpy() for tensor in (image, batch[TARGET], batch[METAL_MASK])]
        scores.append(score(to_mu(arrays[0]), to_mu(arrays[1]), arrays[2] > 0)["psnr"])
    assert len(scores) == 2
    assert report.best_score == pytest.approx(np.mean(scores), abs=1e-4)
    assert report.best_score == max(row["psnr"] for row in last(folder)["rows"])
    assert trained.best_psnr == pytest.approx(report.best_score, abs=1e-4)


def test_run_folder_tells_everything(run):
    folder, report = run(sample_pictures=1, epochs=2)
    told = json.loads((folder / "report.json").read_text())
    assert told["best"]["psnr"] == report.best_score
    assert told["data"]["train"]["pairs"] == 6
    assert told["data"]["validation"]["pairs"] == 2
    assert told["parameters"] == sum(p.numel() for p in load_trained(folder).network.parameters())
    assert len(list((folder / "samples").glob("epoch_*.png"))) == 2
    assert list((folder / "tensorboard").iterdir())
    settings = yaml.safe_load((folder / "settings.yaml").read_text())
    assert settings["network"] == SETTINGS["network"]
    assert not list(folder.rglob("*.partial"))


def test_run_alone_resumes_with_its_settings(run):
    folder, _ = run(epochs=1)
    settings = read_train_settings(["--run", str(folder), "--epochs", "2"])
    assert settings.network.arguments == SETTINGS["network"]["arguments"]
    assert train(settings).resumed_from == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network": {"arguments": {"width": 6}}}, ["network.arguments", "width"]),
        ({"data": {"batch_size": 2}}, ["data.batch_size was 4, now 2", "--allow-changed-settings"]),
        ({"seed": 5}, ["seed was 0, now 5"]),
    ],
)
def test_changed_settings_are_refused(run, changes, words):
    folder, _ = run(epochs=1)
    before = (folder / "settings.yaml").read_text()
    with pytest.raises(UsageError) as caught:
        run(epochs=2, **changes)
    assert all(word in str(caught.value) for word in words), caught.value
    assert (folder / "settings.yaml").read_text() == before


def test_changed_settings_can_be_allowed_and_are_taken(run):
    run(epochs=1)
    folder, report = run(epochs=3, optimizer={"lr": 1e-4, "milestones": [2]}, allow_changed_settings=True)
    assert report.epochs == 3
    assert [float(row["lr"]) for row in metrics(folder)] == [1e-3, 1e-4, 5e-5]


def test_checkpoint_of_another_network_is_refused(run):
    folder, _ = run(epochs=1)
    before = (folder / "checkpoints" / "last.pt").read_bytes()
    with pytest.raises(InputError, match="is not a checkpoint of this network"):
        run(epochs=2, network={"arguments": {"width": 6, "poolings": 2}}, allow_changed_settings=True)
    assert run(epochs=1)[1].epochs == 1  # the folder's own settings are still there
    assert (folder / "checkpoints" / "last.pt").read_bytes() == before


def test_truncated_checkpoint_is_refused(run):
    folder, _ = run(epochs=1)
    checkpoint = folder / "checkpoints" / "last.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be read"):
        run(epochs=2)


def test_foreign_folder_is_refused_and_left_alone(run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("x")
    with pytest.raises(MarError, match="no training run"):
        run()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_folder_that_cannot_be_made(run, tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(MarError, match="cannot be written to"):
        run()


def test_two_processes_do_not_share_a_folder(run, tmp_path):
    import filelock

    (tmp_path / "run").mkdir()
    with filelock.FileLock(tmp_path / "run" / ".lock"), pytest.raises(UsageError, match="another process"):
        run()


def test_nan_stops_with_the_last_good_checkpoint(run):
    folder, _ = run(epochs=1)
    good = (folder / "checkpoints" / "last.pt").read_bytes()
    with pytest.raises(InputError, match=r"loss became (nan|inf) in epoch 2.*last\.pt.*--optimizer\.lr") as caught:
        run(epochs=3, optimizer={"lr": 1e30}, allow_changed_settings=True)
    assert "\n" not in str(caught.value)
    assert (folder / "checkpoints" / "last.pt").read_bytes() == good
    assert not (folder / "DONE").exists()


def test_divergence_stops(run):
    folder, _ = run(epochs=1, equivariance={"enabled": False})
    with pytest.raises(InputError, match="the loss diverges"):
        run(epochs=9, optimizer={"lr": 30.0}, equivariance={"enabled": False}, allow_changed_settings=True)
    assert last(folder)["rows"]


def test_divergence_in_the_first_epoch_stops(run):
    with pytest.raises(InputError, match=r"diverges, \S+ in epoch 1 where an empty image has .* no checkpoint yet"):
        run(epochs=1, optimizer={"lr": 1e6}, equivariance={"enabled": False})


def test_sigterm_stops_and_the_same_command_goes_on(run, monkeypatch):
    straight, _ = run("straight")
    make_task, steps = mar_task, []

    def terminated(*arguments):
        task = make_task(*arguments)

        def preempted(output, batch):
            steps.extend([1] * torch.is_grad_enabled())
            if len(steps) == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            return task.loss(output, batch)

        return dataclasses.replace(task, loss=preempted)

    monkeypatch.setitem(TRAININGS, "mar", Training(DataSettings, terminated))
    with pytest.raises(StoppedError, match=r"stopped by SIGTERM after epoch \d+; the same command goes on") as caught:
        run("stopped")
    assert caught.value.exit_code == 75
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    folder, report = run("stopped")
    assert 0 < report.resumed_from < report.epochs
    assert same(last(folder)["network"], last(straight)["network"])


def test_a_validation_stops_as_well(run, monkeypatch):
    """It can last longer than a cluster waits."""
    make_task, scored = mar_task, []

    def terminated(*arguments):
        task = make_task(*arguments)

        def preempted(prediction, batch):
            scored.append(1)
            os.kill(os.getpid(), signal.SIGTERM)
            return task.score(prediction, batch)

        return dataclasses.replace(task, score=preempted)

    monkeypatch.setitem(TRAININGS, "mar", Training(DataSettings, terminated))
    with pytest.raises(StoppedError, match="stopped by SIGTERM before the end of the first epoch, with nothing saved"):
        run()
    assert len(scored) == 2  # the network and LI on one batch


def test_a_signal_while_the_program_starts_is_noted(data, tmp_path, mar, monkeypatch):
    def slow(arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return read_train_settings(arguments)

    monkeypatch.setattr("mar_pipeline.training.settings.read_train_settings", slow)
    code, _, error = mar("train", "--settings", write_settings(tmp_path / "a.yaml", data), "--run", tmp_path / "run")
    assert code == 75
    assert "stopped by SIGTERM before the end of the first epoch, with nothing saved; the same command" in error
    assert (tmp_path / "run" / "STOPPED").exists()


def test_a_run_whose_data_changed_is_refused_unless_allowed(run, data, caplog):
    """As where a slice was added meanwhile, or another one is missing."""
    run(epochs=1)
    listing = data / "train_640geo_dir.txt"
    _, *others = listing.read_text().splitlines(keepends=True)
    listing.write_text("".join(others))
    message = r"data was slices \d pairs \d+ names \w{16}, to validate .*, now slices \d pairs \d+ names \w{16}"
    with pytest.raises(UsageError, match=message):
        run()
    run(allow_changed_settings=True)
    assert re.search(message, caplog.text)


@pytest.mark.parametrize("began", [False, True])
def test_a_run_goes_on_in_the_precision_in_which_it_began(run, monkeypatch, began):
    """It may be queued again on another kind of processor."""
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: began)
    folder, _ = run(epochs=1, precision="auto")
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: not began)
    run(precision="auto")
    told = json.loads((folder / "report.json").read_text())["precision"]
    assert told == ("bfloat16" if began else "float32")


def test_an_epoch_that_never_ends_in_time_is_a_failure(run, monkeypatch):
    """Whoever starts a stopped run again has an end to it: STOPPED says go on, its absence says do not."""
    make_task = mar_task

    def terminated(*arguments):
        task = make_task(*arguments)

        def preempted(output, batch):
            os.kill(os.getpid(), signal.SIGUSR1)
            return task.loss(output, batch)

        return dataclasses.replace(task, loss=preempted)

    folder, _ = run(epochs=1)
    assert not (folder / "STOPPED").exists()
    monkeypatch.setitem(TRAININGS, "mar", Training(DataSettings, terminated))
    for times in (1, 2):
        with pytest.raises(StoppedError, match=r"stopped by SIGUSR1 after epoch 1"):
            run(epochs=2)
        noted = json.loads((folder / "STOPPED").read_text())
        assert (noted["epoch"], noted["times"]) == (1, times)
        assert not (folder / "DONE").exists()
    with pytest.raises(MarError, match="stopped 3 times in a row in epoch 2") as caught:
        run(epochs=2)
    assert caught.value.exit_code == 7
    assert not (folder / "STOPPED").exists()
    monkeypatch.setitem(TRAININGS, "mar", Training(DataSettings, make_task))
    run(epochs=2)
    assert (folder / "DONE").exists()


def gpu_is_full():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")


@pytest.mark.parametrize(
    ("allocate", "words"),
    [
        (gpu_is_full, ["--data.batch_size (4)", "--data.patch (32)"]),
        (lambda: torch.empty(10**15), ["--data.batch_size (4)"]),
        (lambda: np.empty(10**15), ["--data.batch_size (4)"]),
    ],
    ids=["CUDA", "torch", "numpy"],
)
def test_out_of_memory_names_the_knobs(run, monkeypatch, allocate, words):
    monkeypatch.setattr("mar_pipeline.networks.unet.ResidualUNet.forward", lambda *_: allocate())
    with pytest.raises(InputError, match="out of memory") as caught:
        run()
    assert all(word in str(caught.value) for word in words), caught.value


def test_weights_that_are_not_finite_never_reach_the_checkpoint(run, monkeypatch):
    """A broken gradient in the last step of an epoch without validation shows in no loss of that epoch."""
    folder, _ = run(epochs=1, validate_every=9)
    good = (folder / "checkpoints" / "last.pt").read_bytes()
    step = torch.optim.Adam.step

    def breaking(self, *arguments):
        step(self, *arguments)
        self.param_groups[0]["params"][0].data.fill_(math.nan)

    monkeypatch.setattr(torch.optim.Adam, "step", breaking)
    with pytest.raises(InputError, match=r"weights are no longer finite after epoch 2|loss became nan"):
        run(epochs=3, validate_every=9, data={"batches_per_epoch": 1}, allow_changed_settings=True)
    assert (folder / "checkpoints" / "last.pt").read_bytes() == good


def test_every_kth_step_counts_through_the_epochs(run, monkeypatch):
    turned = []
    prepare = EquivarianceRegularizer.prepare

    def watched(self, *images, **options):
        answer = prepare(self, *images, **options)
        turned.append(self.n)
        return answer

    monkeypatch.setattr(EquivarianceRegularizer, "prepare", watched)
    run("straight", epochs=4, equivariance={"every_k": 4, "batch_fraction": 1.0})
    assert [n > 0 for n in turned] == [step % 4 == 0 for step in range(12)]
    straight = list(turned)
    turned.clear()
    run("halves", epochs=2, equivariance={"every_k": 4, "batch_fraction": 1.0})
    run("halves", epochs=4, equivariance={"every_k": 4, "batch_fraction": 1.0})
    assert turned == straight


def test_killed_while_the_folder_is_made(run, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "keep", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(epochs=1)
    assert run(epochs=1)[1].epochs == 1


def test_permission_to_change_holds_once(run):
    folder, _ = run(epochs=1)
    run(epochs=2, optimizer={"lr": 1e-4}, allow_changed_settings=True)
    with pytest.raises(UsageError, match="seed was 0, now 9"):
        train(read_train_settings(["--run", str(folder), "--epochs", "3", "--seed", "9"]))


def test_lost_metrics_are_written_again(run):
    folder, _ = run(epochs=2)
    before = (folder / "metrics.csv").read_text()
    (folder / "metrics.csv").write_text("")
    run(epochs=2)
    assert (folder / "metrics.csv").read_text() == before


def test_longer_runs_and_other_workers_stay_in_their_group(run):
    first, second = run("a", epochs=1)[0], run("b", epochs=2, data={"cache_mb": 64})[0]
    third = run("c", epochs=1, optimizer={"lr": 0.01})[0]
    groups = [load_trained(folder).group for folder in (first, second, third)]
    assert groups[0] == groups[1] != groups[2]


def test_moving_average_can_be_turned_on_later(run):
    run(epochs=1)
    folder, _ = run(epochs=2, optimizer={"ema_decay": 0.9}, allow_changed_settings=True)
    assert last(folder)["ema"] is not None


def test_weights_cannot_make_python_import_anything(run, tmp_path, monkeypatch):
    folder, _ = run(epochs=1)
    weights, metadata = load_weights(folder / "checkpoints" / "best.safetensors")
    (tmp_path / "evil.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    save_weights(tmp_path / "w.safetensors", weights, {**metadata, "network": "evil.Net"})
    with pytest.raises(InputError, match="MAR_TRUST_PACKAGES=evil"):
        load_trained(tmp_path / "w.safetensors")
    assert not (tmp_path / "ran").exists()
    monkeypatch.setenv("MAR_TRUST_PACKAGES", "other,evil")
    with pytest.raises(UsageError, match=r"evil\.Net"):
        load_trained(tmp_path / "w.safetensors")
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": {"batch_size": 1}}, ["--data.batch_size", "got 1", "batch_fraction"]),
        ({"equivariance": {"weight": 0.0}}, ["--equivariance.enabled", "weights are 0"]),
        ({"equivariance": {"group_order": 99}}, ["--equivariance", "99"]),
        ({"equivariance": {"layers": ["encoder.*"]}}, ["--equivariance", "encoder.*"]),
        ({"equivariance": {"batch_fraction": 0.0}}, ["--equivariance.batch_fraction"]),
        ({"network": {"name": "resnet"}}, ["unknown network 'resnet'", "dicdnet"]),
        ({"network": {"name": "monai.networks.nets.NoNet"}}, ["monai.networks.nets.NoNet", "imported"]),
        ({"network": {"name": "json.JSONDecoder"}}, ["json.JSONDecoder", "nn.Module"]),
        ({"network": {"arguments": {"depth": 3}}}, ["network unet", "depth", "width"]),
        ({"optimizer": {"lr": 0.0}}, ["--optimizer.lr", "got 0"]),
        ({"optimizer": {"gamma": -1.0}}, ["--optimizer.gamma"]),
        ({"optimizer": {"betas": [0.9, 1.0]}}, ["--optimizer.betas"]),
        ({"epochs": 0}, ["--epochs", "got 0"]),
        ({"data": {"patch": 200}}, ["patch", "200"]),
        ({"data": {"folder": "absent"}}, ["absent", "no such folder"]),
    ],
)
def test_what_cannot_be_trained_is_refused_before_the_folder_is_made(run, tmp_path, changes, words):
    with pytest.raises(MarError) as caught:
        run(**changes)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message
    assert not (tmp_path / "run" / "settings.yaml").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optimiser: {lr: 1}", ["optimiser"]),
        ("optimizer: {learning_rate: 1}", ["unknown key 'optimizer.learning_rate'"]),
        ("optimizer: {lr: fast}", ["--optimizer.lr", "a number", "'fast'"]),
        ("data: {patch: [64, 32]}", ["--data.patch", "whole number"]),
        ("epochs: many", ["--epochs", "whole number"]),
    ],
)
def test_wrong_keys_and_types_exit_2_and_are_named(mar, tmp_path, text, words):
    (tmp_path / "bad.yaml").write_text(text)
    code, _, error = mar("train", "--settings", tmp_path / "bad.yaml", "--run", tmp_path / "run")
    assert code == 2
    assert all(word in error for word in words), error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        (
            "monai.networks.nets.BasicUNet",
            {"spatial_dims": 2, "in_channels": 2, "out_channels": 1, "features": [8, 8, 8, 8, 8, 8]},
        ),
        (
            "monai.networks.nets.SegResNet",
            {"spatial_dims": 2, "in_channels": 2, "out_channels": 1, "init_filters": 8, "blocks_down": [1, 1],
             "blocks_up": [1]},
        ),
    ],
)  # fmt: skip
def test_networks_of_others_train_and_their_weights_are_their_own(run, name, arguments):
    import importlib

    folder, _ = run(epochs=2, network={"name": name, "arguments": arguments})
    assert "equivariance_layers" in metrics(folder)[0]
    weights, metadata = load_weights(folder / "checkpoints" / "best.safetensors")
    module, _, class_name = name.rpartition(".")
    theirs = getattr(importlib.import_module(module), class_name)(**arguments)
    theirs.load_state_dict(weights)  # strict
    assert metadata["network"] == name
    ours = load_trained(folder).network
    assert isinstance(ours, ResidualNetwork)
    assert same(ours.net.state_dict(), theirs.state_dict())


def test_network_with_other_channels_is_refused(run):
    arguments = {"in_channels": 2, "out_channels": 5, "kernel_size": 3, "padding": 1}
    with pytest.raises(UsageError, match=r"Conv2d: answers .*5, 32, 32.* expected .*1, 32, 32"):
        run(network={"name": "torch.nn.Conv2d", "arguments": arguments}, equivariance={"enabled": False})


def test_plain_takes_the_wrapper_off():
    assert plain(build_network("unet", {"width": 4})).__class__.__name__ == "ResidualUNet"
    arguments = {"in_channels": 2, "out_channels": 1, "kernel_size": 1}
    assert isinstance(plain(build_network("torch.nn.Conv2d", arguments)), torch.nn.Conv2d)


def test_autocast_reaches_the_network_and_not_the_loss(data, tmp_path, monkeypatch):
    types = {}
    task = mar_task

    def watched(*arguments):
        made = task(*arguments)
        convolution = next(m for m in made.network.modules() if isinstance(m, torch.nn.Conv2d))
        convolution.register_forward_hook(lambda m, inputs, output: types.update(layer=output.dtype))

        def loss(output, batch):
            value = made.loss(output, batch)
            if output.image.requires_grad:
                types.update(loss=value.dtype, image=output.image.dtype)
            return value

        def score_types(image, batch):
            types.update(validated=types["layer"])
            return made.score(image, batch)

        return type(made)(**{**vars(made), "loss": loss, "score": score_types})

    monkeypatch.setitem(TRAININGS, "mar", Training(DataSettings, watched))
    seen = []
    for precision in ("bfloat16", "float32"):
        file = write_settings(tmp_path / "s.yaml", data, precision=precision, epochs=1)
        types.clear()
        train(read_train_settings([f"--settings={file}", f"--run={tmp_path / precision}"]))
        seen.append(dict(types))
        assert types["loss"] == types["image"] == types["validated"] == torch.float32
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("bfloat16", "float32")]
    assert [report["precision"] for report in reports] == ["bfloat16", "float32"]
    weights = [last(tmp_path / name)["network"] for name in ("bfloat16", "float32")]
    assert not same(*weights)
    assert all(torch.isfinite(tensor).all() for tensor in weights[0].values() if tensor.is_floating_point())


def test_autocast_is_chosen_by_device():
    cpu = torch.device("cpu")
    assert autocast_dtype("float32", cpu) is None
    assert autocast_dtype("bfloat16", cpu) == torch.bfloat16
    inferer = AutocastInferer(cpu, torch.bfloat16)
    layer = torch.nn.Conv2d(1, 1, 1)
    assert inferer(torch.ones(1, 1, 4, 4), layer).dtype == torch.bfloat16
    assert layer(torch.ones(1, 1, 4, 4)).dtype == torch.float32


def test_batches_of_eq_reg_hold_samples_and_their_rotations(data, tmp_path):
    file = write_settings(tmp_path / "s.yaml", data)
    settings = read_train_settings([f"--settings={file}", f"--run={tmp_path / 'run'}"])
    task = mar_task(TaskContext(settings.network.name, settings.network.arguments, settings.data, 0))
    task.network.train()
    with make_regularizer(task.network, settings.equivariance) as regularizer:
        batch = next(iter(task.loaders.train))
        fields = tuple(task.fields.values())
        prepared = regularizer.prepare(*(batch[key] for key in task.fields), fields=fields)
        turned = dict(zip(task.fields, prepared, strict=True))
        for key in task.fields:
            first, second = turned[key].chunk(2)
            assert torch.equal(first, batch[key][:2])
            assert torch.equal(second, torch.rot90(first, regularizer.n, (-2, -1)))
        assert set(task.fields) == {IMAGE, LI, METAL_MASK, TARGET}
    output = task.network(*(turned[key] for key in task.inputs))
    assert math.isfinite(task.loss(output, turned).item())
