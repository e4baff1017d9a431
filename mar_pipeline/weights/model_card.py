"""The page that goes with exported weights: what they are, what they were made of, and what they are not for."""

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import yaml

from mar_pipeline import __version__
from mar_pipeline.networks.build import network_inputs
from mar_pipeline.sample import (
    HARDENING,
    IMAGE,
    LI,
    LI_SINOGRAM,
    MA_SINOGRAM,
    MAX_LINE_INTEGRAL,
    MAX_MU_PER_CM,
    METAL_MASK,
    METAL_TRACE,
    NMAR,
    NMAR_SINOGRAM,
    PRIOR,
    SINOGRAMS,
    UNITS_PER_LINE_INTEGRAL,
    UNITS_PER_MU,
)
from mar_pipeline.weights.onnx import OPSET, TOLERANCE, OnnxFacts
from mar_pipeline.weights.trained import Trained
from simulation.units import MU_WATER_PER_CM

_OF_THE_MACHINE = ("run", "label", "device", "threads", "sample_pictures", "allow_changed_settings")
"""Settings that say where and under which name a run took place, not what it learnt."""
_PATHS = ("folder", "source", "masks", "val_folder")
"""Settings of the data that may hold paths; of those the last part is what others can know the data by."""


def model_card(trained: Trained, hashes: Mapping[str, str], onnx: OnnxFacts | None) -> str:
    """Return the model card, in Markdown.

    M. Mitchell et al., "Model Cards for Model Reporting", FAT* 2019.

    Args:
        trained: the network.
        hashes: file name -> SHA-256.
        onnx: about the ONNX file, None if there is none.
    """
    sections = {
        "What it is": _what(trained),
        "Units": _units(network_inputs(trained.network)),
        "Use": _use(network_inputs(trained.network), onnx),
        "Validation": _validation(trained),
        "Training": _training(trained),
        "Intended use": _INTENDED,
        "Licence": _LICENCE,
        "Files": "\n".join(["SHA-256:", "", *(f"- `{name}`: `{digest}`" for name, digest in hashes.items())]),
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    return f"{_HEAD}\n# {trained.label}\n\n{body}\n"


_HEAD = """\
---
license: apache-2.0
tags: [computed-tomography, metal-artifact-reduction, image-restoration]
---
"""

_UNITS = f"""\
Images are attenuation coefficients mu in 1/cm.

- From HU: mu = {MU_WATER_PER_CM:g} * (1 + HU / 1000)
- Into network units: x = {UNITS_PER_MU:g} * clip(mu, 0, {MAX_MU_PER_CM:g})
- Back: mu = x / {UNITS_PER_MU:g}

"""

_SINOGRAM_UNITS = f"""\
Sinograms are line integrals p without unit: s = {UNITS_PER_LINE_INTEGRAL:g} * clip(p, 0, {MAX_LINE_INTEGRAL:g}).

"""

_INPUTS = {
    IMAGE: "the uncorrected image, network units",
    LI: "the same after linear interpolation of the metal trace, network units",
    METAL_MASK: "1 where metal is, else 0",
    PRIOR: "the prior image of NMAR, network units",
    NMAR: "the image that NMAR makes, network units",
    HARDENING: "the image after first-order correction of the metal's beam hardening, network units",
    MA_SINOGRAM: "the measured sinogram, network units",
    LI_SINOGRAM: "the same after linear interpolation of the metal trace, network units",
    NMAR_SINOGRAM: "the measured sinogram after NMAR, network units",
    METAL_TRACE: "1 in the bins whose ray meets metal, else 0",
}

_INTENDED = """\
Research on metal artifact reduction: comparison with other methods on simulated or phantom data of the scanner named
above. **Not a medical device**: not validated on patients, not for diagnosis, treatment planning or any other clinical
decision. The network learnt from simulated metal; other scanners, kernels, spectra, metals, body regions, image sizes
and pixel sizes than those of its training can give images that look right and are wrong."""

_LICENCE = """\
Apache-2.0, as the software that made it. Whoever passes the weights on also keeps to the terms of the training data."""


def _what(trained: Trained) -> str:
    arguments = f"`{json.dumps(trained.arguments)}`" if trained.arguments else "its published configuration"
    return (
        f"A network that reduces metal artifacts in CT images.\n\n"
        f"- Architecture: `{trained.name}`, arguments: {arguments}\n"
        f"- Parameters: {trained.parameters:,}\n"
        f"- Scanner whose images it knows (preset): `{trained.preset}`\n"
        f"- Seed of the training: {'unknown' if trained.seed is None else trained.seed}\n"
        f"- Exported by mar-pipeline {__version__}"
    )


def _units(inputs: Sequence[str]) -> str:
    sinograms = any(name in SINOGRAMS for name in inputs)
    shapes = "(batch, 1, rows, columns)" + (", of sinograms (batch, 1, views, bins)" if sinograms else "")
    rows = [f"| `{name}` | {_INPUTS[name]} |" for name in inputs]
    rows.append(
        "| `corrected` (output) | the corrected image, network units; what it shows inside the metal means nothing |"
    )
    table = "\n".join([f"All arrays are float32, {shapes}:", "", "| name | what |", "|---|---|", *rows])
    return _UNITS + (_SINOGRAM_UNITS if sinograms else "") + table


def _use(inputs: Sequence[str], onnx: OnnxFacts | None) -> str:
    commands = (
        "```\n"
        "mar evaluate --data DATA --methods input li nmar model.safetensors --out RESULTS\n"
        "```\n\n"
        "```python\n"
        "from mar_pipeline.weights.trained import load_trained\n\n"
        'network = load_trained("model.safetensors").network\n'
        f"corrected = network({', '.join(inputs)}).image\n"
        "```"
    )
    if onnx is None:
        return commands
    batch = "any batch" if onnx.any_batch else "a batch of one (its filters are computed for each image)"
    return (
        f"{commands}\n\n`model.onnx`: opset {OPSET}, inputs and output as above, {batch}, any height and width that "
        "the network takes. Its images were compared with torch's at sizes other than it was traced with: they differ "
        f"by at most {onnx.difference:.1g} network units (allowed: {TOLERANCE:g} of the largest value)."
    )


def _validation(trained: Trained) -> str:
    if trained.best_psnr is None:
        return "Not recorded."
    epoch = trained.metadata.get("epoch")
    when = f", after epoch {epoch}, the best one" if epoch else ""
    return (
        f"PSNR {trained.best_psnr:.2f} dB, mean over the validation pairs of its training{when}: mu clipped to "
        "[0, 0.5] /cm and scaled to 0..1, metal pixels set to 0 and counted, nothing quantised. These pairs chose the "
        "weights: compare methods on data held out from them (`mar evaluate`)."
    )


def _training(trained: Trained) -> str:
    settings: dict[str, Any] = json.loads(trained.metadata.get("settings", "{}"))
    if not settings:
        return "Not recorded."
    kept = {key: value for key, value in settings.items() if key not in _OF_THE_MACHINE}
    if isinstance(data := kept.get("data"), dict):
        kept["data"] = data | {key: PurePath(data[key]).name or data[key] for key in _PATHS if data.get(key)}
    text = yaml.safe_dump(kept, sort_keys=False)
    return f"All settings of `mar train`, data included; paths by their last part:\n\n```yaml\n{text}```"
