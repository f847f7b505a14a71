"""The API reference at /docs in a browser; `open_page` fails on errors, policy violations, foreign requests."""

from collections.abc import Callable
from pathlib import Path

from browser import Browser
from selenium.webdriver.remote.webelement import WebElement
from waiting import wait_until

TIMEOUT_S = 60.0

UNKNOWN_COMPONENT = "JsonSchema_string_binary"
"""Swagger UI says once that it has no field of its own for a list of files; it then uses that for files."""


def open_reference(open_page: Callable[..., Browser], tandem: str) -> Browser:
    page = open_page(url=f"{tandem}/docs")
    page.base_url = tandem
    page.expected_errors = (UNKNOWN_COMPONENT,)
    wait_until(lambda: len(page.all(".opblock")) >= 12, "Swagger UI shows every operation", TIMEOUT_S)
    return page


def execute(page: Browser, operation: str, file: Path | None = None) -> WebElement:
    """Open an operation, choose a file, press Execute and wait for the answer."""
    block = page.find(f"[id$='-{operation}']")
    page.run("arguments[0].scrollIntoView()", block)
    block.find_element("css selector", ".opblock-summary-control").click()
    wait_until(lambda: block.find_elements("css selector", ".execute"), "the operation is open", TIMEOUT_S)
    if file:
        block.find_element("css selector", "input[type=file]").send_keys(str(file))
    button = block.find_element("css selector", ".execute")
    page.run("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()
    answered = ".live-responses-table .response-col_status"
    wait_until(lambda: block.find_elements("css selector", answered), "there is an answer", TIMEOUT_S)
    return block


def test_an_operation_can_be_tried(open_page: Callable[..., Browser], tandem: str, files: Path) -> None:
    page = open_reference(open_page, tandem)
    block = execute(page, "readEmotionsFromForm", files / "one.jpg")
    wait_until(lambda: "happiness" in block.text, "the answer is shown", TIMEOUT_S)
    languages = {"curl": "-F 'image=@one.jpg", "Python": 'open("one.jpg", "rb")', "JavaScript": "new FormData()"}
    for language, text in languages.items():
        for tab in block.find_elements("css selector", ".request-snippets div, .request-snippets h4"):
            if tab.text == language:
                page.run("arguments[0].click()", tab)
        snippet = block.find_element("css selector", ".request-snippets").text
        assert text in snippet
        assert f"{tandem}/v1/emotions/form" in snippet
    background = "return getComputedStyle(document.body).backgroundColor"
    assert page.run(background) == "rgb(255, 255, 255)"
    page.look((1280, 900), dark=True)
    wait_until(lambda: page.run(background) == "rgb(28, 32, 34)", "the page is dark where dark is asked for")


def test_a_picture_is_shown(open_page: Callable[..., Browser], tandem: str, files: Path) -> None:
    page = open_reference(open_page, tandem)
    block = execute(page, "drawEmotions", files / "one.jpg")
    picture = ".live-responses-table img"
    wait_until(lambda: block.find_elements("css selector", picture), "the picture is shown", TIMEOUT_S)
    width = "return arguments[0].naturalWidth"
    wait_until(
        lambda: page.run(width, block.find_element("css selector", picture)) == 512, "it is loaded", TIMEOUT_S
    )


def test_samples_and_the_stream_name_the_address(open_page: Callable[..., Browser], tandem: str) -> None:
    page = open_reference(open_page, tandem)
    for language in ("curl", "python", "javascript"):
        assert f"{tandem}/v1/emotions" in page.texts(f"#{language}")[0]
    stream = page.texts("#stream")[0]
    for text in (tandem.replace("http", "ws") + "/v1/stream", "smooth", "1013", "FrameEmotions", "new WebSocket("):
        assert text in stream
    assert "127.0.0.1:8080" not in page.texts("main")[0].replace(tandem.removeprefix("http://"), "")
