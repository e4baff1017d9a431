"""Shards: the same bytes however they were made, the numbers of the other layout, safe against kill, damage found."""

import errno
import json
import random
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest
from command_lines import replaced
from small_scanner import NAME, PROGRAM, SMALL, body_hu, disc

from mar_pipeline import cli
from simulation.dataset.reader import SCAN, read_pair, scan_of
from simulation.dataset.shard_file import Shard, ShardPlan, ShardWriter
from simulation.dataset.verify import verify
from simulation.errors import InputError, MarError
from simulation.files import sha256_of
from simulation.physics import protocols
from simulation.physics.projector import Projector
from simulation.physics.protocols import PROTOCOLS
from simulation.units import hu_to_mu

KINDS = ("clean", "clean", "metal", "clean", "clean", "clean")
"""Of the slices: the third one is skipped."""


@pytest.fixture(scope="module", autouse=True)
def scanner():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(protocols.PROTOCOLS, NAME, replace(PROTOCOLS[NAME], geometry=SMALL))
        yield


def write_source(root, kinds):
    for number, kind in enumerate(kinds):
        folder = root / f"case{number:02d}" / "000"
        folder.mkdir(parents=True)
        with h5py.File(folder / "gt.h5", "w") as file:
            file["image"] = hu_to_mu(body_hu(kind, 40 + number, 12 - number % 5)).astype(np.float32)
    return root


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("source"), KINDS)


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    path = tmp_path_factory.mktemp("masks") / "masks.npy"
    centres = ((0, 0), (60, -40), (-80, 30))
    np.save(path, np.stack([disc(20, 512, *centre) for centre in centres], axis=2).astype(np.uint8))
    return path


def request(source, masks, out, *more):
    options = ["--source", source, "--masks", masks, "--device", "cpu", "--compression", 0, "--out", out]
    return ["simulate", *replaced(options, more)]


def shards(*more, store="both"):
    return replaced(["--layout", "shards", "--slices-per-shard", 2, "--store", store], more)


def run(*arguments):
    assert cli.main(["-q", *map(str, arguments)]) == 0


def contents(root):
    """Bytes of all files but the report and the locks."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name[0] != "." and path.name[:6] != "report")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def made(source, masks, tmp_path_factory):
    """The same request in both layouts, and in each of the stores."""
    root = tmp_path_factory.mktemp("made")
    run(*request(source, masks, root / "community"))
    for store in ("images", "both", "sinograms"):
        run(*request(source, masks, root / store, *shards(store=store)))
    return root


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made / "both", tmp_path / "set")


def pairs_of(root):
    """Every pair of a set of shards, by its name in the community layout."""
    for path in sorted((root / "train_shards").glob("*.h5")):
        shard = Shard(path)
        for row, (truth, mask) in enumerate(zip(shard.truth, shard.masks, strict=True)):
            yield "/".join((*shard.slices[truth], f"{mask}.h5")), shard, row


# --- numbers ---


@pytest.mark.parametrize("store", ["images", "both", "sinograms"])
def test_a_pair_has_the_same_numbers_in_both_layouts(made, masks, store):
    projector, seen = Projector(SMALL, "cpu", threads=1), []
    for name, shard, row in pairs_of(made / store):
        stored = read_pair(made / "community" / "train_640geo" / name)
        wanted = ("ma_CT", "LI_CT") if store == "images" else SCAN
        scan = scan_of(shard, row, projector, "benchmark", wanted)
        for own in wanted:
            np.testing.assert_array_equal(getattr(scan, own), getattr(stored, own), err_msg=own)
        np.testing.assert_array_equal(shard.read("image", shard.truth[row]), stored.image)
        assert set(np.unique(shard.read("metal_mask", row))) == {0, 1}
        if store != "images":
            np.testing.assert_array_equal(shard.read("poly_sinogram", shard.truth[row]), stored.poly_sinogram)
            np.testing.assert_array_equal(shard.read("mask_512", row), np.load(masks)[:, :, shard.masks[row]])
        seen.append(name)
    assert seen == [f"case{number:02d}/000/{mask}.h5" for number in (0, 1, 3, 4, 5) for mask in range(3)]


def test_a_store_holds_what_was_asked_for(made):
    images, sinograms = {"ma_CT", "LI_CT"}, {"ma_sinogram", "poly_sinogram", "metal_trace", "mask_512"}
    for store, expected in (("images", images), ("both", images | sinograms), ("sinograms", sinograms)):
        with h5py.File(made / store / "train_shards" / "shard_00000.h5") as file:
            assert set(file) - {"case", "slice", "truth", "mask", "image", "metal_mask"} == expected
            for name in file:
                assert file[name].chunks is None
                assert file[name].dtype != np.float64


def test_rows_are_read_in_part(made):
    shard = Shard(made / "both" / "train_shards" / "shard_00002.h5")
    whole = shard.read("ma_CT", 4)
    np.testing.assert_array_equal(shard.read("ma_CT", 4, 10, 20), whole[10:30])
    np.testing.assert_array_equal(shard.read("metal_trace", 4, 3, 5), shard.read("metal_trace", 4)[3:8])
    with pytest.raises(IndexError):
        shard.read("ma_CT", len(shard))
    with pytest.raises(InputError, match="holds no LI_sinogram"):
        shard.read("LI_sinogram", 0)


# --- the same bytes however they were made ---


@pytest.mark.parametrize(
    "parts", [[["--workers", 2]], [["--part", "1/2"], ["--part", "0/2", "--workers", 2]], [["--part", "2/4"], []]]
)
def test_bytes_do_not_depend_on_workers_and_parts(made, source, masks, tmp_path, parts):
    for part in parts:
        run(*request(source, masks, tmp_path / "set", *shards(*part)))
    assert contents(tmp_path / "set") == contents(made / "both")


def test_a_part_makes_its_shards_only(source, masks, tmp_path, mar):
    code, said, _ = mar(*request(source, masks, tmp_path / "set", *shards("--part", "1/2")))
    assert (code, "3 pairs made, 1 of 2 slices done, 1 skipped (metal)" in said) == (0, True)
    assert [path.name for path in sorted((tmp_path / "set/train_shards").glob("*.h5"))] == ["shard_00001.h5"]
    assert [line.split(": ")[1] for line in verify(tmp_path / "set").problems] == [
        "not made yet; the same mar simulate makes it"
    ] * 2


def test_a_rerun_makes_what_is_missing_only(made, source, masks, folder, mar):
    shard = folder / "train_shards" / "shard_00001.h5"
    for lose in (shard.unlink, shard.with_suffix(".json").unlink, lambda: shard.write_bytes(shard.read_bytes()[:-1])):
        lose()
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("shard*.h5") if path != shard}
        assert "3 pairs made" in mar(*request(source, masks, folder, *shards()))[1]
        assert contents(folder) == contents(made / "both")
        assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "0 pairs made" in mar(*request(source, masks, folder, *shards()))[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (shards("--seed", 1), "seed was 0, is 1"),
        (shards(store="images"), "stored was 'both', is 'images'"),
        (shards("--slices-per-shard", 3), "slices_per_shard was 2, is 3"),
        ([], "holds a train set of the layout shards, not community"),
    ],
)
def test_other_settings_are_refused(source, masks, folder, mar, change, words):
    before = contents(folder)
    code, _, err = mar(*request(source, masks, folder, *change))
    assert (code, err.count("\n")) == (2, 1)
    assert words in err
    assert contents(folder) == before


def test_what_cannot_be_done_is_told_each_time(masks, tmp_path, mar):
    source = write_source(tmp_path / "source", ["clean", "clean"])
    (source / "case01/000/gt.h5").write_bytes(b"half")
    for _ in range(2):
        code, _, err = mar(*request(source, masks, tmp_path / "set", *shards()))
        assert (code, err.count("\n")) == (8, 1)
        assert err.startswith("failed: case01/000/gt.h5: broken or truncated")
    assert "delete shard_00000.h5 to try again" in err


def test_a_set_without_a_pair_is_a_failure_that_binds_nothing(masks, tmp_path, mar):
    arguments = request(write_source(tmp_path / "source", ["metal", "empty"]), masks, tmp_path / "set", *shards())
    for more in ([], ["--seed", 1]):
        code, _, err = mar(*arguments, *more)
        assert (code, err) == (5, "mar: error: no slice could be used (2 tried); the first one: case00/000: metal\n")
        assert contents(tmp_path / "set") == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--store", "both"], "--store: only for --layout shards"),
        (["--layout", "shards", "--slices-per-shard", 0], "--slices-per-shard: got 0"),
    ],
)
def test_impossible_settings(source, masks, tmp_path, mar, options, message):
    code, _, err = mar(*request(source, masks, tmp_path / "set", *options))
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


def test_a_dry_run_tells_what_it_would_take(source, masks, tmp_path, mar):
    code, said, _ = mar(*request(source, masks, tmp_path / "set", *shards("--dry-run")))
    assert code == 0
    assert "would make up to 3 of 3 shards (6 slices) with 3 masks each: 18 pairs" in said
    assert not (tmp_path / "set").exists()


# --- conversion ---


def convert(source, out, *more):
    return ["simulate", *replaced(["--convert", source, "--out", out, "--compression", 0], more)]


@pytest.mark.parametrize("store", ["images", "both", "sinograms"])
@pytest.mark.parametrize("more", [[], ["--workers", 2]])
def test_converted_shards_are_those_that_are_simulated(made, tmp_path, store, more):
    run(*convert(made / "community", tmp_path / "set", *shards(*more, store=store)))
    expected = contents(made / store)
    converted = contents(tmp_path / "set")
    assert set(converted) == set(expected)
    for name, data in expected.items():
        if name.endswith(".h5"):
            assert converted[name] == data, name
    assert verify(tmp_path / "set").problems == ()
    identities = [json.loads((root / "train_manifest.json").read_text()) for root in (tmp_path / "set", made / store)]
    assert identities[0]["identity_sha256"] == identities[1]["identity_sha256"]


@pytest.mark.parametrize("store", ["both", "sinograms"])
def test_there_and_back_gives_the_same_bytes(made, tmp_path, store):
    for part in ("1/2", "0/2"):
        run(*convert(made / store, tmp_path / "set", "--part", part))
    assert contents(tmp_path / "set") == contents(made / "community")


@pytest.mark.parametrize("size", [2, 32])
def test_there_and_back_from_the_community_layout(made, tmp_path, size):
    """The set has a gap where a slice was skipped."""
    run(*convert(made / "community", tmp_path / "a", *shards("--slices-per-shard", size)))
    run(*convert(tmp_path / "a", tmp_path / "b"))
    assert contents(tmp_path / "b") == contents(made / "community")


def test_shards_of_slices_that_could_not_be_read_are_told_until_they_are_made_anew(source, masks, tmp_path, mar):
    """As where the disk of the slices was away for a while."""
    path, out = tmp_path / "source" / "case03" / "000" / "gt.h5", tmp_path / "set"
    shutil.copytree(source, tmp_path / "source")
    whole = path.read_bytes()
    path.write_bytes(whole[:999])
    arguments = request(tmp_path / "source", masks, out, *shards(store="images"))
    assert mar(*arguments)[0] == 8
    path.write_bytes(whole)
    (problem,) = verify(out).problems
    assert problem.startswith("train_shards/shard_00001.h5: 1 slices could not be read when it was made, the first is ")
    (out / "train_shards" / "shard_00001.h5").unlink()
    assert mar(*arguments)[0] == 0
    assert verify(out).problems == ()


def test_procedural_masks_survive_there_and_back(tmp_path, mar):
    """On the small scanner some masks vanish: they are told when the set is made, and leave gaps in the numbers."""
    arguments = ["--slices", 3, "--masks-per-slice", 3, "--device", "cpu", "--compression", 0]
    code, _, told = mar("simulate", "--source", "phantom", *arguments, "--out", tmp_path / "a")
    assert (code, "vanishes when resized" in told) == (8, True)
    for _ in range(2):
        assert mar(*convert(tmp_path / "a", tmp_path / "b", *shards()))[::2] == (0, "")
        assert mar(*convert(tmp_path / "b", tmp_path / "c"))[::2] == (0, "")
    assert contents(tmp_path / "c") == contents(tmp_path / "a")
    mar("simulate", "--source", "phantom", *arguments, *shards(), "--out", tmp_path / "d")
    for path in sorted((tmp_path / "d" / "train_shards").glob("*.h5")):
        assert path.read_bytes() == (tmp_path / "b" / "train_shards" / path.name).read_bytes()


def test_a_public_set_without_a_manifest_is_converted(made, tmp_path, mar):
    public = shutil.copytree(made / "community", tmp_path / "public")
    for path in public.rglob("*.json"):
        path.unlink()
    run(*convert(public, tmp_path / "set", *shards()))
    names = [name for name, *_ in pairs_of(tmp_path / "set")]
    assert names == [name for name, *_ in pairs_of(made / "both")]
    stack = np.load(public / "trainmask.npy")
    np.save(public / "trainmask.npy", stack[:, :, [1, 0, 2]])
    code, said, err = mar(*convert(public, tmp_path / "other", *shards()))
    assert (code, "5 pairs made, 5 of 5 slices done, 10 failed" in said) == (8, True)
    assert err.startswith("failed: case00/000, mask 0: the mask is another one: its trace and the stored metal_trace ")
    assert [name for name, *_ in pairs_of(tmp_path / "other")] == [name for name in names if name.endswith("2.h5")]
    np.save(public / "trainmask.npy", stack[:, :, [1, 2, 0]])
    code, _, err = mar(*convert(public, tmp_path / "none", *shards()))
    assert (code, err.count("\n")) == (5, 1)
    assert "no slice could be used (5 tried); the first one: case00/000, mask 0: the mask is another one" in err


@pytest.mark.parametrize(
    ("origin", "options", "message"),
    [
        ("images", [], "holds images only, and the community layout needs sinograms; simulate with --layout community"),
        ("both", shards(), "is of the layout shards already"),
        ("community", [], "is of the layout community already"),
        ("both", ["--split", "test"], "no test set in it"),
        ("nowhere", [], "no such folder"),
        ("both/train_manifest.json", [], "is a file"),
        ("both", ["--seed", "3"], "--seed: not with --convert"),
    ],
)
def test_what_cannot_be_converted_is_refused_in_one_line(made, tmp_path, mar, origin, options, message):
    code, _, err = mar(*convert(made / origin, tmp_path / "set", *options))
    assert (code in (2, 5), err.count("\n")) == (True, 1)
    assert message in err
    assert not (tmp_path / "set").exists()


def test_an_unfinished_set_is_not_converted(folder, tmp_path, mar):
    (folder / "train_shards" / "shard_00001.h5").unlink()
    code, _, err = mar(*convert(folder, tmp_path / "out"))
    assert code == 5
    assert "1 of 3 shards are not there, or truncated, the first is shard_00001.h5; finish it" in err


def test_a_set_that_grew_is_converted_anew(made, source, masks, tmp_path, mar):
    for part in ("0/2", "1/2"):
        run(*request(source, masks, tmp_path / "growing", "--part", part))
        run(*convert(tmp_path / "growing", tmp_path / "out", *shards(store="images")))
    run(*convert(made / "community", tmp_path / "whole", *shards(store="images")))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_part_of_slices_that_are_all_skipped_is_done(masks, tmp_path, mar):
    source = write_source(tmp_path / "source", ["clean", "metal"])
    more = shards("--slices-per-shard", 1)
    for part in ("1/2", "0/2"):
        assert mar(*request(source, masks, tmp_path / "set", *more, "--part", part))[0] == 0
    assert verify(tmp_path / "set").problems == ()


def test_a_conversion_clears_away_what_a_killed_one_left(made, tmp_path, mar):
    left_over = tmp_path / "out" / "train_640geo" / "case00" / "000" / "gt.h5.77.partial"
    left_over.parent.mkdir(parents=True)
    run(*convert(made / "both", tmp_path / "whole"))
    shutil.rmtree(tmp_path / "out")
    shutil.copytree(tmp_path / "whole", tmp_path / "out")
    left_over.write_bytes(b"half")
    (left_over.parent / "0.h5").unlink()
    run(*convert(made / "both", tmp_path / "out"))
    assert verify(tmp_path / "out").problems == ()


@pytest.mark.parametrize(
    ("origin", "victim", "options"),
    [("both", "train_shards/shard_00001.h5", []), ("community", "train_640geo/case03/000/1.h5", shards())],
)
def test_damage_is_not_copied(made, tmp_path, mar, origin, victim, options):
    root = shutil.copytree(made / origin, tmp_path / "root")
    data = (root / victim).read_bytes()
    (root / victim).write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    code, said, err = mar(*convert(root, tmp_path / "set", *options))
    assert (code, said, err.count("\n")) == (5, "", 1)
    assert f"{victim}: " in err and "its bytes are not those that were written" in err


# --- damage ---


def test_a_whole_set_has_no_problems(made, mar):
    for store in ("images", "both", "sinograms"):
        found = verify(made / store)
        assert (found.slices, found.pairs, found.hashed, found.problems) == (5, 15, True, ())
        assert mar("verify", made / store)[0] == 0


def test_any_flipped_bit_is_found(folder):
    rng = random.Random(0)
    for path in sorted(folder.glob("train_shards/*")):
        data = path.read_bytes()
        for _ in range(4):
            place = rng.randrange(len(data))
            path.write_bytes(data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :])
            problems = verify(folder).problems
            assert any(own.startswith(f"train_shards/{path.name}: its bytes are not") for own in problems), place
        path.write_bytes(data)
    assert verify(folder).problems == ()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_shard_is_found_and_refused(folder, share, mar):
    path = folder / "train_shards" / "shard_00002.h5"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(MarError, match=r"shard_00002\.h5: .*truncated.*the same mar simulate again") as caught:
        shard = Shard(path)
        for row in range(len(shard)):
            shard.read("mask_512", row)
    assert "\n" not in str(caught.value)
    code, said, _ = mar("verify", folder)
    assert code == 8
    assert "train_shards/shard_00002.h5: its bytes are not those that were written" in said


def test_missing_and_unfinished_shards_are_found(folder):
    places = folder / "train_shards"
    (places / "shard_00000.h5").unlink()
    (places / "shard_00001.json").unlink()
    (places / "shard_00001.h5.7.partial").write_bytes(b"half")
    for suffix in (".h5", ".json"):
        shutil.copy(places / f"shard_00002{suffix}", places / f"shard_00003{suffix}")
    assert sorted(verify(folder).problems) == [
        "train_shards/shard_00000.h5: missing",
        "train_shards/shard_00001.h5.7.partial: left by an interrupted run",
        "train_shards/shard_00001.json: missing",
        "train_shards/shard_00003.h5: unfinished, not in the manifest; the same mar simulate finishes it",
    ]


def test_what_was_planned_and_never_begun_is_found(source, masks, tmp_path, monkeypatch):
    """A disk that is full before the first shard leaves what a kill there leaves."""

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("simulation.dataset.build.run_parallel", full)
    out = tmp_path / "set"
    assert cli.main(["-q", *map(str, request(source, masks, out, *shards("--part", "0/4")))]) == 6
    not_made = [f"train_shards/shard_0000{number}.h5: not made yet; the same mar simulate makes it" for number in "012"]
    assert list(verify(out).problems) == not_made


@pytest.mark.parametrize("name", ["ma_CT", "metal_mask", "image", "ma_sinogram", "metal_trace"])
def test_zeros_where_a_scan_should_be_are_found_whatever_the_hash_says(folder, name):
    path = folder / "train_shards" / "shard_00000.h5"
    with h5py.File(path, "r+") as file:
        file[name][1] = 0
    manifest = folder / "train_manifest.json"
    content = json.loads(manifest.read_text())
    content["files"]["train_shards/shard_00000.h5"] = sha256_of(path)
    manifest.write_text(json.dumps(content))
    whose = "case01/000" if name == "image" else "case00/000/1"
    assert verify(folder).problems == (f"train_shards/shard_00000.h5: {name} of {whose} is all zeros",)


def test_without_a_manifest_shards_are_read(folder):
    (folder / "train_manifest.json").unlink()
    path = folder / "train_shards" / "shard_00000.h5"
    with h5py.File(path, "r+") as file:
        file["LI_CT"][2, 3, 4] = np.nan
    found = verify(folder)
    expected = ("train_shards/shard_00000.h5: LI_CT of case00/000/2 holds values that are not finite",)
    altered = "train_shards/shard_00000.h5: its bytes are not those that were written"  # the record beside it knows
    assert (found.hashed, found.problems) == (True, (altered, *expected))


def test_a_manifest_that_was_changed_is_found(folder):
    path = folder / "train_manifest.json"
    path.write_text(path.read_text().replace('"stored": "both"', '"stored": "bath"'))
    assert any("what it says the set was made from is not what was written" in own for own in verify(folder).problems)


def test_a_killed_set_is_not_converted(folder, tmp_path, mar):
    """Its manifest knows what was planned, and of no shard."""
    manifest = json.loads((folder / "train_manifest.json").read_text())
    (folder / "train_manifest.json").write_text(json.dumps(manifest | {"files": {}, "slices": 0, "pairs": 0}))
    (folder / "train_shards" / "shard_00001.h5").unlink()
    code, _, err = mar(*convert(folder, tmp_path / "out"))
    assert (code, err.count("\n"), "1 of 3 shards are not there" in err) == (5, 1, True)


def test_a_file_that_is_no_shard_is_one_line(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(InputError, match="cannot be read as a shard"):
        Shard(tmp_path / "a.h5")
    writer = ShardWriter(tmp_path / "b.h5", ShardPlan([("a", "b")], [(0, 0), (3, 1)]), SMALL, "images")
    writer.close()
    with pytest.raises(InputError, match="pairs of slices that are not in it"):
        Shard(tmp_path / "b.h5")


FULL = """
import os, resource, signal, sys
from pathlib import Path
from simulation.physics.geometry import FanBeam
from simulation.dataset.shard_file import ShardPlan, ShardWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
plan, geometry = ShardPlan([("a", "b")] * 32, [(row % 32, row) for row in range(2880)]), FanBeam.preset("syndeeplesion")
for limit in (500, 3000, 10000, 30000, 60000, 90000, 10**6):
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            ShardWriter(Path(sys.argv[1]), plan, geometry, "both")
        except OSError:
            os._exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_hdf5_does_not_come_upon_a_full_disk(tmp_path):
    """A limit on the size of files stands for it: HDF5 crashes the process when its own writes fail."""
    command = [sys.executable, "-c", FULL, str(tmp_path / "a.h5")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout.split() == ["7"] * 7


def test_a_full_disk_is_one_line_and_leaves_no_shard(source, masks, tmp_path):
    lines = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (150000, 150000))\n"
    limited = PROGRAM.replace("if __name__", f"{lines}signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nif __name__")
    command = [sys.executable, "-c", limited, "-q", *map(str, request(source, masks, tmp_path / "set", *shards()))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode, done.stdout) == (6, "")
    assert re.fullmatch(r"mar: error: .*shard_00000\.h5.*\n", done.stderr)
    assert list((tmp_path / "set" / "train_shards").iterdir()) == []


# --- a writer that is killed ---

KILLS = 30
DRIVER = (
    PROGRAM.partition("if __name__")[0]
    + """
import os, random, shutil, threading, time
from pathlib import Path
import numpy, h5py, tqdm, simulation.dataset.generate
tqdm.tqdm.set_lock(threading.RLock())  # tqdm's own is shared by what is forked, also by who was killed while he had it
from simulation.dataset.shard_file import Shard
from simulation.dataset.verify import verify
arguments, out, kills, share = sys.argv[4:], Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
def made():
    return sum(1 for _ in out.rglob("*.h5"))
main(["-q", *arguments, "--out", f"{out}-warm", "--slices", "1"])  # compiles: children then start at once
rng, hit, whole = random.Random(1), 0, set()
while hit < kills:
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        code = main(["-q", *arguments, "--out", str(out), "--workers", str(1 + hit % 2)])
        os._exit(code)
    os.setpgid(child, child)
    enough, ended = made() + round(rng.random() * share), 0
    while made() < enough and not ended:
        time.sleep(0.01)
        ended, _ = os.waitpid(child, os.WNOHANG)
    time.sleep(rng.random() * 0.05)
    ended = ended or os.waitpid(child, os.WNOHANG)[0]
    if ended:  # before it could be killed, as everything is made: once more
        shutil.rmtree(out)
        whole.clear()
        continue
    hit += 1
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    for path in set(out.rglob("*.h5")) - whole:  # whatever has its final name is whole
        whole.add(path)
        with h5py.File(path) as file:
            assert all(numpy.any(data[()]) for name, data in file.items() if data.ndim > 1), path
kept = {path: path.stat().st_mtime_ns for path in out.rglob("*.h5")}
code = main(["-q", *arguments, "--out", str(out)])
assert kept and kept == {path: path.stat().st_mtime_ns for path in kept}
sys.exit(code)
"""
)


@pytest.fixture(scope="module")
def long_source(tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("long"), ["clean"] * 30)


@pytest.mark.parametrize("layout", [[], shards("--slices-per-shard", 1)], ids=["community", "shards"])
def test_a_writer_killed_at_random_leaves_nothing_half(long_source, masks, tmp_path, layout):
    straight, out = tmp_path / "straight", tmp_path / "set"
    run(*request(long_source, masks, straight, *layout))
    arguments = ["simulate", *layout, *request(long_source, masks, out)[1:-2]]
    files = sum(1 for _ in straight.rglob("*.h5"))
    command = [sys.executable, "-c", DRIVER, *map(str, (out, KILLS, files / KILLS, *arguments))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert contents(out) == contents(straight)
    found = verify(out)
    assert (found.pairs, found.problems) == (90, ())


@pytest.mark.parametrize("layout", [[], shards()], ids=["community", "shards"])
def test_memory_does_not_grow_with_the_number_of_slices(long_source, masks, tmp_path, layout):
    """What is kept of a slice would be a MB: its three masks alone take 0.8."""
    end = "import resource\n    main()\n    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    program, peak_kb = PROGRAM.replace("sys.exit(main())", end), {}
    for slices in (4, 30):
        arguments = [*request(long_source, masks, tmp_path / f"{slices}", *layout), "--slices", slices]
        command = [sys.executable, "-c", program, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        peak_kb[slices] = int(done.stdout.splitlines()[-1])
    assert peak_kb[30] - peak_kb[4] < 12_000
