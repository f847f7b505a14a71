"""What a HEIF file makes a decoder do, read from its boxes (ISO/IEC 14496-12 and 23008-12).

An image can be derived from others, by reference: a grid or an overlay of one coded image, named again and again,
or turned any number of times. So a few bytes can ask for hours of work, whatever size the image states.
"""

import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

Box = tuple[bytes, memoryview]
"""Kind and content of a box."""

MAX_DEPTH = 8
"""How many times an image may be derived from a derived image."""

ALPHA_TYPES = (
    b"urn:mpeg:avc:2015:auxid:1",
    b"urn:mpeg:hevc:2015:auxid:1",
    b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha",
)
"""Of auxiliary images those that are decoded; depth and gain maps are not."""

TRANSFORMATIONS = (b"irot", b"imir", b"clap")
"""Properties that turn, mirror or crop an image."""


class HeifBroken(ValueError):
    """The boxes are not what the standard says, or there is no image."""


@dataclass
class HeifImages:
    """The images of a file, as far as they decide what decoding costs.

    Attributes:
        pixels: of each image, as it states them.
        transformations: of each image, how many of each kind it has.
        sources: of each derived image, those it is made of.
        alphas: of each image, its alpha channels, which are images too.
    """

    pixels: dict[int, int] = field(default_factory=dict)
    transformations: dict[int, Counter[bytes]] = field(default_factory=dict)
    sources: dict[int, list[int]] = field(default_factory=dict)
    alphas: dict[int, list[int]] = field(default_factory=dict)

    def decoded_pixels(self) -> int:
        """Return how many pixels are decoded for the image that takes the most.

        Not only of the primary image: if a decoder cannot read that, it may take another one.

        Raises:
            HeifBroken: an image has no size, or is derived from itself.
        """
        known: dict[int, int] = {}
        return max((self._decoded(image, known, 0) for image in {*self.pixels, *self.sources}), default=0)

    def _decoded(self, image: int, known: dict[int, int], depth: int) -> int:
        if depth > MAX_DEPTH:
            raise HeifBroken(f"an image is derived from others more than {MAX_DEPTH} times")
        if image not in known:
            parts = [*self.sources.get(image, ()), *self.alphas.get(image, ())]
            if image not in self.sources and image not in self.pixels:
                raise HeifBroken("an image has no size")
            own = 0 if image in self.sources else self.pixels[image]
            known[image] = own + sum(self._decoded(part, known, depth + 1) for part in parts)
        return known[image]


def read_images(file: bytes) -> HeifImages:
    """Read the boxes.

    Raises:
        HeifBroken: they cannot be read, or could be read in several ways.
    """
    try:
        return _read_images(memoryview(file))
    except (struct.error, IndexError):
        raise HeifBroken("its boxes are cut off") from None


def _read_images(file: memoryview) -> HeifImages:
    images = HeifImages()
    meta = _only(list(_boxes(file)), b"meta")
    inside = list(_boxes(meta[4:]))
    properties = list(_boxes(_only(inside, b"iprp")))
    known = list(_boxes(_only(properties, b"ipco")))
    alphas = set()
    for kind, content in properties:
        for image, index in _associations(content) if kind == b"ipma" else ():
            if not 0 < index <= len(known):
                continue
            name, value = known[index - 1]
            if name == b"ispe":
                width, height = struct.unpack_from(">II", value, 4)
                images.pixels[image] = max(images.pixels.get(image, 0), width * height)
            elif name in TRANSFORMATIONS:
                images.transformations.setdefault(image, Counter())[name] += 1
            elif name == b"auxC" and bytes(value[4:]).split(b"\0")[0] in ALPHA_TYPES:
                alphas.add(image)
    for kind, content in inside:
        for name, image, others in _references(content) if kind == b"iref" else ():
            if name == b"dimg":
                images.sources.setdefault(image, []).extend(others)
            elif name == b"auxl" and image in alphas:
                for other in others:
                    images.alphas.setdefault(other, []).append(image)
    return images


def _boxes(data: memoryview) -> Iterator[Box]:
    position = 0
    while position + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        start = position + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, start)
            start += 8
        end = len(data) if size == 0 else position + size
        if end < start:
            raise HeifBroken("a box is smaller than its header")
        yield kind, data[start:end]
        position = end


def _only(boxes: list[Box], kind: bytes) -> memoryview:
    found = [content for each, content in boxes if each == kind]
    if len(found) != 1:
        raise HeifBroken(f"it has {len(found)} boxes {kind.decode()!r}")
    return found[0]


def _integer(data: memoryview, at: int, size: int) -> int:
    if at + size > len(data):
        raise IndexError
    return int.from_bytes(data[at : at + size])


def _associations(ipma: memoryview) -> Iterator[tuple[int, int]]:
    """Yield images and the properties they have, counted from one."""
    number_bytes = 4 if ipma[0] else 2
    index_bytes = 2 if ipma[3] & 1 else 1
    position = 8
    for _ in range(_integer(ipma, 4, 4)):
        image = _integer(ipma, position, number_bytes)
        position += number_bytes
        count = ipma[position]
        position += 1
        for _ in range(count):
            yield image, _integer(ipma, position, index_bytes) & (0x7FFF if index_bytes == 2 else 0x7F)
            position += index_bytes


def _references(iref: memoryview) -> Iterator[tuple[bytes, int, list[int]]]:
    """Yield the kind of each reference, the image that it is from, and those that it is to."""
    size = 4 if iref[0] else 2
    for kind, content in _boxes(iref[4:]):
        count = _integer(content, size, 2)
        yield (
            kind,
            _integer(content, 0, size),
            [_integer(content, size + 2 + n * size, size) for n in range(count)],
        )
