"""`tandem predict`: photos from files, answers from a gateway."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from service.annotation import annotate
from service.app import create_app
from service.faces.decode import decode_photo
from service.schemas import PhotoEmotions
from service.settings import Settings
from service.triton.server import LocalTriton
from service.uploads import FIELD

DEFAULT_URL = "http://127.0.0.1:8080"

SUFFIXES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}
"""What an annotated photo can be written as."""


class PhotoFailed(Exception):
    """One photo has no answer; the message says why."""


def listens(url: str) -> bool:
    """Whether anything takes connections at an http URL."""
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=1):
            return True
    except OSError:
        return False


@asynccontextmanager
async def remote_gateway(url: str, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the gateway at ``url``."""
    async with httpx.AsyncClient(base_url=url, timeout=_timeout_s(settings)) as client:
        yield client


@asynccontextmanager
async def own_gateway(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway in this process; its Triton is a local one unless ``triton_url`` is set.

    Raises:
        LocalTritonError: it cannot be started.
    """
    if settings.triton_url is not None:
        async with _app_client(settings) as client:
            yield client
        return
    with LocalTriton(
        home=settings.triton_home,
        model_repository=settings.model_repository,
        start_timeout_s=settings.start_timeout_s,
    ) as triton:
        async with _app_client(settings.model_copy(update={"triton_url": triton.grpc_url})) as client:
            yield client


@asynccontextmanager
async def _app_client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://tandem", timeout=None) as client,  # noqa: S113 - the app has its own
    ):
        yield client


def _timeout_s(settings: Settings) -> float:
    return settings.upload_timeout_s + settings.request_timeout_s


async def predict(client: httpx.AsyncClient, path: Path) -> PhotoEmotions:
    """The answer for the photo in one file.

    Raises:
        PhotoFailed: the file cannot be read, or the gateway gave an error or none.
    """
    try:
        response = await client.post("/v1/emotions", files={FIELD: (path.name, path.read_bytes())})
    except OSError as error:
        raise PhotoFailed(f"cannot be read: {error.strerror}") from None
    except httpx.HTTPError as error:
        raise PhotoFailed(f"no answer from {client.base_url}: {error or type(error).__name__}") from None
    if not response.is_success:
        raise PhotoFailed(_detail(response))
    return PhotoEmotions.model_validate_json(response.content)


def _detail(response: httpx.Response) -> str:
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"{response.url} answered {response.status_code}, and is no Tandem"


def annotation_paths(photos: list[Path], out: Path) -> list[Path]:
    """Where each photo's annotated copy goes: the file ``out``, or for several photos the folder ``out``.

    Raises:
        ValueError: ``out`` is a file where a folder is needed, has a suffix that is not written here, or would
            overwrite one of the photos.
    """
    if out.suffix.lower() in SUFFIXES and not out.is_dir():
        if len(photos) > 1:
            raise ValueError(f"{out} is one file for {len(photos)} photos; give a folder")
        targets = [out]
    elif out.suffix and not out.is_dir():
        raise ValueError(f"{out} ends in none of {', '.join(SUFFIXES)}, and is no folder")
    else:
        targets = []
        for photo in photos:
            name, number = photo.stem, 1
            while (target := out / f"{name}.jpg") in targets:
                number += 1
                name = f"{photo.stem}-{number}"
            targets.append(target)
    originals = {photo.resolve() for photo in photos}
    overwritten = [str(target) for target in targets if target.resolve() in originals]
    if overwritten:
        raise ValueError(f"the annotated copy would overwrite {', '.join(overwritten)}")
    return targets


def write_annotated(photo: Path, answer: PhotoEmotions, target: Path, settings: Settings) -> None:
    """Write a copy of the photo with the answer drawn in it, in the format of the target's suffix."""
    pixels = decode_photo(photo.read_bytes(), max_pixels=settings.max_pixels)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(annotate(pixels, answer, SUFFIXES[target.suffix.lower()]))
