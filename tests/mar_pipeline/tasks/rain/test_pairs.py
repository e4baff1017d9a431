"""The layouts of the public data sets, and what is wrong with a folder."""

import numpy as np
import pytest
from PIL import Image

from mar_pipeline.tasks.rain.pairs import find_pairs
from mar_pipeline.tasks.rain.samples import training_samples
from mar_pipeline.tasks.rain.settings import RainData
from simulation.errors import InputError, UsageError


def write(path, value=0, shape=(16, 20, 3), dtype=np.uint8):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(shape, value, dtype)).save(path)


def write_pairs(root, names):
    """Files (rainy, clean), the rainy one with the value of its clean one plus 100."""
    for number, (rainy, clean) in enumerate(names):
        write(root / rainy, number + 100)
        write(root / clean, number)


def names_of(pairs):
    return [pair.name for pair in pairs]


LAYOUTS = {
    "RCDNet's copy": (
        "train/small/",
        [("rain/norain-1.png", "norain/norain-1.png"), ("rain/norain-2.png", "norain/norain-2.png")],
    ),
    "Rain200": ("train/", [("rain/X2/norain-1x2.png", "norain/norain-1.png")]),
    "PReNet's copy": ("train/", [("rain/1.png", "norain/1.png"), ("rain/2.png", "norain/2.png")]),
    "Rain100 without folders": ("train/", [("rain-001.png", "norain-001.png"), ("rain-002.png", "norain-002.png")]),
    "rainy folder": ("train/", [("rainy/rain-001.png", "norain/norain-001.png")]),
    "DDN's own": ("training/", [("rainy_image/7_1.jpg", "ground_truth/7.jpg")]),
    "MPRNet's": ("train/", [("input/1.png", "target/1.png")]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_found(tmp_path, layout):
    root, names = LAYOUTS[layout]
    write_pairs(tmp_path / root, names)
    pairs = find_pairs(tmp_path, "train")
    assert [pair.rainy for pair in pairs] == [tmp_path / root / rainy for rainy, _ in names]
    for number, pair in enumerate(pairs):
        rainy, clean = pair.load()
        assert rainy.shape == clean.shape == (16, 20, 3)
        assert np.abs(clean - number).max() <= 1 and np.abs(rainy.astype(int) - number - 100).max() <= 1


def test_rain12_is_for_tests_alone(tmp_path):
    write_pairs(tmp_path, [(f"{number:03d}_in.png", f"{number:03d}_GT.png") for number in range(1, 13)])
    pairs = find_pairs(tmp_path, "test")
    assert len(pairs) == 12 and pairs[10].clean.name == "011_GT.png"
    with pytest.raises(InputError, match="for tests"):
        find_pairs(tmp_path, "train")


def test_versions_share_their_clean_image_and_are_held_out_together(tmp_path):
    names = [
        (f"rainy_image/{image}_{version}.png", f"ground_truth/{image}.png")
        for image in range(1, 5)
        for version in (1, 2, 14)
    ]
    write_pairs(tmp_path / "training", names)
    pairs = find_pairs(tmp_path, "train")
    assert names_of(pairs[:4]) == ["1_1", "1_2", "1_14", "2_1"]
    assert {pair.clean.name for pair in pairs[:3]} == {"1.png"}
    train, validation = training_samples(RainData(str(tmp_path), val_images=1, patch=8), 0)
    assert (len(train), validation.names) == (9, ["3_1"])


def write_list(root, name, numbers):
    """A list as SPA-Data has it, with and without leading slashes."""
    files = [(f"real_world/{number}/a.png", f"real_world_gt/{number}/b.png") for number in numbers]
    write_pairs(root, files)
    (root / name).write_text("\n\n".join(f"{'/' * (i % 2)}{a} {b}" for i, (a, b) in enumerate(files)))


def test_list_of_paths(tmp_path):
    write_list(tmp_path, "real_world.txt", (1, 2, 10))
    pairs = find_pairs(tmp_path, "train") + find_pairs(tmp_path, "test")
    assert [pair.clean for pair in pairs] == [tmp_path / f"real_world_gt/{number}/b.png" for number in (1, 2, 10)]


def test_lists_of_the_parts_are_told_by_their_names(tmp_path):
    write_list(tmp_path, "real_Train.txt", (1, 2))
    write_list(tmp_path, "real_test_1000.txt", (3,))
    (tmp_path / "README.txt").write_text("Real rain.\n")
    clean = [[pair.clean.parent.name for pair in find_pairs(tmp_path, split)] for split in ("train", "test")]
    assert clean == [["1", "2"], ["3"]]
    write_list(tmp_path, "more_train.txt", (4,))
    with pytest.raises(InputError, match=r"got more_train\.txt, real_Train\.txt, real_test_1000\.txt as lists"):
        find_pairs(tmp_path, "train")


def test_each_split_has_its_own_folder(tmp_path):
    write_pairs(tmp_path / "train", [("rain/1.png", "norain/1.png")])
    with pytest.raises(InputError, match="has only one of the folders train and test; add the folder test"):
        find_pairs(tmp_path, "test")
    write_pairs(tmp_path / "test", [("rain/2.png", "norain/2.png")])
    assert [names_of(find_pairs(tmp_path, split)) for split in ("train", "test")] == [["1"], ["2"]]


@pytest.mark.parametrize("own", ["Rain", "train", "test"])
@pytest.mark.parametrize("layout", ["two_folders", "one_folder", "list"])
def test_nothing_is_in_both_parts_of_a_set_without_a_split(tmp_path, own, layout):
    """Twenty clean images, each in two rains: 0 to 17 in natural order are trained on, 18 and 19 tested on."""
    scenes = [(number, version) for number in range(20) for version in (1, 2)]
    name = {
        "two_folders": ("input/{}_{}.png", "target/{}.png"),
        "one_folder": ("rain-{}_{}.png", "norain-{}.png"),
        "list": ("rain{}/{}.png", "clean/{}.png"),
    }[layout]
    names = [(name[0].format(*scene), name[1].format(scene[0])) for scene in scenes]
    write_pairs(tmp_path / own, names)
    if layout == "list":
        (tmp_path / own / "all.txt").write_text("\n".join(map(" ".join, reversed(names))))
    clean = {split: [pair.clean.stem for pair in find_pairs(tmp_path / own, split)] for split in ("train", "test")}
    assert {split: len(found) for split, found in clean.items()} == {"train": 36, "test": 4}
    assert {stem.removeprefix("norain-") for stem in clean["test"]} == {"18", "19"}
    assert not set(clean["train"]) & set(clean["test"])


def test_one_scene_cannot_be_split(tmp_path):
    write_pairs(tmp_path, [("input/1_1.png", "target/1.png"), ("input/1_2.png", "target/1.png")])
    for split in ("train", "test"):
        with pytest.raises(InputError, match="got 1 image, expected at least two"):
            find_pairs(tmp_path, split)


def test_the_layout_can_be_named(tmp_path):
    write_pairs(tmp_path / "train", [("rain/1.png", "norain/1.png"), ("rain-2.png", "norain-2.png")])
    assert find_pairs(tmp_path, "train")[0].name == "1"
    assert find_pairs(tmp_path, "train", "one_folder")[0].name == "rain-2"
    with pytest.raises(InputError, match="got none as lists"):
        find_pairs(tmp_path, "train", "list")
    with pytest.raises(InputError, match="has no pair of folders"):
        find_pairs(tmp_path / "train/rain", "train", "two_folders")


@pytest.mark.parametrize("text", ["Rain100L", "two words", "a.png b.png", ""])
def test_a_text_file_is_no_list_unless_its_first_pair_is_there(tmp_path, text):
    (tmp_path / "README.txt").write_text(f"\n{text}\n")
    write(tmp_path / "cat.png")
    with pytest.raises(InputError, match="no layout fits"):
        find_pairs(tmp_path, "test")
    write_pairs(tmp_path, [("rain-1.png", "norain-1.png"), ("rain-2.png", "norain-2.png")])
    (tmp_path / "cat.png").unlink()
    assert names_of(find_pairs(tmp_path, "test")) == ["rain-2"]


def test_file_names_come_before_lists(tmp_path):
    write_pairs(tmp_path, [("rain-1.png", "norain-1.png"), ("rain-2.png", "norain-2.png")])
    write_list(tmp_path, "list.txt", (1, 2))
    assert names_of(find_pairs(tmp_path, "train")) == ["rain-1"]
    assert names_of(find_pairs(tmp_path, "train", "list")) == ["a"]


def test_what_is_missing_is_named(tmp_path):
    write_pairs(tmp_path / "a", [("rain/1.png", "norain/1.png")])
    write(tmp_path / "a/rain/2.png")
    with pytest.raises(InputError, match=r"rain/2\.png: its clean image is missing"):
        find_pairs(tmp_path / "a", "train")
    write_pairs(tmp_path / "b", [("rain/1.png", "norain/1.png")])
    write(tmp_path / "b/norain/3.png")
    with pytest.raises(InputError, match=r"norain/3\.png: its rainy image is missing"):
        find_pairs(tmp_path / "b", "train")
    write_pairs(tmp_path / "c", [("rain/1.png", "norain/1.png"), ("rain/1.png", "norain/001.png")])
    with pytest.raises(InputError, match="expected one; take one out"):
        find_pairs(tmp_path / "c", "train")
    write(tmp_path / "d/cat.png")
    with pytest.raises(InputError, match="got 1 images, but none with a name such as"):
        find_pairs(tmp_path / "d", "train", "one_folder")
    (tmp_path / "e").mkdir()
    with pytest.raises(InputError, match="without images"):
        find_pairs(tmp_path / "e", "train", "one_folder")
    with pytest.raises(InputError, match="no layout fits"):
        find_pairs(tmp_path / "e", "train")
    with pytest.raises(InputError, match="there is no such folder; expected light, heavy"):
        find_pairs(tmp_path / "f", "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("only.png\n", "line 1: got 'only.png', expected"),
        ("\nx.png y.png\n", "line 2: there is no"),
        ("\n", "empty list"),
    ],
)
def test_broken_lists_are_refused(tmp_path, text, message):
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        find_pairs(tmp_path, "train", "list")


def test_pairs_that_do_not_fit_are_refused(tmp_path):
    cases = {
        "size": ({"shape": (16, 19, 3)}, "got 16 x 20 and 16 x 19 pixels, expected one size"),
        "grey": ({"shape": (16, 20)}, r"norain/1\.png: got a grey image; expected colour"),
        "deep": ({"shape": (16, 20), "dtype": np.uint16}, r"norain/1\.png: got 16 bit"),
    }
    for name, (clean, message) in cases.items():
        write(tmp_path / name / "train/rain/1.png")
        write(tmp_path / name / "train/norain/1.png", **clean)
        (pair,) = find_pairs(tmp_path / name, "train")
        with pytest.raises(InputError, match=message) as error:
            pair.load()
        assert "\n" not in str(error.value)
    for folder in ("rain", "norain"):
        write(tmp_path / "tiny/train" / folder / "1.png", shape=(10, 20, 3))
    with pytest.raises(InputError, match="got 10 x 20 pixels, expected 11 or more a side"):
        find_pairs(tmp_path / "tiny", "train")[0].load()


def test_something_must_be_left_to_train_on(tmp_path):
    write_pairs(tmp_path / "train", [("rain/1.png", "norain/1.png"), ("rain/2.png", "norain/2.png")])
    with pytest.raises(UsageError, match=r"--data\.val_images: got 2 of 2 images"):
        training_samples(RainData(str(tmp_path), val_images=2), 0)
