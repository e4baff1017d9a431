"""Scores of correction methods on pairs of a data set in the community layout, as tables and pictures."""

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from mar_pipeline.data.measured import with_projected_data
from mar_pipeline.data.pairs import (
    PairFile,
    Skipped,
    find_pairs,
    load_masks,
    load_pair,
    why_no_mask,
    why_other_mask,
)
from mar_pipeline.evaluation.files import EvaluateReport, make_folder, without_infinity, write_report, write_tables
from mar_pipeline.evaluation.method_facts import Measurements, collect_facts, facts_to_text
from mar_pipeline.evaluation.methods import LABELS, METHODS, Method, Scanner, first_seeds
from mar_pipeline.evaluation.score_tables import ScoreRow, averages, size_group, to_text
from mar_pipeline.evaluation.settings import EvaluateSettings, check_settings
from mar_pipeline.evaluation.training_pairs import without_training_pairs
from mar_pipeline.tasks.metrics import score
from simulation.dataset.manifest import manifest_file, read_manifest, scan_in
from simulation.dataset.reader import Pair
from simulation.errors import InputError, NothingToProcessError, UsageError
from simulation.files import whole_file
from simulation.progress import with_progress

logger = logging.getLogger(__name__)

DEFAULT_PRESET = "syndeeplesion"
_PROJECTED = "Sinograms, metal trace and LI: projected from the uncorrected image, as if the raw data were gone."


def evaluate_pairs(settings: EvaluateSettings) -> EvaluateReport:
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
    device = next(iter(scanners.values())).projector.device
    methods = _methods(settings, scanners, device)
    pairs, seen = without_training_pairs(pairs, methods, data, settings.include_training_pairs)
    make_folder(out, settings.overwrite)
    scoring = _Scoring(settings, stacks, scanners, methods, Measurements(device))
    rows, not_scored, failed = scoring.all(pairs)
    failed = missing + failed
    _refuse_nothing(rows, not_scored, failed)
    not_scored = seen + not_scored
    scored = {_key(row) for row in rows}
    coverage = _coverage(len(pairs) + len(seen), len(scored), not_scored, len(failed))
    if settings.sinograms == "projected":
        coverage += f"\n\n{_PROJECTED}"
    facts = collect_facts(methods, scoring.measured)
    outputs = write_tables(rows, facts, scoring.measured, settings.precision, coverage, out)
    files = [file for file in pairs if _key(file) in scored]
    drawn = _one_a_slice(files) if settings.figures is None else _spread(files, rows, settings.figures)
    outputs += [scoring.draw(file, rows, out) for file in with_progress(drawn, len(drawn), "evaluate", "picture")]
    outputs.append("report.json")
    tables = f"{to_text(rows)}\n{facts_to_text(facts, scoring.measured, settings.precision)}{coverage}"
    write_report(
        out,
        "evaluate",
        asdict(settings),
        device,
        time.monotonic() - started,
        presets={split: scanner.preset for split, scanner in scanners.items()},
        counts={
            "pairs": len(pairs) + len(seen),
            "scored": len(scored),
            "not_scored": len(not_scored),
            "failed": len(failed),
        },
        averages=without_infinity(averages(rows)),
        methods={of_method.method: of_method.as_json() for of_method in facts},
        runs=[dict(method.facts) | {"method": method.column} for method in methods if method.run],
        not_scored=[asdict(skipped) for skipped in not_scored],
        failed=[asdict(skipped) for skipped in failed],
        outputs=outputs,
    )
    return EvaluateReport(
        rows=tuple(rows),
        table=tables,
        markdown=(out / "table.md").read_text(),
        outputs=tuple(outputs),
        device=device,
        not_scored=tuple(not_scored),
        failed=tuple(failed),
    )


def _scanners(data: Path, splits: set[str], settings: EvaluateSettings) -> dict[str, Scanner]:
    """Return the scanner that made each split."""
    presets = {}
    for split in sorted(splits):
        manifest = read_manifest(data, split)
        recorded = manifest["identity"].get("preset") if manifest else None
        presets[split] = settings.preset or recorded or DEFAULT_PRESET
        if recorded and recorded != presets[split]:
            logger.warning("evaluate: preset %s, but %s says %s", presets[split], manifest_file(data, split), recorded)
    return {
        split: Scanner.of(preset, settings.device, scan_in(data, split, preset)) for split, preset in presets.items()
    }


def _methods(settings: EvaluateSettings, scanners: Mapping[str, Scanner], device: str) -> list[Method]:
    """Return what is scored, in the order of the settings' methods; torch is imported for networks only."""
    paths = [word for word in settings.methods if word not in METHODS]
    networks: dict[str, Method] = {}
    if paths:
        from mar_pipeline.evaluation.network_methods import load_networks, refuse_other_preset

        loaded = load_networks(paths, device, settings.precision)
        refuse_other_preset(loaded, {split: scanner.preset for split, scanner in scanners.items()}, settings.any_preset)
        networks = dict(zip(paths, loaded, strict=True))
    return [networks.get(word) or Method(word, METHODS[word]) for word in settings.methods]


@dataclass(frozen=True)
class _Scoring:
    """Methods on pairs, and what is measured meanwhile."""

    settings: EvaluateSettings
    stacks: Mapping[str, np.ndarray]
    scanners: Mapping[str, Scanner]
    methods: Sequence[Method]
    measured: Measurements

    def all(self, pairs: Sequence[PairFile]) -> tuple[list[ScoreRow], list[Skipped], list[Skipped]]:
        """Return rows, pairs whose mask is not known, and pairs that failed."""
        rows: list[ScoreRow] = []
        not_scored: list[Skipped] = []
        failed: list[Skipped] = []
        for file in with_progress(pairs, len(pairs), "evaluate", "pair"):
            try:
                own, reason = self._pair(file)
            except InputError as error:
                failed.append(Skipped(file.name, str(error)))
                continue
            rows += own
            if reason:
                not_scored.append(Skipped(file.name, reason))
        return rows, not_scored, failed

    def _pair(self, file: PairFile) -> tuple[list[ScoreRow], str]:
        """Return the rows of a pair, or the reason why its mask is not known."""
        reason = why_no_mask(file, self.stacks)
        if reason:
            return [], reason
        scanner = self.scanners[file.split]
        pair, metal_mask = load_pair(file, self.stacks, scanner.projector)
        if not self.settings.trust_masks and (
            reason := why_other_mask(pair.metal_trace, metal_mask, scanner.projector)
        ):
            return [], reason
        pair = self._usable(pair, metal_mask, scanner)
        rows, seconds, errors = [], {}, {}
        metal_pixels, shape = int(np.count_nonzero(metal_mask)), pair.image.shape
        sample = {
            "split": file.split,
            "case": file.case,
            "slice": file.slice,
            "mask": file.mask,
            "metal_pixels": metal_pixels,
            "grid": f"{shape[0]} x {shape[1]}",
            "group": size_group(metal_pixels, shape),
        }
        for method in self.methods:
            correct = partial(method.answer, pair, metal_mask, scanner)
            with _named(method):
                image_mu, seconds[method.name] = self.measured.timed(correct)
                for protocol in self.settings.protocols:
                    scores = score(image_mu, pair.image, metal_mask, protocol)
                    how = {"protocol": protocol}
                    rows.append(ScoreRow(sample, method.column, method.run, method.seed, how, scores))
                if method.equivariance and self.measured.pairs < self.settings.equivariance_pairs:
                    errors[method.name] = method.equivariance(pair, metal_mask, scanner)
        self.measured.keep(seconds, errors)
        return rows, ""

    def _usable(self, pair: Pair, metal_mask: np.ndarray, scanner: Scanner) -> Pair:
        """Return what the methods may use of a pair."""
        if self.settings.sinograms == "stored":
            return pair
        return with_projected_data(pair, metal_mask, scanner.projector, scanner.weighting)

    def draw(self, file: PairFile, rows: Sequence[ScoreRow], out: Path) -> str:
        """Draw a scored pair, of several seeds that of the first; return the picture's name."""
        from mar_pipeline.tasks.pair_figure import case_figure

        scanner, protocol = self.scanners[file.split], self.settings.protocols[0]
        pair, metal_mask = load_pair(file, self.stacks, scanner.projector)
        pair = self._usable(pair, metal_mask, scanner)
        own = [row for row in rows if (_key(row), row.protocol) == (_key(file), protocol)]
        psnr = {row.run or row.method: row.scores["psnr"] for row in own}
        shown = {_label(method, self.methods): method for method in first_seeds(self.methods)}
        figure = case_figure(
            images_mu={label: method.answer(pair, metal_mask, scanner) for label, method in shown.items()},
            truth_mu=pair.image,
            metal_mask=metal_mask,
            captions={label: f"{psnr[method.name]:.2f} dB" for label, method in shown.items()},
            title=f"{file.case}/{file.slice}, mask {file.mask}: {np.count_nonzero(metal_mask)} metal pixels "
            f"(PSNR: {protocol} protocol)",
            window_hu=self.settings.window_hu,
            difference_hu=self.settings.difference_hu,
        )
        name = f"{file.split}_{file.case}_{file.slice}_{file.mask}.png"
        with whole_file(out / name) as unfinished:
            figure.savefig(unfinished, format="png")
        return name


@contextmanager
def _named(method: Method) -> Iterator[None]:
    """Say whose image it was that could not be made or scored."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{method.name}: {error}") from error


def _label(method: Method, methods: Sequence[Method]) -> str:
    """Return what a picture calls it."""
    several = sum(other.column == method.column for other in methods) > 1
    return LABELS.get(method.column, method.column) + (f" (seed {method.seed})" if several else "")


def _coverage(pairs: int, scored: int, not_scored: Sequence[Skipped], failed: int) -> str:
    """Return how many pairs the scores are about, and why not more."""
    reasons = Counter(skipped.reason for skipped in not_scored)
    words = "".join(f"; {count} not scored: {reason}" for reason, count in reasons.items())
    return f"{scored} of {pairs} pairs scored{words}" + (f"; {failed} failed." if failed else ".")


def _refuse_nothing(rows: list[ScoreRow], not_scored: list[Skipped], failed: list[Skipped]) -> None:
    if rows:
        return
    first = next(iter([*failed, *not_scored]), None)
    why = f"; the first one, {first.pair}: {first.reason}" if first else ""
    error = InputError if failed else NothingToProcessError
    raise error(f"no pair could be scored ({len(not_scored)} without a known mask, {len(failed)} failed){why}")


def _key(of: PairFile | ScoreRow) -> tuple[str, str, str, int]:
    if isinstance(of, PairFile):
        return of.split, of.case, of.slice, of.mask
    return of.sample["split"], of.sample["case"], of.sample["slice"], of.sample["mask"]


def _one_a_slice(files: Sequence[PairFile]) -> list[PairFile]:
    """Return a pair of every slice: the first slice's first, the second's second, and so on, so masks take turns."""
    slices: dict[tuple[str, str, str], list[PairFile]] = {}
    for file in files:
        slices.setdefault((file.split, file.case, file.slice), []).append(file)
    return [own[number % len(own)] for number, own in enumerate(slices.values())]


def _spread(files: Sequence[PairFile], rows: Sequence[ScoreRow], count: int) -> list[PairFile]:
    """Return the first scored pair of every size group, large to small, then the second ones, and so on."""
    groups = {_key(row): row.sample["group"] for row in rows}
    seen: dict[int, int] = {}
    ranked = []
    for file in files:
        group = groups[_key(file)]
        seen[group] = seen.get(group, 0) + 1
        ranked.append((seen[group], group, file))
    return [file for _, _, file in sorted(ranked, key=lambda entry: entry[:2])[:count]]
