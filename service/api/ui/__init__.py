"""Serves the page at ``/``: static files in this folder, from memory, with a strict Content-Security-Policy.

Documents are written in Markdown and served as HTML.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from fastapi import APIRouter
from markdown_it import MarkdownIt
from starlette.requests import Request
from starlette.responses import Response

FOLDER: Final = Path(__file__).parent

MEDIA_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
}
"""Files with these suffixes are served."""

EXAMPLE: Final = FOLDER / "example.jpg"
"""Three drawn faces, for visitors without a photo at hand; `tandem example` writes them too."""

DOCUMENT: Final = FOLDER / "document.html"
"""The frame of a document, which is put in place of its line CONTENT."""


def policy(*more: str) -> str:
    """Return a Content-Security-Policy: only files of this origin and nothing inline, and what ``more`` says."""
    return "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            *more,
        )
    )


SECURITY_HEADERS: Final = {
    # No markup from strings. blob: is for the visitor's photo.
    "Content-Security-Policy": policy(
        "img-src 'self' blob:",
        "media-src 'self' blob:",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

router = APIRouter()


class PageFile:
    """An endpoint that serves one file."""

    def __init__(
        self, path: Path, headers: Mapping[str, str] = SECURITY_HEADERS, *, content: bytes | None = None
    ) -> None:
        self._content = path.read_bytes() if content is None else content
        etag = f'"{hashlib.sha256(self._content).hexdigest()[:32]}"'
        # Browsers ask every time and get a 304 until the file changes with a new version of the service.
        self._headers = {**headers, "ETag": etag, "Cache-Control": "no-cache"}
        self._media_type = MEDIA_TYPES[path.suffix]

    async def __call__(self, request: Request) -> Response:
        """Send the file, or 304 if the browser has it."""
        if request.headers.get("if-none-match") == self._headers["ETag"]:
            return Response(status_code=304, headers=self._headers)
        return Response(self._content, media_type=self._media_type, headers=self._headers)


def _document(path: Path) -> bytes:
    """Render a Markdown file. It may contain HTML, since it is ours."""
    content = MarkdownIt("commonmark").render(path.read_text(encoding="utf-8"))
    return DOCUMENT.read_text(encoding="utf-8").replace("CONTENT\n", content).encode()


def _add_files() -> None:
    for path in sorted(FOLDER.iterdir()):
        if path.suffix == ".md":
            page = path.with_suffix(".html")
            url, file = f"/page/{page.name}", PageFile(page, content=_document(path))
        elif path.suffix in MEDIA_TYPES and path != DOCUMENT:
            url, file = "/" if path.name == "index.html" else f"/page/{path.name}", PageFile(path)
        else:
            continue
        router.add_route(url, file.__call__, methods=["GET", "HEAD"], include_in_schema=False)


_add_files()
