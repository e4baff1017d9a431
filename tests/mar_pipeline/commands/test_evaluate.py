"""What an evaluation counts, what it refuses, and what it leaves in its folder."""

import csv
import dataclasses
import errno
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Text
from small_pairs import SIDE, TINY, masks, tiny_protocol, write_pairs

from mar_pipeline.commands.evaluate import EvaluateSettings, evaluate
from mar_pipeline.evaluation import methods as evaluation
from mar_pipeline.evaluation.score_tables import size_group, to_markdown, to_text
from mar_pipeline.tasks.metrics import score
from mar_pipeline.tasks.pair_figure import case_figure
from simulation.correction import nmar, nmar_prior
from simulation.dataset.community import write_case
from simulation.dataset.reader import read_pair
from simulation.errors import InputError, MarError, NothingToProcessError, UsageError
from simulation.physics.projector import Projector
from simulation.physics.protocols import PROTOCOLS
from simulation.simulator import Sample


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "data"
    write_pairs(folder)
    return folder


@pytest.fixture
def data(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the pairs, and a preset `tiny` with their scanner."""
    monkeypatch.setitem(PROTOCOLS, "tiny", tiny_protocol())
    return Path(shutil.copytree(written, tmp_path / "data"))


@pytest.fixture
def settings(data: Path, tmp_path: Path) -> EvaluateSettings:
    return EvaluateSettings(
        overwrite=True,
        data=str(data),
        out=str(tmp_path / "out"),
        methods=("input", "li"),
        preset="tiny",
        device="cpu",
        figures=0,
    )


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
    assert (first["case"], first["slice"], first["mask"]) == ("000001_01_01", "001", "0")
    assert (first["metal_pixels"], first["grid"]) == ("48", "64 x 64")
    assert float(first["rmse_hu"]) == pytest.approx(30, abs=1e-3)
    assert not report.failed
    assert not report.not_scored


def test_rows_hold_the_scores_of_their_own_image_and_mask(settings: EvaluateSettings, data: Path) -> None:
    row = next(row for row in evaluate(settings).rows if (row.sample["mask"], row.method) == (2, "li"))
    pair = read_pair(data / "test_640geo" / "000001_01_01" / "001" / "2.h5")
    expected = score(pair.LI_CT, pair.image, masks()[:, :, 2])
    assert {name: row.scores[name] for name in expected} == expected


@pytest.mark.parametrize("weighting", ["standard", "benchmark"])
def test_nmar_is_computed_with_the_scanner_of_the_preset(
    settings: EvaluateSettings, data: Path, monkeypatch: pytest.MonkeyPatch, weighting: str
) -> None:
    monkeypatch.setitem(PROTOCOLS, "tiny", dataclasses.replace(PROTOCOLS["tiny"], weighting=weighting))
    row = next(
        row for row in evaluate(dataclasses.replace(settings, methods=("nmar",))).rows if row.sample["mask"] == 2
    )
    pair, mask = read_pair(data / "test_640geo" / "000001_01_01" / "001" / "2.h5"), masks()[:, :, 2] > 0
    prior_mu = nmar_prior(pair.LI_CT, mask)
    projector = Projector(TINY, "cpu", kernel=PROTOCOLS["tiny"].kernel)
    _, image_mu = nmar(pair.ma_sinogram, pair.metal_trace, prior_mu, projector, weighting)
    assert row.scores["rmse_hu"] == pytest.approx(score(image_mu, pair.image, mask)["rmse_hu"])


def test_the_preset_is_the_recorded_one_unless_another_is_named(
    settings: EvaluateSettings, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorded = dataclasses.replace(settings, preset=None)
    with pytest.raises(MarError, match=r"\(64, 64\).*preset's are \(416, 416\) and \(640, 641\).*--preset"):
        evaluate(recorded)
    (data / "test_manifest.json").write_text('{"identity": {"preset": "tiny"}}')
    assert len(evaluate(recorded).rows) == 4 * 2
    assert read_report(settings)["presets"] == {"test": "tiny"}
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    with pytest.raises(MarError, match="no pair could be scored"):
        evaluate(dataclasses.replace(settings, preset="clinical"))
    assert "test_manifest.json says tiny" in caplog.text


def test_a_pair_of_another_size_than_the_scanner_fails_alone(settings: EvaluateSettings, data: Path) -> None:
    image, sinogram = np.full((32, 32), 0.2, np.float32), np.ones(TINY.sinogram_shape, np.float32)
    sample = Sample(sinogram, sinogram, image, image, sinogram > 0)
    write_case(data / "test_640geo" / "000002_01_01" / "007", image, sinogram, image, {0: sample})
    (skipped,) = evaluate(settings).failed
    assert skipped.pair == "test/000002_01_01/007/0"
    assert "image (32, 32)" in skipped.reason


def test_averages_are_over_pairs_and_groups_without_pairs_have_no_row(settings: EvaluateSettings) -> None:
    report = evaluate(settings)
    mean_hu = np.mean([row.scores["rmse_hu"] for row in report.rows if row.method == "li"])
    assert read_report(settings)["averages"]["float"]["li"]["rmse_hu"] == pytest.approx(mean_hu)
    table = (Path(settings.out) / "table.md").read_text()
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert [line.split(" | ")[1] for line in lines[2:]] == ["2", "1", "1", "4"]
    assert lines[-1].endswith(f"/ {mean_hu:.1f} |")
    for stated in ("[0, 0.5] /cm", "Mask: ", "Not quantised"):
        assert stated in table
        assert stated in report.table


def test_tables_say_from_which_grid_metal_sizes_are_scaled(settings: EvaluateSettings) -> None:
    row = evaluate(settings).rows[0]
    other = "counts of images of 64 x 64 are scaled to it"
    assert other in " ".join(to_text([row]).split())
    assert other in to_markdown([row, dataclasses.replace(row, sample={**row.sample, "grid": "416 x 416"})])
    assert "scaled to it" not in to_markdown([dataclasses.replace(row, sample={**row.sample, "grid": "416 x 416"})])


def test_a_perfect_image_is_infinite_in_csv_and_still_valid_json(
    settings: EvaluateSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(evaluation.METHODS, "li", lambda pair, mask, scanner: pair.image)
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


@pytest.mark.parametrize("sinograms", ["stored", "projected"])
def test_a_mask_of_another_stack_is_found_out(
    settings: EvaluateSettings, data: Path, tmp_path: Path, sinograms: str
) -> None:
    """The public test and train stacks share masks 0 and 1 only; the stored trace tells, whatever methods use."""
    other = masks()
    other[:, :, 2] = np.roll(other[:, :, 2], 20, axis=1)
    np.save(tmp_path / "other.npy", other)
    mixed = dataclasses.replace(settings, masks=str(tmp_path / "other.npy"), sinograms=sinograms)
    report = evaluate(mixed)
    assert [skipped.pair for skipped in report.not_scored] == ["test/000001_01_01/001/2"]
    assert "the mask is another one" in report.not_scored[0].reason
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
    assert "truncated" in reasons["test/000001_01_01/001/1"]
    assert len(report.rows) == 3 * 2
    written = read_report(settings)
    assert written["counts"] == {"pairs": 4, "scored": 3, "not_scored": 0, "failed": 2}
    assert {entry["pair"] for entry in written["failed"]} == set(reasons)


def test_a_pair_on_which_one_method_fails_counts_for_none(
    settings: EvaluateSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the columns of a table would be about different pairs."""
    nan = np.full((SIDE, SIDE), np.nan)
    monkeypatch.setitem(evaluation.METHODS, "li", lambda pair, mask, _: nan if mask.sum() == 4 else pair.LI_CT)
    report = evaluate(settings)
    assert [skipped.pair for skipped in report.failed] == ["test/000001_01_01/001/1"]
    assert {row.sample["mask"] for row in report.rows if row.method == "input"} == {0, 2}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"methods": ("input", "unet")}, UsageError, "unknown method 'unet'; expected one of input, li, nmar"),
        ({"methods": ()}, UsageError, "name each method once"),
        ({"methods": ("li", "li")}, UsageError, "name each method once"),
        ({"protocol": "png"}, UsageError, "unknown protocol 'png'"),
        ({"sinograms": "none"}, UsageError, "unknown sinograms 'none'; expected one of stored, projected"),
        ({"figures": -1}, UsageError, "--figures: got -1"),
        ({"window_hu": (100.0, 100.0)}, UsageError, "rising window"),
        ({"preset": "spiral"}, UsageError, "unknown preset 'spiral'"),
        ({"device": "tpu"}, UsageError, "unknown device 'tpu'"),
        ({"data": "/nowhere"}, InputError, "/nowhere: no such folder"),
        ({"split": "train"}, InputError, "no train_640geo_dir.txt in it"),
        ({"masks": "/nowhere.npy"}, InputError, "mask stack /nowhere.npy: no such file"),
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
    with pytest.raises(MarError, match=f"did you mean {data}"):
        evaluate(dataclasses.replace(settings, data=str(tmp_path)))
    with pytest.raises(MarError, match=r"flat.npy has shape \(3, 3\); expected a numpy file"):
        np.save(tmp_path / "flat.npy", np.zeros((3, 3)))
        evaluate(dataclasses.replace(settings, masks=str(tmp_path / "flat.npy")))
    (data / "testmask.npy").unlink()
    with pytest.raises(
        NothingToProcessError, match=r"no pair could be scored \(4 without.*testmask.npy is not in the data folder"
    ):
        evaluate(settings)
    for text, message in (
        ("", "lists no slice"),
        ("a/gt.h5", "expected case/slice/gt.h5"),
        ("../b/gt.h5", "expected case/slice/gt.h5"),
    ):
        (data / "test_640geo_dir.txt").write_text(text)
        with pytest.raises(MarError, match=message):
            evaluate(settings)
    assert not any(Path(settings.out).iterdir())


def test_an_output_that_cannot_be_written_is_refused(settings: EvaluateSettings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MarError, match=r"file: cannot be written .*; name another --out"):
        evaluate(dataclasses.replace(settings, out=str(tmp_path / "file")))


def test_a_disk_that_fills_up_is_named_and_leaves_nothing_half(
    settings: EvaluateSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left") as caught:
        evaluate(settings)
    assert caught.value.filename == f"{settings.out}/results.csv"
    assert not any(Path(settings.out).iterdir())


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
    truth_mu = np.zeros((SIDE, SIDE))
    truth_mu[10:40, 10:50] = 0.2
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
    assert "cropped to the body" in words
    assert "\u00b1150 HU" in words
    boxes = [(text.get_text(), text.get_window_extent()) for text in shown]
    for (one, box), (other, other_box) in itertools.combinations(boxes, 2):
        assert not box.overlaps(other_box), (one, other)
    for one, box in boxes:
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1, one
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1, one


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


def test_figure_shows_the_body_and_the_metal_and_says_so() -> None:
    truth_mu, metal_mask = np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE), bool)
    truth_mu[30:50, 20:50] = 0.2
    metal_mask[25, 40] = True
    figure = case_figure({"LI": truth_mu}, truth_mu, metal_mask, {}, title="case")
    shown = [image.get_array() for axes in figure.axes for image in axes.images]
    assert {image.shape for image in shown} == {(32, 32)}
    assert np.count_nonzero(shown[0] > -500) == np.count_nonzero(truth_mu)
    assert any("cropped to the body" in text.get_text() for text in figure.findobj(Text))
    whole = case_figure({"LI": truth_mu * 0}, truth_mu * 0, metal_mask, {}, title="case")
    assert not any("cropped" in text.get_text() for text in whole.findobj(Text))
    assert whole.axes[0].images[0].get_array().shape == (SIDE, SIDE)


@pytest.mark.parametrize("side", [64, 416, 512])
def test_figure_shows_every_pixel_the_same_width(side: int) -> None:
    truth_mu = np.full((side, side), 0.2)
    figure = case_figure({"LI": truth_mu}, truth_mu, np.zeros((side, side), bool), {}, title="")
    figure.canvas.draw()
    width = figure.axes[0].get_window_extent().width / side
    assert width == pytest.approx(max(1, round(width)))


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
    scored = {
        (row.sample["case"], row.sample["slice"], row.sample["mask"], row.method): round(row.scores["psnr"], 1)
        for row in report.rows
    }
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


def test_every_slice_has_a_picture_unless_a_number_is_given(settings):
    report = evaluate(dataclasses.replace(settings, figures=None))
    slices = {(row.sample["split"], row.sample["case"], row.sample["slice"]) for row in report.rows}
    pictures = [name for name in report.outputs if name.endswith(".png")]
    assert {tuple(name.removesuffix(".png").rsplit("_", 1)[0].split("_", 1)) for name in pictures} == {
        (split, f"{case}_{slice_}") for split, case, slice_ in slices
    }
    assert len(pictures) == len(slices)
