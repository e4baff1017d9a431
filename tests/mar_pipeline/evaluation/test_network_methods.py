"""Trained networks side by side with the other methods: what the columns hold, and what is refused."""

import csv
import dataclasses
import json
import math
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from small_pairs import HU, SIDE, masks, tiny_protocol, write_pairs
from torch import Tensor, nn

from mar_pipeline.commands.evaluate import EvaluateSettings, evaluate
from mar_pipeline.evaluation import run_columns
from mar_pipeline.evaluation.method_facts import Measurements, collect_facts, facts_to_text
from mar_pipeline.evaluation.methods import Method, Scanner
from mar_pipeline.evaluation.network_methods import NetworkMethod, load_networks
from mar_pipeline.evaluation.score_tables import averages, with_spread
from mar_pipeline.networks import NetworkOutput
from mar_pipeline.sample import UNITS_PER_MU
from mar_pipeline.weights.trained import Trained
from simulation.dataset.reader import Pair, read_pair
from simulation.errors import MarError, UsageError
from simulation.files import sha256_of
from simulation.physics.protocols import PROTOCOLS

Images = Callable[[Tensor, Tensor, Tensor], Tensor]


class Fake(nn.Module):
    """A network that is a function of its inputs."""

    def __init__(self, function: Images) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.zeros(7))

    def forward(self, image: Tensor, li: Tensor, metal_mask: Tensor) -> NetworkOutput:
        return NetworkOutput(self.function(image, li, metal_mask), (), ())


def offset(hu: float) -> Images:
    return lambda image, li, metal_mask: li + hu * HU * UNITS_PER_MU


Add = Callable[..., str]


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Add:
    """Puts a fake run where `load_trained` finds it; its path."""
    runs: dict[Path, Trained] = {}

    def load(path: str | Path, device: str, task: str) -> Trained:
        return runs[Path(path)]

    def run(path: str, function: Images, **facts: object) -> str:
        folder = tmp_path / path
        weights = folder / "checkpoints" / "best.safetensors"
        weights.parent.mkdir(parents=True)
        weights.write_text(path)
        network = Fake(function).eval()
        defaults = {"label": folder.name, "seed": 0, "group": path, "preset": "tiny", "best_psnr": 30.0}
        fixed = {"name": "fake", "network": network, "arguments": {"width": 3}, "parameters": 7, "metadata": {}}
        runs[folder] = Trained(**{**fixed, **defaults, **facts}, source=weights)
        return str(folder)

    monkeypatch.setattr(run_columns, "load_trained", load)
    return run


@pytest.fixture(scope="session")
def written_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs") / "data"
    write_pairs(folder)
    return folder


@pytest.fixture
def settings(written_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EvaluateSettings:
    monkeypatch.setitem(PROTOCOLS, "tiny", tiny_protocol())
    data = shutil.copytree(written_pairs, tmp_path / "data")
    return EvaluateSettings(
        data=str(data), out=str(tmp_path / "out"), preset="tiny", device="cpu", figures=0, overwrite=True
    )


def scored(settings: EvaluateSettings, *methods: str, **changes: object) -> object:
    return evaluate(dataclasses.replace(settings, methods=methods, **changes))


def read_report(settings: EvaluateSettings) -> dict:
    return json.loads((Path(settings.out) / "report.json").read_text())


def first_pair(settings: EvaluateSettings) -> tuple[Pair, np.ndarray, Scanner]:
    pair = read_pair(Path(settings.data) / "test_640geo" / "000001_01_01" / "001" / "0.h5")
    return pair, masks()[:, :, 0] > 0, Scanner.of("tiny", "cpu")


def method_of(path: str, precision: str = "float32") -> NetworkMethod:
    (method,) = load_networks([path], "cpu", precision)
    assert isinstance(method.answer, NetworkMethod)
    return method.answer


def test_a_network_that_returns_the_li_image_scores_as_li(settings: EvaluateSettings, add: Add) -> None:
    rows = scored(settings, "li", add("same", lambda image, li, mask: li)).rows
    for name in ("psnr", "ssim", "rmse_hu"):
        by_method = {m: [row.scores[name] for row in rows if row.method == m] for m in ("li", "same")}
        assert by_method["same"] == pytest.approx(by_method["li"], rel=1e-4)
        assert len(by_method["same"]) == 4


def test_a_network_that_returns_the_truth_is_perfect(settings: EvaluateSettings, add: Add) -> None:
    """The uncorrected images are 30 HU above the truth; what is left is float32 rounding."""
    undo = add("undo", lambda image, li, mask: image - 30 * HU * UNITS_PER_MU)
    for row in scored(settings, undo).rows:
        assert row.scores["psnr"] > 110
        assert row.scores["ssim"] == pytest.approx(1)
        assert row.scores["rmse_hu"] == pytest.approx(0, abs=1e-2)


def test_the_network_sees_the_metal_mask_where_metal_is(settings: EvaluateSettings, add: Add) -> None:
    pair, metal_mask, scanner = first_pair(settings)
    image_mu = method_of(add("mask", lambda image, li, mask: mask))(pair, metal_mask, scanner)
    assert np.array_equal(image_mu * UNITS_PER_MU, metal_mask)


def test_seeds_share_a_column_with_their_mean_and_deviation(settings: EvaluateSettings, add: Add) -> None:
    """LI is 10, 11, 12 and 10 HU off on the four pairs, so a run that adds s HU has a mean RMSE of 10.75 + s."""
    seeds = {0: 0.0, 1: 2.0, 2: 7.0}
    words = [add(f"arm_seed{seed}", offset(hu), seed=seed, group="arm") for seed, hu in seeds.items()]
    report = scored(settings, "li", *words, add("alone", offset(1)))
    of_runs = [10.75 + hu for hu in seeds.values()]
    average = averages(report.rows)["float"]
    assert average["arm"]["rmse_hu"] == pytest.approx(statistics.mean(of_runs), abs=1e-3)
    assert average["arm"]["rmse_hu_std"] == pytest.approx(np.std(of_runs, ddof=1), abs=1e-3)
    assert "rmse_hu_std" not in average["alone"]
    psnr = np.array([[r.scores["psnr"] for r in report.rows if r.run == f"arm_seed{seed}"] for seed in seeds]).mean(
        axis=1
    )
    assert average["arm"]["psnr_std"] == pytest.approx(psnr.std(ddof=1))
    lines = (Path(settings.out) / "table.md").read_text().splitlines()
    head = next(line for line in lines if line.startswith("| metal size"))
    last = next(line for line in lines if line.startswith("| average"))
    assert [cell.strip() for cell in head.split("|")[3:-1]] == ["li", "arm (3 seeds)", "alone"]
    cells = [cell.strip() for cell in last.split("|")[3:-1]]
    assert cells[1].endswith(f"/ {statistics.mean(of_runs):.1f} ± {statistics.stdev(of_runs):.1f}")
    assert cells[1].startswith(f"{psnr.mean():.2f} ± {psnr.std(ddof=1):.2f} /")
    assert "±" not in cells[2]
    assert "sample standard deviation over the seeds" in " ".join(report.table.split())


def test_every_run_has_its_rows_and_its_entry_in_the_report(settings: EvaluateSettings, add: Add) -> None:
    words = [add(f"unet-{seed}", offset(seed), seed=seed, group="g") for seed in (3, 4)]
    scored(settings, "input", *words)
    with (Path(settings.out) / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["method"], row["run"], row["seed"]) for row in rows} == {
        ("input", "", ""),
        ("unet", "unet-3", "3"),
        ("unet", "unet-4", "4"),
    }
    report = read_report(settings)
    for word, entry in zip(words, report["runs"], strict=True):
        weights = Path(word) / "checkpoints" / "best.safetensors"
        assert entry["weights_sha256"] == sha256_of(weights)
        assert (entry["weights"], entry["network"], entry["arguments"]) == (str(weights), "fake", {"width": 3})
        assert (entry["method"], entry["parameters"], entry["preset"]) == ("unet", 7, "tiny")
    assert report["methods"]["unet"]["runs"] == 2
    assert report["methods"]["input"] == {
        "runs": 0,
        "parameters": None,
        "seconds": None,
        "equivariance_error": {},
        "equivariance_error_std": {},
    }


@pytest.mark.parametrize(
    ("runs", "names", "columns"),
    [
        ({"a/x": {}, "b/x": {}}, ["a/x", "b/x"], ["a/x", "b/x"]),
        ({"a/x": {"group": "g"}, "a/y": {"group": "g", "seed": 1}}, ["x", "y"], ["a", "a"]),
        ({"a/x": {"group": "g"}, "b/y": {"group": "g"}}, ["x", "y"], ["x", "y"]),
        ({"a/x": {"group": "g", "seed": None}, "b/y": {"group": "g", "seed": 1}}, ["x", "y"], ["x", "y"]),
        ({"li": {}}, ["li seed 0"], ["li seed 0"]),
        (
            {
                "base/seed_0": {"label": "base", "group": "g"},
                "base/seed_1": {"label": "base", "group": "g", "seed": 1},
                "more/base": {"group": "h"},
            },
            ["base/seed_0", "base seed 1", "more/base"],
            ["base", "base", "more/base"],
        ),
        (
            {f"{arm}/seed_{n}": {"group": arm, "seed": n} for arm in ("plain", "eq") for n in (0, 1)},
            ["plain/seed_0", "plain/seed_1", "eq/seed_0", "eq/seed_1"],
            ["plain", "plain", "eq", "eq"],
        ),
        ({f"s-v2_{n}": {"group": "g", "seed": n} for n in (1, 10)}, ["s-v2_1", "s-v2_10"], ["s-v2", "s-v2"]),
    ],
)
def test_runs_have_names_of_their_own_and_only_seeds_share_columns(
    add: Add, runs: dict[str, dict], names: list[str], columns: list[str]
) -> None:
    candidates = load_networks([add(path, offset(0), **facts) for path, facts in runs.items()], "cpu", "float32")
    assert [method.run for method in candidates] == names
    assert [method.column for method in candidates] == columns


def test_the_equivariance_error_is_zero_for_pixelwise_networks_only(settings: EvaluateSettings, add: Add) -> None:
    pair, metal_mask, scanner = first_pair(settings)
    pixelwise = method_of(add("pixelwise", lambda image, li, mask: 0.3 * image + 0.7 * li - 50 * mask))
    assert pixelwise.equivariance_errors(pair, metal_mask, scanner) == {90: 0, 180: 0, 270: 0}
    shift = method_of(add("shift", lambda image, li, mask: torch.roll(li, 1, -1)))
    assert min(shift.equivariance_errors(pair, metal_mask, scanner).values()) > 0.1
    axis = method_of(add("axis", lambda image, li, mask: (li + li.flip(-1)) / 2))
    assert axis.equivariance_errors(pair, metal_mask, scanner)[180] == pytest.approx(0, abs=1e-6)
    assert axis.equivariance_errors(pair, metal_mask, scanner)[90] > 0.1
    inside = method_of(add("inside", lambda image, li, mask: li * (1 - mask) + mask * torch.rand_like(mask)))
    assert inside.equivariance_errors(pair, metal_mask, scanner) == {90: 0, 180: 0, 270: 0}


def test_the_equivariance_error_is_the_stated_formula(settings: EvaluateSettings, add: Add) -> None:
    pair, metal_mask, scanner = first_pair(settings)
    doubled = method_of(add("ramp", lambda image, li, mask: li * torch.arange(SIDE)))
    ramp, li = np.arange(SIDE), np.asarray(pair.LI_CT, np.float64)
    a, b = np.rot90(li * ramp - li), np.rot90(li) * ramp - np.rot90(li)
    outside = ~np.rot90(metal_mask)
    size = math.sqrt((np.sum(a[outside] ** 2) + np.sum(b[outside] ** 2)) / 2)
    expected = np.linalg.norm((a - b)[outside]) / size
    assert doubled.equivariance_errors(pair, metal_mask, scanner)[90] == pytest.approx(expected, rel=1e-5)


def test_li_does_not_hide_the_network(settings: EvaluateSettings, add: Add) -> None:
    """A faint correction that does not turn is as far from equivariant as a strong one."""
    pair, metal_mask, scanner = first_pair(settings)
    faint, strong = (
        method_of(add(f"gain_{gain}", lambda image, li, mask, gain=gain: li + gain * torch.arange(SIDE)))
        for gain in (0.05, 5.0)
    )
    errors = [method.equivariance_errors(pair, metal_mask, scanner)[90] for method in (faint, strong)]
    assert errors[0] == pytest.approx(errors[1], rel=1e-3)
    assert errors[0] > 0.5


def test_errors_are_measured_on_as_many_pairs_as_asked(settings: EvaluateSettings, add: Add) -> None:
    calls = []

    def count(image: Tensor, li: Tensor, mask: Tensor) -> Tensor:
        calls.append(1)
        return li

    word = add("count", count)
    for pairs in (0, 1, 3):
        calls.clear()
        table = scored(settings, word, equivariance_pairs=pairs).table
        assert len(calls) == 4 + 4 * pairs
        assert ("mean over" in table) == (pairs > 0)


def test_the_second_table_tells_what_methods_cost(settings: EvaluateSettings, add: Add) -> None:
    words = [add(f"unet_{seed}", offset(seed), seed=seed, group="g") for seed in (0, 1)]
    scored(settings, "input", "nmar", *words)
    lines = (Path(settings.out) / "table.md").read_text().splitlines()
    start = lines.index("## Methods")
    table = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in lines[start:] if line.startswith("| ")}
    cells = {name: [cell.strip() for cell in row] for name, row in table.items()}
    assert cells["input"] == ["-"] * 5
    assert cells["nmar"][0] == "-"
    assert float(cells["nmar"][1]) > 0
    assert cells["unet (2 seeds)"][0] == "7"
    assert cells["unet (2 seeds)"][2:] == ["0 ± 0"] * 3
    words = " ".join(lines[start:])
    assert "CPU seconds" in words
    assert "float32" in words
    assert "Methods." not in scored(settings, "input", "li").table


def test_seconds_are_the_median_without_the_first_pair() -> None:
    measured = Measurements("cpu")
    for seconds in (9.0, 1.0, 3.0, 2.0):
        measured.keep({"nmar": seconds}, {})
    (facts,) = collect_facts([Method("nmar", lambda *_: np.zeros(1))], measured)
    assert facts.seconds == (2.0,)
    measured = Measurements("cpu")
    measured.keep({"nmar": 9.0}, {})
    (facts,) = collect_facts([Method("nmar", lambda *_: np.zeros(1))], measured)
    assert facts.seconds == (9.0,)
    assert "9" in facts_to_text([facts], measured, "float32")


def test_time_is_that_of_the_processor() -> None:
    """Sleeping costs none."""
    import time

    _, asleep = Measurements("cpu").timed(lambda: time.sleep(0.2))
    assert asleep < 0.1


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda image, li, mask: li * math.nan, "broken: score: the output has 4096 values that are not finite"),
        (lambda image, li, mask: li @ li[..., :3, :], "broken: the network cannot compute this image"),
        (lambda image, li, mask: li[..., ::2, ::2], r"broken: the network gives shape \(1, 1, 32, 32\)"),
        (
            lambda image, li, mask: li * (math.nan if mask[..., :30].any() else 1),
            "broken: the network's image of the turned slice has values that are not finite",
        ),
    ],
)
def test_a_network_that_fails_is_named(settings: EvaluateSettings, add: Add, function: Images, reason: str) -> None:
    with pytest.raises(MarError, match=rf"no pair could be scored \(0 without .*; the first one, \S+: {reason}"):
        scored(settings, "li", add("broken", function))


def test_a_pair_that_one_run_cannot_do_fails_and_the_others_count(settings: EvaluateSettings, add: Add) -> None:
    some = add("some", lambda image, li, mask: li * (math.nan if mask.sum() == 4 else 1))
    report = scored(settings, "li", some)
    assert [(item.pair, item.reason.partition(":")[0]) for item in report.failed] == [
        ("test/000001_01_01/001/1", "some")
    ]
    assert len(report.rows) == 3 * 2


def test_other_presets_are_refused_unless_allowed(settings: EvaluateSettings, add: Add) -> None:
    other = add("other", offset(0), preset="clinical")
    with pytest.raises(
        UsageError, match=r"other: trained for the preset clinical, but the test data are tiny; .*--any-preset"
    ):
        scored(settings, "li", other)
    assert not Path(settings.out).exists()
    assert len(scored(settings, "li", other, any_preset=True).rows) == 4 * 2


def test_words_that_are_no_method_and_no_file_are_refused(settings: EvaluateSettings, add: Add, tmp_path: Path) -> None:
    for word in ("unet", str(tmp_path / "nowhere" / "run"), "runs/nowhere"):
        with pytest.raises(
            UsageError, match=f"unknown method '{word}'; expected one of input, li, nmar, unet_small, or the path"
        ):
            scored(settings, "li", word)
    first = add("first", offset(0))
    twin = add("twin", offset(0))
    shutil.copy(Path(first) / "checkpoints" / "best.safetensors", Path(twin) / "checkpoints" / "best.safetensors")
    with pytest.raises(UsageError, match="are the same weights"):
        scored(settings, first, twin)
    assert not Path(settings.out).exists()


def test_precision_is_that_of_the_settings(settings: EvaluateSettings, add: Add) -> None:
    seen = set()

    def product(image: Tensor, li: Tensor, mask: Tensor) -> Tensor:
        seen.add((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
        return li

    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        seen.clear()
        scored(settings, add(f"run_{precision}", product), precision=precision)
        assert seen == {dtype}


def test_pictures_show_the_first_seed_and_say_so(
    settings: EvaluateSettings, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mar_pipeline.tasks import pair_figure

    shown = []
    case_figure = pair_figure.case_figure

    def spy(**keywords: object) -> object:
        shown.append(keywords)
        return case_figure(**keywords)

    monkeypatch.setattr(pair_figure, "case_figure", spy)
    words = [add(f"unet_{seed}", offset(seed), seed=seed, group="g") for seed in (5, 6)]
    scored(settings, "li", *words, add("alone", offset(1)), figures=1)
    (keywords,) = shown
    assert list(keywords["images_mu"]) == ["LI", "unet (seed 5)", "alone"]
    assert list(keywords["captions"]) == ["LI", "unet (seed 5)", "alone"]
    difference_mu = keywords["images_mu"]["unet (seed 5)"] - keywords["images_mu"]["LI"]
    assert difference_mu.mean() == pytest.approx(5 * HU, rel=1e-3)


@pytest.mark.parametrize(
    ("values", "text"), [([3.0], "3.0"), ([1.0, 3.0], "2.0 ± 1.4"), ([math.inf, 3.0], "inf"), ([math.inf] * 2, "inf")]
)
def test_spread(values: list[float], text: str) -> None:
    assert with_spread(values, ".1f") == text


def test_wide_tables_go_on_below(settings: EvaluateSettings, add: Add) -> None:
    words = [add(f"a_long_name_of_a_run_{letter}", offset(1)) for letter in "abcdefgh"]
    table = scored(settings, "input", "li", *words).table
    lines = table.splitlines()
    assert max(map(len, lines)) <= 120
    assert sum(line.lstrip().startswith("metal size") for line in lines) > 1
    for word in words:
        assert Path(word).name in table


@pytest.mark.gpu
def test_networks_on_the_gpu_score_the_same_and_are_timed_there(settings: EvaluateSettings, add: Add) -> None:
    word = add("half", lambda image, li, mask: (image + li) / 2)
    on_cpu = scored(settings, word)
    report = scored(settings, word, device="cuda")
    assert [row.scores["psnr"] for row in report.rows] == pytest.approx(
        [row.scores["psnr"] for row in on_cpu.rows], abs=1e-3
    )
    assert "GPU s" in report.table
    assert read_report(settings)["device"] == "cuda"
