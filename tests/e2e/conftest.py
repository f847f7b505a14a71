"""A real browser, gateway and Triton."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from photos import astronaut, encoded, tiles
from programs import missing
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from service.api_keys import create_key
from service.triton import install
from service.triton.server import LocalTriton

pytest.register_assert_rewrite("browser")
from browser import Browser  # noqa: E402 - after the line above, which makes its assertions show their values

ROOT = Path(__file__).parents[2]

ARGUMENTS = (
    "--no-sandbox",
    "--headless=new",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-sync",
    "--no-first-run",
)


@pytest.fixture(scope="session")
def triton() -> Iterator[LocalTriton]:
    """Run Triton with the committed model."""
    home = ROOT / ".triton"
    install.install(home)
    with LocalTriton(home=home, model_repository=ROOT / "model_repository") as triton:
        yield triton


@pytest.fixture(scope="session")
def tandem(triton: LocalTriton) -> Iterator[str]:
    """Run `tandem serve`; its base URL."""
    with serve(triton) as url:
        yield url


@contextmanager
def serve(triton: LocalTriton, **settings: str) -> Iterator[str]:
    """Run `tandem serve` as a process and yield its base URL."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")}
    environment |= {"TANDEM_PORT": "0", "TANDEM_TRITON_URL": triton.grpc_url, "TANDEM_LOG_LEVEL": "warning"}
    environment |= {f"TANDEM_{name.upper()}": value for name, value in settings.items()}
    command = [sys.executable, "-m", "service.cli", "serve"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            url = re.search(r"http://[\d.:]+", process.stdout.readline())
            assert url, "tandem serve did not become ready"
            yield url.group()
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture(scope="session")
def guarded(triton: LocalTriton) -> Iterator[tuple[str, str]]:
    """Run a gateway that requires an API key; its base URL and a valid key."""
    key = create_key("visitor")
    with serve(triton, api_keys=json.dumps([key.line])) as url:
        yield url, key.secret


@pytest.fixture(scope="session")
def chromium() -> tuple[str, str]:
    """The paths of Chromium and its driver."""
    browser = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
    driver = shutil.which("chromedriver")
    if browser and driver:
        return browser, driver
    missing("Chromium and chromedriver are not installed", "chromium", "chromedriver")


@pytest.fixture
def open_page(
    chromium: tuple[str, str], tandem: str, tmp_path: Path, artifacts: Path
) -> Iterator[Callable[..., Browser]]:
    """Open the page in a browser with a new profile; the test fails at the end if a browser logged an error."""
    browsers: list[Browser] = []

    def open_page(
        *arguments: str, size: tuple[int, int] = (1280, 900), dark: bool = False, url: str = tandem
    ) -> Browser:
        options = webdriver.ChromeOptions()
        options.binary_location = chromium[0]
        profile = tmp_path / f"profile-{len(browsers)}"
        for argument in (*ARGUMENTS, f"--user-data-dir={profile}", *arguments):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options, Service(chromium[1]))
        driver.get("about:blank")
        driver.get_log("performance")  # drop the log of the first tab
        browser = Browser(driver, url, artifacts)
        browsers.append(browser)
        browser.look(size, dark=dark)
        driver.get(url)
        return browser

    yield open_page
    try:
        for browser in browsers:
            browser.check_logs()
    finally:
        for browser in browsers:
            browser.driver.quit()


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for screenshots: TANDEM_SCREENSHOTS, or a temporary one."""
    configured = os.environ.get("TANDEM_SCREENSHOTS")
    folder = Path(configured) if configured else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one.jpg, four.jpg and one.heic (named for their faces), doubtful.jpg, nobody.png and text.jpg.

    doubtful.jpg has two faces, of which the right one is too dark.
    """
    folder = tmp_path_factory.mktemp("files")
    (folder / "one.jpg").write_bytes(encoded(astronaut()))
    (folder / "four.jpg").write_bytes(encoded(tiles(2, 2)))
    (folder / "one.heic").write_bytes(encoded(astronaut(), "HEIF"))
    two = tiles(2, 1)
    two.paste(tiles(1, 1).point(lambda value: value // 12), (256, 0))
    (folder / "doubtful.jpg").write_bytes(encoded(two, quality=95))
    (folder / "nobody.png").write_bytes(encoded(astronaut().crop((300, 300, 500, 500)), "PNG"))
    (folder / "text.jpg").write_text("This is a text file, despite its name.")
    return folder


@pytest.fixture(scope="session")
def camera_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video for the fake camera: a slowly moving face, as uncompressed YUV4MPEG2 of 640 x 480 pixels."""
    path = tmp_path_factory.mktemp("video") / "face.y4m"
    photo = np.asarray(astronaut().resize((700, 700)))
    with path.open("wb") as video:
        video.write(b"YUV4MPEG2 W640 H480 F20:1 Ip A1:1 C420mpeg2\n")
        for step in (*range(0, 60, 4), *range(60, 0, -4)):
            picture = np.ascontiguousarray(photo[10 : 10 + 480, step : step + 640])
            video.write(b"FRAME\n" + cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420).tobytes())
    return path
