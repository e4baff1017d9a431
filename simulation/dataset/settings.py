"""What `mar simulate` is asked for, and the implants and the scanner that serve it."""

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Literal

from simulation.dataset.shard_file import Stored
from simulation.errors import UsageError
from simulation.implants.library import ImplantLibrary
from simulation.implants.masks import STACK_SIZE, MaskSource, metals_of
from simulation.implants.placed import PlacedShapes
from simulation.physics.geometry import FanBeam
from simulation.physics.projector_cpu import usable_cores
from simulation.physics.protocols import AnyProtocol, EnergyIntegratingProtocol, protocol, without
from simulation.physics.spectra import Spectrum, parse_filters, read_spectrum, tube_spectrum
from simulation.simulator import Simulator

PROCEDURAL = "procedural"
_PROCEDURAL_MASKS = 10


WHOLE = "0/1"
"""The part that is all of the work."""


@dataclass(frozen=True)
class ScannerSettings:
    """The fan beam, as far as it differs from the preset's, see `simulation.FanBeam`.

    Args:
        source_mm: distance from the source to the isocentre.
        detector_mm: distance from the isocentre to the detector.
        detector: flat, or arc: bins at equal angles around the source.
        column_offset: by how many bins the detector is shifted.
        views: number of views over the full circle.
        bins: number of detector bins.
        pitch_mm: width of a bin, on the detector.
        image_size: number of rows and of columns of the image.
        pixel_mm: side of a pixel of the image.
    """

    source_mm: float | None = None
    detector_mm: float | None = None
    detector: Literal["flat", "arc"] | None = None
    column_offset: float | None = None
    views: int | None = None
    bins: int | None = None
    pitch_mm: float | None = None
    image_size: int | None = None
    pixel_mm: float | None = None

    def geometry(self, preset: FanBeam) -> FanBeam:
        """Return the fan beam: what is given, and the rest of the preset's.

        Raises:
            InputError: a length or count is impossible.
        """
        given = {name: value for name, value in asdict(self).items() if value is not None}
        if "image_size" in given:
            size = given.pop("image_size")
            given["image_shape"] = (size, size)
        return replace(preset, **given)


@dataclass(frozen=True)
class SimulateSettings:
    """Make pairs with and without metal from clean CT slices.

    Args:
        out: folder of the data set; a rerun with the same settings makes only what is missing.
        source: phantom, phantom:REGION, or a folder or file of clean slices (DeepLesion, NIfTI, DICOM, gt.h5).
        preset: the scanner: syndeeplesion (the public benchmark, body shrunken), clinical (real size and noise) or
            ctmar (the AAPM CT-MAR challenge's).
        scanner: what is otherwise than in the preset: distances, detector and image of a scanner of your own.
        masks: procedural (implants that suit each slice's anatomy), a stack FILE.npy (512 x 512 x n of 0 and 1) or
            SampleMasks.mat, or the CT-MAR challenge's metal_masks.mat, whose shapes are placed in each slice.
        metal: what the metal is made of: titanium, steel, cocr, gold, amalgam, tantalum or platinum; of several each
            pair gets one at random. If not given, titanium for a stack, and what is usual for procedural implants.
        implants: kinds the procedural masks are drawn from: hip, spine, dental, clips, electrodes, needle; all if not
            given.
        split: names of the files, and which official split of DeepLesion is read.
        slices: number of slices; all of the source if not given (phantom: 4).
        masks_per_slice: number of masks; all of a stack if not given (procedural: 10).
        seed: of implants and noise.
        workers: number of processes; 0 takes one for each core. The files do not depend on it.
        part: I/N makes only the Ith of N parts (I from 0), as a Slurm array does; the parts share one folder.
        device: where to project: cpu, cuda, or auto: CUDA where there is a GPU, if one worker is asked for.
        spectrum: csv of energy in keV and relative photons, instead of the preset's.
        kvp: tube voltage of a modelled spectrum, instead of the preset's.
        anode_angle_deg: anode angle of the modelled spectrum; 7 if not given.
        filters: filters of the modelled spectrum, such as Al:2.5 Cu:0.1 (mm); Al:2.5 if not given.
        photons: photons a bin of syndeeplesion receives without an object, instead of the preset's.
        scatter_counts: mean count that scatter adds to each of its bins, instead of the preset's.
        electronic_noise_counts: standard deviation of its electronic noise in photons, instead of the preset's.
        mas: tube current times rotation time of an energy-integrating scanner, instead of the preset's.
        slice_mm: thickness of its slices, which shares in the dose, instead of the preset's.
        kernel: of its images: ramp, soft, standard or bone, instead of the preset's.
        without: effects that are switched off: bowtie, quantum-noise, electronic-noise, crosstalk, scatter,
            scatter-correction, low-signal-correction.
        focal_spot_samples: number of points the focal spot is sampled at, instead of the preset's.
        view_samples: number of angles a view is sampled at, instead of the preset's.
        pad_square: pad slices that are not square with air, or refuse them; if not given, those of NIfTI are padded.
        layout: community (a file for each pair, as SynDeepLesion is distributed), shards (a file for some dozen slices
            with their pairs, to train from) or ctmar (raw files, as the CT-MAR challenge has them).
        store: what shards hold of a pair: images, sinograms (CT and LI are then computed when they are read), or both;
            images if not given. Networks that see sinograms and conversion to the community layout need them.
        slices_per_shard: number of slices in a shard; a worker makes a shard at a time.
        convert: folder of a finished data set to convert to the other layout, instead of simulating.
        compression: gzip level of the files, 0 for none; shards are never compressed.
        dry_run: only say what would be made.
    """

    out: str
    source: str = "phantom"
    preset: str = "syndeeplesion"
    scanner: ScannerSettings = field(default_factory=ScannerSettings)
    masks: str = PROCEDURAL
    metal: tuple[str, ...] | str | None = None
    implants: tuple[str, ...] | None = None
    split: Literal["train", "test"] = "train"
    slices: int | None = None
    masks_per_slice: int | None = None
    seed: int = 0
    workers: int = 1
    part: str = WHOLE
    device: Literal["auto", "cpu", "cuda"] = "auto"
    spectrum: str | None = None
    kvp: float | None = None
    anode_angle_deg: float | None = None
    filters: tuple[str, ...] | None = None
    photons: float | None = None
    scatter_counts: float | None = None
    electronic_noise_counts: float | None = None
    mas: float | None = None
    slice_mm: float | None = None
    kernel: Literal["ramp", "soft", "standard", "bone"] | None = None
    without: tuple[str, ...] = ()
    focal_spot_samples: int | None = None
    view_samples: int | None = None
    pad_square: bool | None = None
    layout: Literal["community", "shards", "ctmar"] = "community"
    store: Stored | None = None
    slices_per_shard: int = 32
    convert: str | None = None
    compression: int = 4
    dry_run: bool = False


WITH_CONVERT = {
    *("out", "preset", "masks", "split", "workers", "part", "layout", "store", "slices_per_shard", "convert"),
    *("compression", "dry_run"),
}
"""Settings that a conversion looks at; what the set was made from is not to be said again."""
_DEFAULTS = {own.name: own.default for own in fields(SimulateSettings)} | {"scanner": ScannerSettings()}


def check_settings(settings: SimulateSettings) -> None:
    """Refuse what cannot be asked for.

    Raises:
        UsageError: a number or a combination is impossible.
    """
    protocol(settings.preset)
    if settings.masks_per_slice is not None and settings.masks_per_slice < 1:
        raise UsageError(f"--masks-per-slice: got {settings.masks_per_slice}, expected 1 or more")
    if settings.workers < 0:
        raise UsageError(f"--workers: got {settings.workers}, expected 0 (one for each core) or more")
    if not 0 <= settings.compression <= 9:
        raise UsageError(f"--compression: got {settings.compression}, expected a gzip level of 0 to 9")
    if settings.slices_per_shard < 1:
        raise UsageError(f"--slices-per-shard: got {settings.slices_per_shard}, expected 1 or more")
    if not settings.out:
        raise UsageError("--out: got no name; expected a folder")
    if settings.store is not None and settings.layout != "shards":
        raise UsageError(f"--store: only for --layout shards; the layout {settings.layout} holds images and sinograms")
    if settings.layout != "shards" and settings.slices_per_shard != _DEFAULTS["slices_per_shard"]:
        raise UsageError(f"--slices-per-shard: only for --layout shards; {settings.layout} has files for each pair")
    if settings.layout != "community" and settings.compression not in (0, _DEFAULTS["compression"]):
        raise UsageError("--compression: only for --layout community; shards are not compressed")
    if settings.convert is not None:
        said = [own.name for own in fields(SimulateSettings) if own.name not in WITH_CONVERT]
        said = [own for own in said if getattr(settings, own) != _DEFAULTS[own]]
        if said:
            raise UsageError(
                f"--{said[0].replace('_', '-')}: not with --convert, which simulates nothing; leave it out"
            )
    if settings.spectrum is not None and settings.kvp is not None:
        raise UsageError("--spectrum and --kvp: got both; give a csv file or a tube voltage")
    if settings.kvp is None and (settings.filters, settings.anode_angle_deg) != (None, None):
        raise UsageError("--filters and --anode-angle-deg: they shape the spectrum of --kvp, which is not given")
    for name in ("photons", "mas", "slice_mm", "focal_spot_samples", "view_samples"):
        value = getattr(settings, name)
        if value is not None and not value > 0:
            raise UsageError(f"--{name.replace('_', '-')}: got {value:g}, expected more than 0")
    for name in ("scatter_counts", "electronic_noise_counts"):
        value = getattr(settings, name)
        if value is not None and not value >= 0:
            raise UsageError(f"--{name.replace('_', '-')}: got {value:g}, expected 0 or more")


def units_of_part(part: str, count: int) -> list[int]:
    """Return the units of part I of N: I, I + N, I + 2 N ...

    Args:
        part: I/N.
        count: number of units of the whole work.

    Raises:
        UsageError: there is no such part.
    """
    number, _, parts = part.partition("/")
    if not (number.isdecimal() and parts.isdecimal()) or not int(number) < int(parts):
        raise UsageError(
            f"--part: got {part!r}, expected I/N with I from 0 to N - 1, such as 0/4 to 3/4 (an array counts from 0)"
        )
    return list(range(int(number), count, int(parts)))


_OF_COUNTING = ("photons", "scatter_counts", "electronic_noise_counts")
_OF_INTEGRATING = ("mas", "slice_mm", "kernel", "focal_spot_samples", "view_samples")


def scan_protocol(settings: SimulateSettings) -> AnyProtocol:
    """Return the preset with what is asked for in its place.

    Raises:
        UsageError: unknown preset or effect, or an option of another kind of scanner.
        InputError: the geometry is impossible.
    """
    preset = protocol(settings.preset)
    own: tuple[str, ...] = _OF_COUNTING
    others: tuple[str, ...] = (*_OF_INTEGRATING, "without")
    if isinstance(preset, EnergyIntegratingProtocol):
        own, others = _OF_INTEGRATING, _OF_COUNTING
    for name in others:
        if getattr(settings, name) not in (None, ()):
            raise UsageError(
                f"--{name.replace('_', '-')}: the preset {settings.preset} has no such setting; leave it out"
            )
    if isinstance(preset, EnergyIntegratingProtocol):
        preset = without(preset, *settings.without)
    given = {name: getattr(settings, name) for name in own if getattr(settings, name) is not None}
    return replace(preset, geometry=settings.scanner.geometry(preset.geometry), **given)


def mask_source(settings: SimulateSettings) -> tuple[MaskSource, int]:
    """Return where the masks come from, and how many of them a slice gets."""
    metals = metals_of(settings.metal)
    metal = metals[0] if len(metals) == 1 else metals or None
    if settings.masks == PROCEDURAL:
        scan = scan_protocol(settings)
        side_mm = scan.geometry.pixel_mm * scan.geometry.image_shape[0]
        pixel_mm = side_mm / STACK_SIZE if scan.grid == "physical" else None  # implants are drawn at that size
        library = ImplantLibrary(settings.implants, pixel_mm, metal)
        return library, settings.masks_per_slice or _PROCEDURAL_MASKS
    if settings.implants:
        raise UsageError("--implants: only for --masks procedural; a mask stack has its own shapes")
    stack = ImplantLibrary.from_masks(settings.masks, metal)
    if isinstance(stack, PlacedShapes):
        return stack, settings.masks_per_slice or _PROCEDURAL_MASKS
    count = settings.masks_per_slice or len(stack)
    if count > len(stack):
        raise UsageError(f"--masks-per-slice: got {count}, but {settings.masks} holds {len(stack)} masks")
    return stack, count


def build_simulator(settings: SimulateSettings) -> Simulator:
    """Return the scanner, with the spectrum and the constants that were asked for."""
    spectrum: Spectrum | None = None
    if settings.spectrum is not None:
        spectrum = read_spectrum(settings.spectrum)
    elif settings.kvp is not None:
        angle_deg = 7.0 if settings.anode_angle_deg is None else settings.anode_angle_deg
        filters = ("Al:2.5",) if settings.filters is None else settings.filters
        spectrum = tube_spectrum(settings.kvp, angle_deg, parse_filters(filters))
    device = "cpu" if settings.device == "auto" and settings.workers != 1 else settings.device
    threads = max(1, usable_cores() // (settings.workers or usable_cores()))
    return Simulator(scan_protocol(settings), device, spectrum, threads=threads)


def worker_count(settings: SimulateSettings, device: str) -> int:
    """Return number of processes; a GPU serves one."""
    if device == "cuda":
        if settings.workers > 1:
            raise UsageError(
                f"--workers: got {settings.workers} on CUDA, where one process works; use 1, or --device cpu"
            )
        return 1
    return settings.workers or usable_cores()
