"""What a visitor does with the page, and what the browser noticed meanwhile."""

import json
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
    """One window with the page in it."""

    def __init__(self, driver: Chrome, base_url: str, artefacts: Path) -> None:
        self.driver = driver
        self.base_url = base_url
        self.expected_errors: tuple[str, ...] = ()
        self._artefacts = artefacts
        driver.execute_cdp_cmd("Network.enable", {})

    def look(self, size: tuple[int, int], *, dark: bool = False) -> None:
        """Give the viewport a size in CSS pixels, and the visitor a taste for light or dark."""
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """The texts of all elements as they are in the document, whatever CSS makes of them."""
        script = "return [...document.querySelectorAll(arguments[0])].map((found) => found.textContent)"
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

    def choose(self, photo: Path) -> None:
        self.find("#file").send_keys(str(photo))

    def wait_for_faces(self, count: int) -> None:
        wait_until(lambda: len(self.all("#faces .card")) == count, f"there are {count} faces", TIMEOUT_S)
        wait_until(lambda: not self.all("body.reading"), "reading is over", TIMEOUT_S)

    def wait_for_text(self, selector: str, words: str) -> None:
        wait_until(lambda: words in "".join(self.texts(selector)), f"{selector} says «{words}»", TIMEOUT_S)

    def face(self, number: int = 1) -> dict[str, str]:
        """The bars of a card, label to percentage as shown."""
        card = f"#faces .card:nth-child({number})"
        labels, values = self.texts(f"{card} .label"), self.texts(f"{card} .value")
        return dict(zip(labels, values, strict=True))

    def screenshot(self, name: str, *, live: bool = False) -> Path:
        path = self._artefacts / f"{name}.png"
        if live:
            self.driver.save_screenshot(str(path))
            return path
        # Transitions are over when nothing moves any more.
        moving = "return document.getAnimations().some((a) => a.effect.getComputedTiming().iterations === 1)"
        wait_until(lambda: not self.run(moving), "nothing moves")
        self.driver.save_screenshot(str(path))
        return path

    def check_conduct(self) -> None:
        """Fail where the page logged an error, broke its own policy, or asked anybody but its own server."""
        complaints = [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] in ("SEVERE", "WARNING")
            and not any(expected in entry["message"] for expected in self.expected_errors)
        ]
        assert complaints == []
        home = urlsplit(self.base_url).netloc
        elsewhere = [
            url
            for url in self.requested()
            if urlsplit(url).netloc != home and urlsplit(url).scheme not in ("blob", "data", "chrome")
        ]
        assert elsewhere == []

    def requested(self) -> list[str]:
        """Every URL that the page asked for, WebSockets included."""
        urls = []
        for entry in self.driver.get_log("performance"):
            event = json.loads(entry["message"])["message"]
            if event["method"] == "Network.requestWillBeSent":
                urls.append(event["params"]["request"]["url"])
            elif event["method"] == "Network.webSocketCreated":
                urls.append(event["params"]["url"])
        return [url for url in urls if url != "about:blank"]
