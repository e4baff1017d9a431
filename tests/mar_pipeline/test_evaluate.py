"""What an evaluation counts, what it refuses, and what it leaves in its folder."""

import csv
import dataclasses
import itertools
import json
import sys
import types
from pathlib import Path

import h5py
import numpy as np
import pytest
from matplotlib.text import Text

from mar_pipeline import evaluate as evaluation
from mar_pipeline.evaluate import EvaluateSettings, evaluate
from mar_pipeline.evaluation_files import whole_file
from mar_pipeline.figures import case_figure
from mar_pipeline.metrics import score
from mar_pipeline.score_tables import size_group
from simulation.errors import InputError, UsageError

SIDE = 64
MASK_PIXELS = (48, 4, 12)
HU = 0.192 / 1000


def masks() -> np.ndarray:
    stack = np.zeros((SIDE, SIDE, len(MASK_PIXELS)), np.uint8)
    for index, pixels in enumerate(MASK_PIXELS):
        stack[20 + 6 * index : 24 + 6 * index, 30 : 30 + pixels // 4, index] = 1
    return stack


def trace_of(mask: np.ndarray) -> np.ndarray:
    return np.tile(mask.any(axis=0), (8, 1))


def write_slice(data: Path, case: str, indices: range, traces: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    folder = data / "test_640geo" / case
    folder.mkdir(parents=True)
    truth = rng.uniform(0.1, 0.3, (SIDE, SIDE)).astype(np.float32)
    with h5py.File(folder / "gt.h5", "w") as file:
        file["image"] = truth
    for index in indices:
        with h5py.File(folder / f"{index}.h5", "w") as file:
            file["ma_CT"] = truth + np.float32(30 * HU)
            file["LI_CT"] = truth + np.float32((10 + index) * HU)
            file["ma_sinogram"] = np.zeros((8, SIDE), np.float32)
            file["metal_trace"] = trace_of(traces[:, :, min(index, traces.shape[2] - 1)]).astype(np.uint8)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two slices with three and one pairs."""
    folder = tmp_path / "data"
    write_slice(folder, "000001_01_01/001", range(3), masks(), seed=1)
    write_slice(folder, "000002_01_01/007", range(1), masks(), seed=2)
    (folder / "test_640geo_dir.txt").write_text("000001_01_01/001/gt.h5\n000002_01_01/007/gt.h5\n")
    np.save(folder / "testmask.npy", masks())
    return folder


@pytest.fixture
def settings(data: Path, tmp_path: Path) -> EvaluateSettings:
    return EvaluateSettings(data=str(data), out=str(tmp_path / "out"), methods=("input", "li"), figures=0)


@pytest.fixture(autouse=True)
def fake_scanner(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scanner whose trace is the mask's shadow on its columns, and whose NMAR knows the answer up to 2 HU."""
    if request.node.get_closest_marker("shared_data"):
        return
    correction = types.ModuleType("simulation.correction")
    correction.metal_trace = lambda projector, mask: trace_of(mask)
    correction.nmar_prior = lambda li_image_mu, metal_mask: li_image_mu - np.float32(10 * HU)
    correction.nmar = lambda sinogram, trace, prior_mu, projector: (sinogram, prior_mu + np.float32(2 * HU))
    monkeypatch.setitem(sys.modules, "simulation.correction", correction)
    monkeypatch.setattr(evaluation, "_projector", lambda settings: types.SimpleNamespace(device="cpu"))


def read_report(settings: EvaluateSettings) -> dict:
    return json.loads((Path(settings.out) / "report.json").read_text())


def test_every_pair_and_method_has_its_row(settings: EvaluateSettings) -> None:
    report = evaluate(dataclasses.replace(settings, protocol="all"))
    assert len(report.rows) == 4 * 2 * 3
    assert {row.protocol for row in report.rows} == {"float", "uint8", "imsave"}
    with (Path(settings.out) / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(report.rows)
    first = rows[0]
    assert (first["case"], first["slice"], first["mask"], first["metal_pixels"]) == ("000001_01_01", "001", "0", "48")
    assert float(first["rmse_hu"]) == pytest.approx(30, abs=1e-3)
    assert not report.failed
    assert not report.not_scored


def test_rows_hold_the_scores_of_their_own_image_and_mask(settings: EvaluateSettings, data: Path) -> None:
    row = next(row for row in evaluate(settings).rows if (row.mask, row.method) == (2, "li"))
    folder = data / "test_640geo" / "000001_01_01" / "001"
    with h5py.File(folder / "gt.h5") as gt, h5py.File(folder / "2.h5") as pair:
        expected = score(pair["LI_CT"][:], gt["image"][:], masks()[:, :, 2])
    assert {name: getattr(row, name) for name in expected} == expected


def test_nmar_is_computed_from_the_pair(settings: EvaluateSettings) -> None:
    rows = evaluate(dataclasses.replace(settings, methods=("nmar",))).rows
    assert [row.rmse_hu for row in rows] == pytest.approx([2, 3, 4, 2], abs=1e-3)


def test_averages_are_over_pairs_and_groups_without_pairs_have_no_row(settings: EvaluateSettings) -> None:
    report = evaluate(settings)
    mean_hu = np.mean([row.rmse_hu for row in report.rows if row.method == "li"])
    assert read_report(settings)["averages"]["float"]["li"]["rmse_hu"] == pytest.approx(mean_hu)
    table = (Path(settings.out) / "table.md").read_text()
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert [line.split(" | ")[1] for line in lines[2:]] == ["2", "1", "1", "4"]
    assert lines[-1].endswith(f"/ {mean_hu:.1f} |")
    for stated in ("[0, 0.5] /cm", "Mask: ", "Not quantised"):
        assert stated in table
        assert stated in report.table


def test_a_perfect_image_is_infinite_in_csv_and_still_valid_json(
    settings: EvaluateSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(evaluation.METHODS, "li", lambda pair, projector: pair.image)
    evaluate(settings)
    assert "inf,1.00000,0.000" in (Path(settings.out) / "results.csv").read_text()
    assert read_report(settings)["averages"]["float"]["li"]["psnr"] == "inf"


def test_a_mask_beyond_the_stack_is_not_guessed(settings: EvaluateSettings, data: Path) -> None:
    np.save(data / "testmask.npy", masks()[:, :, :2])
    report = evaluate(settings)
    assert [(skipped.pair, skipped.reason) for skipped in report.not_scored] == [
        ("test/000001_01_01/001/2", "the mask stack ends at mask 1")
    ]
    assert not report.failed
    assert len(report.rows) == 3 * 2


def test_a_mask_of_another_stack_is_found_out(settings: EvaluateSettings, data: Path, tmp_path: Path) -> None:
    """The public test and train stacks share masks 0 and 1 only."""
    other = masks()
    other[:, :, 2] = np.roll(other[:, :, 2], 20, axis=1)
    np.save(tmp_path / "other.npy", other)
    mixed = dataclasses.replace(settings, masks=str(tmp_path / "other.npy"))
    report = evaluate(mixed)
    assert [skipped.pair for skipped in report.not_scored] == ["test/000001_01_01/001/2"]
    assert "overlap by 0 %" in report.not_scored[0].reason
    assert len(evaluate(dataclasses.replace(mixed, trust_masks=True)).rows) == 4 * 2


def test_broken_pairs_are_listed_and_the_others_scored(settings: EvaluateSettings, data: Path) -> None:
    broken = data / "test_640geo" / "000001_01_01" / "001" / "1.h5"
    broken.write_bytes(broken.read_bytes()[:500])
    listing = data / "test_640geo_dir.txt"
    listing.write_text(listing.read_text() + "000003_01_01/009/gt.h5\n")
    report = evaluate(settings)
    reasons = {skipped.pair: skipped.reason for skipped in report.failed}
    assert set(reasons) == {"test/000003_01_01/009", "test/000001_01_01/001/1"}
    assert "missing" in reasons["test/000003_01_01/009"]
    assert "truncated?" in reasons["test/000001_01_01/001/1"]
    assert len(report.rows) == 3 * 2
    written = read_report(settings)
    assert written["counts"] == {"pairs": 4, "scored": 3, "not_scored": 0, "failed": 2}
    assert {entry["pair"] for entry in written["failed"]} == set(reasons)


def test_a_pair_on_which_one_method_fails_counts_for_none(
    settings: EvaluateSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the columns of a table would be about different pairs."""
    nan = np.full((SIDE, SIDE), np.nan)
    monkeypatch.setitem(evaluation.METHODS, "li", lambda p, _: nan if p.metal_mask.sum() == 4 else p.LI_CT)
    report = evaluate(settings)
    assert [skipped.pair for skipped in report.failed] == ["test/000001_01_01/001/1"]
    assert {row.mask for row in report.rows if row.method == "input"} == {0, 2}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"methods": ("input", "unet")}, UsageError, "unknown method 'unet'; expected one of input, li, nmar"),
        ({"methods": ()}, UsageError, "name each method once"),
        ({"methods": ("li", "li")}, UsageError, "name each method once"),
        ({"protocol": "png"}, UsageError, "unknown protocol 'png'"),
        ({"figures": -1}, UsageError, "figures: got -1"),
        ({"window_hu": (100.0, 100.0)}, UsageError, "rising window"),
        ({"data": "/nowhere"}, InputError, "/nowhere: no such folder"),
        ({"split": "train"}, InputError, "no train_640geo_dir.txt in it"),
        ({"masks": "/nowhere.npy"}, InputError, "/nowhere.npy: cannot be read as a mask stack"),
    ],
)
def test_bad_settings_are_one_clear_line(
    settings: EvaluateSettings, change: dict, error: type[InputError], message: str
) -> None:
    with pytest.raises(error, match=message.replace("(", r"\(")) as raised:
        evaluate(dataclasses.replace(settings, **change))
    assert "\n" not in str(raised.value)
    assert not Path(settings.out).exists()


def test_unusable_data_is_refused(settings: EvaluateSettings, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"did you mean {data}"):
        evaluate(dataclasses.replace(settings, data=str(tmp_path)))
    with pytest.raises(InputError, match=r"got float64 \(3, 3\), expected a mask stack"):
        np.save(tmp_path / "flat.npy", np.zeros((3, 3)))
        evaluate(dataclasses.replace(settings, masks=str(tmp_path / "flat.npy")))
    (data / "testmask.npy").unlink()
    with pytest.raises(
        InputError, match=r"no pair could be scored \(4 without.*testmask.npy is not in the data folder"
    ):
        evaluate(settings)
    for text, message in (("", "lists no slice"), ("a/gt.h5", "expected case/slice/gt.h5"), ("../b/gt.h5", "got the")):
        (data / "test_640geo_dir.txt").write_text(text)
        with pytest.raises(InputError, match=message):
            evaluate(settings)
    assert not any(Path(settings.out).iterdir())


def test_an_output_that_cannot_be_written_is_refused(settings: EvaluateSettings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: cannot be made a folder"):
        evaluate(dataclasses.replace(settings, out=str(tmp_path / "file")))
    with (
        pytest.raises(InputError, match=r"table\.md: cannot be written"),
        whole_file(tmp_path / "no" / "table.md") as part,
    ):
        part.write_text("")


def test_an_interrupted_file_keeps_its_former_content(tmp_path: Path) -> None:
    path = tmp_path / "table.md"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["table.md"]


def test_pictures_span_the_size_groups_and_the_report_lists_all_files(settings: EvaluateSettings) -> None:
    report = evaluate(dataclasses.replace(settings, figures=3))
    pictures = [name for name in report.outputs if name.endswith(".png")]
    assert pictures == [f"test_000001_01_01_001_{mask}.png" for mask in (0, 2, 1)]
    written = {path.name for path in Path(settings.out).iterdir()}
    assert written == set(report.outputs) == set(read_report(settings)["outputs"])
    assert all((Path(settings.out) / name).read_bytes().startswith(b"\x89PNG") for name in pictures)


def test_the_report_says_how_it_was_made(settings: EvaluateSettings) -> None:
    evaluate(settings)
    first = read_report(settings)
    evaluate(settings)
    second = read_report(settings)
    evaluate(dataclasses.replace(settings, protocol="uint8"))
    assert first["settings_sha256"] == second["settings_sha256"] != read_report(settings)["settings_sha256"]
    assert first["settings"]["methods"] == ["input", "li"]
    assert first["device"] == "cpu"
    assert {"mar-pipeline", "numpy", "python"} <= set(first["versions"])


def test_published_test_masks_fall_into_their_groups() -> None:
    groups = [[2061, 890], [881, 451], [254, 124], [118, 112], [53, 35]]
    for number, sizes in enumerate(groups, start=1):
        assert [size_group(size, (416, 416)) for size in sizes] == [number, number]
        assert [size_group(4 * size, (832, 832)) for size in sizes] == [number, number]
    assert size_group(1, (416, 416)) == 5
    assert size_group(100_000, (416, 416)) == 1


@pytest.mark.parametrize("methods", [1, 3, 6])
def test_figure_states_its_windows_and_no_texts_overlap(methods: int) -> None:
    truth_mu = np.full((SIDE, SIDE), 0.2)
    figure = case_figure(
        images_mu={f"Method {index}": truth_mu for index in range(methods)},
        truth_mu=truth_mu,
        metal_mask=masks()[:, :, 0] > 0,
        captions={f"Method {index}": "31.41 dB" for index in range(methods)},
        title="000321_03_01/011, mask 1: 890 metal pixels (PSNR: float protocol)",
        window_hu=(-1000.0, 1500.0),
        difference_hu=150.0,
    )
    figure.canvas.draw()
    shown = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    words = "\n".join(text.get_text() for text in shown)
    assert "\u22121000 to 1500 HU" in words
    assert "\u00b1150 HU" in words
    boxes = [(text.get_text(), text.get_window_extent()) for text in shown]
    for (one, box), (other, other_box) in itertools.combinations(boxes, 2):
        assert not box.overlaps(other_box), (one, other)
    for one, box in boxes:
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1, one


def test_figure_shows_metal_in_red() -> None:
    truth_mu, metal_mask = np.full((SIDE, SIDE), 0.2), masks()[:, :, 0] > 0
    figure = case_figure({"LI": truth_mu}, truth_mu, metal_mask, {}, title="")
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)
    red = (pixels[..., 0] > 200) & (pixels[..., 1] < 80) & (pixels[..., 2] < 80)
    panel = figure.axes[0].get_window_extent()
    expected = 2 * metal_mask.mean() * panel.width * panel.height
    upper = red[: red.shape[0] // 2]
    assert np.count_nonzero(upper) == pytest.approx(expected, rel=0.1)


def test_figure_refuses_images_that_do_not_agree() -> None:
    truth_mu, metal_mask = np.full((SIDE, SIDE), 0.2), masks()[:, :, 0] > 0
    with pytest.raises(InputError, match="LI has shape"):
        case_figure({"LI": truth_mu[:-1]}, truth_mu, metal_mask, {}, title="")
    with pytest.raises(InputError, match="rising window"):
        case_figure({"LI": truth_mu}, truth_mu, metal_mask, {}, title="", window_hu=(0.0, -1.0))


@pytest.mark.shared_data
def test_public_pairs_are_scored_only_with_their_own_masks(shared_data: Path, tmp_path: Path) -> None:
    """testmask.npy holds masks 0 and 1 of the train slices; 2, 3 and 4 are others, 80 is not in it."""
    folder = shared_data / "syndeeplesion"
    report = evaluate(
        EvaluateSettings(
            data=str(folder / "train"),
            masks=str(folder / "testmask.npy"),
            out=str(tmp_path / "out"),
            methods=("input", "li"),
            device="cpu",
            figures=1,
        )
    )
    scored = {(row.case, row.slice, row.mask, row.method): round(row.psnr, 1) for row in report.rows}
    assert scored == {
        ("000321_03_01", "011", 0, "input"): 29.9,
        ("000321_03_01", "011", 0, "li"): 35.3,
        ("000321_03_01", "011", 1, "input"): 24.9,
        ("000321_03_01", "011", 1, "li"): 29.4,
        ("000195_02_02", "202", 0, "input"): 30.5,
        ("000195_02_02", "202", 0, "li"): 37.4,
    }
    assert [skipped.pair.rpartition("/")[2] for skipped in report.not_scored] == ["2", "3", "4", "80"]
    assert not report.failed
