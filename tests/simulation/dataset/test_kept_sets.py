"""Data sets keep what they are: settings of an earlier version make the files that it made.

`kept_sets.json` was written by such a version.
"""

import hashlib
import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from simulation.dataset.generate import generate
from simulation.dataset.settings import SimulateSettings

KEPT = json.loads((Path(__file__).parent / "kept_sets.json").read_text())


def facts_of(root: Path) -> dict[str, object]:
    """What identifies the files of a set: hashes of what is whole, energies of what was computed in floats."""
    manifest = json.loads((root / "train_manifest.json").read_text())
    facts: dict[str, object] = {
        "schema": manifest["schema"], "identity": manifest["identity"], "sha256": manifest["identity_sha256"],
    }  # fmt: skip
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.suffix == ".h5":
            with h5py.File(path) as file:
                found: list[str] = []
                file.visit(found.append)
                for key in sorted(found):
                    if isinstance(file[key], h5py.Dataset):
                        facts[f"{name}:{key}"] = _facts_of_array(file[key])
        elif path.name in ("trainmask.npy", "train_640geo_dir.txt"):
            facts[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return json.loads(json.dumps(facts))


def _facts_of_array(data: h5py.Dataset) -> list[object]:
    values = data[()]
    kind = [str(values.dtype), list(values.shape), data.compression, data.compression_opts]
    if values.dtype.kind == "f":
        return [*kind, float(np.sqrt(np.mean(values.astype(np.float64) ** 2)))]
    return [*kind, hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()]


@pytest.mark.parametrize("layout", ["community", "shards"])
def test_the_same_settings_make_the_same_set(layout: str, tmp_path: Path, small_scanner: None) -> None:
    more = {"store": "both", "slices_per_shard": 2} if layout == "shards" else {}
    settings = SimulateSettings(str(tmp_path / "set"), slices=2, masks_per_slice=2, seed=7, layout=layout, device="cpu")
    generate(SimulateSettings(**vars(settings) | more))
    found = facts_of(tmp_path / "set")
    assert found.keys() == KEPT[layout].keys()
    for name, value in KEPT[layout].items():
        if isinstance(value, list) and isinstance(value[-1], float):  # rounding differs between processors
            assert found[name] == [*value[:-1], pytest.approx(value[-1], rel=1e-4)], name
        else:
            assert found[name] == value, name
