"""Multipart forms, parsed in memory while the body arrives.

Starlette's parser is not used. Even if told to keep every file in memory, it awaits a write for every few hundred
bytes, which blocks the event loop for 34 ms per MB where this takes 1 ms; it holds a file four times; it reads a
photo in a field without a file name as text; and it accepts a body that is cut off.
"""

import io
import re
from dataclasses import dataclass, field

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from service.api.uploads.base64_text import decode_base64, pieces_of
from service.errors import BrokenUpload, UnsupportedUpload
from service.vision.file_types import HEAD_BYTES, describe, is_photo, is_zip

FIELD_NAME = re.compile(r"images?(?:\[\w*\])*")
"""A field that holds a photo: ``image`` or ``images``, also as lists are written in PHP, such as ``images[0]``."""

MAX_PREAMBLE_BYTES = 16 * 1024
"""Bytes before the first boundary, which mail clients explain multipart in (RFC 2046, section 5.1.1)."""

PART_HEADERS = (b"content-disposition", b"content-transfer-encoding")

IDENTITY_ENCODINGS = ("", "7bit", "8bit", "binary")

PRINTABLE = re.compile(rb"[\t\n\r\x20-\x7e]+")


@dataclass
class FormFile:
    """A file of a form.

    Attributes:
        name: The file name of its part; may be empty.
        field_name: The name of its part.
        encoding: The Content-Transfer-Encoding of its part.
        head: Its first bytes.
        size: The count of all of its bytes.
        content: All of its bytes, or nothing if they exceed the limit.
    """

    name: str
    field_name: str
    encoding: str = ""
    head: bytes = b""
    size: int = 0
    content: io.BytesIO = field(default_factory=io.BytesIO)

    @classmethod
    def of(cls, body: bytes) -> "FormFile":
        """Return a photo that was sent without a form."""
        return cls("", "", head=body[:HEAD_BYTES], size=len(body), content=io.BytesIO(body))

    @property
    def is_text(self) -> bool:
        """Whether the photo is in base64: said so, a ``data:`` URL, or text without a file name."""
        head = self.head
        return (
            self.encoding == "base64"
            or head[:7].lower().startswith((b"data:", b"data%3a"))
            or (not self.name and not is_photo(head) and not is_zip(head) and bool(PRINTABLE.fullmatch(head)))
        )

    def read(self) -> bytes:
        """Return the photo. If ``is_text``, it is decoded, which takes a millisecond for each 256 KiB.

        Raises:
            BrokenUpload: It should be base64 and is not.
            UnsupportedUpload: It has another transfer encoding.
        """
        content = self.content.getvalue()
        if self.encoding not in (*IDENTITY_ENCODINGS, "base64"):
            raise UnsupportedUpload(
                f"field {self.field_name!r} has Content-Transfer-Encoding {self.encoding[:50]!r}; "
                "send it as binary or base64"
            )
        return decode_base64(pieces_of(content), f"field {self.field_name!r}") if self.is_text else content


class FormParser:
    """Collects the files of the fields that hold photos (``FIELD_NAME``) and skips all other fields."""

    def __init__(self, boundary: bytes | None, *, field: str, max_parts: int, max_file_bytes: int) -> None:
        """Start with nothing parsed.

        Raises:
            BrokenUpload: There is no boundary, or an invalid one.
        """
        if not boundary:
            raise BrokenUpload("the multipart content type has no boundary")
        self.files: list[FormFile] = []
        self._field = field
        self._max_parts = max_parts
        self._max_file_bytes = max_file_bytes
        self._other_fields: list[str] = []
        self._file: FormFile | None = None
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._part_headers: dict[bytes, bytes] = {}
        self._complete = False
        self._delimiter = b"--" + boundary
        self._preamble: bytes | None = b""
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_end": self._on_end,
                },
            )
        except FormParserError as error:
            raise BrokenUpload(f"the multipart boundary is invalid: {error}") from None

    def feed(self, chunk: bytes) -> None:
        """Parse the next bytes of the body.

        Raises:
            BrokenUpload: They are not a multipart form, or there are too many parts.
        """
        if self._preamble is not None:
            chunk = self._without_preamble(chunk)
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise BrokenUpload(f"the multipart body is broken: {error}") from None

    def _without_preamble(self, chunk: bytes) -> bytes:
        """Return what of the body so far the parser can read: nothing before the first boundary."""
        body = (self._preamble or b"") + chunk
        start = 0 if body.startswith(self._delimiter) else body.find(b"\n" + self._delimiter) + 1
        if start or body.startswith(self._delimiter):
            self._preamble = None
            return body[start:]
        if len(body) > MAX_PREAMBLE_BYTES:
            raise self._no_boundary(body)
        self._preamble = body
        return b""

    def _no_boundary(self, body: bytes) -> BrokenUpload:
        delimiter = self._delimiter[:100].decode("latin-1")
        first_line = body.lstrip().partition(b"\n")[0].strip()[:100]
        looks = describe(body)
        begins = f"begins with {first_line.decode('latin-1')!r}" if PRINTABLE.fullmatch(first_line) else ""
        found = begins or (f"looks like {looks}" if looks else "")
        return BrokenUpload(
            f"the multipart body has no line {delimiter!r}, which the boundary in Content-Type says"
            + (f"; it {found}" if found else "")
        )

    def close(self) -> None:
        """Let go of the files: parser and callbacks refer to each other, which only the garbage collector ends."""
        self._parser.callbacks = {}

    def finish(self) -> list[FormFile]:
        """Return the files, at least one.

        Raises:
            BrokenUpload: The body is cut off, or has no file in the field.
        """
        if self._preamble:
            raise self._no_boundary(self._preamble)
        if not self._complete:
            raise BrokenUpload("the multipart body is empty or cut off")
        if not self.files:
            others = ", ".join(repr(name[:50]) for name in self._other_fields)
            raise BrokenUpload(f"the form has no field {self._field!r}" + (f"; it has {others}" if others else ""))
        return self.files

    def _on_part_begin(self) -> None:
        self._part_headers = {}
        if len(self.files) + len(self._other_fields) >= self._max_parts:
            raise BrokenUpload(f"the form has too many fields; the limit is {self._max_parts}")

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        name = bytes(self._header_name.lower())
        if name in PART_HEADERS:
            self._part_headers[name] = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._part_headers.get(b"content-disposition"))
        name, filename = (options.get(key, b"").decode("utf-8", "replace") for key in (b"name", b"filename"))
        if FIELD_NAME.fullmatch(name):
            encoding = self._part_headers.get(b"content-transfer-encoding", b"").decode("latin-1").strip().lower()
            self._file = FormFile(filename, name, encoding)
            self.files.append(self._file)
        else:
            self._file = None
            self._other_fields.append(name)

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is None:
            return
        if len(self._file.head) < HEAD_BYTES:
            self._file.head += data[start : min(end, start + HEAD_BYTES)]
        self._file.size += end - start
        if self._file.size <= self._max_file_bytes:
            self._file.content.write(data[start:end])
        else:
            self._file.content = io.BytesIO()

    def _on_end(self) -> None:
        self._complete = True
