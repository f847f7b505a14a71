"""The forms in which one photo's answer is given: JSON, the annotated picture, or both as multipart/mixed."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from starlette.responses import Response

from service.analyzer import Analysis
from service.api.negotiation import choose_media_type
from service.errors import NotAcceptable
from service.observability.metrics import server_timing
from service.schemas import FACE_FIELDS, FrameEmotions, PhotoEmotions
from service.vision.drawing import IMAGE_FORMATS

JSON_TYPE: Final = "application/json"
MIXED_TYPE: Final = "multipart/mixed"
ANSWER_TYPES: Final = (JSON_TYPE, *IMAGE_FORMATS, MIXED_TYPE)


@dataclass(frozen=True)
class Form:
    """The media type of an answer, and that of the picture in it, if it has one."""

    media_type: str
    picture_type: str | None

    @classmethod
    def for_accept(cls, accept: str | None) -> "Form":
        """The form that an ``Accept`` header asks for; JSON for everything that leaves the choice.

        In ``multipart/mixed`` the picture is of the image type that the header names too, else JPEG.

        Raises:
            NotAcceptable: the header allows none of them.
        """
        media_type = choose_media_type(accept, ANSWER_TYPES)
        if media_type == JSON_TYPE:
            return cls(media_type, None)
        if media_type in IMAGE_FORMATS:
            return cls(media_type, media_type)
        try:
            return cls(media_type, choose_media_type(accept, tuple(IMAGE_FORMATS)))
        except NotAcceptable:
            return cls(media_type, next(iter(IMAGE_FORMATS)))


def to_json(answer: PhotoEmotions | FrameEmotions, face_fields: frozenset[str]) -> bytes:
    """The answer as JSON, with only ``face_fields`` of each face."""
    left_out = set(FACE_FIELDS) - face_fields
    exclude = {"faces": {"__all__": left_out}} if left_out else None
    return answer.model_dump_json(exclude=exclude).encode()


def render(analysis: Analysis, form: Form, face_fields: frozenset[str]) -> Response:
    """The response that carries an analysis in the form asked for."""
    headers = {"Server-Timing": server_timing(analysis.seconds), "Vary": "Accept"}
    text = to_json(analysis.answer, face_fields)
    picture, picture_type = analysis.picture, form.picture_type
    if picture is None or picture_type is None:
        return Response(text, media_type=form.media_type, headers=headers)
    if form.media_type in IMAGE_FORMATS:
        return Response(picture, media_type=form.media_type, headers=headers)
    boundary = uuid.uuid4().hex  # chance alone keeps it out of the parts, 2^-122 a place
    body = _multipart(boundary, [(JSON_TYPE, text), (picture_type, picture)])
    return Response(body, media_type=f"{MIXED_TYPE}; boundary={boundary}", headers=headers)


def _multipart(boundary: str, parts: Sequence[tuple[str, bytes]]) -> bytes:
    """Parts of (media type, content) as the body of RFC 2046, section 5.1."""
    pieces = []
    for media_type, content in parts:
        head = f"--{boundary}\r\nContent-Type: {media_type}\r\nContent-Length: {len(content)}\r\n\r\n"
        pieces += [head.encode(), content, b"\r\n"]
    return b"".join([*pieces, f"--{boundary}--\r\n".encode()])
