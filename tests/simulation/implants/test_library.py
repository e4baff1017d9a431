"""Laws of the implant libraries: inside the body, on their bones, over the benchmark's sizes; bad stacks refused."""

import json

import numpy as np
import pytest

from simulation.errors import InputError, UsageError
from simulation.implants.anatomy import Anatomy, find_body
from simulation.implants.library import ALWAYS_POSSIBLE, KINDS, ImplantLibrary
from simulation.implants.masks import check_mask, resize_mask
from simulation.phantoms import REGIONS, phantom
from simulation.physics.materials import METAL_CODES
from simulation.units import hu_to_mu, mu_to_hu

SIZE = 320
PUBLIC_SIZES_416 = [254, 890, 451, 53, 112, 35, 881, 2061, 118, 124]
ANCHORED = {"hip": "pelvis", "spine": "thorax", "dental": "head"}


@pytest.fixture(scope="module")
def slices():
    return {region: hu_to_mu(phantom(region, np.random.default_rng(4), SIZE)[0]) for region in REGIONS}


@pytest.fixture(scope="module")
def samples(slices):
    """Twelve samples of the whole library in every region: (region, metal_mask, description)."""
    library = ImplantLibrary()
    rngs = [np.random.default_rng(seed) for seed in range(12)]
    return [(region, *library.sample(image, rng)) for region, image in slices.items() for rng in rngs]


def stack(tmp_path, array):
    path = tmp_path / "masks.npy"
    np.save(path, array)
    return path


def valid_stack(count=2):
    masks = np.zeros((512, 512, count), np.uint8)
    for index in range(count):
        masks[250 : 254 + 3 * index, 200:210, index] = 1
    return masks


def test_masks_are_label_maps_inside_the_body(slices, samples):
    bodies = {region: find_body(image) for region, image in slices.items()}
    for region, mask, description in samples:
        assert mask.dtype == np.uint8
        assert mask.shape == (SIZE, SIZE)
        assert not mask[~bodies[region]].any(), description
        check_mask(mask, slices[region])


def test_descriptions_agree_with_masks(samples):
    for _, mask, description in samples:
        assert json.loads(json.dumps(description)) == description
        assert description["kind"] in KINDS
        assert description["pixels"] == np.count_nonzero(mask) == sum(part["pixels"] for part in description["parts"])
        for metal, code in METAL_CODES.items():
            told = sum(part["pixels"] for part in description["parts"] if part["metal"] == metal)
            assert told == np.count_nonzero(mask == code)


def test_regions_get_their_implants(samples):
    kinds = {region: {d["kind"] for r, _, d in samples if r == region} for region in REGIONS}
    for kind, region in ANCHORED.items():
        assert kind in kinds[region]
    assert "hip" not in kinds["thorax"] | kinds["head"] | kinds["abdomen"]
    assert "dental" not in kinds["thorax"] | kinds["pelvis"] | kinds["abdomen"]
    assert kinds["head"] & set(ALWAYS_POSSIBLE)


@pytest.mark.parametrize(("kind", "least"), [("hip", 0.7), ("spine", 0.25), ("dental", 0.7)])
def test_anchored_kinds_lie_on_bone(slices, kind, least):
    """The heads of screws stand behind the bone, rods behind these."""
    image = slices[ANCHORED[kind]]
    bone = Anatomy(image).bone
    for seed in range(6):
        mask, description = ImplantLibrary((kind,)).sample(image, np.random.default_rng(seed))
        assert description["kind"] == kind
        if any(part["shape"] != "rod" for part in description["parts"]):
            assert bone[mask > 0].mean() > least, description


def test_screws_spare_the_spinal_canal(slices):
    image = slices["thorax"]
    row, column = Anatomy(image).vertebra.canal
    assert -120 < mu_to_hu(image[round(row), round(column)]) < 120, "the canal is soft"
    for seed in range(6):
        mask, _ = ImplantLibrary(("spine",)).sample(image, np.random.default_rng(seed))
        assert not mask[round(row) - 3 : round(row) + 4, round(column) - 3 : round(column) + 4].any()


def test_femoral_heads_are_found_where_they_are():
    """A water body with two balls of bone, 22 mm in radius, in darker joints."""
    row, column = np.ogrid[:416, :416]
    hu = np.where(((column - 208) / 175) ** 2 + ((row - 208) / 120) ** 2 < 1, 40.0, -1000.0)
    centres = [(205, 118), (210, 298)]
    for centre in centres:
        distance = np.hypot(row - centre[0], column - centre[1])
        hu = np.where((distance > 25) & (distance < 31), 600.0, np.where(distance < 22, 400.0, hu))
    heads = Anatomy(hu_to_mu(hu)).femoral_heads
    assert len(heads) == 2
    for head, centre in zip(heads, centres, strict=True):
        assert np.hypot(*np.subtract(head.middle, centre)) < 2
        assert abs(head.radius - 22) < 3


def test_a_kind_without_a_place_is_refused(slices):
    with pytest.raises(InputError, match="no place for hip"):
        ImplantLibrary(("hip",)).sample(slices["head"], np.random.default_rng(0))


def test_sizes_span_the_public_masks(slices, samples):
    scale = (416 / SIZE) ** 2
    sizes = [description["pixels"] * scale for _, _, description in samples]
    for seed in range(12):
        mask, _ = ImplantLibrary(("hip",)).sample(slices["pelvis"], np.random.default_rng(seed))
        sizes.append(np.count_nonzero(mask) * scale)
    assert min(sizes) <= 45
    assert max(sizes) >= 1500
    assert all(10 < size < 2700 for size in sizes)


def test_several_metals_in_one_slice(samples):
    assert any(len({part["metal"] for part in description["parts"]}) > 1 for _, _, description in samples)


def test_seed_decides(slices):
    library = ImplantLibrary()
    first, again, other = (library.sample(slices["pelvis"], np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert first[0].tobytes() == again[0].tobytes()
    assert first[1] == again[1]
    assert first[0].tobytes() != other[0].tobytes()


def test_given_pixel_size_sets_the_scale(slices):
    small, large = (
        np.count_nonzero(ImplantLibrary(("clips",), pixel_mm).sample(slices["abdomen"], np.random.default_rng(1))[0])
        for pixel_mm in (1.4, 0.35)
    )
    assert large > 3 * small


@pytest.mark.parametrize("arguments", [{"kinds": ("hip", "knee")}, {"kinds": ()}, {"pixel_mm": 0.0}])
def test_bad_library_is_refused(arguments):
    with pytest.raises(UsageError):
        ImplantLibrary(**arguments)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((64, 65), 0.2, np.float32), "square"),
        (np.full((64, 64), np.nan, np.float32), "finite"),
        (np.zeros((64, 64), np.float32), "no body"),
    ],
)
def test_bad_slice_is_refused(image, message):
    with pytest.raises(InputError, match=message):
        ImplantLibrary().sample(image, np.random.default_rng(0))


def test_check_mask_refuses_empty_outside_and_misshapen(slices):
    image = slices["abdomen"]
    mask = np.zeros(image.shape, np.uint8)
    with pytest.raises(InputError, match="empty"):
        check_mask(mask, image)
    mask[:10, :10] = 1
    with pytest.raises(InputError, match="outside the body: 100%"):
        check_mask(mask, image)
    with pytest.raises(InputError, match="shape"):
        check_mask(mask[:-1], image)


def test_check_mask_allows_up_to_half_outside(slices):
    image = slices["abdomen"]
    body = find_body(image)
    inside, outside = np.argwhere(body)[:10], np.argwhere(~body)[:11]
    mask = np.zeros(image.shape, bool)
    mask[tuple(inside.T)] = mask[tuple(outside[:10].T)] = True
    check_mask(mask, image)
    mask[tuple(outside[10])] = True
    with pytest.raises(InputError, match="outside"):
        check_mask(mask, image)


def test_stack_is_offered_as_it_is(tmp_path, slices):
    masks = valid_stack()
    library = ImplantLibrary.from_masks(stack(tmp_path, masks), metal="steel")
    assert len(library) == 2
    np.testing.assert_array_equal(library.mask(1), masks[:, :, 1])
    mask, description = library.sample(slices["abdomen"], np.random.default_rng(0))
    expected = resize_mask(masks[:, :, description["index"]], (SIZE, SIZE)) * METAL_CODES["steel"]
    np.testing.assert_array_equal(mask, expected)
    assert description["pixels"] == np.count_nonzero(mask)
    with pytest.raises(UsageError, match=r"index 2 .* 0 .. 1"):
        library.mask(2)


def test_stack_of_bool_is_accepted(tmp_path):
    assert len(ImplantLibrary.from_masks(stack(tmp_path, valid_stack().astype(bool)))) == 2


def test_missing_stack_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        ImplantLibrary.from_masks(tmp_path / "none.npy")


def test_stack_of_unknown_metal_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"'lead'.*titanium"):
        ImplantLibrary.from_masks(stack(tmp_path, valid_stack()), metal="lead")


def test_other_file_as_stack_is_refused(tmp_path):
    path = tmp_path / "masks.npy"
    path.write_text("not numpy")
    with pytest.raises(InputError, match=r"no \.npy file of numbers"):
        ImplantLibrary.from_masks(path)


def test_truncated_stack_is_refused(tmp_path):
    path = stack(tmp_path, valid_stack())
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"no \.npy file of numbers"):
        ImplantLibrary.from_masks(path)


def test_pickled_stack_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no \.npy file of numbers"):
        ImplantLibrary.from_masks(stack(tmp_path, np.array([{"a": 1}], dtype=object)))


def test_archive_as_stack_is_refused(tmp_path):
    path = tmp_path / "masks.npz"
    np.savez(path, masks=valid_stack())
    with pytest.raises(InputError, match="archive"):
        ImplantLibrary.from_masks(path)


@pytest.mark.parametrize("shape", [(512, 512), (2, 512, 512), (416, 416, 2), (512, 512, 0)])
def test_stack_of_wrong_shape_is_refused(tmp_path, shape):
    with pytest.raises(InputError, match="shape"):
        ImplantLibrary.from_masks(stack(tmp_path, np.ones(shape, np.uint8)))


def test_stack_of_floats_is_refused(tmp_path):
    with pytest.raises(InputError, match="float32"):
        ImplantLibrary.from_masks(stack(tmp_path, valid_stack().astype(np.float32)))


def test_stack_of_other_values_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"0 \.\. 255"):
        ImplantLibrary.from_masks(stack(tmp_path, valid_stack() * 255))


def test_empty_mask_in_a_stack_is_named(tmp_path):
    masks = valid_stack(3)
    masks[:, :, 1] = 0
    with pytest.raises(InputError, match="mask 1 is empty"):
        ImplantLibrary.from_masks(stack(tmp_path, masks))


def test_resizing_keeps_labels_apart():
    labels = np.zeros((512, 512), np.uint8)
    labels[100:140, 100:140] = 1
    labels[300:340, 300:340] = 5
    small = resize_mask(labels, (416, 416))
    assert set(np.unique(small)) == {0, 1, 5}
    np.testing.assert_array_equal(small > 0, resize_mask(labels > 0, (416, 416)) > 0)
    assert not (small[:200] == 5).any()
    assert not (small[200:] == 1).any()


def test_resizing_to_the_same_shape_changes_nothing():
    labels = valid_stack()[:, :, 0] * 3
    np.testing.assert_array_equal(resize_mask(labels, (512, 512)), labels)


def test_mask_that_vanishes_is_refused():
    mask = np.zeros((512, 512), np.uint8)
    mask[256, 256] = 1
    with pytest.raises(InputError, match="vanishes"):
        resize_mask(mask, (64, 64))


@pytest.mark.shared_data
def test_public_masks_have_the_published_sizes(shared_data):
    library = ImplantLibrary.from_masks(shared_data / "syndeeplesion" / "testmask.npy")
    sizes = [int(resize_mask(library.mask(index), (416, 416)).sum()) for index in range(len(library))]
    assert sizes == PUBLIC_SIZES_416


@pytest.mark.shared_data
def test_real_slices_take_implants(shared_data):
    h5py = pytest.importorskip("h5py")
    for path in sorted((shared_data / "syndeeplesion" / "train").glob("train_640geo/*/*/gt.h5")):
        with h5py.File(path) as file:
            image = file["image"][:]
        assert Anatomy(image).vertebra is not None, path
        for seed in range(4):
            mask, _ = ImplantLibrary().sample(image, np.random.default_rng(seed))
            check_mask(mask, image)
            assert find_body(image)[mask > 0].all()
