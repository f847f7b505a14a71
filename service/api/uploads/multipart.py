"""Multipart forms, read part by part in memory: Starlette's own parser puts large parts into temporary files."""

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from service.errors import BrokenUpload


class FormReader:
    """Base of what reads a form; a subclass takes the parts that it wants as they come."""

    def __init__(self, boundary: bytes | None, *, max_parts: int) -> None:
        """Read a form with this boundary, of at most ``max_parts`` parts.

        Raises:
            BrokenUpload: there is no boundary.
        """
        if not boundary:
            raise BrokenUpload("the multipart content type has no boundary")
        self.complete = False
        self._parts = 0
        self._max_parts = max_parts
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._headers: dict[bytes, bytes] = {}
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
            raise BrokenUpload(f"the multipart boundary cannot be used: {error}") from None

    def feed(self, chunk: bytes) -> None:
        """Read the next bytes of the body.

        Raises:
            BrokenUpload: they are no multipart form, or it has too many parts.
        """
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise BrokenUpload(f"the multipart body is broken: {error}") from None

    def begin(self, name: str, filename: str) -> None:
        """A part begins; both names may be empty."""
        raise NotImplementedError

    def take(self, content: bytes) -> None:
        """The next bytes of the part that began last."""
        raise NotImplementedError

    def _on_part_begin(self) -> None:
        self._headers = {}
        self._parts += 1
        if self._parts > self._max_parts:
            raise BrokenUpload(f"the form has more than {self._max_parts} fields")

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[bytes(self._header_name).lower()] = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        name, filename = (options.get(key, b"").decode("utf-8", "replace") for key in (b"name", b"filename"))
        self.begin(name, filename)

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self.take(data[start:end])

    def _on_end(self) -> None:
        self.complete = True
