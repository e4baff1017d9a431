"""The review page shows truly what was written, driven by real keys in headless Chromium."""

import http.server
import threading

import numpy as np
import pytest
from matplotlib import colormaps
from review_page import COLUMNS, COUNT, ROWS, Page, chromium, grey, images, page_series, page_slice
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from mar_pipeline.dicom.review.page import HIGHEST_HU, LOWEST_HU, PageSlice, write_page
from mar_pipeline.dicom.writing.derivation import STATEMENT

PRESETS = {"1": (40, 400), "2": (400, 1800), "3": (-600, 1500), "4": (1500, 5000)}
"""Center and width in HU behind each key."""
NASTY = (
    "<script>window.ran = 1</script>",
    "</script><script>window.ran = 2</script>",
    "<!-- <script> &amp; ' \"",
    "<img src=x onerror='window.ran = 3'>",
    "${style} {{x}} \u2028 \ud800",
)
"""Texts that run, end or hide something where they are taken for HTML."""


def blue_red(change: np.ndarray, reach: float) -> np.ndarray:
    """Colours of the project's differences, from minus to plus so many HU."""
    index = np.clip(np.floor(change / (2.0 * reach) * 255 + 128), 0, 255).astype(int)
    return np.rint(255 * colormaps["RdBu_r"](index)[..., :3])


@pytest.fixture(scope="module")
def driver(tool, tmp_path_factory):
    driver = chromium(tool("chromium"), tool("chromedriver"), tmp_path_factory.mktemp("chromium"))
    yield driver
    driver.quit()


@pytest.fixture
def page(driver, tmp_path):
    """Writes and opens pages; after the test none may have complained or asked for anything but itself."""
    opened = []

    def show(series, not_processed=(), facts=None, shown="0-1", name="report.html"):
        write_page(tmp_path / name, series, not_processed, facts or {})
        opened.append((tmp_path / name).as_uri())
        return Page(driver).open(tmp_path / name, shown)

    yield show
    if opened:
        last = Page(driver)
        assert last.problems() == []
        assert last.requests() == [opened[-1]]


@pytest.mark.parametrize("key", PRESETS)
def test_presets_window_the_pixels_by_the_formula(page, key):
    shown = page([page_series()]).press(key)
    original, corrected, _ = images(1)
    np.testing.assert_array_equal(shown.canvas(0), grey(original, *PRESETS[key]))
    np.testing.assert_array_equal(shown.canvas(1), grey(corrected, *PRESETS[key]))
    pressed = [
        button.get_attribute("aria-pressed")
        for button in shown.driver.find_elements(By.CSS_SELECTOR, "#presets button")
    ]
    assert [state == "true" for state in pressed] == [other == key for other in PRESETS]


def test_preset_buttons_do_what_the_keys_do(page):
    shown = page([page_series()])
    for button, window in zip(
        shown.driver.find_elements(By.CSS_SELECTOR, "#presets button"), PRESETS.values(), strict=True
    ):
        button.click()
        np.testing.assert_array_equal(shown.canvas(0), grey(images(1)[0], *window))


def test_a_window_of_ones_own(page):
    shown = page([page_series()])
    shown.set_window(1000, 300)
    np.testing.assert_array_equal(shown.canvas(1), grey(images(1)[1], 1000, 300))
    shown.set_window("", "")  # an empty field keeps what there was
    np.testing.assert_array_equal(shown.canvas(1), grey(images(1)[1], 1000, 300))
    shown.set_window(-50, 0)  # and no window is narrower than 2 HU
    np.testing.assert_array_equal(shown.canvas(1), grey(images(1)[1], -50, 2))


def test_difference_is_corrected_minus_original_in_its_own_window(page):
    shown = page([page_series()])
    original, corrected, metal = images(1)
    for reach in (200, 50, 1000):
        Select(shown.driver.find_element(By.ID, "difference-range")).select_by_value(str(reach))
        np.testing.assert_array_equal(shown.colours(2), blue_red(corrected - original, reach))
        ends = [part.text for part in shown.driver.find_elements(By.CSS_SELECTOR, ".ramp span")]
        assert ends == [f"−{reach}", "0", f"+{reach} HU"]
    assert np.abs(shown.colours(2)[metal] - 247).max() <= 2  # no change is nearly white


def test_less_is_blue_and_more_is_red(page):
    ramp = np.tile(np.arange(-200.0, 201.0, 10.0), (4, 1))
    slices = [page_slice(0, lambda: (np.zeros(ramp.shape), ramp, ramp > 1e6))]
    colours = page([page_series(slices=slices)], shown="0-0").colours(2)[0].astype(int)
    redness = colours[:, 0] - colours[:, 2]
    assert (redness[:20] < 0).all() and (redness[21:] > 0).all()


def test_all_of_16_bits_survives_and_the_rest_is_shown_as_the_nearest(page):
    ends = np.array([[-1e6, LOWEST_HU, LOWEST_HU + 1], [HIGHEST_HU - 1, HIGHEST_HU, 1e6]])
    shown = page(
        [page_series(slices=[page_slice(0, lambda: (ends, ends[::-1, ::-1].copy(), ends > 2e6))])], shown="0-0"
    )
    kept = np.clip(ends, LOWEST_HU, HIGHEST_HU)
    for center in (LOWEST_HU + 1, HIGHEST_HU):
        shown.set_window(center, 5)
        np.testing.assert_array_equal(shown.canvas(0), grey(kept, center, 5))
        np.testing.assert_array_equal(shown.canvas(1), grey(kept[::-1, ::-1], center, 5))


def test_keys_slider_and_buttons_scroll(page):
    shown = page([page_series()])
    for key, slice_number in (
        (Keys.ARROW_DOWN, 2),
        (Keys.ARROW_RIGHT, 3),
        (Keys.ARROW_RIGHT, 3),
        (Keys.ARROW_UP, 2),
        (Keys.ARROW_LEFT, 1),
    ):
        shown.press(key).wait(f"0-{slice_number}")
        np.testing.assert_array_equal(shown.canvas(1), grey(images(slice_number)[1], 40, 400))
        assert shown.text("label") == f"slice {slice_number + 1} of {COUNT}"
        assert f"{slice_number} mm²" in shown.text("figures")
    slider = shown.driver.find_element(By.ID, "slice")
    for key, slice_number in (
        (Keys.END, 3),
        (Keys.HOME, 0),
        (Keys.ARROW_UP, 0),
        (Keys.ARROW_DOWN, 1),
        (Keys.PAGE_DOWN, 3),
    ):
        slider.send_keys(key)
        shown.wait(f"0-{slice_number}")
        assert slider.get_attribute("aria-valuetext") == f"slice {slice_number + 1} of {COUNT}"
    shown.driver.find_element(By.ID, "previous").click()
    shown.wait("0-2").driver.find_element(By.ID, "next").click()
    shown.wait("0-3")


def test_wheel_scrolls_slices_over_the_images_only(page):
    shown = page([page_series(facts={f"fact {k}": "x" for k in range(300)})])
    pane = shown.driver.find_element(By.CSS_SELECTOR, ".frame")
    origin = ScrollOrigin.from_element(pane)
    ActionChains(shown.driver).scroll_from_origin(origin, 0, 120).perform()
    shown.wait("0-2")
    ActionChains(shown.driver).scroll_from_origin(origin, 0, -120).perform()
    shown.wait("0-1")
    assert shown.js("return scrollY") == 0


def test_flip_shows_the_original_in_place(page):
    original, corrected, _ = images(1)
    shown = page([page_series()]).press("o")
    np.testing.assert_array_equal(shown.canvas(1), grey(original, 40, 400))
    assert "Original, in place" in shown.driver.find_elements(By.TAG_NAME, "figcaption")[1].text
    shown.press("o")
    np.testing.assert_array_equal(shown.canvas(1), grey(corrected, 40, 400))


def test_difference_hides_and_is_right_when_it_comes_back(page):
    shown = page([page_series()]).press("d")
    assert shown.visible("#panes figure") == [True, True, False]
    shown.press(Keys.ARROW_RIGHT).wait("0-2").press("d")
    assert shown.visible("#panes figure") == [True, True, True]
    original, corrected, _ = images(2)
    np.testing.assert_array_equal(shown.colours(2), blue_red(corrected - original, 200))


def test_help_opens_and_closes_and_keeps_the_keys_to_itself(page):
    shown = page([page_series()]).press("?")
    assert shown.visible("#help") == [True]
    shown.press("4")
    np.testing.assert_array_equal(shown.canvas(0), grey(images(1)[0], 40, 400))
    shown.press(Keys.ESCAPE)
    assert shown.visible("#help") == [False]


def test_metal_is_outlined_along_its_pixels(page):
    shown = page([page_series()])
    paths = "return [...document.querySelectorAll('.layer .metal')].map((path) => path.getAttribute('d'))"
    one, six = {"M0 0h1", "M0 1h1", "M0 0v1", "M1 0v1"}, {"M10 5v1", "M10 6v1", "M13 5v1", "M13 6v1"}
    six |= {f"M{column} {row}h1" for column in (10, 11, 12) for row in (5, 7)}
    for path in shown.js(paths):
        assert {f"M{edge}" for edge in path.split("M")[1:]} == one | six
    assert shown.press("m").js(paths) == [""] * 3


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0), (2.0, 1.0), (0.5, 1.0)])
def test_pixels_have_the_shape_of_their_spacing(page, spacing_mm):
    slices = [page_slice(1, spacing_mm=spacing_mm)]
    shown = page([page_series(slices=slices)], shown="0-0")
    boxes = "return [...document.querySelectorAll('.frame')].map((f) => [f.clientWidth, f.clientHeight])"
    for width, height in shown.js(boxes):
        expected = COLUMNS * spacing_mm[1] / (ROWS * spacing_mm[0])
        assert height > 100
        assert width / height == pytest.approx(expected, rel=0.02)


def point_at(shown: Page, pane: int, row: int, column: int) -> None:
    frame = shown.driver.find_elements(By.CSS_SELECTOR, ".frame")[pane]
    width, height = frame.size["width"], frame.size["height"]
    x, y = (column + 0.5) / COLUMNS * width - width / 2, (row + 0.5) / ROWS * height - height / 2
    ActionChains(shown.driver).move_to_element_with_offset(frame, round(x), round(y)).perform()


def values(shown: Page) -> list[int]:
    return [int(element.text) for element in shown.driver.find_elements(By.CSS_SELECTOR, "#readout b")]


@pytest.mark.parametrize("pane", [0, 1, 2])
def test_values_under_the_pointer_are_in_hu(page, pane):
    shown = page([page_series()])
    for number in (1, 2):
        original, corrected, metal = images(number)
        for row, column in ((0, 0), (6, 12), (ROWS - 1, COLUMNS - 1), (9, 4)):
            point_at(shown, pane, row, column)
            expected = [original[row, column], corrected[row, column], corrected[row, column] - original[row, column]]
            assert values(shown) == expected
            assert ("metal" in shown.text("readout")) == metal[row, column]
        shown.press(Keys.ARROW_RIGHT).wait(f"0-{number + 1}")


def test_zoom_keeps_the_pixel_under_the_pointer(page):
    shown = page([page_series()])
    point_at(shown, 0, 6, 12)
    before = values(shown)
    shown.press("z")
    ActionChains(shown.driver).move_by_offset(1, 0).perform()
    assert values(shown) == before
    widths = """return [...document.querySelectorAll("#panes canvas")].map(
        (canvas) => canvas.getBoundingClientRect().width / canvas.closest(".frame").clientWidth)"""
    assert shown.js(widths) == pytest.approx([3, 3, 3], rel=0.01)
    assert shown.press("z").js(widths) == pytest.approx([1, 1, 1], rel=0.01)


def test_each_series_has_its_own_slices_and_warnings(page):
    small = np.full((5, 6), 77.0)
    other = page_slice(0, lambda: (small, small, small > 100))
    series = [page_series(warnings=["uneven spacing"], slices_not_shown=7), page_series("Series 2", slices=[other])]
    shown = page(series, shown="0-1")
    assert "uneven spacing" in shown.driver.find_element(By.TAG_NAME, "main").text
    assert shown.text("series").splitlines()[0].strip() == "Series 1: 4 slices shown, 7 not shown"
    shown.press("s").wait("1-0")
    np.testing.assert_array_equal(shown.canvas(1), grey(small, 40, 400))
    assert "uneven spacing" not in shown.driver.find_element(By.TAG_NAME, "main").text
    Select(shown.driver.find_element(By.ID, "series")).select_by_index(0)
    shown.wait("0-1")


def test_table_of_all_slices_leads_to_them(page):
    shown = page([page_series()])
    links = shown.open_table()
    assert [link.text for link in links] == [f"slice {k + 1} of {COUNT}" for k in range(COUNT)]
    links[3].click()
    shown.wait("0-3")


def test_regions_of_the_slice_stand_under_it_before_and_after(page):
    with_regions = PageSlice("slice 2 of 4", lambda: images(1), (1, 1), {}, [("ring <b>, 9 voxels", "5 ± 1", "6 ± 2")])
    shown = page([page_series(slices=[page_slice(0), with_regions])])
    rows = (
        "return [...document.querySelectorAll('#regions tr')].map((row) => [...row.children].map((c) => c.textContent))"
    )
    assert [row[1:] for row in shown.js(rows)] == [["ring <b>, 9 voxels"], ["5 ± 1"], ["6 ± 2"]]
    assert shown.visible("#regions") == [True]
    shown.press(Keys.ARROW_LEFT).wait("0-0")
    assert shown.visible("#regions") == [False]


def test_verdict_and_tables_belong_to_their_series(page):
    table = {"Metal": [("Piece", "Why"), ("1", "</table><script>window.ran = 1</script>")]}
    series = [page_series(verdict="NMAR: 3 slices corrected", tables=table), page_series("Series 2", verdict="other")]
    shown = page(series)
    text = shown.driver.find_element(By.TAG_NAME, "body").text
    assert "NMAR: 3 slices corrected" in text and "</table><script>" in text and "other" not in text
    assert shown.js("return window.ran ?? 0") == 0
    shown.press("s").wait("1-1")
    text = shown.driver.find_element(By.TAG_NAME, "body").text
    assert "other" in text and "3 slices corrected" not in text and "Piece" not in text


def test_what_was_left_out_and_the_facts_are_told(page):
    left_out = [("a/1.dcm", "LOCALIZER"), ("b/2.dcm", "Enhanced CT")]
    shown = page([page_series(facts={"method": "NMAR"})], left_out, {"version": "0.1.0"})
    text = shown.driver.find_element(By.TAG_NAME, "body").text
    for word in ("a/1.dcm", "LOCALIZER", "b/2.dcm", "Enhanced CT", "NMAR", "0.1.0", "Not processed (2)"):
        assert word in text
    sentence = shown.driver.find_element(By.ID, "research")
    assert (sentence.text, sentence.is_displayed()) == (STATEMENT, True)
    assert sentence.rect["y"] + sentence.rect["height"] < 100


def test_a_page_without_series_tells_so(page):
    shown = page([], [("a", "no metal")], shown=None)
    assert "No series was corrected" in shown.driver.find_element(By.TAG_NAME, "body").text
    assert "no metal" in shown.text("not-processed")
    assert shown.visible("#viewer") == [False]


def test_a_series_without_slices_does_not_stop_the_others(page):
    shown = page([page_series("empty", count=0), page_series("full")], shown=None)
    assert shown.visible("#viewer") == [False]
    shown.press("s").wait("1-1")
    assert shown.visible("#viewer") == [True]


@pytest.mark.parametrize("nasty", NASTY, ids=range(len(NASTY)))
def test_texts_are_shown_and_never_run(page, nasty):
    slices = [PageSlice(nasty, lambda: images(1), (1, 1), {nasty: nasty})]
    series = [page_series(nasty, facts={nasty: nasty}, warnings=[nasty], slices=slices) for _ in range(2)]
    shown = page(series, [(nasty, nasty)], {nasty: nasty}, shown="0-0")
    shown.open_table()
    assert shown.js("return window.ran ?? 0") == 0
    told = nasty.replace("\ud800", "?")
    for selector in ("h2 bdi", ".warnings li", "aside dt", "aside dd", "#not-processed td", "#series option"):
        texts = shown.js("return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector)
        assert texts
        assert all(told in text for text in texts)
    for selector in ("#label", "#figures dt", "#figures dd", "#all tbody button", "#all tbody td:last-child"):
        texts = shown.js("return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector)
        assert texts == [told]


def test_pixels_that_are_not_those_written_are_not_shown(page, driver, tmp_path):
    page([page_series()])
    text = (tmp_path / "report.html").read_text()
    broken = tmp_path / "broken.html"
    other = page_series(slices=[page_slice(k, lambda: images(7)) for k in range(COUNT)])
    write_page(broken, [other], [], {})
    stranger = broken.read_text().split('id="original-0-1">')[1].split("<")[0]
    own = text.split('id="original-0-1">')[1].split("<")[0]
    broken.write_text(text.replace(own, stranger))
    shown = Page(driver).open(broken, "failed")
    assert "cannot be shown" in shown.text("message")
    empty = """return [...document.querySelectorAll("#panes canvas")].every((canvas) => canvas
        .getContext("2d", { willReadFrequently: true })
        .getImageData(0, 0, canvas.width, canvas.height).data.every((value) => value === 0))"""
    assert shown.js(empty)
    shown.press(Keys.ARROW_RIGHT).wait("0-2")
    assert shown.visible("#message") == [False]
    np.testing.assert_array_equal(shown.canvas(0), grey(images(2)[0], 40, 400))
    assert shown.problems() == []
    Page(driver).open(tmp_path / "report.html")


def test_policy_forbids_what_a_foreign_script_would_do(driver, tmp_path):
    asked = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    write_page(tmp_path / "report.html", [page_series()], [], {})
    shown = Page(driver).open(tmp_path / "report.html")
    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        tried = """const [address, done] = arguments;
            const tries = [fetch(address + "/fetch").then(() => "fetched", () => "refused")];
            for (const [tag, name] of [["img", "src"], ["script", "src"], ["link", "href"]]) {
              const element = document.createElement(tag);
              Object.assign(element, { [name]: address + "/" + tag, rel: "stylesheet" });
              tries.push(new Promise((told) => {
                element.onload = () => told("loaded");
                element.onerror = () => told("refused");
                setTimeout(() => told("silent"), 800);
              }));
              document.body.append(element);
            }
            document.body.append(
              Object.assign(document.createElement("script"), { textContent: "window.ran = 1" }));
            Promise.all(tries).then((all) => done([all, window.ran ?? 0]));"""
        (results, ran) = driver.execute_async_script(tried, address)
        server.shutdown()
        thread.join()
    assert (asked, ran) == ([], 0)
    assert results[0] == "refused"
    assert any("Content Security Policy" in problem for problem in shown.problems())
