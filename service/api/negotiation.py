"""Which form of answer a caller's ``Accept`` header asks for (RFC 9110, section 12.5.1)."""

from collections.abc import Sequence

from service.errors import NotAcceptable


def choose_media_type(accept: str | None, offered: Sequence[str]) -> str:
    """The offered media type that the caller likes best; of equals the first offered.

    Raises:
        NotAcceptable: the caller takes none of them.
    """
    if not accept or not accept.strip():
        return offered[0]
    ranges = [_parse(part) for part in accept.split(",")]
    best = max(offered, key=lambda kind: _quality(kind, ranges))  # max keeps the first of equals
    if _quality(best, ranges) <= 0:
        raise NotAcceptable(f"Accept is {accept[:200]!r}; an answer is given as {', '.join(offered)}")
    return best


def _parse(part: str) -> tuple[str, float]:
    kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
    quality = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                quality = float(value)
            except ValueError:
                quality = 0.0
    return kind, quality


def _quality(kind: str, ranges: Sequence[tuple[str, float]]) -> float:
    """The quality of the most specific range that covers ``kind``; 0 where none does."""
    for pattern in (kind, f"{kind.partition('/')[0]}/*", "*/*"):
        for named, quality in ranges:
            if named == pattern:
                return quality
    return 0.0
