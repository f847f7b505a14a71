"""Serves the API reference at ``/docs``: Swagger UI from this folder over ``/openapi.json``, and what it lacks.

Bundle and style sheet are those of the npm package swagger-ui-dist 5.35.0 (LICENSE-swagger-ui), without the
references to their source maps.
"""

from pathlib import Path
from typing import Final

from fastapi import APIRouter

from service.api.ui import MEDIA_TYPES, SECURITY_HEADERS, PageFile, policy

FOLDER: Final = Path(__file__).parent

HEADERS: Final = {
    **SECURITY_HEADERS,
    # The same as for the page, but Swagger UI has pictures in its style sheet, and makes markup from Markdown.
    "Content-Security-Policy": policy("img-src 'self' blob: data:"),
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}

router = APIRouter()


def _add_files() -> None:
    for path in sorted(FOLDER.iterdir()):
        if path.suffix in MEDIA_TYPES:
            url = "/docs" if path.name == "index.html" else f"/docs/{path.name}"
            router.add_route(
                url, PageFile(path, HEADERS).__call__, methods=["GET", "HEAD"], include_in_schema=False
            )


_add_files()
