"""The photo with a box, the emotion and its confidence drawn at every face."""

import io
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from service.schemas import FaceEmotion, PhotoEmotions

FORMATS: Final = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP"}
"""What an annotated photo can be written as: media type to Pillow's name."""

QUALITY = 90

# Colour-blind safe (Okabe and Ito, 2008), one for each emotion in the order of the model's labels.
COLOURS = ("#0072B2", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#F0E442", "#BBBBBB")
DARK_TEXT, LIGHT_TEXT = "#000000", "#FFFFFF"
DARK_BACKGROUNDS = ("#0072B2",)

SMALLEST_FONT = 11.0
"""Pixels; less cannot be read."""

PADDING = 0.25
"""Space around a label's text, in font sizes."""

BAR = 0.16
"""Height of the bar below a label's text, in font sizes; its length is the confidence, of the label's width."""


@dataclass(frozen=True)
class Pen:
    """Line width and limits of the font size, in pixels."""

    line: int
    small_font: float
    large_font: float

    @classmethod
    def for_photo(cls, width: int, height: int) -> "Pen":
        """A pen that looks the same on a thumbnail and on a poster, seen at the same size."""
        side = (width * height) ** 0.5
        return cls(
            line=max(1, round(side / 300)),
            small_font=max(SMALLEST_FONT, side / 80),
            large_font=max(SMALLEST_FONT, side / 40),
        )


def draw_emotions(photo: NDArray[np.uint8], answer: PhotoEmotions) -> Image.Image:
    """A copy of an RGB photo [H, W, 3] with the answer's faces drawn in it."""
    image = Image.fromarray(photo)  # copies: what was decoded stays as it is
    draw = ImageDraw.Draw(image)
    pen = Pen.for_photo(*image.size)
    # The largest comes first in the answer and is drawn last, so that its label lies on top.
    for face in reversed(answer.faces):
        colour = COLOURS[list(face.emotions).index(face.emotion) % len(COLOURS)]
        draw.rectangle(_corners(face, image.size), outline=colour, width=pen.line)
        _label(draw, face, colour, pen, image.size)
    return image


def encode(image: Image.Image, media_type: str) -> bytes:
    """The image as JPEG, PNG or WebP.

    Raises:
        ValueError: another media type.
    """
    if media_type not in FORMATS:
        raise ValueError(f"an annotated photo is written as {', '.join(FORMATS)}; not as {media_type}")
    buffer = io.BytesIO()
    image.save(buffer, FORMATS[media_type], quality=QUALITY)
    return buffer.getvalue()


def annotate(photo: NDArray[np.uint8], answer: PhotoEmotions, media_type: str) -> bytes:
    """Draw and encode in one step: an RGB photo [H, W, 3] to the bytes of an image."""
    return encode(draw_emotions(photo, answer), media_type)


def _corners(face: FaceEmotion, size: tuple[int, int]) -> tuple[float, float, float, float]:
    box = face.box
    left, top = min(box.x, size[0] - 1), min(box.y, size[1] - 1)
    return (
        left,
        top,
        max(left, min(box.x + box.width, size[0] - 1)),
        max(top, min(box.y + box.height, size[1] - 1)),
    )


def label_place(
    corners: tuple[float, float, float, float], label: tuple[float, float], size: tuple[int, int]
) -> tuple[float, float]:
    """Upper left corner of a label (width, height): above the box, else below it, else inside it.

    It lies wholly inside a picture of ``size``, unless the label is larger than that.
    """
    left, top, _, bottom = corners
    width, height = label
    if top >= height:
        y = top - height
    elif bottom + height <= size[1]:
        y = bottom
    else:
        y = top
    return max(0.0, min(left, size[0] - width)), max(0.0, min(y, size[1] - height))


def _label(draw: ImageDraw.ImageDraw, face: FaceEmotion, colour: str, pen: Pen, size: tuple[int, int]) -> None:
    text = f"{face.emotion} {face.confidence:.0%}"
    # As wide as its box, so that in a group no label hides the neighbours, as far as it can still be read; never
    # wider than the picture.
    per_size = (draw.textlength(text, ImageFont.load_default(100)) + 2 * 100 * PADDING) / 100
    font_size = min(max(face.box.width / per_size, pen.small_font), pen.large_font)
    font_size = max(1.0, min(font_size, size[0] / per_size))
    font = ImageFont.load_default(font_size)
    padding = font_size * PADDING
    width = min(size[0], draw.textlength(text, font) + 2 * padding)
    x0, y0, _, y1 = font.getbbox(text)
    bar = max(1, round(font_size * BAR))
    height = y1 - y0 + 2 * padding + bar
    x, y = label_place(_corners(face, size), (width, height), size)
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
    ink = LIGHT_TEXT if colour in DARK_BACKGROUNDS else DARK_TEXT
    bottom = y + height - 1
    draw.rectangle((x, bottom - bar + 1, x + (width - 1) * face.confidence, bottom), fill=ink)
    draw.text((x + padding - x0, y + padding - y0), text, fill=ink, font=font)
