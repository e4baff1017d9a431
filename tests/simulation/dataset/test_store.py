"""The community layout: what was written is what is read, the same content is the same bytes, and damage is found."""

import json

import h5py
import numpy as np
import pytest

from simulation.dataset.community import write_case, write_h5, write_sample
from simulation.dataset.manifest import CASE_MASKS, CASE_RECORD, listing_file, manifest_file, mask_file, split_folder
from simulation.dataset.reader import read_h5, read_pair
from simulation.dataset.verify import verify
from simulation.errors import InputError
from simulation.files import sha256_of
from simulation.simulator import Sample

ROWS, VIEWS, BINS = 12, 10, 15
CASE = "train_640geo/a/000"


def random_sample(seed):
    rng = np.random.default_rng(seed)
    image, sinogram = (ROWS, ROWS), (VIEWS, BINS)
    return Sample(
        ma_sinogram=rng.random(sinogram, np.float32),
        LI_sinogram=rng.random(sinogram, np.float32),
        ma_CT=rng.standard_normal(image, np.float32),
        LI_CT=rng.standard_normal(image, np.float32),
        metal_trace=rng.random(sinogram) < 0.3,
    )


def random_truth(seed=9):
    rng = np.random.default_rng(seed)
    return (
        rng.random((ROWS, ROWS), np.float32),
        rng.random((VIEWS, BINS), np.float32),
        rng.random((ROWS, ROWS), np.float32),
    )


def write_set(root, manifest=True, masks=(0, 1), split="train"):
    """A set of one slice as any program may have written it; returns the folder of the slice."""
    folder = split_folder(root, split) / "a" / "000"
    write_case(folder, *random_truth(), {index: random_sample(index) for index in masks}, compression=0)
    listing_file(root, split).write_text("a/000/gt.h5\n")
    np.save(mask_file(root, split), np.ones((4, 4, 2), np.uint8))
    if manifest:
        np.savez(folder / CASE_MASKS, indices=np.array(masks), masks=np.ones((len(masks), 4, 4), np.uint8))
        files = {path.name: sha256_of(path) for path in folder.iterdir()}
        (folder / CASE_RECORD).write_text(json.dumps({"files": files}))
        top = {path.name: sha256_of(path) for path in (listing_file(root, split), mask_file(root, split))}
        content = {"cases": {str(folder.relative_to(root)): {"files": files}}, "files": top}
        manifest_file(root, split).write_text(json.dumps(content))
    return folder


def test_a_pair_comes_back_bit_for_bit(tmp_path):
    image, poly_sinogram, poly_CT = random_truth()
    samples = {0: random_sample(0), 7: random_sample(7)}
    write_case(tmp_path / "a" / "000", image, poly_sinogram, poly_CT, samples)
    for index, sample in samples.items():
        pair = read_pair(tmp_path / "a" / "000" / f"{index}.h5")
        for name, written in vars(sample).items():
            np.testing.assert_array_equal(getattr(pair, name), written)
        assert pair.metal_trace.dtype == bool
        np.testing.assert_array_equal(pair.image, image)
        np.testing.assert_array_equal(pair.poly_sinogram, poly_sinogram)
        np.testing.assert_array_equal(pair.poly_CT, poly_CT)


@pytest.mark.parametrize("compression", [0, 4])
def test_files_are_those_of_the_benchmark(tmp_path, compression):
    """Names, types and shapes as published; no attributes."""
    write_case(tmp_path, *random_truth(), {3: random_sample(3)}, compression)
    image, sinogram = ((ROWS, ROWS), "<f4"), ((VIEWS, BINS), "<f4")
    expected = {
        "gt.h5": {"image": image, "poly_CT": image, "poly_sinogram": sinogram},
        "3.h5": {"ma_CT": image, "LI_CT": image, "ma_sinogram": sinogram, "LI_sinogram": sinogram}
        | {"metal_trace": ((VIEWS, BINS), "|u1")},
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(expected)
    for name, datasets in expected.items():
        with h5py.File(tmp_path / name) as file:
            assert {key: (data.shape, data.dtype.str) for key, data in file.items()} == datasets
            assert not file.attrs
            assert not any(len(data.attrs) for data in file.values())
            assert {data.compression for data in file.values()} == {"gzip" if compression else None}
    with h5py.File(tmp_path / "3.h5") as file:
        assert set(np.unique(file["metal_trace"])) == {0, 1}


@pytest.mark.parametrize("compression", [0, 4])
def test_same_content_is_the_same_bytes(tmp_path, compression):
    for name in "ab":
        write_sample(tmp_path / f"{name}.h5", random_sample(1), compression)
    write_sample(tmp_path / "c.h5", random_sample(2), compression)
    first, second, other = ((tmp_path / f"{name}.h5").read_bytes() for name in "abc")
    assert first == second
    assert first != other


def test_the_hour_is_not_in_the_bytes(tmp_path):
    """HDF5 can keep times of change, in whole seconds: two quick writes would not show it."""
    write_sample(tmp_path / "a.h5", random_sample(1))
    with h5py.File(tmp_path / "a.h5") as file:
        infos = [h5py.h5o.get_info(data.id) for data in file.values()]
        assert {time for info in infos for time in (info.mtime, info.ctime)} == {0}


def test_doubles_are_stored_as_float32(tmp_path):
    write_h5(tmp_path / "a.h5", {"x": np.array([[1 / 3]])}, 0)
    assert read_h5(tmp_path / "a.h5", ("x",))["x"] == np.float32(1 / 3)


@pytest.mark.parametrize("victim", ["gt.h5", "0.h5"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.99])
def test_a_truncated_file_is_one_line(tmp_path, victim, share):
    write_case(tmp_path, *random_truth(), {0: random_sample(0)})
    data = (tmp_path / victim).read_bytes()
    (tmp_path / victim).write_bytes(data[: int(share * len(data))])
    with pytest.raises(InputError, match="truncated") as caught:
        read_pair(tmp_path / "0.h5")
    assert victim in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_named(tmp_path):
    write_case(tmp_path, *random_truth(), {0: random_sample(0)})
    with h5py.File(tmp_path / "0.h5", "a") as file:
        del file["LI_CT"]
    with pytest.raises(InputError, match=r"0\.h5: no LI_CT in it; it has LI_sinogram, ma_CT"):
        read_pair(tmp_path / "0.h5")
    (tmp_path / "gt.h5").unlink()
    with pytest.raises(InputError, match=r"gt\.h5"):
        read_pair(tmp_path / "0.h5")


def test_shapes_that_do_not_belong_together_are_refused(tmp_path):
    write_case(tmp_path, *random_truth(), {0: random_sample(0)})
    with h5py.File(tmp_path / "0.h5", "a") as file:
        del file["metal_trace"]
        file["metal_trace"] = np.ones((BINS, VIEWS), np.uint8)
    with pytest.raises(InputError, match="metal_trace has shape"):
        read_pair(tmp_path / "0.h5")


# --- verify ---


@pytest.mark.parametrize("manifest", [True, False])
def test_a_whole_set_has_no_problems(tmp_path, manifest):
    write_set(tmp_path, manifest)
    found = verify(tmp_path)
    assert (found.slices, found.pairs, found.hashed, found.problems) == (1, 2, manifest, ())


def flip_bit(path):
    """In the last number of the last array: HDF5 reads the file as before."""
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    "victim", [f"{CASE}/gt.h5", f"{CASE}/1.h5", f"{CASE}/{CASE_MASKS}", "train_640geo_dir.txt", "trainmask.npy"]
)
@pytest.mark.parametrize("damage", [flip_bit, truncate])
def test_any_altered_byte_is_found(tmp_path, victim, damage):
    write_set(tmp_path)
    damage(tmp_path / victim)
    problems = [problem for problem in verify(tmp_path).problems if problem.startswith(f"{victim}: ")]
    assert any("bytes are not those that were written" in problem for problem in problems)


@pytest.mark.parametrize("victim", [f"{CASE}/gt.h5", f"{CASE}/1.h5", f"{CASE}/{CASE_MASKS}", "trainmask.npy"])
def test_a_missing_file_is_found(tmp_path, victim):
    write_set(tmp_path)
    (tmp_path / victim).unlink()
    problems = verify(tmp_path).problems
    assert any(problem.startswith(f"{victim}: ") and "missing" in problem for problem in problems)


@pytest.mark.parametrize("text", [None, "", '{"files"', '{"files": {}}'])
def test_a_record_that_is_not_that_of_the_manifest_is_found(tmp_path, text):
    record = write_set(tmp_path) / CASE_RECORD
    if text is None:
        record.unlink()
    else:
        record.write_text(text)
    assert verify(tmp_path).problems == (f"{CASE}/{CASE_RECORD}: missing, or not what the manifest says",)


def test_a_slice_that_the_manifest_does_not_know_is_unfinished(tmp_path):
    write_set(tmp_path)
    write_case(tmp_path / "train_640geo" / "b" / "000", *random_truth(), {0: random_sample(0)})
    found = verify(tmp_path)
    assert (found.slices, found.pairs) == (1, 2)
    assert found.problems == ("train_640geo/b/000: unfinished; the same mar simulate finishes it",)


def test_a_missing_listing_is_found_beside_another_split(tmp_path):
    write_set(tmp_path)
    write_set(tmp_path, split="test")
    assert verify(tmp_path).slices == 2
    listing_file(tmp_path, "test").unlink()
    assert any("test_640geo_dir.txt" in problem for problem in verify(tmp_path).problems)


def test_a_stranger_is_found(tmp_path):
    folder = write_set(tmp_path)
    write_sample(folder / "5.h5", random_sample(5))
    assert verify(tmp_path).problems == (f"{CASE}/5.h5: not in the manifest",)


def test_what_a_killed_run_left_is_found(tmp_path):
    folder = write_set(tmp_path)
    (folder / "1.h5.77.partial").write_bytes(b"half")
    assert verify(tmp_path).problems == (f"{CASE}/1.h5.77.partial: left by an interrupted run",)


@pytest.mark.parametrize("victim", ["gt.h5", "1.h5"])
def test_without_a_manifest_unreadable_files_are_found(tmp_path, victim):
    folder = write_set(tmp_path, manifest=False)
    truncate(folder / victim)
    problems = verify(tmp_path).problems
    assert len(problems) == 1  # once, though each of two pairs reads gt.h5
    assert f"{CASE}/{victim}" in problems[0]
    assert str(tmp_path) not in problems[0]


def test_without_a_manifest_impossible_content_is_found(tmp_path):
    folder = write_set(tmp_path, manifest=False)
    with h5py.File(folder / "0.h5", "a") as file:
        file["ma_CT"][3, 4] = np.nan
        file["metal_trace"][:] = 0
    assert set(verify(tmp_path).problems) == {
        f"{CASE}/0.h5: ma_CT holds values that are not finite",
        f"{CASE}/0.h5: its metal trace is empty",
    }


def test_a_listed_slice_without_pairs_is_found(tmp_path):
    write_set(tmp_path, manifest=False)
    with listing_file(tmp_path, "train").open("a") as file:
        file.write("b/000/gt.h5\n")
    assert verify(tmp_path).problems == ("train_640geo/b/000: listed, but no pair is there",)


def test_what_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(InputError, match="no train or test set in it; expected what mar simulate wrote"):
        verify(tmp_path)
    with pytest.raises(InputError, match="no such folder; expected what mar simulate wrote"):
        verify(tmp_path / "absent")
    write_set(tmp_path)
    for text in ('{"cases": ', "[]", "3"):
        manifest_file(tmp_path, "train").write_text(text)
        with pytest.raises(InputError, match="cannot be read as JSON"):
            verify(tmp_path)
