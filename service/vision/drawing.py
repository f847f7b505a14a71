"""Draw each face's box, emotion and confidence in a photo."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from service.errors import NotAcceptable
from service.schemas import FaceEmotion, PhotoEmotions, TrackedFace
from service.vision.face import Box

Corners = tuple[float, float, float, float]
"""Left, top, right and bottom of a rectangle, in pixels."""

IMAGE_FORMATS: Final = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP"}
"""Formats of annotated photos: media type to Pillow's name."""

MAX_SIDES: Final = {"image/jpeg": 65_500, "image/png": 2**31 - 1, "image/webp": 16_383}
"""Pixels that a side of a picture may have: limits of libjpeg (JPEG_MAX_DIMENSION), PNG and WebP."""

QUALITY = 90

WEBP_METHOD = 0
"""The fastest: a third of the time of the default for the same size."""

# Safe for color-blind readers (Okabe and Ito, 2008); one per emotion, in the order of the model's labels.
COLORS = ("#0072B2", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#F0E442", "#BBBBBB")
DARK_TEXT, LIGHT_TEXT = "#000000", "#FFFFFF"
DARK_BACKGROUNDS = ("#0072B2",)

MIN_FONT_SIZE = 11.0
"""In pixels; smaller text is not legible."""

PADDING = 0.25
"""Space around a label's text, in font sizes."""

BAR_HEIGHT = 0.16
"""Height of the bar below a label's text, in font sizes. Its length is the confidence times the label's width."""


@dataclass(frozen=True)
class Pen:
    """A line width and the range of font sizes, in pixels."""

    line_width: int
    min_font_size: float
    max_font_size: float

    @classmethod
    def for_photo(cls, width: int, height: int) -> "Pen":
        """Scale with the photo, so that drawings look the same when photos are shown at the same size."""
        side = (width * height) ** 0.5
        return cls(
            line_width=max(1, round(side / 300)),
            min_font_size=max(MIN_FONT_SIZE, side / 80),
            max_font_size=max(MIN_FONT_SIZE, side / 40),
        )


def draw_emotions(pixels: NDArray[np.uint8], answer: PhotoEmotions) -> Image.Image:
    """Draw the faces of an answer in a copy of an RGB image [H, W, 3], which may be smaller than the photo."""
    image = Image.fromarray(pixels)  # a copy, so the caller's array is not changed
    draw = ImageDraw.Draw(image)
    pen = Pen.for_photo(*image.size)
    scale = image.width / answer.image.width
    boxes = [_corners(face, image.size, scale) for face in answer.faces]
    labels: list[tuple[Label, Corners]] = []
    for number, face in enumerate(answer.faces):
        label = Label.for_face(face, scale * face.box.width, image.width, pen)
        others = [*boxes[:number], *boxes[number + 1 :], *(corners for _, corners in labels)]
        x, y = place_label(boxes[number], (label.width, label.height), image.size, others)
        labels.append((label, (x, y, x + label.width, y + label.height)))
    # The answer lists the largest face first. Draw it last, so that it is on top, and labels on top of all boxes.
    for box, (label, _) in reversed([*zip(boxes, labels, strict=True)]):
        draw.rectangle(box, outline=label.color, width=pen.line_width)
    for label, corners in reversed(labels):
        label.draw(draw, corners)
    return image


def annotate(pixels: NDArray[np.uint8], answer: PhotoEmotions, media_type: str) -> bytes:
    """Draw the faces of an answer in an RGB image [H, W, 3] and encode it as JPEG, PNG or WebP.

    Raises:
        ValueError: The media type is not one of ``IMAGE_FORMATS``.
        NotAcceptable: The photo is too wide or too high for it.
    """
    if media_type not in IMAGE_FORMATS:
        raise ValueError(f"an annotated photo cannot be {media_type}; the choices are {', '.join(IMAGE_FORMATS)}")
    check_sides((pixels.shape[0], pixels.shape[1]), media_type)
    image = draw_emotions(pixels, answer)
    if media_type == "image/png":
        return _to_png(image)
    buffer = io.BytesIO()
    image.save(buffer, IMAGE_FORMATS[media_type], quality=QUALITY, method=WEBP_METHOD)
    return buffer.getvalue()


def _to_png(image: Image.Image) -> bytes:
    """Encode with OpenCV, which takes a twelfth of Pillow's time for a photo and a fifth more bytes."""
    drawn = np.array(image)
    return cv2.imencode(".png", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR, drawn))[1].tobytes()


def check_sides(size: tuple[int, int], media_type: str) -> None:
    """Check whether a picture of ``size`` (height, width) can have this media type.

    Raises:
        NotAcceptable: A side has more than ``MAX_SIDES``.
    """
    height, width = size
    if max(size) > MAX_SIDES[media_type]:
        raise NotAcceptable(
            f"the picture is {width:,} x {height:,} pixels, and {media_type} allows {MAX_SIDES[media_type]:,} "
            f"a side; ask for {' or '.join(kind for kind in IMAGE_FORMATS if max(size) <= MAX_SIDES[kind])}"
        )


def _corners(face: FaceEmotion, size: tuple[int, int], scale: float) -> Corners:
    box = Box(face.box.x, face.box.y, face.box.width, face.box.height).scaled(scale)
    left, top = min(box.x, size[0] - 1), min(box.y, size[1] - 1)
    return (
        left,
        top,
        max(left, min(box.x + box.width, size[0] - 1)),
        max(top, min(box.y + box.height, size[1] - 1)),
    )


def place_label(
    box: Corners, label: tuple[float, float], size: tuple[int, int], others: Sequence[Corners] = ()
) -> tuple[float, float]:
    """Choose the upper left corner of a label (width, height) for the face at ``box``.

    The candidates are above the box, below it and inside it, each at its left and its right edge. The first of
    those that cover the least of ``others`` (boxes and labels) wins. A label that fits into an image of ``size``
    (width, height) lies entirely inside it.
    """
    left, top, right, bottom = box
    width, height = label
    rows = [y for y in (top - height, bottom) if 0 <= y <= size[1] - height] + [top]
    places = [
        (max(0.0, min(x, size[0] - width)), max(0.0, min(y, size[1] - height)))
        for y in rows
        for x in (left, right - width)
    ]
    return min(
        places,
        key=lambda place: sum(_intersection((*place, place[0] + width, place[1] + height), o) for o in others),
    )


def _intersection(a: Corners, b: Corners) -> float:
    """Area of the intersection of two rectangles, in square pixels."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


@dataclass(frozen=True)
class Label:
    """The text of a face's emotion above a bar; sizes in pixels."""

    text: str
    confidence: float
    color: str
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont
    padding: float
    bar_height: int
    width: float
    height: float

    @classmethod
    def for_face(cls, face: FaceEmotion, box_width: float, max_width: int, pen: Pen) -> "Label":
        """Fit a label to a face's box, as wide as that is drawn; it is at most ``max_width`` wide."""
        number = f"{face.track}: " if isinstance(face, TrackedFace) and face.track else ""
        doubt = "" if face.reliable else "?"
        text = f"{number}{face.emotion}{doubt} {face.confidence:.0%}"
        # As wide as the box, so that labels in a group do not cover the neighbors, but legible; never wider than
        # the image.
        width_per_size = (ImageFont.load_default(100).getlength(text) + 2 * 100 * PADDING) / 100
        font_size = min(max(box_width / width_per_size, pen.min_font_size), pen.max_font_size)
        font_size = max(1.0, min(font_size, max_width / width_per_size))
        font = ImageFont.load_default(font_size)
        padding = font_size * PADDING
        _, y0, _, y1 = font.getbbox(text)
        bar_height = max(1, round(font_size * BAR_HEIGHT))
        return cls(
            text=text,
            confidence=face.confidence,
            color=COLORS[list(face.emotions).index(face.emotion) % len(COLORS)],
            font=font,
            padding=padding,
            bar_height=bar_height,
            width=min(max_width, font.getlength(text) + 2 * padding),
            height=y1 - y0 + 2 * padding + bar_height,
        )

    def draw(self, draw: ImageDraw.ImageDraw, corners: Corners) -> None:
        """Draw the label at a rectangle of its size."""
        x, y = corners[:2]
        bottom = y + self.height - 1
        draw.rectangle((x, y, x + self.width - 1, bottom), fill=self.color)
        text_color = LIGHT_TEXT if self.color in DARK_BACKGROUNDS else DARK_TEXT
        bar = (x, bottom - self.bar_height + 1, x + (self.width - 1) * self.confidence, bottom)
        draw.rectangle(bar, fill=text_color)
        x0, y0, _, _ = self.font.getbbox(self.text)
        draw.text((x + self.padding - x0, y + self.padding - y0), self.text, fill=text_color, font=self.font)
