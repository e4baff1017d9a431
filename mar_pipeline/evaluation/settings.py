"""What `mar evaluate` can be asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mar_pipeline.evaluation.methods import METHODS
from mar_pipeline.tasks.metrics import PROTOCOLS
from mar_pipeline.weights.shipped import SHIPPED
from simulation.errors import UsageError


@dataclass(frozen=True)
class EvaluateSettings:
    """Score correction methods against the truth of simulated pairs: tables, and pictures of some pairs.

    Args:
        data: folder with ``{train,test}_640geo_dir.txt`` and ``{train,test}_640geo/<case>/<slice>/{gt,N}.h5``.
        out: folder for results.csv, table.md, report.json and the pictures.
        methods: input (uncorrected), li, nmar, unet_small (shipped), and paths of trained networks: run folders or
            weights files. Runs that differ in their seed only share a column, as mean and standard deviation over the
            seeds.
        task: mar; rain, inpainting and classification have options of their own (``--task rain --help``).
        protocol: how to score: float (nothing quantised), uint8, imsave (the published tables' PNGs), or all.
        split: only train or only test; if not given whatever the data lists.
        masks: mask stack (.npy, rows x columns x n) instead of the data's own.
        trust_masks: do not check that a pair's mask has the metal trace stored with the pair.
        preset: the scanner that made the data; if not given what the data set's manifest says, and syndeeplesion
            where there is no manifest, as in the public files.
        any_preset: also score networks that were trained for another preset than that of the data.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: in which the networks compute: float32, or bfloat16 (faster).
        sinograms: ``stored``, or ``projected``: as if the raw data were gone, the uncorrected image is projected, and
            LI, NMAR and the networks work on that projection.
        include_training_pairs: also score pairs that a run was trained or selected on; they are left out otherwise.
        overwrite: replace an earlier result in the output folder.
        equivariance_pairs: number of pairs on which the equivariance error of each network is measured.
        figures: number of pairs with a picture, spread over the metal sizes; if not given one for every slice.
        window_hu: darkest and brightest HU of the images.
        difference_hu: the differences are shown from minus to plus this many HU.
    """

    data: str
    out: str
    methods: tuple[str, ...] = ("input", "li", "nmar")
    task: Literal["mar"] = "mar"
    protocol: Literal["float", "uint8", "imsave", "all"] = "float"
    split: Literal["train", "test"] | None = None
    masks: str | None = None
    trust_masks: bool = False
    preset: str | None = None
    any_preset: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    sinograms: Literal["stored", "projected"] = "stored"
    include_training_pairs: bool = False
    overwrite: bool = False
    equivariance_pairs: int = 1
    figures: int | None = None
    window_hu: tuple[float, float] = (-175.0, 275.0)
    difference_hu: float = 200.0

    @property
    def protocols(self) -> tuple[str, ...]:
        """Return the protocols to score by."""
        return tuple(PROTOCOLS) if self.protocol == "all" else (self.protocol,)


def check_settings(settings: EvaluateSettings) -> None:
    """Refuse what no data could satisfy.

    Raises:
        UsageError: unknown names or impossible numbers.
    """
    _check_methods(settings.methods)
    choices = {
        "protocol": (settings.protocol, (*PROTOCOLS, "all")),
        "split": (settings.split or "test", ("train", "test")),
        "precision": (settings.precision, ("float32", "bfloat16")),
        "sinograms": (settings.sinograms, ("stored", "projected")),
    }
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            raise UsageError(f"unknown {name} {value!r}; expected one of {', '.join(allowed)}")
    for option, number in (("figures", settings.figures), ("equivariance-pairs", settings.equivariance_pairs)):
        if number is not None and number < 0:
            raise UsageError(f"--{option}: got {number}, expected 0 or more")
    if not settings.window_hu[0] < settings.window_hu[1] or not settings.difference_hu > 0:
        raise UsageError(
            f"got window_hu {settings.window_hu} and difference_hu {settings.difference_hu}; expected a rising window "
            "and a positive difference"
        )


def _check_methods(methods: tuple[str, ...]) -> None:
    """Refuse words that are no method, no shipped weights and no path; paths elsewhere are looked for with the data."""
    for word in methods:
        if word not in (*METHODS, *SHIPPED) and Path(word).name == word and not Path(word).exists():
            raise UsageError(unknown_method(word))
    if not methods or len(set(methods)) < len(methods):
        raise UsageError(f"methods: got {' '.join(methods) or 'none'}; name each method once")


def known_methods() -> str:
    """Return the names of methods that a message offers before a path."""
    return f"one of {', '.join((*METHODS, *SHIPPED))}, or "


def unknown_method(word: str) -> str:
    """Return what to say of a word that is neither a method nor a file."""
    path = "the path of a run folder or weights file (there is no such file)"
    return f"unknown method {word!r}; expected {known_methods()}{path}"
