"""A small series for the review page, and the page driven in headless Chromium."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from mar_pipeline.dicom.review.page import PageSeries, PageSlice

ROWS, COLUMNS, COUNT = 24, 36, 4


def images(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A slice with every 7th HU from -1100 to 4940, corrected by up to 900 HU, with metal of one pixel and of six."""
    original = (np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS) * 7.0 - 1100 + number).astype(np.float32)
    corrected = original + np.round(900 * np.sin(np.arange(ROWS * COLUMNS) + number)).reshape(ROWS, COLUMNS)
    metal = np.zeros((ROWS, COLUMNS), dtype=bool)
    if number == 1:
        metal[0, 0] = metal[5:7, 10:13] = True
        corrected[metal] = original[metal]
    return original, corrected.astype(np.float32), metal


def page_slice(
    number: int,
    load: Callable[[], tuple[np.ndarray, np.ndarray, np.ndarray]] | None = None,
    spacing_mm: tuple[float, float] = (1.0, 1.0),
    figures: Mapping[str, str] | None = None,
) -> PageSlice:
    return PageSlice(
        f"slice {number + 1} of {COUNT}",
        load or (lambda: images(number)),
        spacing_mm,
        {"metal": f"{number} mm²"} if figures is None else figures,
    )


def page_series(title: str = "Series 1", count: int = COUNT, **changes: Any) -> PageSeries:
    given = {"facts": {}, "warnings": (), "slices": [page_slice(k) for k in range(count)], "slices_not_shown": 0}
    return PageSeries(title, **given | changes)


def grey(hu: np.ndarray, center: float, width: float) -> np.ndarray:
    """The linear window of DICOM PS3.3 C.11.2.1.2.1, rounded half up."""
    return np.clip(np.floor(((hu.astype(float) - (center - 0.5)) / (width - 1) + 0.5) * 255 + 0.5), 0, 255)


def chromium(program: str, driver: str, profile: Path) -> webdriver.Chrome:
    """Starts headless Chromium, which logs its console and requests."""
    options = webdriver.ChromeOptions()
    options.binary_location = program
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    arguments = ["--headless=new", f"--user-data-dir={profile}", "--window-size=1366,900", "--disable-dev-shm-usage"]
    arguments += ["--no-sandbox"] * (os.geteuid() == 0) + ["--disable-background-networking", "--no-first-run"]
    for argument in arguments:
        options.add_argument(argument)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


@dataclass(frozen=True)
class Page:
    """A page in the browser."""

    driver: webdriver.Chrome

    def open(self, path: Path, shown: str = "0-1") -> "Page":
        """Opens a file and waits for a slice; the one with the most metal comes first."""
        self.driver.get("about:blank")
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)  # forget what earlier pages said
        self.driver.get(path.as_uri())
        return self.wait(shown)

    def wait(self, shown: str) -> "Page":
        """Waits until a slice, named series-slice, is drawn."""
        try:
            WebDriverWait(self.driver, 20).until(lambda _: self.js("return document.body.dataset.shown") == shown)
        except TimeoutException as error:
            got = self.js("return [document.body.dataset.shown, document.getElementById('message').textContent]")
            raise AssertionError(f"waited for {shown}, got {got}; {self.driver.get_log('browser')}") from error
        return self

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def press(self, *keys: str) -> "Page":
        """Presses keys on what has the focus."""
        ActionChains(self.driver).send_keys(*keys).perform()
        return self

    def canvas(self, pane: int) -> np.ndarray:
        """Grey values of a pane's image (0 original, 1 corrected), which must be grey."""
        colours = self.colours(pane)
        assert (colours == colours[..., :1]).all()
        return colours[..., 0]

    def colours(self, pane: int) -> np.ndarray:
        """Red, green and blue of a pane's image (2 is the difference), which must be opaque."""
        width, height, data = self.js(
            """const canvas = document.querySelectorAll("#panes canvas")[arguments[0]];
            const image = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            return [image.width, image.height, Array.from(image.data)];""",
            pane,
        )
        pixels = np.array(data).reshape(height, width, 4)
        assert (pixels[..., 3] == 255).all()
        return pixels[..., :3]

    def set_window(self, center: float | str, width: float | str) -> None:
        """Types a window."""
        for name, value in (("center", center), ("width", width)):
            keys = [str(value)] if value != "" else [Keys.DELETE]
            self.driver.find_element(By.ID, name).send_keys(Keys.CONTROL + "a" + Keys.NULL, *keys, Keys.TAB)

    def open_table(self) -> list[WebElement]:
        """Opens the table of all slices, and answers its buttons."""
        self.driver.find_element(By.TAG_NAME, "summary").click()
        buttons = (By.CSS_SELECTOR, "#all tbody button")
        return WebDriverWait(self.driver, 20).until(lambda driver: driver.find_elements(*buttons))

    def text(self, identifier: str) -> str:
        return self.driver.find_element(By.ID, identifier).text

    def visible(self, selector: str) -> list[bool]:
        return [element.is_displayed() for element in self.driver.find_elements(By.CSS_SELECTOR, selector)]

    def problems(self) -> list[str]:
        """What the console says."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses that were asked for since the page was opened."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        kinds = ("Network.requestWillBeSent", "Network.webSocketCreated")
        urls = [event["params"].get("request", event["params"])["url"] for event in events if event["method"] in kinds]
        return [url for url in urls if url != "about:blank"]
