"""What data sets hold stays what it was: numbers, records, listing and identity, compared with recorded ones."""

import hashlib
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from small_scanner import disc

from mar_pipeline import cli
from simulation.simulator import Simulator

RECORDED = Path(__file__).with_name("kept_bytes.json")
REQUESTS = {
    "community": ("--slices", "2", "--masks-per-slice", "2", "--implants", "hip"),
    "community_stack": ("--slices", "2", "--masks", "masks.npy"),
    "shards": (
        "--slices",
        "3",
        "--masks-per-slice",
        "2",
        "--implants",
        "hip",
        "--layout",
        "shards",
        "--slices-per-shard",
        "2",
    ),
    "shards_stack": ("--slices", "2", "--masks", "masks.npy", "--layout", "shards", "--store", "both"),
}
"""One request a layout and kind of masks."""
TOLERANCE = 1e-5
"""Of sums of floating-point arrays: another processor may round the last bit of a projection otherwise."""


def text_sha256(content):
    return hashlib.sha256(content if isinstance(content, bytes) else content.encode()).hexdigest()


def array_facts(array):
    """Type, shape, and a hash of the values, or of floating-point ones their sums."""
    facts = {"dtype": str(array.dtype), "shape": list(array.shape)}
    if array.dtype.kind == "f":
        values = array.astype(np.float64)
        return facts | {"sums": [float(values.sum()), float((values**2).sum()), float(np.abs(np.diff(values)).sum())]}
    return facts | {"sha256": text_sha256(array.tobytes())}


def without_hashes(content):
    """A record or manifest without what depends on libraries: versions, sizes and hashes of files."""
    if not isinstance(content, dict):
        return content
    hashed = content.get("files")
    kept = {key: without_hashes(value) for key, value in content.items() if key not in ("versions", "bytes", "sha256")}
    return kept | ({"files": sorted(hashed)} if isinstance(hashed, dict) else {})


def file_facts(path):
    if path.suffix == ".json":
        return text_sha256(json.dumps(without_hashes(json.loads(path.read_text()))))
    if path.suffix == ".npz":
        with path.open("rb") as file, np.load(file) as stored:
            return {name: array_facts(stored[name]) for name in sorted(stored)}
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            assert not file.attrs
            return {name: array_facts(file[name][()]) for name in sorted(file)}
    return text_sha256(path.read_bytes())


def set_facts(root):
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and path.name[0] != ".")
    return {str(path.relative_to(root)): file_facts(path) for path in files if not path.name.startswith("report")}


@pytest.fixture
def made(tmp_path, monkeypatch, small_scanner):
    monkeypatch.chdir(tmp_path)
    masks = [disc(20, 512, *centre) for centre in ((0, 0), (60, -40))]
    np.save("masks.npy", np.stack(masks, axis=2).astype(np.uint8))

    def make(name):
        options = ["--source", "phantom:pelvis", "--seed", "5", "--device", "cpu", "--out", name, *REQUESTS[name]]
        assert cli.main(["-q", "simulate", *options]) == 0
        return tmp_path / name

    return make


def compare(got, expected, where=""):
    if isinstance(expected, dict):
        assert list(got) == list(expected), where
        for key, value in expected.items():
            compare(got[key], value, f"{where}/{key}")
    elif where.endswith("/sums"):
        np.testing.assert_allclose(got, expected, rtol=TOLERANCE, err_msg=where)
    else:
        assert got == expected, where


@pytest.mark.parametrize("name", REQUESTS)
def test_a_set_is_what_it_was_when_its_numbers_were_recorded(made, name):
    compare(set_facts(made(name)), json.loads(RECORDED.read_text())[name])


def test_the_hash_of_the_benchmarks_physics_is_what_it_was():
    """A set of this hash goes on; another one would be refused."""
    recorded = json.loads(RECORDED.read_text())["physics"]["syndeeplesion"]
    assert Simulator("syndeeplesion", "cpu").physics_sha256 == recorded
