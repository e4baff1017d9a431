"""`mar evaluate`: scores of correction methods on a data set in the community layout, as tables and pictures."""

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from mar_pipeline.evaluation_files import make_folder, write_report, write_tables
from mar_pipeline.evaluation_pairs import (
    PairFile,
    Skipped,
    find_pairs,
    load_masks,
    load_pair,
    why_no_mask,
    why_other_mask,
)
from mar_pipeline.methods import LABELS, METHODS, Scanner
from mar_pipeline.metrics import PROTOCOLS, score
from mar_pipeline.score_tables import ScoreRow, size_group, to_text
from simulation.errors import InputError, UsageError
from simulation.files import whole_file
from simulation.progress import with_progress
from simulation.store import Pair, manifest_file, read_manifest

logger = logging.getLogger(__name__)

DEFAULT_PRESET = "syndeeplesion"


@dataclass(frozen=True)
class EvaluateSettings:
    """Score correction methods against the truth of simulated pairs: tables, and pictures of some pairs.

    Args:
        data: folder with ``{train,test}_640geo_dir.txt`` and ``{train,test}_640geo/<case>/<slice>/{gt,N}.h5``.
        out: folder for results.csv, table.md, report.json and the pictures.
        methods: input (uncorrected), li, nmar.
        protocol: how to score: float (nothing quantised), uint8, imsave (the published tables' PNGs), or all.
        split: only train or only test; if not given whatever the data lists.
        masks: mask stack (.npy, rows x columns x n) instead of the data's own.
        trust_masks: do not check that a pair's mask throws the metal trace stored with the pair.
        preset: the scanner that made the data; if not given what the data set's manifest says, and syndeeplesion
            where there is no manifest, as in the public files.
        device: ``auto``, ``cpu`` or ``cuda``.
        figures: number of pairs with a picture, spread over the metal sizes; if not given one for every slice.
        window_hu: darkest and brightest HU of the images.
        difference_hu: the differences are shown from minus to plus this many HU.
    """

    data: str
    out: str
    methods: tuple[str, ...] = ("input", "li", "nmar")
    protocol: Literal["float", "uint8", "imsave", "all"] = "float"
    split: Literal["train", "test"] | None = None
    masks: str | None = None
    trust_masks: bool = False
    preset: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    figures: int | None = None
    window_hu: tuple[float, float] = (-175.0, 275.0)
    difference_hu: float = 200.0


@dataclass(frozen=True)
class EvaluateReport:
    """What `evaluate` did.

    Args:
        rows: one per pair, method and protocol.
        table: the tables as aligned text.
        not_scored: pairs whose mask is not known; nothing is wrong with them.
        failed: pairs that are broken or on which a method failed; not empty means exit code 3.
        outputs: files written, relative to the output folder.
        device: where it ran.
    """

    rows: tuple[ScoreRow, ...]
    table: str
    not_scored: tuple[Skipped, ...]
    failed: tuple[Skipped, ...]
    outputs: tuple[str, ...]
    device: str


def evaluate(settings: EvaluateSettings) -> EvaluateReport:
    """Score every pair whose mask is known and write results.csv, table.md, report.json and the pictures.

    A pair counts only if every method gave a finite image of it: all columns of a table are about the same pairs.

    Args:
        settings: what to score.

    Raises:
        UsageError: an unknown method, protocol, preset or device.
        InputError: the data cannot be used, the output folder cannot be written, or no pair could be scored.
        OSError: a file cannot be written.
    """
    check_settings(settings)
    if settings.trust_masks:
        logger.warning("evaluate: --trust-masks: nothing checks that the masks belong to their pairs")
    started = time.monotonic()
    data, out = Path(settings.data), Path(settings.out)
    if out.resolve() == data.resolve():
        raise UsageError(f"--out {out}: is the data folder, whose report would be lost; name another")
    pairs, missing = find_pairs(data, settings.split)
    stacks = load_masks(data, settings.masks)
    scanners = _scanners(data, {file.split for file in pairs}, settings)
    make_folder(out)
    rows, not_scored, failed = _score_all(pairs, stacks, settings, scanners)
    failed = missing + failed
    _refuse_nothing(rows, not_scored, failed)
    scored = {_key(row) for row in rows}
    coverage = _coverage(len(pairs), len(scored), not_scored, len(failed))
    outputs = write_tables(rows, coverage, out)
    files = [file for file in pairs if _key(file) in scored]
    drawn = _one_a_slice(files) if settings.figures is None else _spread(files, rows, settings.figures)
    for file in with_progress(drawn, len(drawn), "evaluate", "picture"):
        scanner = scanners[file.split]
        pair, metal_mask = load_pair(file, stacks, scanner.projector)
        outputs.append(_draw(file, pair, metal_mask, settings, scanner, rows, out))
    outputs.append("report.json")
    device = next(iter(scanners.values())).projector.device
    report = EvaluateReport(
        tuple(rows), f"{to_text(rows)}\n{coverage}", tuple(not_scored), tuple(failed), tuple(outputs), device
    )
    write_report(
        out,
        settings=asdict(settings),
        presets={split: scanner.preset for split, scanner in scanners.items()},
        device=device,
        counts={"pairs": len(pairs), "scored": len(scored)},
        rows=rows,
        not_scored=not_scored,
        failed=failed,
        outputs=outputs,
        seconds=time.monotonic() - started,
    )
    return report


def check_settings(settings: EvaluateSettings) -> None:
    """Refuse what no data could satisfy.

    Raises:
        UsageError: unknown names or impossible numbers.
    """
    unknown = [name for name in settings.methods if name not in METHODS]
    if unknown:
        raise UsageError(f"unknown method {unknown[0]!r}; expected one of {', '.join(METHODS)}")
    if not settings.methods or len(set(settings.methods)) < len(settings.methods):
        raise UsageError(f"methods: got {' '.join(settings.methods) or 'none'}; name each method once")
    if settings.protocol not in (*PROTOCOLS, "all"):
        raise UsageError(f"unknown protocol {settings.protocol!r}; expected one of {', '.join(PROTOCOLS)}, all")
    if settings.split not in (None, "train", "test"):
        raise UsageError(f"unknown split {settings.split!r}; expected train or test")
    if settings.figures is not None and settings.figures < 0:
        raise UsageError(f"--figures: got {settings.figures}, expected 0 or more")
    if not settings.window_hu[0] < settings.window_hu[1] or not settings.difference_hu > 0:
        raise UsageError(
            f"got window_hu {settings.window_hu} and difference_hu {settings.difference_hu}; expected a rising window "
            "and a positive difference"
        )


def _scanners(data: Path, splits: set[str], settings: EvaluateSettings) -> dict[str, Scanner]:
    """The scanner that made each split."""
    presets = {}
    for split in sorted(splits):
        manifest = read_manifest(data, split)
        recorded = manifest["identity"].get("preset") if manifest else None
        presets[split] = settings.preset or recorded or DEFAULT_PRESET
        if recorded and recorded != presets[split]:
            logger.warning("evaluate: preset %s, but %s says %s", presets[split], manifest_file(data, split), recorded)
    return {split: Scanner.of(preset, settings.device) for split, preset in presets.items()}


def _score_all(
    pairs: Sequence[PairFile],
    stacks: Mapping[str, np.ndarray],
    settings: EvaluateSettings,
    scanners: Mapping[str, Scanner],
) -> tuple[list[ScoreRow], list[Skipped], list[Skipped]]:
    """Rows, pairs whose mask is not known, pairs that failed."""
    rows: list[ScoreRow] = []
    not_scored: list[Skipped] = []
    failed: list[Skipped] = []
    for file in with_progress(pairs, len(pairs), "evaluate", "pair"):
        try:
            own, reason = _score_pair(file, stacks, settings, scanners[file.split])
        except InputError as error:
            failed.append(Skipped(file.name, str(error)))
            continue
        rows += own
        if reason:
            not_scored.append(Skipped(file.name, reason))
    return rows, not_scored, failed


def _score_pair(
    file: PairFile, stacks: Mapping[str, np.ndarray], settings: EvaluateSettings, scanner: Scanner
) -> tuple[list[ScoreRow], str]:
    """The rows of a pair, or the reason why its mask is not known."""
    reason = why_no_mask(file, stacks)
    if reason:
        return [], reason
    pair, metal_mask = load_pair(file, stacks, scanner.projector)
    if not settings.trust_masks and (reason := why_other_mask(pair, metal_mask, scanner.projector)):
        return [], reason
    rows = []
    metal_pixels, shape = int(np.count_nonzero(metal_mask)), pair.image.shape
    metal = (metal_pixels, f"{shape[0]} x {shape[1]}", size_group(metal_pixels, shape))
    for method in settings.methods:
        image_mu = METHODS[method](pair, metal_mask, scanner)
        for protocol in _protocols(settings):
            scores = score(image_mu, pair.image, metal_mask, protocol)
            rows.append(ScoreRow(file.split, file.case, file.slice, file.mask, *metal, method, protocol, **scores))
    return rows, ""


def _protocols(settings: EvaluateSettings) -> tuple[str, ...]:
    return tuple(PROTOCOLS) if settings.protocol == "all" else (settings.protocol,)


def _coverage(pairs: int, scored: int, not_scored: Sequence[Skipped], failed: int) -> str:
    """How many pairs the scores are about, and why not more."""
    reasons = Counter(skipped.reason for skipped in not_scored)
    words = "".join(f"; {count} not scored: {reason}" for reason, count in reasons.items())
    return f"{scored} of {pairs} pairs scored{words}" + (f"; {failed} failed." if failed else ".")


def _refuse_nothing(rows: list[ScoreRow], not_scored: list[Skipped], failed: list[Skipped]) -> None:
    if rows:
        return
    first = next(iter([*failed, *not_scored]), None)
    why = f"; the first one, {first.pair}: {first.reason}" if first else ""
    raise InputError(f"no pair could be scored ({len(not_scored)} without a known mask, {len(failed)} failed){why}")


def _key(of: PairFile | ScoreRow) -> tuple[str, str, str, int]:
    return of.split, of.case, of.slice, of.mask


def _one_a_slice(files: Sequence[PairFile]) -> list[PairFile]:
    """A pair of every slice: the first slice's first, the second's second, and so on round, so masks take turns."""
    slices: dict[tuple[str, str, str], list[PairFile]] = {}
    for file in files:
        slices.setdefault((file.split, file.case, file.slice), []).append(file)
    return [own[number % len(own)] for number, own in enumerate(slices.values())]


def _spread(files: Sequence[PairFile], rows: Sequence[ScoreRow], count: int) -> list[PairFile]:
    """The first scored pair of every size group, large to small, then the second ones, and so on."""
    groups = {_key(row): row.group for row in rows}
    seen: dict[int, int] = {}
    ranked = []
    for file in files:
        group = groups[_key(file)]
        seen[group] = seen.get(group, 0) + 1
        ranked.append((seen[group], group, file))
    return [file for _, _, file in sorted(ranked, key=lambda entry: entry[:2])[:count]]


def _draw(
    file: PairFile,
    pair: Pair,
    metal_mask: np.ndarray,
    settings: EvaluateSettings,
    scanner: Scanner,
    rows: Sequence[ScoreRow],
    out: Path,
) -> str:
    from mar_pipeline.figures import case_figure

    protocol = _protocols(settings)[0]
    own = {row.method: row for row in rows if _key(row) == _key(file) and row.protocol == protocol}
    metal_pixels = np.count_nonzero(metal_mask)
    name = f"{file.split}_{file.case}_{file.slice}_{file.mask}.png"
    figure = case_figure(
        images_mu={
            LABELS.get(method, method): METHODS[method](pair, metal_mask, scanner) for method in settings.methods
        },
        truth_mu=pair.image,
        metal_mask=metal_mask,
        captions={LABELS.get(method, method): f"{row.psnr:.2f} dB" for method, row in own.items()},
        title=f"{file.case}/{file.slice}, mask {file.mask}: {metal_pixels} metal pixels (PSNR: {protocol} protocol)",
        window_hu=settings.window_hu,
        difference_hu=settings.difference_hu,
    )
    with whole_file(out / name) as partial:
        figure.savefig(partial, format="png")
    return name
