"""Drives the page in a browser like a visitor, and checks what the browser logged."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from selenium.webdriver import Chrome
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from waiting import wait_until

TIMEOUT_S = 30.0


class Browser:
    """A browser window that shows the page."""

    def __init__(self, driver: Chrome, base_url: str, artifacts: Path) -> None:
        self.driver = driver
        self.base_url = base_url
        self.expected_errors: tuple[str, ...] = ()
        self._artifacts = artifacts
        driver.execute_cdp_cmd("Network.enable", {})

    def look(self, size: tuple[int, int], *, dark: bool = False) -> None:
        """Set the viewport's size in CSS pixels and the color scheme."""
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """Return the texts of all matching elements as in the document, without CSS transformations."""
        script = "return [...document.querySelectorAll(arguments[0])].map((element) => element.textContent)"
        found: list[str] = self.driver.execute_script(script, selector)
        return found

    def run(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def press(self, *keys: str) -> None:
        actions = ActionChains(self.driver)
        for key in keys:
            actions.send_keys(key)
        actions.perform()

    @property
    def focused(self) -> WebElement:
        return self.driver.switch_to.active_element

    def choose(self, *photos: Path) -> None:
        self.find("#file").send_keys("\n".join(map(str, photos)))

    def wait_for_photos(self, states: list[str]) -> None:
        """Wait until every tile of several photos is done, and compare what they say."""
        wait_until(lambda: not self.all(".tile.waiting, .tile.reading"), "all photos are analyzed", TIMEOUT_S)
        wait_until(lambda: not self.all("body.reading"), "the chosen photo is shown", TIMEOUT_S)
        assert self.texts(".tile .state") == states

    def check_accessibility(self) -> None:
        """Fail if axe-core finds anything; it also tries what tests of single elements do not."""
        self.run((files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8"))
        found = self.driver.execute_async_script("axe.run().then(arguments[arguments.length - 1])")["violations"]
        assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == []

    def wait_for_faces(self, count: int) -> None:
        wait_until(lambda: len(self.all("#faces .card")) == count, f"the page shows {count} faces", TIMEOUT_S)
        wait_until(lambda: not self.all("body.reading"), "the analysis is over", TIMEOUT_S)

    def wait_for_text(self, selector: str, text: str) -> None:
        wait_until(lambda: text in "".join(self.texts(selector)), f"{selector} contains {text!r}", TIMEOUT_S)

    def face(self, number: int = 1) -> dict[str, str]:
        """Return the bars of a card: label to displayed percentage."""
        card = f"#faces .card:nth-child({number})"
        labels, values = self.texts(f"{card} .label"), self.texts(f"{card} .value")
        return dict(zip(labels, values, strict=True))

    def screenshot(self, name: str, *, live: bool = False) -> Path:
        path = self._artifacts / f"{name}.png"
        if live:
            self.driver.save_screenshot(str(path))
            return path
        # Endless animations, such as the progress bar, do not count.
        is_moving = "return document.getAnimations().some((a) => a.effect.getComputedTiming().iterations === 1)"
        wait_until(lambda: not self.run(is_moving), "transitions are over")
        self.driver.save_screenshot(str(path))
        return path

    def check_logs(self) -> None:
        """Fail if the page logged an error, violated its policy, or sent a request to another server."""
        errors = [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] in ("SEVERE", "WARNING")
            and not any(expected in entry["message"] for expected in self.expected_errors)
        ]
        assert errors == []
        own_server = urlsplit(self.base_url).netloc
        foreign = [
            url
            for url in self.requested()
            if urlsplit(url).netloc != own_server and urlsplit(url).scheme not in ("blob", "data", "chrome")
        ]
        assert foreign == []

    def requested(self) -> list[str]:
        """Return every URL that the page requested, including WebSockets."""
        urls = []
        for entry in self.driver.get_log("performance"):
            event = json.loads(entry["message"])["message"]
            if event["method"] == "Network.requestWillBeSent":
                urls.append(event["params"]["request"]["url"])
            elif event["method"] == "Network.webSocketCreated":
                urls.append(event["params"]["url"])
        return [url for url in urls if url != "about:blank"]
