"""The file of the review page: whole, private, bounded in memory and size."""

import os
import stat
import tracemalloc

import numpy as np
import pytest
from review_page import COLUMNS, ROWS, images, page_series, page_slice

from mar_pipeline.dicom.review.page import MOST_BYTES, write_page


def test_file_is_the_owners_alone_and_the_same_each_time(tmp_path):
    paths = [tmp_path / "a.html", tmp_path / "b.html"]
    before = os.umask(0)
    try:
        for path in paths:
            write_page(path, [page_series()], [], {})
    finally:
        os.umask(before)
    assert [stat.S_IMODE(path.stat().st_mode) for path in paths] == [0o600, 0o600]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_nothing_is_left_of_a_page_whose_slice_fails(tmp_path):
    def broken():
        raise OSError("no such slice")

    with pytest.raises(OSError, match="no such slice"):
        write_page(tmp_path / "a.html", [page_series(slices=[page_slice(0), page_slice(1, broken)])], [], {})
    assert not list(tmp_path.iterdir())


def test_memory_does_not_grow_with_the_slices(tmp_path):
    def load():
        image = np.random.default_rng(0).normal(0, 30, (256, 256)).astype(np.float32)
        return image, image, np.zeros(image.shape, dtype=bool)

    peaks = []
    for count in (3, 12):
        tracemalloc.start()
        write_page(tmp_path / "a.html", [page_series(slices=[page_slice(0, load)] * count)], [], {})
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 100_000  # one slice of the page is 120 kB, its images 1.3 MB


@pytest.mark.parametrize(("noise_hu", "step"), [(5, None), (100, "4 HU"), (400, "16 HU")])
def test_a_slice_takes_less_than_its_share_and_says_what_that_costs(tmp_path, noise_hu: float, step: str | None):
    def load():
        rng = np.random.default_rng(0)
        original = rng.normal(40, noise_hu, (512, 512))
        return original, original + 60 * np.sin(np.linspace(0, 9, 512)), original > 5000

    write_page(tmp_path / "a.html", [page_series(slices=[])], [], {})
    frame = (tmp_path / "a.html").stat().st_size
    write_page(tmp_path / "a.html", [page_series(slices=[page_slice(0, load)])], [], {})
    text = (tmp_path / "a.html").read_text()
    assert len(text) - frame < MOST_BYTES + 1500
    assert (f'"Values shown in steps of", "{step}"' in text) if step else ("in steps of" not in text)


def wrong(original=None, corrected=None, metal=None):
    given = images(0)
    return lambda: tuple(
        own if new is None else new for own, new in zip(given, (original, corrected, metal), strict=True)
    )


@pytest.mark.parametrize(
    ("load", "spacing_mm", "message"),
    [
        (wrong(corrected=np.zeros((3, 3))), (1, 1), "shapes"),
        (wrong(metal=np.zeros((3, 3), dtype=bool)), (1, 1), "shapes"),
        (wrong(*[np.zeros((0, 4))] * 3), (1, 1), "shapes"),
        (wrong(original=np.full((ROWS, COLUMNS), np.nan)), (1, 1), "finite"),
        (wrong(corrected=np.full((ROWS, COLUMNS), np.inf)), (1, 1), "finite"),
        (wrong(), (0, 1), "spacing"),
        (wrong(), (1, float("nan")), "spacing"),
    ],
)
def test_what_cannot_be_shown_truly_is_refused(tmp_path, load, spacing_mm, message):
    with pytest.raises(ValueError, match=message):
        write_page(tmp_path / "a.html", [page_series(slices=[page_slice(0, load, spacing_mm)])], [], {})
