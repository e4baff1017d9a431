"""Cost of the simulated scanner beside a named reference measured in the same run.

The reference is the same chain as others write it: ASTRA's `line_fanflat` projector for every projection and back
projection, every energy of a spectrum, all bins, one thread.
"""

import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import astra
import numpy as np
import scipy.fft

from mar_pipeline.bench.measure import PUBLIC_SIZES, cpu_seconds, say, workload
from simulation.correction import linear_interpolation
from simulation.dataset.community import write_case
from simulation.physics import detector
from simulation.physics.geometry import FanBeam
from simulation.physics.materials import reference_mu_per_cm
from simulation.physics.projector_cuda import astra_geometries
from simulation.physics.protocols import SYNDEEPLESION
from simulation.physics.spectra import Spectrum, SpectrumNodes, exact_nodes, tube_spectrum
from simulation.simulator import Sample, Simulator
from simulation.units import MM_PER_CM

_REFERENCE_MASKS = 2


def main() -> None:
    """Print CPU-seconds and memory of a pair, throughput, and ratios to the reference."""
    image_mu, masks = workload()
    simulator = Simulator("syndeeplesion", device="cpu", threads=1)
    simulator.simulate_masks(image_mu, masks, _rngs())  # compiles the kernels
    images = np.random.default_rng(0).random((8, *image_mu.shape), np.float32)  # no empty border to skip
    simulator.projector.forward(images)
    forward = cpu_seconds(lambda: simulator.projector.forward(images)) / 8
    slice_cost = cpu_seconds(lambda: simulator.clean(image_mu, np.random.default_rng(0)))
    samples: list[Sample] = []
    pairs_cost = cpu_seconds(lambda: samples.extend(simulator.simulate_masks(image_mu, masks, _rngs())))
    pair = (slice_cost + pairs_cost) / len(masks)
    writing = _writing_seconds(image_mu, samples, 4), _writing_seconds(image_mu, samples, 0)
    reference = _reference_seconds(image_mu, masks)
    say(f"one slice, {len(masks)} masks of {min(PUBLIC_SIZES)} to {max(PUBLIC_SIZES)} pixels, one thread")
    say(f"forward projection, one image of a batch of 8   {forward:8.3f} CPU-s")
    say(f"pair: ma_CT, LI_CT, share of the slice          {pair:8.3f} CPU-s")
    say(f"  writing it, gzip 4 / uncompressed             {writing[0]:8.3f} / {writing[1]:.3f} CPU-s")
    say(f"reference: line_fanflat, 101 energies           {reference:8.3f} CPU-s a pair")
    say(f"reference / pair                                {reference / pair:8.1f} x")
    say(f"reference / pair with uncompressed writing      {(reference + writing[1]) / (pair + writing[1]):8.1f} x")
    for preset in ("clinical", "ctmar"):
        cost = _slice_seconds(preset)
        say(f"{preset}: a slice of 512 x 512, scan and image {' ' * (8 - len(preset))}{cost:8.3f} CPU-s")
        say(f"  over a clean slice of syndeeplesion           {cost / slice_cost:8.1f} x")
    for workers in (1, 2):
        say(f"mar simulate --workers {workers}, gzip 4              {_throughput(workers):8.2f} pairs/s")
    peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    say(f"largest process of both runs                    {peak_mb:8.0f} MB")


def _slice_seconds(preset: str) -> float:
    """CPU-seconds of a clean slice: projection, transmission, noise, corrections and the image."""
    simulator = Simulator(preset, device="cpu", threads=1)
    rows, columns = simulator.protocol.geometry.image_shape
    x, y = np.ogrid[:rows, :columns]
    water = np.where(np.hypot(x - rows / 2, (y - columns / 2) * 0.7) < 0.3 * rows, 0.192, 0).astype(np.float32)
    simulator.clean(water, np.random.default_rng(0))  # compiles the kernels
    return cpu_seconds(lambda: simulator.clean(water, np.random.default_rng(0)))


def _rngs() -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in range(len(PUBLIC_SIZES))]


def _writing_seconds(image_mu: np.ndarray, samples: list[Sample], compression: int) -> float:
    """CPU-seconds to write a pair, its share of gt.h5 included."""
    with tempfile.TemporaryDirectory() as folder:
        numbered = dict(enumerate(samples))
        first = samples[0]
        return cpu_seconds(
            lambda: write_case(Path(folder), image_mu, first.ma_sinogram, first.ma_CT, numbered, compression)
        ) / len(samples)


def _reference_seconds(image_mu: np.ndarray, masks: list[np.ndarray]) -> float:
    """CPU-seconds a pair of the reference chain, projections of the slice shared by ten masks."""
    protocol = SYNDEEPLESION
    chain = _AstraChain(protocol.geometry, _spectrum_of_101())
    tissue: list[np.ndarray] = []
    slice_cost = cpu_seconds(
        lambda: tissue.extend(chain.project(part) for part in detector.split_tissue(image_mu, protocol))
    )
    used = masks[:_REFERENCE_MASKS]
    pairs_cost = sum(
        cpu_seconds(partial(chain.pair, tissue, mask, rng)) for mask, rng in zip(used, _rngs(), strict=False)
    )
    return slice_cost / len(masks) + pairs_cost / len(used)


def _spectrum_of_101() -> SpectrumNodes:
    tube = tube_spectrum(120.0)
    energies = np.arange(20.0, 121.0)
    weights = np.interp(energies, tube.energies_kev, tube.weights, right=0)
    return exact_nodes(Spectrum(tuple(energies), tuple(weights)))


class _AstraChain:
    """The reference: ASTRA's CPU projector and numpy."""

    def __init__(self, geometry: FanBeam, nodes: SpectrumNodes) -> None:
        self.geometry, self.nodes = geometry, nodes
        self.projector = astra.create_projector("line_fanflat", *astra_geometries(geometry))
        self.protocol = SYNDEEPLESION
        frequencies = scipy.fft.rfftfreq(1296, geometry.pitch_mm / MM_PER_CM)
        self.ramp = (frequencies / 2).astype(np.float32)

    def project(self, image: np.ndarray) -> np.ndarray:
        identifier, sinogram = astra.create_sino(image, self.projector)
        astra.data2d.delete(identifier)
        return sinogram * (self.geometry.pixel_mm / MM_PER_CM)

    def pair(self, tissue: list[np.ndarray], mask: np.ndarray, rng: np.random.Generator) -> None:
        metal = self.project(np.where(mask, reference_mu_per_cm("titanium"), 0).astype(np.float32))
        trace = metal > 0
        metal = np.where(detector.trace_rim(trace), metal / self.protocol.edge_divisor, metal)
        ratios = self.nodes.table(("water", "bone", "titanium"))
        transmitted = np.zeros_like(metal)
        for weight, (water, bone, titanium) in zip(self.nodes.weights, ratios.astype(np.float32), strict=True):
            transmitted += weight * np.exp(-water * tissue[0] - bone * tissue[1] - titanium * metal)
        counts = detector.detect(detector.mean_counts(transmitted, self.protocol), self.protocol, rng)
        correction = np.array(self.protocol.water_correction)
        measured = detector.log_and_correct(counts, self.protocol, correction)
        for sinogram in (measured, linear_interpolation(measured, trace)):
            spectrum = scipy.fft.rfft(sinogram, 1296) * self.ramp
            filtered = scipy.fft.irfft(spectrum, 1296)[:, : self.geometry.bins]
            identifier, _ = astra.create_backprojection(np.ascontiguousarray(filtered, np.float32), self.projector)
            astra.data2d.delete(identifier)


def _throughput(workers: int) -> float:
    """Return pairs a second of the command, its start included."""
    slices, masks = 4, 10
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mar_pipeline", "-q", "simulate", "--out", f"{folder}/set"]
        command += ["--device", "cpu", "--workers", str(workers)]
        command += ["--slices", str(slices), "--masks-per-slice", str(masks)]
        start = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - start
    return slices * masks / seconds
