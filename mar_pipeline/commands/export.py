"""`mar export`: a trained network as files for others: weights, model card, hashes, ONNX."""

import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mar_pipeline.commands import run_alone
from mar_pipeline.evaluation.files import make_folder
from mar_pipeline.networks.build import has_projector
from mar_pipeline.weights.model_card import model_card
from mar_pipeline.weights.onnx import OnnxFacts, export_onnx, require_onnx
from mar_pipeline.weights.trained import BEST, Trained, load_trained
from simulation.errors import ResourceError, UsageError
from simulation.files import sha256_of, sha256_of_text, whole_file, write_json
from simulation.provenance import library_versions

WEIGHTS, ONNX, CARD, SUMS, REPORT = "model.safetensors", "model.onnx", "MODEL_CARD.md", "SHA256SUMS", "report.json"


@dataclass(frozen=True)
class ExportSettings:
    """Write a trained network as files that others can use: weights, model card, hashes, ONNX.

    Args:
        run: run folder, or weights file of mar train or mar export.
        out: folder for model.safetensors, model.onnx, MODEL_CARD.md, SHA256SUMS and report.json.
        onnx: also write model.onnx and compare it with torch; if not said, unless the network projects.
        overwrite: replace what is in the folder.
    """

    run: str
    out: str
    onnx: bool | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class ExportReport:
    """What `export` did.

    Args:
        summary: one line for the terminal.
        hashes: file name -> SHA-256.
    """

    summary: str
    hashes: dict[str, str]


def export(settings: ExportSettings) -> ExportReport:
    """Write the best weights of a run byte for byte, and what others need to know about them.

    The same export again writes the same files; a folder that holds anything else is refused.

    Args:
        settings: what and where to.

    Raises:
        UsageError: the folder holds something else.
        InputError: the run cannot be used, the folder cannot be written, or ONNX is not installed or not possible.
        OSError: a file cannot be written.
    """
    started = time.monotonic()
    trained, out = load_trained(settings.run), Path(settings.out)
    with_onnx = not has_projector(trained.network) if settings.onnx is None else settings.onnx
    if with_onnx:
        require_onnx()
    if settings.onnx and has_projector(trained.network):
        raise UsageError(
            f"--onnx: {trained.name} projects inside the network, which ONNX has no operator for; take --no-onnx"
        )
    _refuse_other_content(trained, out, settings.overwrite)
    make_folder(out)
    onnx = export_onnx(trained.network, out / ONNX) if with_onnx else None
    if onnx is None:
        (out / ONNX).unlink(missing_ok=True)  # of weights that are replaced
    if not (out / WEIGHTS).is_file() or not trained.source.samefile(out / WEIGHTS):
        with whole_file(out / WEIGHTS) as partial:
            shutil.copyfile(trained.source, partial)
    hashes = {name: sha256_of(out / name) for name in (WEIGHTS, ONNX) if (out / name).is_file()}
    with whole_file(out / CARD) as partial:
        partial.write_text(model_card(trained, hashes, onnx))
    hashes[CARD] = sha256_of(out / CARD)
    with whole_file(out / SUMS) as partial:
        partial.write_text("".join(f"{digest}  {name}\n" for name, digest in hashes.items()))
    _write_report(settings, trained, onnx, hashes, time.monotonic() - started)
    return ExportReport(_summary(trained, onnx, out), hashes)


def _refuse_other_content(trained: Trained, out: Path, overwrite: bool) -> None:
    if (out / BEST).exists():
        raise ResourceError(f"{out}: is a training run, whose report would be lost; name another folder")
    if overwrite or not out.is_dir() or not any(out.iterdir()):
        return
    others = sorted(path.name for path in out.iterdir() if path.name not in (WEIGHTS, ONNX, CARD, SUMS, REPORT))
    weights = out / WEIGHTS
    if others or not weights.is_file() or sha256_of(weights) != sha256_of(trained.source):
        what = f"holds {others[0]}" if others else "holds another export"
        raise ResourceError(f"{out}: {what}; name another folder, or take --overwrite")


def _summary(trained: Trained, onnx: OnnxFacts | None, out: Path) -> str:
    words = f"{out}: {trained.label} ({trained.name}, {trained.parameters:,} parameters)"
    if onnx is None:
        return f"{words}, no ONNX"
    batch = "any batch" if onnx.any_batch else "one image at a time"
    return f"{words}; ONNX for {batch}, at most {onnx.difference:.1g} network units from torch"


def _write_report(
    settings: ExportSettings, trained: Trained, onnx: OnnxFacts | None, hashes: dict[str, str], seconds: float
) -> None:
    plain = asdict(settings)
    report: dict[str, Any] = {
        "command": "export",
        "versions": library_versions(),
        "settings": plain,
        "settings_sha256": sha256_of_text(json.dumps(plain, sort_keys=True)),
        "device": "cpu",
        "seed": trained.seed,
        "seconds": round(seconds, 2),
        "network": trained.name,
        "arguments": trained.arguments,
        "weights": str(trained.source),
        "onnx": None if onnx is None else asdict(onnx),
        "sha256": hashes,
        "outputs": [*hashes, SUMS, REPORT],
    }
    write_json(Path(settings.out) / REPORT, report)


if __name__ == "__main__":
    run_alone("export")
