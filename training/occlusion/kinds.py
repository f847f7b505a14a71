"""The kinds of things that are drawn over a face: what hides its eyes or mouth, and what does not.

Shapes are given in the coordinates of the face: the origin lies between the eyes, x runs along them and y down the
face, one unit is the distance between the eyes, and the mouth is at (0, ``MOUTH``).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.float64]
"""x and y, [n, 2]."""

MOUTH = 1.05
FEATURES = (((-0.5, 0.0), 0.26, 0.18), ((0.5, 0.0), 0.26, 0.18), ((0.0, MOUTH), 0.42, 0.22))
"""The ellipses of eyes and mouth: center, and half of the width and of the height."""


def ellipse(
    center: ArrayLike, half_width: float, half_height: float, angle: float = 0, exponent: float = 2
) -> Points:
    """Return the outline of an ellipse, or with a higher exponent of a rounded rectangle, turned by ``angle``."""
    t = np.linspace(0, 2 * math.pi, 28, endpoint=False)
    cosine, sine = (np.sign(v) * np.abs(v) ** (2 / exponent) for v in (np.cos(t), np.sin(t)))
    points = np.column_stack([cosine * half_width, sine * half_height])
    return np.asarray(_turned(points, angle) + np.asarray(center), np.float64)


def rectangle(left: float, top: float, right: float, bottom: float) -> Points:
    """Return the corners of a rectangle."""
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def _turned(points: Points, angle: float) -> Points:
    cosine, sine = math.cos(angle), math.sin(angle)
    turned: Points = points @ np.array([[cosine, sine], [-sine, cosine]])
    return turned


def _fingers(rng: Generator, center: Sequence[float], angle: float) -> list[Points]:
    count, width, length = rng.integers(3, 6), rng.uniform(0.2, 0.3), rng.uniform(1.0, 2.0)
    across = np.array([-math.sin(angle), math.cos(angle)])
    return [
        ellipse(
            center + across * (index - (count - 1) / 2) * width * 1.02,
            length * rng.uniform(0.85, 1.1) / 2,
            width / 2,
            angle,
            exponent=4,
        )
        for index in range(count)
    ]


def _mask(rng: Generator) -> list[Points]:
    right = [(0, 0.28), (0.5, 0.46), (1.05, 0.53), (0.9, 1.45), (0.45, 1.85), (0, 2.0)]
    outline = np.array([*right, *((-x, y) for x, y in reversed(right[1:-1]))])
    outline[:, 1] += rng.normal(0, 0.12)
    return [outline + rng.normal(0, 0.07, outline.shape)]


def _scarf(rng: Generator) -> list[Points]:
    points = rectangle(-2.2, 0.62, 2.2, 3.5)
    points[:2, 1] += rng.normal(0, 0.1) + rng.normal(0, 0.07, 2)
    return [points]


def _hand_over_mouth(rng: Generator) -> list[Points]:
    if rng.random() < 0.4:  # a fist
        center = (rng.normal(0, 0.1), MOUTH + rng.normal(0.1, 0.12))
        return [ellipse(center, rng.uniform(0.45, 0.8), rng.uniform(0.4, 0.8), exponent=rng.choice([2, 3]))]
    angle = rng.uniform(-0.7, 0.7) + (math.pi / 2 if rng.random() < 0.3 else 0)
    shapes = _fingers(rng, (rng.normal(0, 0.12), MOUTH + rng.normal(0, 0.1)), angle)
    if rng.random() < 0.4:  # and the palm
        shapes.append(ellipse((rng.uniform(-0.9, 0.9), MOUTH + 0.2), rng.uniform(0.5, 0.9), rng.uniform(0.4, 0.7)))
    return shapes


def _hand_over_eye(rng: Generator) -> list[Points]:
    side = rng.choice([-0.5, 0.5])
    center = (side + rng.normal(0, 0.06), rng.normal(0, 0.06))
    if rng.random() < 0.5:
        size = rng.uniform(0.38, 0.9), rng.uniform(0.35, 0.9)
        return [ellipse(center, *size, rng.uniform(0, math.pi), exponent=rng.choice([2, 3, 4]))]
    return _fingers(rng, center, rng.uniform(-1.2, 1.2))


def _half(rng: Generator) -> list[Points]:
    edge = rng.normal(0, 0.1)
    halves = [(-4, -4, edge, 4), (edge, -4, 4, 4), (-4, -4, 4, 0.3 + edge), (-4, 0.65 + edge, 4, 4)]
    return [rectangle(*halves[rng.integers(4)])]


def _sunglasses(rng: Generator) -> list[Points]:
    size, exponent, y = (
        (rng.uniform(0.36, 0.52), rng.uniform(0.24, 0.42)),
        rng.choice([2, 3, 5]),
        rng.normal(0.04, 0.05),
    )
    lenses = [ellipse((x, y), *size, exponent=exponent) for x in (-0.5, 0.5)]
    if rng.random() < 0.3:  # an eye patch
        return [lenses[rng.integers(2)], np.array([(-1.2, -0.7), (-1.2, -0.6), (1.0, -0.1), (1.0, -0.2)])]
    return [*lenses, rectangle(-0.3, y - 0.12, 0.3, y - 0.04)]


def _bar(rng: Generator) -> list[Points]:
    y, half = rng.normal(0, 0.06), rng.uniform(0.22, 0.45)
    if rng.random() < 0.7:
        return [rectangle(-1.2, y - half, 1.2, y + half)]
    return [rectangle(-0.8, MOUTH + y - half, 0.8, MOUTH + y + half)]


def _patch(rng: Generator) -> list[Points]:
    center, *_ = FEATURES[rng.integers(3)]
    middle = np.array(center) + rng.normal(0, 0.08, 2)
    if rng.random() < 0.4:  # a cup, a telephone, a sheet of paper
        size = rng.uniform(0.35, 0.6), rng.uniform(0.5, 1.1)
        return [_turned(rectangle(-size[0], -size[1], *size), rng.uniform(-0.5, 0.5)) + middle]
    t = np.sort(rng.uniform(0, 2 * math.pi, rng.integers(4, 10)))
    radii = rng.uniform(0.4, 0.95) * rng.uniform(0.8, 1.25, len(t))
    return [middle + np.column_stack([np.cos(t), np.sin(t)]) * radii[:, None]]


def _censored(rng: Generator) -> list[Points]:
    middle = np.array([(0, 0), (0, MOUTH), (-0.5, 0), (0.5, 0)][rng.integers(4)]) + rng.normal(0, 0.05, 2)
    return [ellipse(middle, rng.uniform(0.55, 0.95), rng.uniform(0.4, 0.6), exponent=5)]


def _hair(rng: Generator) -> list[Points]:
    side = rng.choice([-1, 1])
    strands = []
    for start in side * rng.uniform(0.3, 0.9) + rng.normal(0, 0.22, rng.integers(12, 40)):
        end, width = start + side * rng.uniform(-0.2, 0.3), rng.uniform(0.03, 0.1)
        bottom = rng.uniform(0.3, 1.2)
        strands.append(np.array([(start, -1.3), (start + width, -1.3), (end + width, bottom), (end, bottom)]))
    return strands


def _glasses(rng: Generator) -> list[Points]:
    size, exponent, y = (
        (rng.uniform(0.34, 0.48), rng.uniform(0.24, 0.4)),
        rng.choice([2, 3, 5]),
        rng.normal(0.05, 0.03),
    )
    width = rng.uniform(0.02, 0.06)
    frames = []
    for x in (-0.5, 0.5):
        outer = ellipse((x, y), *size, exponent=exponent)
        inner = ellipse((x, y), size[0] - width, size[1] - width, exponent=exponent)
        frames.append(np.concatenate([outer, outer[:1], inner[:1], inner[::-1]]))
    return frames


def _beside(rng: Generator) -> list[Points]:
    places = [(0, -0.9), (-1.2, 0.6), (1.2, 0.6), (0, 1.75), (-0.9, 1.5), (0.9, 1.5), (0, 0.5)]
    shapes = [ellipse(places[rng.integers(len(places))], rng.uniform(0.2, 0.45), rng.uniform(0.2, 0.45))]
    if rng.random() < 0.4:
        shapes.append(rectangle(-2, -4, 2, -0.55 + rng.normal(0, 0.1)))  # a hat
    return shapes


def _spot(rng: Generator) -> list[Points]:
    center, *_ = FEATURES[rng.integers(3)]
    angle, size = rng.uniform(0, 2 * math.pi), rng.uniform(0.04, 0.12, 2)
    return [ellipse(np.array(center) + 0.35 * np.array([math.cos(angle), math.sin(angle)]), *size)]


@dataclass(frozen=True)
class Kind:
    """What is drawn: its shapes, and its textures, of which one is chosen.

    Attributes:
        has_folds: Whether lines run across it, as between fingers.
        share: How often it is drawn, among those that hide something or among those that do not.
    """

    shapes: Callable[[Generator], list[Points]]
    textures: tuple[str, ...]
    has_folds: bool = False
    share: float = 0.1


ANY = ("plain", "plain", "shaded", "noise", "stripes", "dots", "photo", "skin", "white", "black", "mean")
ERASED = ("plain", "white", "black", "mean", "shaded", "noise", "noise", "photo")

HIDING = {
    "mask": Kind(
        _mask, ("plain", "plain", "white", "black", "shaded", "stripes", "dots", "photo"), has_folds=True
    ),
    "scarf": Kind(_scarf, (*ANY, "stripes", "photo")),
    "hand over the mouth": Kind(_hand_over_mouth, ("skin", "skin", "mean"), has_folds=True),
    "hand over an eye": Kind(_hand_over_eye, ("skin",), has_folds=True),
    "half erased": Kind(_half, ERASED),
    "sunglasses": Kind(_sunglasses, ("black", "black", "shaded", "plain")),
    "bar": Kind(_bar, ("black", "white", "plain", "mean")),
    "censored": Kind(_censored, ("coarse",)),
    "patch": Kind(_patch, ANY),
    "hair": Kind(_hair, ("black", "plain", "shaded")),
}
HARMLESS = {
    "nothing": Kind(lambda _: [], ("plain",), share=0.55),
    "glasses": Kind(_glasses, ("black", "plain"), share=0.2),
    "beside the features": Kind(_beside, ANY, share=0.15),
    "spot": Kind(_spot, ANY),
}
