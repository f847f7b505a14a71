"""The formats of a photo's answer: JSON, the annotated picture, or both as multipart/mixed; ``Accept`` chooses."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from starlette.responses import Response

from service.analyzer import Analysis
from service.errors import NotAcceptable
from service.observability.metrics import server_timing
from service.schemas import FACE_FIELDS, FrameEmotions, PhotoEmotions
from service.vision.drawing import IMAGE_FORMATS

JSON_TYPE: Final = "application/json"
MIXED_TYPE: Final = "multipart/mixed"
PICTURE_RANGES: Final = ("image/", MIXED_TYPE, "multipart/*")
OCTET_STREAM: Final = "application/octet-stream"
ANSWER_TYPES: Final = (JSON_TYPE, *IMAGE_FORMATS, MIXED_TYPE)
PICTURE_TYPES: Final = (*IMAGE_FORMATS, OCTET_STREAM)


@dataclass(frozen=True)
class ResponseFormat:
    """The media type of an answer, and that of the picture in it, if it has one."""

    media_type: str
    picture_type: str | None

    @classmethod
    def for_accept(cls, accept: str | None) -> "ResponseFormat":
        """Choose the format that an ``Accept`` header prefers, and JSON if it leaves the choice.

        A picture is sent only to who prefers it to everything else. Browsers and Java's HttpURLConnection name
        image types too, beside text/html and before */*, whatever they ask for: they get JSON.

        The picture in ``multipart/mixed`` has the image type that the header names too, else it is a JPEG.

        Raises:
            NotAcceptable: The header allows none of the formats.
        """
        media_type = choose_media_type(accept, ANSWER_TYPES)
        if media_type == JSON_TYPE or _leaves_the_choice(accept or "", media_type):
            return cls(JSON_TYPE, None)
        if media_type in IMAGE_FORMATS:
            return cls(media_type, media_type)
        try:
            return cls(media_type, choose_media_type(accept, tuple(IMAGE_FORMATS)))
        except NotAcceptable:
            return cls(media_type, next(iter(IMAGE_FORMATS)))

    @classmethod
    def picture_for_accept(cls, accept: str | None) -> "ResponseFormat":
        """Choose the type of a picture; it is a JPEG if the header leaves the choice, or asks for octets.

        Raises:
            NotAcceptable: The header allows none of the types.
        """
        media_type = choose_media_type(accept, PICTURE_TYPES)
        return cls(media_type, media_type if media_type in IMAGE_FORMATS else next(iter(IMAGE_FORMATS)))


def choose_media_type(accept: str | None, offered: Sequence[str]) -> str:
    """Return the offered media type that an ``Accept`` header prefers (RFC 9110, section 12.5.1).

    Of types with equal quality, the first offered is chosen.

    Raises:
        NotAcceptable: The header allows none of them.
    """
    if not accept or not accept.strip(" \t,"):
        return offered[0]
    ranges = _parse(accept)
    best = max(offered, key=lambda media_type: _quality(media_type, ranges))  # the first of equals
    if _quality(best, ranges) <= 0:
        raise NotAcceptable(f"Accept is {accept[:200]!r}; the available media types are {', '.join(offered)}")
    return best


def _leaves_the_choice(accept: str, media_type: str) -> bool:
    """Whether the header takes JSON too, and prefers some type that is not offered no less than ``media_type``."""
    ranges = _parse(accept)
    if _quality(JSON_TYPE, ranges) <= 0:
        return False
    wanted = _quality(media_type, ranges)
    return any(quality >= wanted and not pattern.startswith(PICTURE_RANGES) for pattern, quality in ranges)


def _parse(accept: str) -> list[tuple[str, float]]:
    return [_parse_range(part) for part in accept.split(",") if part.strip()]


def _parse_range(part: str) -> tuple[str, float]:
    media_range, *parameters = (piece.strip().lower() for piece in part.split(";"))
    media_range = "*/*" if media_range == "*" else media_range  # as older JDKs write it
    quality = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                quality = min(1.0, max(0.0, float(value)))
            except ValueError:
                quality = 0.0
    return media_range, quality


def _quality(media_type: str, ranges: Sequence[tuple[str, float]]) -> float:
    """The quality of the most specific range that covers the media type; 0 if none does."""
    for pattern in (media_type, f"{media_type.partition('/')[0]}/*", "*/*"):
        for media_range, quality in ranges:
            if media_range == pattern:
                return quality
    return 0.0


def to_json(answer: PhotoEmotions | FrameEmotions, face_fields: frozenset[str]) -> bytes:
    """Serialize an answer with only ``face_fields`` of each face."""
    left_out = set(FACE_FIELDS) - face_fields
    exclude = {"faces": {"__all__": left_out}} if left_out else None
    return answer.model_dump_json(exclude=exclude).encode()


def render(analysis: Analysis, response_format: ResponseFormat, face_fields: frozenset[str]) -> Response:
    """Build the response that carries an analysis in the given format."""
    headers = {"Server-Timing": server_timing(analysis.seconds), "Vary": "Accept"}
    text = to_json(analysis.answer, face_fields)
    picture, picture_type = analysis.picture, response_format.picture_type
    media_type = response_format.media_type
    if picture is None or picture_type is None:
        return Response(text, media_type=media_type, headers=headers)
    if media_type != MIXED_TYPE:
        return Response(picture, media_type=media_type, headers=headers)
    boundary = uuid.uuid4().hex  # the chance that a part contains it is 2^-122 per byte
    body = _multipart(boundary, [(JSON_TYPE, text), (picture_type, picture)])
    return Response(body, media_type=f"{MIXED_TYPE}; boundary={boundary}", headers=headers)


def _multipart(boundary: str, parts: Sequence[tuple[str, bytes]]) -> bytes:
    """Join parts of (media type, content) as in RFC 2046, section 5.1."""
    pieces = []
    for media_type, content in parts:
        head = f"--{boundary}\r\nContent-Type: {media_type}\r\nContent-Length: {len(content)}\r\n\r\n"
        pieces += [head.encode(), content, b"\r\n"]
    return b"".join([*pieces, f"--{boundary}--\r\n".encode()])
