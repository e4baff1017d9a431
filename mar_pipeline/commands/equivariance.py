"""`mar equivariance`: how far trained networks follow a rotation of the image, as tables and figures."""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils.data import default_collate

from mar_pipeline.commands import run_alone
from mar_pipeline.data import SimulatedPairs
from mar_pipeline.data.measured import pair_arrays
from mar_pipeline.data.pairs import find_pairs, load_masks, load_pair, why_no_mask, why_other_mask
from mar_pipeline.data.turning import field_of
from mar_pipeline.equivariance import equivariance_report
from mar_pipeline.equivariance.fields import Fields
from mar_pipeline.equivariance.report_tables import EquivarianceReport, reports_to_csv
from mar_pipeline.evaluation.equivariance_figures import draw_figures, shown_fields, turns_all
from mar_pipeline.evaluation.equivariance_tables import summary, to_markdown
from mar_pipeline.evaluation.files import make_folder, write_report
from mar_pipeline.evaluation.run_columns import run_facts
from mar_pipeline.evaluation.score_tables import plain_table
from mar_pipeline.networks.build import inputs_of, network_inputs
from mar_pipeline.networks.typed_fields import typed_layers
from mar_pipeline.options import read_settings
from mar_pipeline.runtime.device import torch_device
from mar_pipeline.sample import UNITS_PER_MU, Layout, to_sample
from mar_pipeline.tasks.metrics import MU_RANGE_PER_CM
from mar_pipeline.weights.trained import Trained, load_trained
from simulation.dataset.manifest import read_manifest, scan_in
from simulation.errors import InputError, MarError, NothingToProcessError, UsageError
from simulation.files import whole_file
from simulation.implants.library import ImplantLibrary
from simulation.physics.projector import Projector
from simulation.progress import with_progress
from simulation.sources.phantom import list_phantom
from simulation.sources.slices import evenly_spaced

logger = logging.getLogger(__name__)

_RANGE = MU_RANGE_PER_CM * UNITS_PER_MU
_PHANTOM_SEED = 0


@dataclass(frozen=True)
class EquivarianceSettings:
    """Measure how far trained networks follow a rotation of the image, layer by layer and as a whole.

    Args:
        runs: run folders or weights files; words before the first option are runs too.
        out: folder for equivariance.csv, equivariance.md, report.json, figure_1.png and figure_2.png.
        data: folder in the community layout whose pairs are turned; if not given pairs of the embedded phantom are
            simulated.
        split: only train or only test; if not given whatever the data lists.
        masks: mask stack (.npy) instead of the data's own.
        preset: the scanner; if not given what the data's manifest or else the first run says.
        pairs: number of pairs to turn, spread over the data.
        angles: degrees, counter-clockwise; multiples of 90 are exact, others interpolate.
        group_order: orientations in a group of channels.
        layer: the convolution that the figures show, such as image_proxes.4.blocks.0.conv1; if not given the last one
            with a group of channels.
        maps: feature maps of each network in the figures.
        device: ``auto``, ``cpu`` or ``cuda``.
    """

    runs: tuple[str, ...] = ()
    out: str = "equivariance"
    data: str | None = None
    split: Literal["train", "test"] | None = None
    masks: str | None = None
    preset: str | None = None
    pairs: int = 1
    angles: tuple[float, ...] = (90.0, 180.0, 270.0, 120.0)
    group_order: int = 4
    layer: str | None = None
    maps: int = 2
    device: Literal["auto", "cpu", "cuda"] = "auto"


@dataclass(frozen=True)
class EquivarianceResult:
    """What `equivariance` did.

    Args:
        reports: label of a run -> what was measured.
        table: the whole networks' errors as aligned text.
        failed: runs that could not be measured, with the reason; not empty means exit code 3.
        outputs: files written, relative to the output folder.
    """

    reports: dict[str, EquivarianceReport]
    table: str
    failed: tuple[str, ...]
    outputs: tuple[str, ...]


def read_equivariance_settings(arguments: list[str]) -> EquivarianceSettings:
    """Return settings from the command line after ``mar equivariance``: runs, then options.

    Raises:
        UsageError: for an unknown key, a wrong type or a missing value, by name.
    """
    if arguments and not arguments[0].startswith("-"):
        arguments = ["--runs", *arguments]
    return read_settings("equivariance", EquivarianceSettings, arguments)


def equivariance(settings: EquivarianceSettings) -> EquivarianceResult:
    """Turn the same pairs for every run, and write the tables, the figures and report.json.

    Args:
        settings: what to measure.

    Raises:
        UsageError: impossible settings, an unknown layer, preset or device.
        InputError: no run or no pair can be used, or the output folder cannot be written.
        OSError: a file cannot be written.
    """
    _check(settings)
    started, out = time.monotonic(), Path(settings.out)
    device = str(torch_device(settings.device))
    trained, failed = _load(settings.runs, device)
    _check_layer(settings, trained)
    layout = Layout.of(name for run in trained.values() for name in network_inputs(run.network))
    preset, names, sample = _sample(settings, next(iter(trained.values())).preset, layout)
    _warn_of_other_presets(trained, preset)
    make_folder(out)
    sample = {name: array.to(device) for name, array in sample.items()}
    reports: dict[str, EquivarianceReport] = {}
    for label, run in with_progress(list(trained.items()), len(trained), "equivariance", "run"):
        try:
            reports[label] = _measure(label, run, sample, settings)
        except MarError as error:
            failed.append(f"{label}: {error}")
    if not reports:
        raise InputError(f"no run could be measured; the first one, {failed[0]}")
    texts = {"equivariance.csv": reports_to_csv(reports), "equivariance.md": to_markdown(reports, names)}
    for name, text in texts.items():
        with whole_file(out / name) as partial:
            partial.write_text(text)
    networks = {label: trained[label].network for label in reports}
    inputs = {label: inputs_of(network, sample) for label, network in networks.items()}
    kinds = {label: _fields_of(network) for label, network in networks.items()}
    figures = draw_figures(networks, inputs, kinds, settings.layer, settings.group_order, settings.maps, out)
    outputs = [*texts, *figures, "report.json"]
    write_report(
        out,
        "equivariance",
        asdict(settings),
        device,
        time.monotonic() - started,
        preset=preset,
        counts={"pairs": len(names), "runs": len(reports), "failed": len(failed)},
        pairs=names,
        runs=[_facts(label, trained[label]) | {"report": reports[label].as_dict()} for label in reports],
        failed=failed,
        outputs=outputs,
    )
    return EquivarianceResult(reports, plain_table(summary(reports)), tuple(failed), tuple(outputs))


def _check(settings: EquivarianceSettings) -> None:
    if not settings.runs or len(set(settings.runs)) < len(settings.runs):
        raise UsageError(
            f"runs: got {' '.join(settings.runs) or 'none'}; name run folders or weights files, each one once"
        )
    numbers = {"pairs": (settings.pairs, 1), "maps": (settings.maps, 1), "group-order": (settings.group_order, 2)}
    for name, (number, least) in numbers.items():
        if number < least:
            raise UsageError(f"--{name}: got {number}, expected {least} or more")
    wrong = [angle for angle in settings.angles if not math.isfinite(angle) or round(angle, 1) % 360 == 0]
    if wrong or not settings.angles:
        raise UsageError(f"--angles: got {wrong[0] if wrong else 'none'}, expected degrees other than 0 and 360")


def _load(paths: Sequence[str], device: str) -> tuple[dict[str, Trained], list[str]]:
    """Return the runs by a label of their own, and those that cannot be loaded."""
    found: dict[str, Trained] = {}
    failed: list[str] = []
    for path in paths:
        try:
            run = load_trained(path, device)
        except InputError as error:
            failed.append(f"{path}: {error}")
            continue
        candidates = (run.label, f"{run.label} seed {run.seed}", str(path))
        found[next(label for label in candidates if label not in found)] = run
    if not found:
        raise InputError(f"no run can be loaded; the first one, {failed[0]}")
    return found, failed


def _check_layer(settings: EquivarianceSettings, trained: Mapping[str, Trained]) -> None:
    """Refuse a layer that the figures could not show, before anything is measured."""
    for label, run in trained.items():
        try:
            shown_fields(run.network, settings.layer, settings.group_order)
        except ValueError as error:
            raise UsageError(f"--layer, for {label}: {error}") from error


def _warn_of_other_presets(trained: Mapping[str, Trained], preset: str) -> None:
    for label, run in trained.items():
        if run.preset != preset:
            logger.warning(
                "equivariance: %s was trained for the preset %s, the pairs are of %s", label, run.preset, preset
            )


def _fields_of(network: nn.Module) -> list[Fields]:
    return [field_of(name) for name in network_inputs(network)]


def _sample(
    settings: EquivarianceSettings, trained_preset: str, layout: Layout
) -> tuple[str, list[str], dict[str, Tensor]]:
    """Return the preset, the pairs' names, and the arrays of all of them, in network units."""
    if settings.data is None:
        preset = settings.preset or trained_preset
        refs = list_phantom("phantom", _PHANTOM_SEED, settings.pairs)
        pairs = SimulatedPairs(refs, preset, ImplantLibrary(), frozen=True, count=settings.pairs, layout=layout)
        return preset, pairs.names, default_collate([pairs[index] for index in range(len(pairs))])
    data = Path(settings.data)
    files, _ = find_pairs(data, settings.split)
    stacks = load_masks(data, settings.masks)
    reasons = [why_no_mask(file, stacks) for file in files]
    known = [file for file, reason in zip(files, reasons, strict=True) if not reason]
    if not known:
        reason = reasons[0] if reasons else "the listed slices hold none"
        raise NothingToProcessError(f"{data}: no pair with a mask ({reason})")
    chosen = evenly_spaced(known, settings.pairs)
    manifest = read_manifest(data, chosen[0].split)
    preset = settings.preset or (manifest and manifest["identity"].get("preset")) or trained_preset
    scan = scan_in(data, chosen[0].split, preset)
    projector = Projector(scan.geometry, "cpu", kernel=scan.kernel)
    samples = []
    for file in chosen:
        pair, metal_mask = load_pair(file, stacks, projector)
        if reason := why_other_mask(pair.metal_trace, metal_mask, projector):
            raise InputError(f"{file.name}: {reason}; name the right stack with --masks")
        arrays = pair_arrays(layout, pair, pair.image, metal_mask, projector, scan.weighting)
        samples.append(to_sample(arrays, layout))
    return preset, [file.name for file in chosen], default_collate(samples)


def _measure(
    label: str, run: Trained, sample: Mapping[str, Tensor], settings: EquivarianceSettings
) -> EquivarianceReport:
    """Measure one pair at a time; what a network adds to its start counts, outside metal, which it leaves undefined."""
    typed = typed_layers(run.network, settings.group_order)
    inputs, kinds = inputs_of(run.network, sample), _fields_of(run.network)
    angles = [angle for angle in settings.angles if turns_all(inputs, kinds, angle)]
    for angle in settings.angles:
        if angle not in angles:
            logger.warning("equivariance: %s: %g degrees shift no whole number of views; left out", label, angle)
    if not angles:
        raise InputError("none of the angles shifts a whole number of views; add 90 to --angles")
    try:
        return equivariance_report(
            run.network,
            inputs,
            typed.outputs,
            group_order=settings.group_order,
            angles_deg=angles,
            input_fields=kinds,
            data_range=_RANGE,
            exclude=typed.exclude,
            output=lambda answer, image, start, metal_mask, *_: (answer[0] - start) * (1 - metal_mask),
            batch_size=1,
        )
    except (ValueError, RuntimeError) as error:  # torch's word for shapes that do not fit and for no memory left
        raise InputError(f"cannot be measured ({' '.join(str(error).split())[:300]})") from error


def _facts(label: str, run: Trained) -> dict[str, Any]:
    facts = run_facts(run, label)
    return {"label": facts.pop("name"), **facts}


if __name__ == "__main__":
    run_alone("equivariance")
