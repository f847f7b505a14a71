"""The photo with a box, the emotion and its confidence drawn at every face."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from service.schemas import FaceEmotion, PhotoEmotions, TrackedFace

Corners = tuple[float, float, float, float]
"""Left, top, right and bottom of a rectangle, in pixels."""

IMAGE_FORMATS: Final = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP"}
"""What an annotated photo can be written as: media type to Pillow's name."""

QUALITY = 90

# Colour-blind safe (Okabe and Ito, 2008), one for each emotion in the order of the model's labels.
COLORS = ("#0072B2", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#F0E442", "#BBBBBB")
DARK_TEXT, LIGHT_TEXT = "#000000", "#FFFFFF"
DARK_BACKGROUNDS = ("#0072B2",)

MIN_FONT_SIZE = 11.0
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
            small_font=max(MIN_FONT_SIZE, side / 80),
            large_font=max(MIN_FONT_SIZE, side / 40),
        )


def draw_emotions(photo: NDArray[np.uint8], answer: PhotoEmotions) -> Image.Image:
    """A copy of an RGB photo [H, W, 3] with the answer's faces drawn in it."""
    image = Image.fromarray(photo)  # copies: what was decoded stays as it is
    draw = ImageDraw.Draw(image)
    pen = Pen.for_photo(*image.size)
    boxes = [_corners(face, image.size) for face in answer.faces]
    labels: list[tuple[Label, Corners]] = []
    for number, face in enumerate(answer.faces):
        label = Label.of(face, image.size[0], pen)
        others = [*boxes[:number], *boxes[number + 1 :], *(place for _, place in labels)]
        x, y = label_place(boxes[number], (label.width, label.height), image.size, others)
        labels.append((label, (x, y, x + label.width, y + label.height)))
    # The largest comes first in the answer and is drawn last, so that it lies on top; labels lie on every box.
    for box, (label, _) in reversed([*zip(boxes, labels, strict=True)]):
        draw.rectangle(box, outline=label.colour, width=pen.line)
    for label, place in reversed(labels):
        label.draw(draw, place)
    return image


def encode(image: Image.Image, media_type: str) -> bytes:
    """The image as JPEG, PNG or WebP.

    Raises:
        ValueError: another media type.
    """
    if media_type not in IMAGE_FORMATS:
        raise ValueError(f"an annotated photo is written as {', '.join(IMAGE_FORMATS)}; not as {media_type}")
    buffer = io.BytesIO()
    image.save(buffer, IMAGE_FORMATS[media_type], quality=QUALITY)
    return buffer.getvalue()


def annotate(photo: NDArray[np.uint8], answer: PhotoEmotions, media_type: str) -> bytes:
    """Draw and encode in one step: an RGB photo [H, W, 3] to the bytes of an image."""
    return encode(draw_emotions(photo, answer), media_type)


def _corners(face: FaceEmotion, size: tuple[int, int]) -> Corners:
    box = face.box
    left, top = min(box.x, size[0] - 1), min(box.y, size[1] - 1)
    return (
        left,
        top,
        max(left, min(box.x + box.width, size[0] - 1)),
        max(top, min(box.y + box.height, size[1] - 1)),
    )


def label_place(
    corners: Corners, label: tuple[float, float], size: tuple[int, int], others: Sequence[Corners] = ()
) -> tuple[float, float]:
    """Upper left corner of a label (width, height) for the box at ``corners``.

    Above the box, else below it, else inside it, and at its left edge, else at its right: the first of these
    places that hides the least of ``others``, which are boxes and labels. It lies wholly inside a picture of
    ``size``, unless the label is larger than that.
    """
    left, top, right, bottom = corners
    width, height = label
    rows = [y for y in (top - height, bottom) if 0 <= y <= size[1] - height] + [top]
    places = [
        (max(0.0, min(x, size[0] - width)), max(0.0, min(y, size[1] - height)))
        for y in rows
        for x in (left, right - width)
    ]
    return min(
        places, key=lambda place: sum(_shared((*place, place[0] + width, place[1] + height), o) for o in others)
    )


def _shared(a: Corners, b: Corners) -> float:
    """Square pixels that two rectangles have in common."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


@dataclass(frozen=True)
class Label:
    """A face's emotion in words, over a bar; sizes in pixels."""

    text: str
    confidence: float
    colour: str
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont
    padding: float
    bar: int
    width: float
    height: float

    @classmethod
    def of(cls, face: FaceEmotion, widest: int, pen: Pen) -> "Label":
        """A face's label, at most ``widest`` wide."""
        number = f"{face.track}: " if isinstance(face, TrackedFace) and face.track else ""
        text = f"{number}{face.emotion} {face.confidence:.0%}"
        # As wide as its box, so that in a group no label hides the neighbours, as far as it can still be read;
        # never wider than the picture.
        per_size = (ImageFont.load_default(100).getlength(text) + 2 * 100 * PADDING) / 100
        font_size = min(max(face.box.width / per_size, pen.small_font), pen.large_font)
        font_size = max(1.0, min(font_size, widest / per_size))
        font = ImageFont.load_default(font_size)
        padding = font_size * PADDING
        _, y0, _, y1 = font.getbbox(text)
        bar = max(1, round(font_size * BAR))
        return cls(
            text=text,
            confidence=face.confidence,
            colour=COLORS[list(face.emotions).index(face.emotion) % len(COLORS)],
            font=font,
            padding=padding,
            bar=bar,
            width=min(widest, font.getlength(text) + 2 * padding),
            height=y1 - y0 + 2 * padding + bar,
        )

    def draw(self, draw: ImageDraw.ImageDraw, place: Corners) -> None:
        """Draw it at a place of its size."""
        x, y = place[:2]
        bottom = y + self.height - 1
        draw.rectangle((x, y, x + self.width - 1, bottom), fill=self.colour)
        ink = LIGHT_TEXT if self.colour in DARK_BACKGROUNDS else DARK_TEXT
        draw.rectangle((x, bottom - self.bar + 1, x + (self.width - 1) * self.confidence, bottom), fill=ink)
        x0, y0, _, _ = self.font.getbbox(self.text)
        draw.text((x + self.padding - x0, y + self.padding - y0), self.text, fill=ink, font=self.font)
