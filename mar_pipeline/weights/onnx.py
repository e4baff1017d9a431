"""A network as an ONNX file, compared with itself before the file gets its name."""

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from simulation.errors import InputError
from simulation.files import whole_file

OPSET = 18
INPUTS = ("image", "li", "metal_mask")
OUTPUT = "corrected"
TOLERANCE = 1e-4
"""Largest difference between ONNX Runtime and torch, as a share of the largest value of torch's image."""

_PACKAGES = ("onnx", "onnxruntime", "onnxscript")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OnnxFacts:
    """What was made and how well it agrees.

    Args:
        any_batch: whether it takes any number of images at once, or one.
        difference: largest difference to torch found, network units.
    """

    any_batch: bool
    difference: float


def require_onnx() -> None:
    """Refuse early where the packages are not installed.

    Raises:
        InputError: names the extra that brings them.
    """
    absent = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if absent:
        raise InputError(
            f"ONNX needs {', '.join(absent)}, not installed here: pip install 'mar-pipeline[export]', or take --no-onnx"
        )


def export_onnx(network: nn.Module, path: Path) -> OnnxFacts:
    """Write a network as ONNX with free height and width, and a free batch where its operators allow it.

    Networks that compute a filter for each image run it as a grouped convolution; ONNX fixes the number of groups, so
    those take one image at a time.

    Args:
        network: called with (image, li, metal_mask), Float["batch 1 rows columns"] in network units; in evaluation
            mode on the CPU.
        path: of the file.

    Returns:
        What was made; its image equals the network's within `TOLERANCE` at sizes it was not traced with.

    Raises:
        InputError: the network has an operator that ONNX has not, or the two images differ.
        OSError: the file cannot be written.
    """
    final = _FinalImage(network).eval()
    with whole_file(path) as partial, _quiet():
        any_batch = _write(final, partial, batch=2) == ""
        if not any_batch:
            logger.info("export: no ONNX for any batch; one image at a time is tried")
            if reason := _write(final, partial, batch=1):
                raise InputError(f"ONNX cannot hold this network ({reason}); take --no-onnx")
        difference = _largest_difference(final, partial, any_batch)
    return OnnxFacts(any_batch, difference)


class _FinalImage(nn.Module):
    """The final image alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, li: Tensor, metal_mask: Tensor) -> Tensor:
        return self.network(image, li, metal_mask).image


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch warns of while it exports: its own deprecations, operator sets that are not installed."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)


def _write(network: nn.Module, path: Path, batch: int) -> str:
    """Trace the network with so many images at once, any number if more than one; why it cannot, empty if it can."""
    names = {2: "height", 3: "width"} | ({0: "batch"} if batch > 1 else {})
    free = dict.fromkeys(names, torch.export.Dim.DYNAMIC)
    try:
        with torch.no_grad():
            program = torch.export.export(
                network, _example(batch, 64, 96), dynamic_shapes=(free,) * len(INPUTS), strict=False
            )
        torch.onnx.export(
            program,
            (),
            path,
            input_names=INPUTS,
            output_names=(OUTPUT,),
            opset_version=OPSET,
            dynamic_shapes=(names,) * len(INPUTS),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    except OSError:
        raise
    except Exception as error:  # tracing raises many kinds for an operator or a size that it cannot follow
        return (str(error).strip() or type(error).__name__).partition("\n")[0][:300]
    return ""


def _example(batch: int, rows: int, columns: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Return images with the range of soft tissue and streaks, and some metal."""
    random = torch.Generator().manual_seed(seed)
    shape = (batch, 1, rows, columns)
    li = 60 * torch.rand(shape, generator=random)
    image = (li + 20 * torch.randn(shape, generator=random)).clip(0, 255)
    metal_mask = (torch.rand(shape, generator=random) > 0.98).float()
    return image, li, metal_mask


@torch.inference_mode()
def _largest_difference(network: nn.Module, path: Path, any_batch: bool) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    largest = 0.0
    for seed, (batch, rows, columns) in enumerate(((1, 96, 64), (3 if any_batch else 1, 80, 112)), start=1):
        images = _example(batch, rows, columns, seed)
        expected = network(*images).numpy()
        (got,) = session.run(None, {name: image.numpy() for name, image in zip(INPUTS, images, strict=True)})
        difference, size = float(np.abs(got - expected).max()), float(np.abs(expected).max())
        if not difference <= TOLERANCE * size:
            raise InputError(
                f"ONNX Runtime's image of {rows} x {columns} differs from torch's by {difference:.3g} network units, "
                f"expected at most {TOLERANCE * size:.3g}; take --no-onnx"
            )
        largest = max(largest, difference)
    return largest
