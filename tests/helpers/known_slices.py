"""Slices whose truth is known, as a scanner would show them: with metal, and with what only looks like metal."""

import csv
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage
from skimage import draw

from mar_pipeline.dicom.correction.virtual_scan import virtual_scan
from mar_pipeline.judge.tissue import body_mask
from simulation.errors import InputError
from simulation.implants.library import ImplantLibrary
from simulation.physics import detector
from simulation.physics.protocols import SYNDEEPLESION
from simulation.physics.spectra import binned, tube_spectrum
from simulation.simulator import Simulator
from simulation.units import hu_to_mu, mu_to_hu


@dataclass(frozen=True)
class Scanner:
    """What differs from `COUNTING`.

    Args:
        photons: a bin receives without an object.
        scatter_counts: mean count added to every bin.
        kernel_mm: Gaussian blur of what the scan adds; negative sharpens the whole image after it.
        highest_hu: where its range ends.
    """

    photons: float
    scatter_counts: float
    kernel_mm: float
    highest_hu: float


TUBE = binned(tube_spectrum(120.0, 7.0, (("Al", 7.0),)), 15.5, 10.0, 11)
COUNTING = replace(
    SYNDEEPLESION,
    weighting="standard",
    grid="physical",
    scatter_corrected=0.8,
    electronic_noise_counts=3.3,
    replace_tissue=True,
)
"""The scanner that the judge's weights were fitted on: it counts photons, and scatter is the same in every bin."""
SCANNERS = {
    "high dose": Scanner(2e7, 0, 0.45, 30000),
    "body": Scanner(4e6, 200, 0.6, 3071),
    "low dose": Scanner(1e6, 50, 0.8, 30000),
    "bone kernel": Scanner(8e6, 500, -0.4, 30000),
    "head": Scanner(1e7, 500, 0.5, 3071),
}
METALS = ("titanium", "steel", "gold", "amalgam")


@dataclass(frozen=True)
class KnownSlice:
    """A slice and its truth.

    Args:
        kind: of metal, or of what looks like it.
        scanner: a key of `SCANNERS`.
        seen_hu: Float["rows columns"], as the scanner shows it.
        truth_hu: Float["rows columns"], as it would show it without metal.
        metal: Bool["rows columns"]; empty for a control.
        spacing_mm: side of a pixel.
    """

    kind: str
    scanner: str
    seen_hu: np.ndarray
    truth_hu: np.ndarray
    metal: np.ndarray
    spacing_mm: float


def is_held_out(patient: str) -> bool:
    """Whether a patient is kept for tests: the judge's weights were fitted on the others alone."""
    return hashlib.sha256(patient.encode()).digest()[0] % 5 == 0


def anatomies(folder: Path) -> Iterator[tuple[str, str, np.ndarray, float]]:
    """(patient, name, HU with row 0 anterior, pixel mm) of all slices of data/anatomy."""
    with open(folder / "INDEX.csv", newline="") as file:
        for row in csv.DictReader(file):
            image = nibabel.load(folder / f"{row['id']}.nii.gz")
            volume = np.asanyarray(image.dataobj)
            for z in range(volume.shape[2]):
                yield (
                    row["patient"],
                    f"{row['id']}-{z}",
                    volume[:, :, z].T.astype(np.float32),
                    float(image.header.get_zooms()[0]),
                )


def artifact(
    hu: np.ndarray, metal: np.ndarray, mm: float, scanner: Scanner, material: str | None, seed: int
) -> np.ndarray:
    """What metal and noise add to a slice, in HU."""
    geometry = virtual_scan(hu.shape, (mm, mm))[1]
    scan = replace(COUNTING, geometry=geometry, photons=scanner.photons, scatter_counts=scanner.scatter_counts)
    simulator = Simulator(scan, "cpu", TUBE, metal=material, tolerance=0, threads=1)
    mu = np.maximum(hu_to_mu(hu), 0).astype(np.float32)
    rng = np.random.default_rng(seed)

    def image(counts: np.ndarray) -> np.ndarray:
        lines = detector.log_and_correct(counts, scan, simulator.detector.water_correction)
        return mu_to_hu(simulator.projector.fbp(lines, scan.weighting))

    scatter = scan.scatter_corrected * scan.scatter_counts
    expected = simulator.expected_counts(mu, metal)
    noisy = rng.poisson(expected) + rng.normal(0, scan.electronic_noise_counts, expected.shape) - scatter
    with_metal = image(low_signal_corrected(noisy / scan.photons) * scan.photons)
    clean = image(np.maximum(simulator.expected_counts(mu) - scatter, 1))
    return ndimage.gaussian_filter(with_metal - clean, abs(scanner.kernel_mm) / mm)


def low_signal_corrected(transmitted: np.ndarray) -> np.ndarray:
    """What every scanner does before the logarithm: weak readings are smoothed along the detector."""
    t = np.where(transmitted <= 0, ndimage.uniform_filter1d(np.maximum(transmitted, 0), 3, axis=-1), transmitted)
    for limit, reading, width in ((np.exp(-8), 5e-3, 5), (np.exp(-10.3), 5e-4, 7)):
        t = np.where(
            (t.min(-1, keepdims=True) < limit) & (t <= reading), ndimage.uniform_filter1d(t, width, axis=-1), t
        )
    return np.maximum(t, np.exp(-13))


def stored(hu: np.ndarray, mm: float, scanner: Scanner) -> np.ndarray:
    """The slice as the scanner stores it: with its kernel's overshoot, whole HU, cut off at its range."""
    if scanner.kernel_mm < 0:
        hu = hu + 0.8 * (hu - ndimage.gaussian_filter(hu, 0.8 / mm))
    return np.clip(np.rint(hu), -1024, scanner.highest_hu).astype(np.float32)


def discs_in_body(hu: np.ndarray, mm: float, rng: np.random.Generator) -> np.ndarray:
    """One or two ellipses of 0.8 to 16 mm in the body: Bool["rows columns"]."""
    body = ndimage.distance_transform_edt(body_mask(hu, (mm, mm))) * mm
    radius = float(np.exp(rng.uniform(np.log(0.8), np.log(16))))
    places = np.argwhere(body > radius + 3)
    if not len(places):
        places = np.argwhere(body > 0)
    mask = np.zeros(hu.shape, bool)
    for _ in range(int(rng.integers(1, 3))):
        y, x = places[rng.integers(len(places))]
        ratio = rng.uniform(0.6, 1)
        rr, cc = draw.ellipse(
            y, x, max(radius / mm, 0.7), max(radius * ratio / mm, 0.7), shape=hu.shape, rotation=rng.uniform(-3, 3)
        )
        mask[rr, cc] = True
    return mask & body_mask(hu, (mm, mm))


def dense_bone(hu: np.ndarray, mm: float, rng: np.random.Generator) -> np.ndarray:
    """The slice with bone that reaches 2500 to 3300 HU."""
    bone = hu > 200
    top = np.percentile(hu[bone], 99.5) if bone.sum() > 50 else 1000
    target = rng.uniform(2500, 3300)
    gain = np.clip((target - 200) / max(top - 200, 100), 1, 6)
    return np.where(bone, 200 + (hu - 200) * gain, hu).clip(None, 3600)


def enamel(hu: np.ndarray, mm: float, rng: np.random.Generator) -> np.ndarray | None:
    """The slice with two to six teeth of up to 3300 HU; None where the body is too thin."""
    out = hu.copy()
    body = ndimage.distance_transform_edt(body_mask(hu, (mm, mm))) * mm
    places = np.argwhere(body > 12)
    if not len(places):
        return None
    y0, x0 = places[rng.integers(len(places))]
    for _ in range(int(rng.integers(2, 7))):
        y, x = y0 + rng.normal(0, 14) / mm, x0 + rng.normal(0, 22) / mm
        r = rng.uniform(3.5, 6) / mm
        for radius, value in ((r, rng.uniform(2200, 3300)), (r * 0.6, rng.uniform(1200, 1900)), (r * 0.2, 200)):
            rr, cc = draw.disk((y, x), max(radius, 0.6), shape=hu.shape)
            out[rr, cc] = value
    out = np.where(body > 0, out, hu)
    return np.where(ndimage.binary_dilation(out != hu, iterations=3), ndimage.gaussian_filter(out, 0.4 / mm), hu)


def contrast(hu: np.ndarray, mm: float, rng: np.random.Generator) -> np.ndarray | None:
    """The slice with a vessel of up to 3050 HU; None where the body is too thin."""
    body = ndimage.distance_transform_edt(body_mask(hu, (mm, mm))) * mm
    places = np.argwhere(body > 20)
    if not len(places):
        return None
    y, x = places[rng.integers(len(places))]
    mask = np.zeros(hu.shape, bool)
    rr, cc = draw.ellipse(
        y, x, rng.uniform(4, 9) / mm, rng.uniform(4, 14) / mm, shape=hu.shape, rotation=rng.uniform(-3, 3)
    )
    mask[rr, cc] = True
    level = rng.uniform(2600, 3050)
    smooth = ndimage.gaussian_filter(mask.astype(np.float32), rng.uniform(0.8, 2) / mm)
    smooth /= max(smooth.max(), 0.1)
    return hu + smooth * (level - hu)


def shield(hu: np.ndarray, mm: float, rng: np.random.Generator) -> np.ndarray | None:
    """The slice with a bismuth shield in the air above the skin; None where the body is too narrow."""
    body = body_mask(hu, (mm, mm))
    top = np.argmax(body, 0)
    columns = np.flatnonzero(body.any(0))
    if len(columns) < 40:
        return None
    out = hu.copy()
    middle, half = columns.mean(), len(columns) * rng.uniform(0.15, 0.35)
    y0 = top[columns].min() - rng.uniform(5, 14) / mm
    x = np.arange(hu.shape[1])
    y = y0 + 0.15 * ((x - middle) / half) ** 2 * half
    for column in x[abs(x - middle) < half]:
        a = int(y[column])
        if a > 1:
            out[a : a + max(2, int(2 / mm)), column] = rng.uniform(2800, 3071)
    return np.where(body, hu, out)


CONTROLS = {"dense bone": dense_bone, "enamel": enamel, "contrast": contrast, "shield": shield}


def known_slices(name: str, hu: np.ndarray, mm: float, metals: int, controls: int) -> Iterator[KnownSlice]:
    """Slices of one anatomy, half of 512 pixels wide: with implants and discs of metal, and controls without any."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
    rng = np.random.default_rng(seed)
    hu, mm = np.maximum(hu, -1000).reshape(256, 2, 256, 2).mean((1, 3)), mm * 2
    scanner_name = str(rng.choice(list(SCANNERS)))
    scanner = SCANNERS[scanner_name]
    library = ImplantLibrary(None, mm)
    mu = np.maximum(hu_to_mu(hu), 0).astype(np.float32)
    anatomy = library.anatomy(mu)
    for number in range(metals):
        base, material = hu, None
        if number % 2:
            mask, kind, material = discs_in_body(hu, mm, rng), "disc", str(rng.choice(METALS))
        else:
            try:
                mask, what = library.sample(mu, rng, anatomy)
            except InputError:  # no place for it in this slice
                continue
            kind = what["kind"]
        if rng.random() < 0.15:
            kind, base = f"{kind} beside dense bone", dense_bone(hu, mm, rng)
        if mask.any():
            seen = stored(base + artifact(base, mask, mm, scanner, material, seed + number), mm, scanner)
            yield KnownSlice(kind, scanner_name, seen, stored(base, mm, scanner), mask > 0, mm)
    for kind in rng.permutation(list(CONTROLS))[:controls]:
        changed = CONTROLS[kind](hu, mm, rng)
        if changed is not None:
            seen = stored(changed, mm, scanner)
            yield KnownSlice(str(kind), scanner_name, seen, seen, np.zeros(seen.shape, bool), mm)
