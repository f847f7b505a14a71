"""Random requests to every part of the HTTP interface; most are almost right, which gets them furthest in."""

import base64
import io
import json
import random
import struct
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from .seeds import encoded, face, seeds

# fmt: off
ROUTES = (
    "/v1/emotions", "/v1/emotions/batch", "/v1/stream", "/v1/model", "/", "/docs", "/openapi.json", "/livez",
    "/readyz",
    "/metrics", "/favicon.ico", "/nothing", "/v1/", "/v1/emotions/", "//v1/emotions", "*", "",
)
METHODS = (
    "GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "PRI", "get", "P OST", "",
)
QUERIES = (
    "", "?max_faces=1", "?threshold=0.9", "?max_faces=-1", "?threshold=nan", "?min_face_size=1e308", "?%00=%ff",
    "?x=" + "y" * 5000, "?max_faces=1&max_faces=2", "?include=landmarks", "?threshold=%F0%9F%98%80",
)
NAMES = (
    "Host", "Content-Type", "Content-Length", "Transfer-Encoding", "Connection", "Upgrade", "Accept",
    "X-Request-ID",
    "traceparent", "tracestate", "Authorization", "X-API-Key", "X-Forwarded-For", "Origin", "Expect", "Range",
    "TE",
    "Content-Encoding", "Sec-WebSocket-Key", "Sec-WebSocket-Version", "Sec-WebSocket-Protocol", "Cookie",
    "Trailer",
    "Sec-WebSocket-Extensions", "If-None-Match", "Forwarded", "X-A", "X y", "",
)
VALUES = (
    "", "0", "-1", "1", "9" * 30, "identity", "chunked", "gzip", "close", "keep-alive", "Upgrade", "websocket",
    "*/*",
    "image/png", "image/jpeg;q=0.1, */*;q=nan", "multipart/mixed", "text/html", "application/json", "image/jpeg",
    "a" * 3000, "\x01", "\xff\xfe", "\t", "${jndi:ldap://x}", "00-" + "0" * 32 + "-" + "1" * 16 + "-01",
    "%0d%0aX: y",
    "abc\x1b[2J", "13", "8", "bytes=0-1", "127.0.0.1, 10.0.0.1, " * 50, "100-continue", "null", "http://other",
)
# fmt: on


@dataclass(frozen=True)
class Case:
    """What is sent on one connection, in these pieces."""

    pieces: list[bytes]
    is_head: bool = False
    is_stream: bool = False
    is_cut: bool = False
    """Whether the sender closes its side after the last piece."""


@cache
def photo() -> bytes:
    return encoded(face().resize((64, 64)), "JPEG")


def damaged(random: random.Random, data: bytes, share: float = 0.7) -> bytes:
    """Change, remove, repeat or insert some bytes, unless chance leaves all as it is."""
    if random.random() > share or not data:
        return data
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 5, 30))):
        at = random.randrange(len(changed) + 1)
        length = random.choice((1, 1, 2, 8, 100))
        match random.randrange(4):
            case 0:
                changed[at : at + length] = random.randbytes(length)
            case 1:
                del changed[at : at + length]
            case 2:
                changed[at:at] = changed[at : at + length] * random.choice((1, 2, 50))
            case _:
                changed[at:at] = random.choice(
                    (b"\0", b"\r\n", b"\n", b'"', b"\xff" * 4, b"--", b"\\u0000", b"0\r\n\r\n")
                )
    return bytes(changed)


def cut(random: random.Random, data: bytes) -> list[bytes]:
    """Cut into a few pieces at random."""
    places = sorted(random.randrange(len(data) + 1) for _ in range(random.choice((0, 0, 1, 3, 10))))
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


def request(
    random: random.Random, body: bytes = b"", kind: str = "image/jpeg", path: str = "/v1/emotions", more: str = ""
) -> bytes:
    """A POST with a body of the right length, or in chunks."""
    head = f"POST {path}{random.choice(QUERIES) if random.random() < 0.2 else ''} HTTP/1.1\r\nHost: t\r\n{more}"
    head += f"Content-Type: {kind}\r\n" if kind else ""
    if random.random() < 0.7:
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode("latin-1") + body
    return f"{head}Transfer-Encoding: chunked\r\n\r\n".encode("latin-1") + chunked(random, body)


def chunked(random: random.Random, body: bytes) -> bytes:
    size = random.choice((1, 7, 300, 5000, 70_000))
    parts = [body[start : start + size] for start in range(0, min(len(body), 400 * size), size)]
    extension = random.choice((b"", b"", b"", b"", b"", b"", b";a=b", b" ", b";" + b"x" * 1000))
    lines = b"".join(b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts)
    trailer = random.choice(
        (b"", b"", b"", b"", b"X-Trailer: 1\r\n", b"Content-Length: 5\r\n", b"x" * 500 + b"\r\n")
    )
    return lines + b"0\r\n" + trailer + b"\r\n"


def raw(random: random.Random) -> Case:
    """Anything at all."""
    data = random.randbytes(random.choice((1, 20, 300, 5000)))
    if random.random() < 0.5:
        data = (
            random.choice(
                (b"GET / HTTP/1.1\r\n", b"POST ", b"\x16\x03\x01", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\r\n")
            )
            + data
        )
    return Case(cut(random, data), is_cut=random.random() < 0.3)


def heads(random: random.Random) -> Case:
    """Request lines and headers in all combinations."""
    method, path = random.choice(METHODS), random.choice(ROUTES) + random.choice(QUERIES)
    version = random.choice(("HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/0.9", "HTTP/2.0", ""))
    lines = [f"{method} {path} {version}"]
    lines += ["Host: t"] if random.random() < 0.9 else []
    lines += [
        f"{random.choice(NAMES)}: {random.choice(VALUES)}" for _ in range(random.choice((0, 1, 2, 3, 8, 200)))
    ]
    end = random.choice(("\r\n", "\r\n", "\r\n", "\n"))
    data = (end.join(lines) + 2 * end).encode("latin-1") + (photo() if random.random() < 0.3 else b"")
    return Case(cut(random, damaged(random, data, 0.2)), is_head="HEAD" in method)


def chunks(random: random.Random) -> Case:
    """Bodies in chunks that are almost right."""
    head = (
        b"POST /v1/emotions HTTP/1.1\r\nHost: t\r\nContent-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    data = damaged(random, chunked(random, photo() * random.choice((1, 1, 300))))
    after = b"GET /livez HTTP/1.1\r\nHost: t\r\n\r\n" * random.choice((0, 1, 30))
    return Case(cut(random, head + data + after), is_cut=random.random() < 0.2)


def photos(random: random.Random) -> Case:
    """Damaged photos of every format, asked for in every form of answer."""
    file = damaged(random, random.choice([photo(), *seeds().values()]))
    accept = random.choice(
        ("", "", "Accept: image/png\r\n", "Accept: image/webp\r\n", "Accept: multipart/mixed\r\n")
    )
    kind = random.choice(("image/jpeg", "image/png", "image/heic", "image/x", "application/octet-stream", ""))
    return Case(cut(random, request(random, file, kind, more=accept)))


def multipart(random: random.Random) -> Case:
    """Forms for a photo or a batch."""
    boundary = random.choice((b"b", b"-" * 30, b"x" * 70, b"a b", b"b\xff"))
    path, field = random.choice((("/v1/emotions", b"image"), ("/v1/emotions/batch", b"images")))
    parts = []
    for _ in range(random.choice((0, 1, 1, 1, 2, 5, 150))):
        name = random.choice((field, field, field, b"other", b"", b"\0"))
        file = random.choice(
            (b"a.jpg", b"../../etc/passwd", b"\x1b[2J\r\n", b"<img src=x onerror=alert(1)>", b"x" * 4000, b"\xff")
        )
        content = random.choice((photo(), photo(), b"", b"text", photo()[:100]))
        more = random.choice(
            (b"", b"", b"Content-Type: image/jpeg\r\n", b"Content-Transfer-Encoding: base64\r\n", b"X: y\r\n" * 50)
        )
        parts.append(
            b'Content-Disposition: form-data; name="%b"; filename="%b"\r\n%b\r\n%b' % (name, file, more, content)
        )
    body = b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + b"--" + boundary + b"--\r\n"
    stated = random.choice((boundary, boundary, boundary, b"", b"c"))
    kind = "multipart/form-data; boundary=" + stated.decode("latin-1")
    return Case(cut(random, request(random, damaged(random, body, 0.5), kind, path)))


def json_bodies(random: random.Random) -> Case:
    """JSON with a photo in base64, in any encoding, nested or repeated."""
    text = base64.b64encode(damaged(random, photo(), 0.3)).decode()
    values: list[object] = [text, text, "data:image/jpeg;base64," + text, " ".join(text), text[:-1], "é" + text]
    values += ["", None, 1e999, [text], {"image": text}, [[]] * 500]
    value: object = random.choice(values)
    for _ in range(random.choice((0, 0, 0, 1, 900))):
        value = [value]
    body = json.dumps(
        {random.choice(("image", "image", "image", "x", "")): value}, ensure_ascii=random.random() < 0.5
    )
    data = body.encode(random.choice(("utf-8", "utf-8", "utf-8", "utf-16", "latin-1")), "replace")
    return Case(cut(random, request(random, damaged(random, data, 0.3), "application/json")))


def zips(random: random.Random) -> Case:
    """ZIP archives with odd names, methods, sizes and directories."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(random.choice((0, 1, 2, 5, 150))):
            name = random.choice(
                ("a.jpg", "../../x", "/etc/passwd", "é" * 300, ".hidden", "d/", "C:\\x", "a\0b", "\x1b[2J")
            )
            method = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
            content = random.choice((photo(), photo(), b"", bytes(3_000_000), buffer.getvalue()[:10_000]))
            entry = zipfile.ZipInfo(name if random.random() < 0.5 else f"{number}.jpg")
            with warnings.catch_warnings(action="ignore"):  # two entries of one name
                archive.writestr(entry, content, method, 1)
    data = bytearray(buffer.getvalue())
    for signature, fields in ((b"PK\1\2", range(6, 46)), (b"PK\5\6", range(4, 22)), (b"PK\3\4", range(4, 30))):
        at = data.find(signature)
        if at >= 0 and random.random() < 0.3:
            field = at + random.choice(fields)
            data[field : field + 2] = random.choice((b"\0\0", b"\xff\xff", b"\1\0", b"\0\x80"))
    kind = random.choice(("application/zip", "application/zip", "application/x-zip-compressed"))
    return Case(cut(random, request(random, damaged(random, bytes(data), 0.4), kind, "/v1/emotions/batch")))


def frame(random: random.Random, opcode: int, data: bytes, *, final: bool = True, masked: bool = True) -> bytes:
    """A frame of a stream, whose length may be written longer than needed."""
    size, longer = len(data), random.random() < 0.05
    if size >= 65_536 or longer:
        length = b"\x7f" + struct.pack("!Q", size)
    elif size >= 126:
        length = b"\x7e" + struct.pack("!H", size)
    else:
        length = bytes([size])
    key = random.randbytes(4) if masked else b""
    hidden = bytes(byte ^ key[place % 4] for place, byte in enumerate(data)) if masked else data
    return (
        bytes([(0x80 if final else 0) | opcode, (0x80 if masked else 0) | length[0]]) + length[1:] + key + hidden
    )


def streams(random: random.Random) -> Case:
    """A handshake, and frames in any order."""
    query = random.choice(("", "", "?track=true", "?smooth=0.5", "?smooth=2", "?x=1"))
    handshake = (
        f"GET /v1/stream{query} HTTP/1.1\r\nHost: t\r\n"
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ).encode()
    frames = b""
    for _ in range(random.choice((1, 2, 5, 5, 100))):
        opcode = random.choice((2, 2, 2, 2, 0, 1, 8, 9, 10, 3, 15))
        content = random.choice((photo(), photo(), b"", b"x" * 125, b"\x03\xe8bye", b"\xff\xff", photo()[:50]))
        frames += frame(random, opcode, content, final=random.random() < 0.8, masked=random.random() < 0.97)
    ending = random.choice((b"", frame(random, 8, b"\x03\xe8")))
    pieces = [damaged(random, handshake, 0.05), *cut(random, damaged(random, frames, 0.3) + ending)]
    return Case(pieces, is_stream=True, is_cut=random.random() < 0.1)


KINDS: dict[str, Callable[[random.Random], Case]] = {
    "raw bytes": raw,
    "heads": heads,
    "chunks": chunks,
    "photos": photos,
    "multipart": multipart,
    "JSON": json_bodies,
    "ZIP": zips,
    "streams": streams,
}


def make(kind: str, seed: int, number: int) -> Case:
    """Make a case, the same one every time."""
    return KINDS[kind](random.Random(f"{seed} {kind} {number}"))  # noqa: S311 - not a secret
