"""A data set for training on the small scanner, and the settings of a run that takes seconds."""

from pathlib import Path

import numpy as np
import yaml
from small_scanner import body_hu, disc

from simulation.dataset.community import write_case
from simulation.simulator import Simulator
from simulation.units import hu_to_mu

SLICES, MASKS = 3, 3


def write_training_set(folder: Path) -> Path:
    """Three slices with three masks each, in the community layout. Needs the fixture `small_scanner`."""
    simulator, listing = Simulator("syndeeplesion", "cpu", threads=1), []
    stack = np.stack([disc(2 + mask, column=8 - 4 * mask, row=6 * mask) for mask in range(MASKS)], axis=-1)
    for number in range(SLICES):
        hu = body_hu(tissue_hu=20 + 30 * number, bone_column=12 - 6 * number)
        image_mu = np.maximum(hu_to_mu(hu), 0).astype(np.float32)
        rngs = [np.random.default_rng((number, mask)) for mask in range(MASKS)]
        poly = simulator.clean(image_mu, np.random.default_rng(number))
        samples = simulator.simulate_masks(image_mu, [stack[..., mask] for mask in range(MASKS)], rngs)
        case = f"{number:06d}_01_01/001"
        write_case(folder / "train_640geo" / case, image_mu, *poly, dict(enumerate(samples)))
        listing.append(f"{case}/gt.h5\n")
    (folder / "train_640geo_dir.txt").write_text("".join(listing))
    np.save(folder / "trainmask.npy", stack.astype(np.uint8))
    return folder


SETTINGS = {
    "epochs": 4,
    "device": "cpu",
    "precision": "float32",
    "threads": 1,
    "sample_pictures": 0,
    "network": {"name": "unet", "arguments": {"width": 4, "poolings": 2}},
    "data": {"patch": 32, "batch_size": 4, "batches_per_epoch": 3, "workers": 0, "val_pairs": 2, "rotations": True},
    "optimizer": {"lr": 1e-3},
    "equivariance": {"enabled": True, "weight": 1.0},
}


def write_settings(path: Path, folder: Path, /, **sections: object) -> Path:
    """The settings above with some of their sections changed, as a file."""
    settings = {key: dict(value) if isinstance(value, dict) else value for key, value in SETTINGS.items()}
    settings["data"]["folder"] = str(folder)
    for section, changes in sections.items():
        if isinstance(changes, dict):
            settings.setdefault(section, {}).update(changes)
        else:
            settings[section] = changes
    path.write_text(yaml.safe_dump(settings))
    return path
