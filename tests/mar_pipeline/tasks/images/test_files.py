"""Image files: what is read, and what is refused in one line that names the file."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mar_pipeline.tasks.images.files import list_images, read_image
from simulation.errors import InputError

COLOUR = np.random.default_rng(0).integers(0, 256, (12, 9, 3), dtype=np.uint8)
GREY = COLOUR[..., 0]


def png_of_16_bit(path, channels):
    """Pillow writes no colour PNG of 16 bit."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 4, 4, 16, {1: 0, 3: 2}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + bytes(4 * 2 * channels) for _ in range(4))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("name", ["image.png", "image.bmp", "IMAGE.PNG"])
def test_lossless_files_are_read_as_written(tmp_path, name):
    Image.fromarray(COLOUR).save(tmp_path / name)
    assert np.array_equal(read_image(tmp_path / name), COLOUR)


def test_jpeg_and_opaque_alpha_and_palette_are_colour(tmp_path):
    smooth = np.broadcast_to(np.arange(0, 240, 5, dtype=np.uint8)[:, None, None], (48, 48, 3)).copy()
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - smooth).max() <= 4
    Image.fromarray(COLOUR).convert("RGBA").save(tmp_path / "alpha.png")
    assert np.array_equal(read_image(tmp_path / "alpha.png"), COLOUR)
    few = COLOUR // 128 * 255
    Image.fromarray(few).convert("P").save(tmp_path / "palette.png")
    assert np.array_equal(read_image(tmp_path / "palette.png"), few)


def test_exif_orientation_is_followed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(COLOUR).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "turned.png"), np.rot90(COLOUR, -1))


def test_grey_is_repeated_only_where_that_is_asked_for(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "grey.png")
    assert np.array_equal(read_image(tmp_path / "grey.png", grey="repeat"), np.repeat(GREY[..., None], 3, axis=2))
    with pytest.raises(InputError, match=r"grey\.png: got a grey image; expected colour"):
        read_image(tmp_path / "grey.png")


def refused(tmp_path):
    """Name of the file -> what the message must say."""
    Image.fromarray(np.dstack([COLOUR, np.full(GREY.shape, 99, np.uint8)])).save(tmp_path / "transparent.png")
    Image.fromarray(COLOUR).convert("CMYK").save(tmp_path / "press.jpg")
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "float.tif")
    (tmp_path / "float.tif").rename(tmp_path / "float.png")
    png_of_16_bit(tmp_path / "grey16.png", 1)
    png_of_16_bit(tmp_path / "colour16.png", 3)
    for name in ("cut.png", "cut.jpg", "cut.bmp"):
        Image.fromarray(np.tile(COLOUR, (20, 20, 1))).save(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    return {
        "transparent.png": "got transparent pixels",
        "press.jpg": "got pixels of the kind CMYK",
        "float.png": "got no PNG, JPEG or BMP image",
        "grey16.png": "got 16 bit per channel; expected 8",
        "colour16.png": "got 16 bit per channel; expected 8",
        "cut.png": "broken or truncated",
        "cut.jpg": "broken or truncated",
        "cut.bmp": "broken or truncated",
        "empty.png": "got no PNG, JPEG or BMP image",
        "missing.png": "No such file",
        "folder.png": "Is a directory",
    }


def test_other_files_are_refused_in_one_line_with_their_name(tmp_path):
    for name, message in refused(tmp_path).items():
        with pytest.raises(InputError) as error:
            read_image(tmp_path / name, grey="repeat")
        assert name in str(error.value) and message in str(error.value), name
        assert "\n" not in str(error.value)


def test_images_are_listed_naturally(tmp_path):
    for name in ("10.png", "9.JPG", "2.bmp", "2.jpeg", "._2.png", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in list_images(tmp_path)] == ["2.bmp", "2.jpeg", "9.JPG", "10.png"]


def test_folders_without_images_are_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=r"a folder without images \(1 other entries\)"):
        list_images(tmp_path)
    with pytest.raises(InputError, match="No such file or directory"):
        list_images(tmp_path / "missing")
    with pytest.raises(InputError, match="Not a directory"):
        list_images(tmp_path / "notes.txt")
