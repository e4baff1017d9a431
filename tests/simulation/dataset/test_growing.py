"""A data set that is asked for more: more slices, several metals, a scanner of one's own."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from command_lines import replaced
from small_scanner import SMALL, disc

from simulation.dataset.manifest import listing_sha256, scan_of_set
from simulation.dataset.reader import read_pair
from simulation.dataset.settings import ScannerSettings
from simulation.dataset.shard_file import Shard
from simulation.dataset.verify import verify
from simulation.errors import InputError
from simulation.files import sha256_of_text
from simulation.physics.geometry import FanBeam
from simulation.physics.materials import METAL_CODES
from simulation.sources.community import read_listing

pytestmark = pytest.mark.usefixtures("small_scanner")


@pytest.fixture
def masks(tmp_path):
    np.save(tmp_path / "masks.npy", np.stack([disc(20, 512), disc(25, 512, 60, -40)], axis=2).astype(np.uint8))
    return tmp_path / "masks.npy"


@pytest.fixture
def simulate(masks, mar):
    def run(out, *more, code=0):
        options = ["--source", "phantom", "--masks", masks, "--device", "cpu", "--compression", 0, "--out", out]
        got, said, err = mar("simulate", *replaced(options, more))
        assert got == code, err
        return said + err

    return run


def contents(root):
    files = (path for path in root.rglob("*") if path.is_file() and path.name[0] != "." and path.name[:6] != "report")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


SHARDS = ("--layout", "shards", "--slices-per-shard", 2, "--store", "both")


@pytest.mark.parametrize("layout", [(), SHARDS, ("--masks", "procedural", "--masks-per-slice", 1, "--implants", "hip")])
def test_a_set_grows_to_what_it_is_when_made_at_once(tmp_path, simulate, layout):
    more = ("--source", "phantom:pelvis", *layout)
    simulate(tmp_path / "grown", *more, "--slices", 3)
    before = contents(tmp_path / "grown")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "grown").rglob("*.h5")}
    simulate(tmp_path / "grown", *more, "--slices", 5)
    assert verify(tmp_path / "grown").problems == ()
    simulate(tmp_path / "straight", *more, "--slices", 5)
    grown = contents(tmp_path / "grown")
    assert grown == contents(tmp_path / "straight")
    kept = [path for path in stamps if path.name != "shard_00001.h5"]  # which had room for a slice
    assert kept
    assert all(path.stat().st_mtime_ns == stamps[path] for path in kept)
    assert all(grown[name] == data for name, data in before.items() if "/case" in name or name.endswith("0/gt.h5"))


def test_a_set_grows_in_parts(tmp_path, simulate):
    simulate(tmp_path / "grown", "--slices", 2)
    for part in ("0/2", "1/2"):
        simulate(tmp_path / "grown", "--slices", 4, "--part", part)
    simulate(tmp_path / "straight", "--slices", 4)
    assert contents(tmp_path / "grown") == contents(tmp_path / "straight")


@pytest.mark.parametrize("more", [("--slices", 1), ("--slices", 3, "--seed", 1), ("--slices", 3, "--metal", "steel")])
def test_a_set_does_not_shrink_and_does_not_grow_with_other_settings(tmp_path, simulate, more):
    simulate(tmp_path / "set", "--slices", 2)
    before = contents(tmp_path / "set")
    assert "of other settings" in simulate(tmp_path / "set", *more, code=2)
    assert contents(tmp_path / "set") == before


@pytest.mark.parametrize("layout", [(), SHARDS])
def test_evenly_spaced_slices_of_a_volume_grow_by_others_between_them(tmp_path, simulate, layout):
    volume = np.stack([np.where(disc(20 + n / 4, 64), 40, -1000) for n in range(12)], axis=2).astype(np.int16)
    volume[30:34, 40:44] = 900
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([-2.0, -2, 2, 1])), tmp_path / "body.nii.gz")
    more = ("--source", tmp_path / "body.nii.gz", *layout)
    names = []
    for count in (2, 3, 3, 5):
        simulate(tmp_path / "set", *more, "--slices", count)
        assert verify(tmp_path / "set").problems == ()
        names.append(slices_of(tmp_path / "set"))
        assert len(set(names[-1])) == count
    assert names[1] == names[2]
    assert names[3][:3] == names[2] and names[1][:2] == names[0]
    assert "of other settings" in simulate(tmp_path / "set", *more, "--slices", 4, code=2)


def slices_of(root):
    """Case and name of the slices of a set, in the order of its plan."""
    if (root / "train_640geo_dir.txt").is_file():
        return read_listing(root / "train_640geo_dir.txt")
    return [name for path in sorted(root.rglob("shard_*.h5")) for name in Shard(path).slices]


def test_hashes_of_the_beginnings_of_a_list_are_those_of_shorter_lists():
    lines = ["a", "b c", "d"]
    assert listing_sha256(lines) == (sha256_of_text("a\nb c\nd"), {sha256_of_text("a"), sha256_of_text("a\nb c")})


# --- several metals ---


def metals(root):
    records = [json.loads(path.read_text()) for path in sorted(root.rglob("case.json"))]
    return [own["metal"] for record in records for own in record["implants"].values()]


def test_of_several_metals_each_pair_has_one_which_its_record_names(tmp_path, simulate):
    simulate(tmp_path / "set", "--metal", "titanium", "steel", "--slices", 6)
    drawn = metals(tmp_path / "set")
    assert set(drawn) == {"titanium", "steel"}
    simulate(tmp_path / "again", "--metal", "titanium", "steel", "--slices", 6, "--workers", 2)
    assert contents(tmp_path / "again") == contents(tmp_path / "set")
    simulate(tmp_path / "other", "--metal", "titanium", "steel", "--slices", 6, "--seed", 1)
    assert metals(tmp_path / "other") != drawn
    for metal in ("titanium", "steel"):  # a pair is the one of the set of its own metal
        simulate(tmp_path / metal, "--metal", metal, "--slices", 1)
    for index, metal in enumerate(drawn[:2]):
        name = f"train_640geo/phantom_0000_abdomen/000/{index}.h5"
        assert (tmp_path / "set" / name).read_bytes() == (tmp_path / metal / name).read_bytes()


def test_shards_converted_from_several_metals_hold_their_codes(tmp_path, simulate, mar):
    more = ("--metal", "titanium", "steel", "--slices", 3)
    simulate(tmp_path / "set", *more)
    simulate(tmp_path / "straight", *more, *SHARDS)
    code, _, err = mar("simulate", "--convert", tmp_path / "set", "--out", tmp_path / "shards", *SHARDS)
    assert code == 0, err
    paths = sorted(Path("train_shards", f"shard_{number:05d}.h5") for number in range(2))
    assert all((tmp_path / "shards" / p).read_bytes() == (tmp_path / "straight" / p).read_bytes() for p in paths)
    shard = Shard(tmp_path / "shards" / paths[0])
    codes = [int(shard.read("mask_512", row).max()) for row in range(len(shard))]
    assert codes == [METAL_CODES[metal] for metal in metals(tmp_path / "set")[:4]]


def test_an_unknown_metal_among_several_is_refused(tmp_path, simulate):
    assert "'tin'" in simulate(tmp_path / "set", "--metal", "steel", "tin", code=2)


# --- a scanner of one's own ---


def test_a_scanner_of_ones_own_is_in_the_manifest_and_in_the_pairs(tmp_path, simulate, mar):
    scanner = ("--scanner.source_mm", 350, "--scanner.views", 48, "--scanner.bins", 91)
    simulate(tmp_path / "set", "--slices", 1, *scanner)
    manifest = json.loads((tmp_path / "set" / "train_manifest.json").read_text())
    own = FanBeam(SMALL.image_shape, SMALL.pixel_mm, 350.0, SMALL.detector_mm, 48, 91, SMALL.pitch_mm)
    assert scan_of_set(manifest).geometry == own
    (path,) = (tmp_path / "set").rglob("0.h5")
    assert read_pair(path).ma_sinogram.shape == (48, 91)
    assert "the physics" in simulate(tmp_path / "set", "--slices", 1, *scanner[:4], code=2)
    code, _, err = mar("simulate", "--convert", tmp_path / "set", "--out", tmp_path / "shards", *SHARDS)
    assert code == 0, err
    code, _, err = mar("simulate", "--convert", tmp_path / "shards", "--out", tmp_path / "back", "--compression", 0)
    assert code == 0, err
    (back,) = (tmp_path / "back").rglob("0.h5")
    assert back.read_bytes() == path.read_bytes()


def test_an_impossible_scanner_is_refused(tmp_path, simulate):
    assert "reaches the source" in simulate(tmp_path / "set", "--scanner.source_mm", 10, code=5)
    with pytest.raises(InputError, match="lengths must be positive"):
        ScannerSettings(pitch_mm=-1).geometry(SMALL)
