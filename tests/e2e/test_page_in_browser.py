"""The page in a real browser."""

import base64
import csv
import io
import json
import re
import subprocess
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import httpx
import pytest
from browser import Browser
from photos import astronaut, encoded, tiles
from PIL import Image, ImageColor
from selenium.webdriver.common.keys import Keys
from videos import moving_faces, write_video
from waiting import wait_until

from service.cli.output_files import to_rows
from service.errors import UnsupportedPhoto
from service.vision.drawing import COLORS

Open = Callable[..., Browser]

MEANING = "Labels describe what a face shows, not what a person feels."


def answer_to(tandem: str, photo: Path) -> dict:
    return httpx.post(f"{tandem}/v1/emotions", files={"image": photo.read_bytes()}, timeout=60).json()


def shown(probability: float) -> str:
    return "<1%" if 0 < probability < 0.005 else f"{int(100 * probability + 0.5)}%"


def fake_camera(video: Path) -> tuple[str, ...]:
    return (
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-video-capture={video}",
    )


def test_shows_a_box_and_a_bar_for_every_emotion(open_page: Open, tandem: str, files: Path) -> None:
    page = open_page()
    assert MEANING in page.texts("main p")
    page.choose(files / "one.jpg")
    page.wait_for_faces(1)
    (face,) = answer_to(tandem, files / "one.jpg")["faces"]
    assert page.face() == {label: shown(p) for label, p in face["emotions"].items()}
    assert len(page.face()) == 8
    assert page.texts(".card .emotion") == [face["emotion"]]
    assert page.texts(".box .words") == [f"{face['emotion']} {shown(face['confidence'])}"]
    assert page.texts("#status") == [f"1 face: {face['emotion']} {shown(face['confidence'])}."]
    # The box is where the answer puts it, at the scale of the displayed photo.
    photo, box = page.find("#photo").rect, page.find(".box").rect
    scale = photo["width"] / 512
    assert photo["height"] == pytest.approx(photo["width"], abs=1)
    for key, origin in (("x", photo["x"]), ("y", photo["y"]), ("width", 0), ("height", 0)):
        assert box[key] == pytest.approx(origin + scale * face["box"][key], abs=2)
    # A bar is as long as its probability.
    tracks, fills = page.all(".bars .track"), page.all(".bars .fill")
    wait_until(lambda: not page.run("return document.getAnimations().length"), "the bars have stopped moving")
    for track, fill, probability in zip(tracks, fills, face["emotions"].values(), strict=True):
        end = fill.rect["x"] + fill.rect["width"]
        assert end == pytest.approx(track.rect["x"] + probability * track.rect["width"], abs=1.5)
    assert json.loads(page.texts("#json")[0])["faces"][0]["emotion"] == face["emotion"]
    page.screenshot("photo")


def test_shows_a_card_and_a_box_for_each_face(open_page: Open, tandem: str, files: Path) -> None:
    page = open_page()
    page.choose(files / "four.jpg")
    page.wait_for_faces(4)
    answer = answer_to(tandem, files / "four.jpg")
    assert page.texts(".card .name") == ["Face 1", "Face 2", "Face 3", "Face 4"]
    assert page.texts(".card .emotion") == [face["emotion"] for face in answer["faces"]]
    assert page.texts(".box .number") == ["1", "2", "3", "4"]
    page.all(".card .head")[2].click()
    wait_until(lambda: len(page.all(".box.chosen")) == 1, "one box is chosen")
    assert page.find(".box.chosen .number").text == "3"
    page.screenshot("several-faces")


def test_several_photos_get_a_tile_each(open_page: Open, files: Path) -> None:
    page = open_page()
    page.expected_errors = ("/v1/emotions - Failed to load resource: the server responded with a status of 415",)
    page.choose(
        files / "one.jpg", files / "four.jpg", files / "text.jpg", files / "nobody.png", files / "one.heic"
    )
    wait_until(lambda: len(page.all(".tile")) == 5, "five photos have a tile")
    page.wait_for_photos(["1 happy", "4 happy", UnsupportedPhoto.title, "No face", "1 happy"])
    assert page.texts(".tile .name") == ["one.jpg", "four.jpg", "text.jpg", "nobody.png", "one.heic"]
    assert page.texts("#status") == ["5 photos, 6 faces: 6 happy; 1 without a result."]
    page.wait_for_faces(1)
    page.screenshot("photos")
    for number, faces in ((2, 4), (5, 1), (1, 1)):
        page.all(".tile button")[number - 1].click()
        page.wait_for_faces(faces)
        assert [tile.get_attribute("aria-pressed") for tile in page.all(".tile button")].index(
            "true"
        ) == number - 1
    assert page.run("return document.querySelector('#photo').naturalWidth") == 512
    page.all(".tile button")[2].click()
    page.wait_for_text("#problem", "JPEG, PNG, WebP, HEIC, AVIF, GIF, BMP or TIFF")
    assert page.all(".card") == []
    page.all(".tile button")[3].click()
    page.wait_for_text("#hint", "No face was found")
    assert page.texts("#problem") == [""]
    page.choose(files / "one.jpg")
    page.wait_for_faces(1)
    assert not page.find("#album").is_displayed()


def test_on_a_phone_a_tile_brings_its_photo_into_view(open_page: Open, files: Path) -> None:
    page = open_page(size=(320, 640), dark=True)
    page.expected_errors = ("/v1/emotions - Failed to load resource: the server responded with a status of 415",)
    page.choose(files / "text.jpg", *[files / "one.jpg"] * 8, files / "four.jpg")
    wait_until(lambda: len(page.all(".tile")) == 10, "ten photos have a tile")
    page.wait_for_photos([UnsupportedPhoto.title, *["1 happy"] * 8, "4 happy"])
    last = page.all(".tile button")[-1]
    page.run("arguments[0].scrollIntoView({ block: 'start' })", last)
    assert corners(page, "#stage")[0][1] < 0, "the photo is above what the screen shows"
    last.click()
    page.wait_for_faces(4)

    def is_in_view(selector: str) -> bool:
        _, top, _, bottom = corners(page, selector)[0]
        return -1 <= top < bottom <= 641

    wait_until(lambda: is_in_view("#stage"), "the photo is in view")
    page.screenshot("ten-photos-320")
    page.check_accessibility()
    page.find(".tile button").click()
    wait_until(lambda: is_in_view("#problem"), "what is wrong is in view")


def test_a_visitor_without_a_photo_tries_a_drawing(open_page: Open) -> None:
    page = open_page(size=(320, 640))
    page.find("#example").click()
    page.wait_for_faces(3)
    assert sorted(page.texts(".card .emotion")) == ["happiness", "neutral", "surprise"]
    assert page.texts("#totals li") == ["1 happy", "1 surprised", "1 neutral"]
    assert not page.find("#example").is_displayed()
    assert page.texts("#command")[0].startswith("curl -F image=@photo.jpg ")
    page.screenshot("drawing")


def test_dropped_and_pasted_photos_are_all_analyzed(open_page: Open, files: Path) -> None:
    page = open_page()
    contents = [
        base64.b64encode((files / name).read_bytes()).decode() for name in ("one.jpg", "four.jpg", "one.jpg")
    ]
    make = """
        const transfer = new DataTransfer();
        arguments[0].forEach((content, index) => {
          const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
          transfer.items.add(new File([bytes], `${index}.jpg`, { type: "image/jpeg" }));
        });
    """
    page.run(
        make + "document.body.dispatchEvent(new DragEvent('drop', { dataTransfer: transfer, bubbles: true }))",
        contents,
    )
    wait_until(lambda: len(page.all(".tile")) == 3, "three photos have a tile")
    page.wait_for_photos(["1 happy", "4 happy", "1 happy"])
    page.run(
        make + "document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: transfer, bubbles: true }))",
        contents[:2],
    )
    wait_until(lambda: len(page.all(".tile")) == 2, "two photos have a tile")
    page.wait_for_photos(["1 happy", "4 happy"])


def test_several_photos_ask_for_an_api_key_once(open_page: Open, guarded: tuple[str, str], files: Path) -> None:
    url, key = guarded
    page = open_page(url=url)
    page.expected_errors = ("/v1/emotions - Failed to load resource: the server responded with a status of 401",)
    page.choose(files / "one.jpg", files / "four.jpg", files / "one.jpg")
    page.wait_for_text("#problem", "API key")
    wait_until(lambda: page.focused.get_attribute("id") == "key", "the key field has the focus")
    page.press(*key, Keys.ENTER)
    wait_until(lambda: len(page.all(".tile.answered")) == 3, "three photos are analyzed")
    page.wait_for_photos(["1 happy", "4 happy", "1 happy"])


def test_a_group_is_read_at_a_glance(open_page: Open, tandem: str, files: Path) -> None:
    page = open_page()
    page.choose(files / "doubtful.jpg")
    page.wait_for_faces(2)
    answer = answer_to(tandem, files / "doubtful.jpg")
    doubtful = [not face["reliable"] for face in answer["faces"]]
    assert sorted(doubtful) == [False, True]
    assert page.texts("#totals li")[-1] == "1 doubtful"
    assert page.texts("#status")[0].endswith("; 1 doubtful.")
    for selector in (".box", ".card"):
        assert ["doubted" in each.get_attribute("class") for each in page.all(selector)] == doubtful
    mark = "return getComputedStyle(document.querySelector(arguments[0]), '::after').content"
    assert page.run(mark, ".card.doubted .emotion") == page.run(mark, ".box.doubted .label") == '"?"'
    assert page.run(mark, ".card:not(.doubted) .emotion") == "none"
    # Each box, its label and its card have the color of the emotion, as in annotated photos.
    for index, face in enumerate(answer["faces"]):
        color = ImageColor.getrgb(COLORS[list(face["emotions"]).index(face["emotion"])])
        for part, style in (
            (page.all(".box")[index], "border-top-color"),
            (page.all(".tag")[index], "background-color"),
        ):
            assert tuple(map(int, re.findall(r"\d+", part.value_of_css_property(style))))[:3] == color
        assert face["emotion"] in page.all(".tag")[index].text.lower()
    # The four likeliest, and the rest on demand.
    likeliest = sorted(answer["faces"][0]["emotions"].items(), key=lambda item: -item[1])
    rows = page.all(".card:first-child .bars li")
    assert [row.is_displayed() for row in rows] == [True] * 4 + [False] * 4
    assert page.texts(".card:first-child .bars .label") == [label for label, _ in likeliest]
    head = page.find(".card .head")
    assert head.get_attribute("aria-expanded") == "false"
    head.click()
    wait_until(lambda: all(row.is_displayed() for row in rows), "all bars are shown")
    assert head.get_attribute("aria-expanded") == "true"
    page.screenshot("group")


@pytest.mark.parametrize("size", [(1280, 900), (768, 1024), (390, 844)], ids=["desktop", "tablet", "phone"])
def test_labels_hide_neither_boxes_nor_each_other(open_page: Open, tmp_path: Path, size: tuple[int, int]) -> None:
    crowd = tmp_path / "crowd.jpg"
    crowd.write_bytes(encoded(tiles(5, 3)))
    page = open_page(size=size)
    page.choose(crowd)
    page.wait_for_faces(15)
    page.screenshot(f"crowd-{size[0]}")
    assert page.texts("#totals li")[0].startswith("15 happy")
    frame = corners(page, "#frame")[0]
    tags, boxes = corners(page, ".tag"), corners(page, ".box")
    for tag in tags:
        assert covered(tag, frame) == pytest.approx((tag[2] - tag[0]) * (tag[3] - tag[1]), rel=0.02), (
            "inside the photo"
        )
    for one, other in combinations(tags, 2):
        assert covered(one, other) < 4
    assert all(covered(tag, box) < 4 for tag in tags for box in boxes)
    assert page.find("#numbers").is_displayed() == bool(page.all(".tag.shortest"))
    # A chosen face has its label in any case.
    page.all(".card .head")[4].click()
    wait_until(lambda: len(page.all(".box.chosen")) == 1, "one box is chosen")
    assert "happiness" in page.find(".box.chosen .tag").text.lower()


def corners(page: Browser, selector: str) -> list[tuple[float, float, float, float]]:
    """The left, top, right and bottom of each matching element."""
    script = """return [...document.querySelectorAll(arguments[0])].map((element) => {
      const { left, top, right, bottom } = element.getBoundingClientRect();
      return [left, top, right, bottom];
    })"""
    return [tuple(each) for each in page.run(script, selector)]


def covered(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Area of the intersection of two rectangles, in square pixels."""
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


LOOKS = [(size, dark) for size in ((1280, 900), (768, 1024), (390, 844)) for dark in (False, True)]
"""Viewports of a desktop, a tablet and a phone, light and dark."""


def test_axe_finds_nothing_in_any_state(open_page: Open, files: Path) -> None:
    page = open_page()
    page.expected_errors = ("/v1/emotions - Failed to load resource: the server responded with a status of 415",)

    def check(state: str) -> None:
        for size, dark in LOOKS:
            page.look(size, dark=dark)
            page.screenshot(f"{state}-{size[0]}-{'dark' if dark else 'light'}")
            page.check_accessibility()
            assert page.run("return document.documentElement.scrollWidth") <= size[0], (state, size)

    check("start")
    page.choose(files / "one.jpg")
    page.wait_for_faces(1)
    check("photo")
    page.choose(files / "doubtful.jpg")
    page.wait_for_faces(2)
    page.find(".card .head").click()
    check("group")
    page.choose(files / "text.jpg")
    page.wait_for_text("#problem", "JPEG")
    check("problem")
    page.choose(files / "four.jpg", files / "doubtful.jpg", files / "text.jpg", files / "nobody.png")
    wait_until(lambda: len(page.all(".tile.answered, .tile.failed")) == 4, "four photos are done")
    page.wait_for_faces(4)
    check("photos")


def test_says_that_no_face_was_found(open_page: Open, files: Path) -> None:
    page = open_page()
    page.choose(files / "nobody.png")
    page.wait_for_text("#hint", "Looking for faces")
    assert page.find(".ghost").is_displayed()
    page.wait_for_text("#status", "No face was found")
    assert page.all(".card") == []
    assert page.find("#hint .nobody").is_displayed()
    assert not page.find(".ghost").is_displayed(), "it does not look as if faces were still to come"
    assert not page.all(".problem.shown")


def test_shows_an_error_and_then_the_next_photo(open_page: Open, files: Path) -> None:
    page = open_page()
    page.expected_errors = ("/v1/emotions - Failed to load resource: the server responded with a status of 415",)
    page.choose(files / "text.jpg")
    page.wait_for_text("#problem", "JPEG, PNG, WebP, HEIC, AVIF, GIF, BMP or TIFF")
    assert page.find("#problem strong").text == UnsupportedPhoto.title
    assert "JPEG, PNG, WebP" in page.texts("#status")[0]
    assert page.find("#problem").get_attribute("role") == "alert"
    page.screenshot("error")
    page.choose(files / "one.jpg")
    page.wait_for_faces(1)
    assert page.texts("#problem") == [""]


def test_shows_the_annotated_photo_if_the_browser_cannot_show_the_original(open_page: Open, files: Path) -> None:
    page = open_page()
    page.choose(files / "one.heic")
    page.wait_for_faces(1)
    assert page.run("return document.querySelector('#photo').naturalWidth") == 512
    assert page.all(".box") == []


def test_accepts_pasted_and_dropped_photos(open_page: Open, files: Path) -> None:
    page = open_page()
    make = """
        const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], "photo.jpg", { type: "image/jpeg" }));
    """
    one, four = (base64.b64encode((files / name).read_bytes()).decode() for name in ("one.jpg", "four.jpg"))
    paste = "document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: transfer, bubbles: true }))"
    page.run(make + paste, one)
    page.wait_for_faces(1)
    drop = "document.body.dispatchEvent(new DragEvent('drop', { dataTransfer: transfer, bubbles: true }))"
    page.run(make + drop, four)
    page.wait_for_faces(4)
    page.run("const transfer = new DataTransfer();" + drop)
    page.wait_for_text("#problem", "Links to images are not fetched")


def test_shows_the_webcam_live(open_page: Open, camera_video: Path) -> None:
    page = open_page(*fake_camera(camera_video))
    page.find("#camera").click()
    page.wait_for_faces(1)
    assert page.find("#camera").text == "Stop the webcam"
    first = page.find(".card")
    left = page.find(".box").rect["x"]
    wait_until(lambda: abs(page.find(".box").rect["x"] - left) > 10, "the box follows the face", 20)
    wait_until(lambda: " a second" in page.find("#rate").text, "the rate is shown", 20)
    assert page.find(".card") == first, "the face keeps its card"
    assert page.texts(".card .name") == ["Face 1"]
    assert page.texts("#status")[0].startswith("Live, 1 face: ")
    # The webcam is mirrored: the face is left of the center in the video, so its box is right of the center.
    frame, box = page.find("#frame").rect, page.find(".box").rect
    assert box["x"] + box["width"] / 2 > frame["x"] + frame["width"] / 2
    page.screenshot("webcam", live=True)
    page.find("#camera").click()
    wait_until(lambda: not page.all(".card"), "the faces have disappeared")
    assert page.find("#video").get_property("srcObject") is None
    assert page.find("#camera").text == "Use the webcam"


def test_choosing_a_photo_stops_the_webcam(open_page: Open, camera_video: Path, files: Path) -> None:
    page = open_page(*fake_camera(camera_video))
    page.find("#camera").click()
    page.wait_for_faces(1)
    page.choose(files / "four.jpg")
    page.wait_for_faces(4)
    assert page.find("#video").get_property("srcObject") is None
    assert not page.find("#video").is_displayed()


def test_says_that_there_is_no_camera(open_page: Open) -> None:
    page = open_page()
    page.find("#camera").click()
    page.wait_for_text("#problem", "camera")
    assert page.find("#problem strong").text == "No camera"
    assert page.find("#camera").text == "Use the webcam"


def test_asks_for_an_api_key(open_page: Open, guarded: tuple[str, str], files: Path) -> None:
    url, key = guarded
    page = open_page(url=url)
    page.expected_errors = ("/v1/emotions - Failed to load resource: the server responded with a status of 401",)
    page.choose(files / "one.jpg")
    page.wait_for_text("#problem", "API key")
    page.screenshot("key")
    wait_until(lambda: page.focused.get_attribute("id") == "key", "the key field has the focus")
    page.press(*key, Keys.ENTER)
    page.wait_for_faces(1)
    assert not page.find("#key-form").is_displayed()
    stored = "return localStorage.length + sessionStorage.length + document.cookie.length"
    assert page.run(stored) == 0


def test_the_webcam_asks_for_an_api_key_too(open_page: Open, guarded: tuple[str, str], camera_video: Path) -> None:
    url, key = guarded
    page = open_page(*fake_camera(camera_video), url=url)
    page.expected_errors = ("/v1/stream", "/v1/model")
    page.find("#camera").click()
    page.wait_for_text("#problem", "API key")
    page.press(*key, Keys.ENTER)
    page.wait_for_faces(1)


def test_everything_is_reachable_by_keyboard(open_page: Open, files: Path) -> None:
    page = open_page()
    page.choose(files / "four.jpg")
    page.wait_for_faces(4)
    page.run("document.activeElement.blur(); window.scrollTo(0, 0)")
    order = []
    for _ in range(25):
        page.press(Keys.TAB)
        focused = page.focused
        if focused.tag_name == "body":
            break
        order.append(focused.get_attribute("id") or focused.get_attribute("class") or focused.text)
        # The focus is visible.
        outlined = focused if order[-1] != "file" else page.find("label[for=file]")
        assert page.run("return getComputedStyle(arguments[0]).outlineStyle", outlined) != "none", order[-1]
    expected = ["skip", "brand", "API reference", "Model card", "Responsible use", "file", "camera"]
    expected += ["save-json", "save-csv", "save-picture", "What do these numbers mean?", *["head"] * 4]
    assert [name for name in order if name != "faces"][: len(expected)] == expected
    assert "copy" in order
    page.run("document.querySelectorAll('.head')[1].focus()")
    page.press(Keys.ENTER)
    wait_until(lambda: len(page.all(".box.chosen")) == 1, "Enter selects a face")
    assert page.focused.get_attribute("aria-pressed") == "true"
    page.press(Keys.SPACE)
    wait_until(lambda: not page.all(".box.chosen"), "Space deselects it")


def test_the_webcam_works_by_keyboard(open_page: Open, camera_video: Path) -> None:
    page = open_page(*fake_camera(camera_video))
    while page.focused.get_attribute("id") != "camera":
        page.press(Keys.TAB)
    page.press(Keys.ENTER)
    page.wait_for_faces(1)
    page.press(Keys.SPACE)
    wait_until(lambda: page.find("#camera").text == "Use the webcam", "the webcam is off")


def test_the_layout_does_not_shift(open_page: Open, files: Path) -> None:
    page = open_page()
    page.run(
        """
        window.shifts = [];
        new PerformanceObserver((list) => {
          for (const { value, sources } of list.getEntries())
            window.shifts.push([value, ...sources.map(({ node }) => node?.id || node?.className)]);
        }).observe({ type: "layout-shift", buffered: true });
        """
    )
    page.choose(files / "one.jpg")
    page.wait_for_faces(1)
    page.choose(files / "four.jpg")
    page.wait_for_faces(4)
    page.choose(files / "nobody.png")
    page.wait_for_faces(0)
    page.screenshot("no-face")
    shifts = page.run("return window.shifts")
    assert sum(value for value, *_ in shifts) < 0.02, shifts


@pytest.mark.parametrize("size", [(1280, 900), (390, 844), (320, 640)], ids=["desktop", "phone", "small phone"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_fits_every_screen_in_light_and_dark(
    open_page: Open, files: Path, size: tuple[int, int], dark: bool
) -> None:
    page = open_page(size=size, dark=dark)
    name = f"{size[0]}-{'dark' if dark else 'light'}"
    page.screenshot(f"empty-{name}")
    page.choose(files / "one.jpg")
    page.wait_for_faces(1)
    path = page.screenshot(f"photo-{name}")
    with Image.open(path) as picture:
        assert picture.size == size
        corner = picture.convert("L").getpixel((3, 3))
        assert (corner < 60) == dark
    width = page.run("return document.documentElement.scrollWidth")
    assert width <= size[0], "the page does not scroll sideways"


def test_text_has_enough_contrast(open_page: Open, files: Path) -> None:
    for dark in (False, True):
        page = open_page(dark=dark)
        page.choose(files / "one.jpg")
        page.wait_for_faces(1)
        for background, colors in (
            ("--ground", ("--text", "--muted", "--accent")),
            ("--surface", ("--text", "--muted", "--accent")),
            ("--problem-ground", ("--problem", "--text")),
            ("--accent", ("--on-accent",)),
        ):
            for color in colors:
                assert contrast(token(page, color), token(page, background)) >= 4.5, (dark, color, background)


def token(page: Browser, name: str) -> tuple[int, ...]:
    """Return the RGB value of a CSS variable."""
    value: str = page.run("return getComputedStyle(document.documentElement).getPropertyValue(arguments[0])", name)
    digits = value.strip().removeprefix("#")
    return tuple(int(digits[place : place + 2], 16) for place in (0, 2, 4))


def contrast(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    """Compute the contrast ratio of WCAG 2.2, 1..21."""

    def luminance(color: tuple[int, ...]) -> float:
        parts = [c / 255 for c in color]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_has_names_and_roles_for_screen_readers(open_page: Open, files: Path) -> None:
    page = open_page()
    page.choose(files / "one.jpg")
    page.wait_for_faces(1)
    assert page.run("return document.documentElement.lang") == "en"
    assert page.find("#status").aria_role == "status"
    assert page.find("#file").accessible_name == "Choose photos or a film"
    assert page.find("#camera").accessible_name == "Use the webcam"
    head = page.find(".card .head").accessible_name.lower()
    assert head.startswith("face 1")
    assert page.texts(".card .emotion")[0] in head
    assert page.find("#photo").accessible_name.startswith("The photo you chose. 1 face: ")
    assert page.find("main").aria_role == "main"
    assert [heading.tag_name for heading in page.all("h1, h2")] == ["h1", "h2", "h2", "h2"]


def test_shows_how_to_use_the_api(open_page: Open, tandem: str) -> None:
    page = open_page()
    assert page.texts("#command") == [f"curl -F image=@photo.jpg {tandem}/v1/emotions"]
    links = [link.get_attribute("href") for link in page.all("a")]
    assert f"{tandem}/docs" in links


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    folder = tmp_path / "downloads"
    folder.mkdir()
    return folder


def downloaded(page: Browser, folder: Path, button: str, name: str) -> bytes:
    """Press a button that saves a file, and return its content."""
    allow = {"behavior": "allow", "downloadPath": str(folder)}
    page.driver.execute_cdp_cmd("Browser.setDownloadBehavior", allow)
    page.find(button).click()
    wait_until((folder / name).is_file, f"{name} is saved", 30)
    return (folder / name).read_bytes()


def test_the_result_can_be_taken_along(open_page: Open, tandem: str, files: Path, downloads: Path) -> None:
    page = open_page()
    assert not page.find("#take").is_displayed()
    page.choose(files / "four.jpg")
    page.wait_for_faces(4)
    answer = answer_to(tandem, files / "four.jpg")
    assert json.loads(downloaded(page, downloads, "#save-json", "four-emotions.json")) == answer
    rows = list(
        csv.DictReader(io.StringIO(downloaded(page, downloads, "#save-csv", "four-emotions.csv").decode()))
    )
    expected = to_rows({"photo": "four.jpg", **answer})
    assert [list(row) for row in rows] == [[*expected[0], "error"]] * 4
    for row, face in zip(rows, expected, strict=True):
        for column, value in face.items():
            assert row[column] == str(value) or float(row[column]) == pytest.approx(value), column
    picture = downloaded(page, downloads, "#save-picture", "four-emotions.jpg")
    with Image.open(io.BytesIO(picture)) as annotated:
        assert annotated.size == (512, 512)
    assert picture != (files / "four.jpg").read_bytes()
    assert page.texts("#command") == [f"curl -F image=@four.jpg {tandem}/v1/emotions"]


def test_the_results_of_several_photos_are_one_file(open_page: Open, files: Path, downloads: Path) -> None:
    page = open_page()
    page.expected_errors = ("/v1/emotions - Failed to load resource: the server responded with a status of 415",)
    page.choose(files / "one.jpg", files / "text.jpg", files / "nobody.png")
    page.wait_for_photos(["1 happy", UnsupportedPhoto.title, "No face"])
    found = json.loads(downloaded(page, downloads, "#save-json", "emotions.json"))
    assert [each["photo"] for each in found] == ["one.jpg", "text.jpg", "nobody.png"]
    assert [len(each.get("faces", [])) for each in found] == [1, 0, 0]
    rows = list(csv.DictReader(io.StringIO(downloaded(page, downloads, "#save-csv", "emotions.csv").decode())))
    assert [(row["photo"], row["emotion"]) for row in rows] == [
        ("one.jpg", "happiness"),
        ("text.jpg", ""),
        ("nobody.png", ""),
    ]
    assert rows[1]["error"]
    names = ("one.jpg", "text.jpg", "nobody.png")
    fields = " ".join(f"-F images=@{name}" for name in names)
    assert page.texts("#command") == [f"curl {fields} {page.base_url}/v1/emotions/batch"]


@pytest.mark.parametrize(
    "name", ["it's a photo.jpg", 'quoted "name".jpg', "semi;colon, comma.jpg", "-o.jpg", "x\\y.jpg"]
)
def test_the_command_sends_any_name(open_page: Open, tandem: str, files: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes((files / "one.jpg").read_bytes())
    page = open_page()
    script = (
        """const module = await import("/page/downloads.js"); return module.curlFor([{ name: arguments[0] }])"""
    )
    command = page.run(f"return (async () => {{ {script} }})()", name)
    answer = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, check=True).stdout
    assert len(json.loads(answer)["faces"]) == 1


def test_a_photo_above_the_limits_is_reduced_before_it_is_sent(
    open_page: Open, tandem: str, files: Path, tmp_path: Path
) -> None:
    photo = Image.new("L", (5000, 4400), 128)
    photo.paste(astronaut().convert("L").resize((2000, 2000)), (1500, 1000))
    large = tmp_path / "large.png"
    photo.save(large, compress_level=0)  # more than 20 MiB, and 22 Mpx
    assert httpx.post(f"{tandem}/v1/emotions", files={"image": large.read_bytes()}, timeout=60).status_code == 413
    page = open_page()
    page.choose(large)
    page.wait_for_faces(1)
    assert "The photo had 22 Mpx and was reduced" in page.texts("#status")[0]
    size = json.loads(page.texts("#json")[0])["image"]
    assert 15_900_000 < size["width"] * size["height"] <= 16_000_000
    assert size["width"] / size["height"] == pytest.approx(5000 / 4400, rel=0.001)
    assert f"to {size['width']} × {size['height']} pixels" in page.texts("#status")[0]
    page.choose(large, files / "one.jpg")
    wait_until(lambda: len(page.all(".tile")) == 2, "two photos have a tile")
    page.wait_for_photos(["1 happy", "1 happy"])
    assert "2 photos, 2 faces: 2 happy. 1 was too large" in page.texts("#status")[0]


def test_what_the_numbers_mean_is_one_click_away(open_page: Open, files: Path) -> None:
    page = open_page()
    page.choose(files / "doubtful.jpg")
    page.wait_for_faces(2)
    explanation = page.find(".explanation")
    assert not explanation.is_displayed()
    (link,) = [link for link in page.all(".doubt a") if link.is_displayed()]
    link.click()
    wait_until(explanation.is_displayed, "the explanation is open")
    assert "Less reliable" in explanation.text
    page.screenshot("explained")
    page.check_accessibility()
    for link, heading in (("responsible-use", "Responsible use"), ("model", "The model in use")):
        page.driver.get(f"{page.base_url}/page/{link}.html")
        assert page.find("h1").text == heading
        page.check_accessibility()
    page.wait_for_text("#model", "ferplus_valid_majority")
    page.screenshot("model")


def test_a_film_is_read_frame_by_frame(open_page: Open, files: Path, tmp_path: Path, downloads: Path) -> None:
    film = write_video(tmp_path / "film.mp4", moving_faces(25))
    page = open_page()
    page.choose(film)
    page.wait_for_text("#status", "The film was read: 2 faces.")
    assert page.texts("#timeline li span:first-child") == ["Face 1", "Face 2"]
    assert page.texts("#timeline .end") == ["1.0 s"]
    assert "happiness" in page.texts("#timeline .legend span")
    for row in page.all("#timeline canvas"):
        colored = """const canvas = arguments[0];
            const { data } = canvas.getContext("2d").getImageData(0, 9, canvas.width, 1);
            return [...data].filter((_, index) => index % 4 === 3).map((alpha) => alpha > 0);"""
        assert page.run(colored, row) == [True] * 5, "a column for each fifth of a second"
        assert re.fullmatch(r"happiness \d+%.*", row.accessible_name)
    assert page.find("#video").is_displayed()
    assert not page.find("#stop").is_displayed()
    assert len(page.all(".card")) == len(page.all(".box")) == 2
    assert page.texts("#command") == ["tandem video film.mp4 --csv film.csv"]
    rows = list(
        csv.DictReader(io.StringIO(downloaded(page, downloads, "#save-csv", "film-emotions.csv").decode()))
    )
    assert sorted((float(row["time_s"]), row["face"]) for row in rows) == [
        (pytest.approx(0.2 * frame), face) for frame in range(5) for face in ("1", "2")
    ]
    assert {row["emotion"] for row in rows} <= set(page.face())
    page.screenshot("film")
    page.check_accessibility()
    page.choose(files / "one.jpg")
    page.wait_for_faces(1)
    assert not page.find("#timeline").is_displayed()
    assert not page.find("#video").is_displayed()


def test_a_film_can_be_stopped(open_page: Open, tmp_path: Path) -> None:
    page = open_page()
    (tmp_path / "text.mp4").write_text("This is a text file, despite its name.")
    page.choose(tmp_path / "text.mp4")
    page.wait_for_text("#problem", "The browser cannot play this film.")
    film = write_video(tmp_path / "my film.mp4", moving_faces(30), times_ms=range(0, 60_000, 2000))
    page.choose(film)
    page.wait_for_faces(2)
    page.find("#stop").click()
    assert re.match(r"Stopped after \d+\.\d of \d+\.\d s: 2 faces\.", page.texts("#status")[0])
    assert page.all("#timeline canvas")
    assert page.texts("#command") == ["tandem video 'my film.mp4' --csv 'my film.csv'"]
    page.choose(tmp_path / "text.mp4")
    page.wait_for_text("#problem", "The browser cannot play this film.")
    assert page.find("#camera").text == "Use the webcam"
    assert not page.find("#timeline").is_displayed()
