"""Takes the README's picture anew: `pytest tests/e2e/take_picture.py`. It asserts little, so it is not a test."""

import io
from collections.abc import Callable
from pathlib import Path

from browser import Browser
from photos import astronaut
from PIL import Image, ImageDraw, ImageFilter
from videos import moving_faces, write_video

DOCS = Path(__file__).parents[2] / "docs"
ANIMATION_WIDTH = 800
ANIMATION_COLORS = 96


def test_take_picture(open_page: Callable[..., Browser], tmp_path: Path) -> None:
    page = open_page()
    frames: list[tuple[Image.Image, int]] = []

    def keep(milliseconds: int) -> None:
        frames.append((Image.open(io.BytesIO(page.driver.get_screenshot_as_png())).convert("RGB"), milliseconds))

    keep(1200)
    group = tmp_path / "group.jpg"
    draw_group().save(group, quality=95)
    page.choose(group)
    page.wait_for_text("#status", "faces:")
    page.screenshot("settled")  # waits until nothing moves
    page.run("document.querySelectorAll('#faces .card')[2].scrollIntoView(); scrollTo(0, 0)")
    keep(3500)

    film = write_video(tmp_path / "film.mp4", moving_faces(75))
    page.choose(film)
    page.wait_for_text("#timeline .legend", "happiness")
    page.run("scrollTo(0, 150)")
    for _ in range(6):
        keep(300)
    page.wait_for_text("#status", "The film was read")
    keep(3000)
    save_animation(frames, DOCS / "page.gif")


def draw_group() -> Image.Image:
    """Return one face as it is, rotated, in the dark, blurred, covered and small."""
    face = astronaut().crop((60, 0, 380, 320))
    covered = face.copy()
    ImageDraw.Draw(covered).rectangle((120, 123, 208, 180), fill=(70, 105, 150))
    group = Image.new("RGB", (960, 720))
    for picture, x, y, side in (
        (face, 0, 0, 480),
        (face.rotate(-25, resample=Image.Resampling.BICUBIC, fillcolor=(196, 190, 190)), 480, 0, 480),
        (face.point(lambda value: value // 12), 0, 480, 240),
        (face.filter(ImageFilter.GaussianBlur(7)), 240, 480, 240),
        (covered, 480, 480, 240),
        (face.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 720, 480, 240),
    ):
        group.paste(picture.resize((side, side)), (x, y))
    return group


def save_animation(frames: list[tuple[Image.Image, int]], path: Path) -> None:
    """Save frames, each shown for some milliseconds, as a GIF that repeats for ever."""
    height = round(ANIMATION_WIDTH * frames[0][0].height / frames[0][0].width)
    small = [frame.resize((ANIMATION_WIDTH, height), Image.Resampling.LANCZOS) for frame, _ in frames]
    palette = small[1].quantize(ANIMATION_COLORS)
    first, *others = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in small)
    durations = [milliseconds for _, milliseconds in frames]
    first.save(path, save_all=True, append_images=others, duration=durations, loop=0, optimize=True)
