"""`tandem predict`: photos from files and folders, answers from a gateway."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from service.api.app import create_app
from service.cli.output_files import ResultLog
from service.client import DEFAULT_URL, AsyncClient, CallFailed, NoAnswer, Photo, Refused
from service.schemas import PhotoEmotions
from service.settings import Settings
from service.triton.server import LocalTriton
from service.vision.decoding import decode_photo
from service.vision.drawing import annotate

__all__ = ["DEFAULT_URL"]

SUFFIXES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}
"""What an annotated photo can be written as."""

PHOTO_SUFFIXES = (*SUFFIXES, ".heic", ".heif")
"""What is taken for a photo in a folder."""

RETRIES = 10
"""How often a photo is tried again while the gateway is busy; it says itself for how long to wait."""

STOPPING = (HTTPStatus.UNAUTHORIZED, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
"""Answers that say nothing of the photo: every other one would get the same."""


class PhotoFailed(Exception):
    """One photo has no answer; the message says why."""


class Stopped(Exception):
    """No photo gets an answer any more; the message says why. What is done is kept."""


def listens(url: str) -> bool:
    """Whether anything takes connections at an http URL."""
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=1):
            return True
    except OSError:
        return False


@asynccontextmanager
async def remote_gateway(url: str, settings: Settings, api_key: str | None = None) -> AsyncIterator[AsyncClient]:
    """A client of the gateway at ``url``."""
    timeout_s = settings.request_timeout_s + 1  # its 504 comes first
    async with AsyncClient(url, api_key=api_key, timeout_s=timeout_s, retries=RETRIES) as client:
        yield client


@asynccontextmanager
async def own_gateway(settings: Settings) -> AsyncIterator[AsyncClient]:
    """A client of a gateway in this process; its Triton is a local one unless ``triton_url`` is set.

    Raises:
        LocalTritonError: it cannot be started.
    """
    # Keys and limits are for callers from elsewhere.
    settings = settings.model_copy(
        update={"api_keys": (), "api_keys_file": None, "rate_limit": None, "concurrent_limit": None}
    )
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
async def _app_client(settings: Settings) -> AsyncIterator[AsyncClient]:
    app = create_app(settings)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        AsyncClient("http://tandem", timeout_s=None, retries=RETRIES, transport=transport) as client,
    ):
        yield client


async def predict(client: AsyncClient, photo: Photo) -> PhotoEmotions:
    """The answer for one photo.

    Raises:
        PhotoFailed: the file cannot be read, or the gateway has no answer for this photo.
        Stopped: the gateway has none for any.
    """
    try:
        return await client.read(photo)
    except OSError as error:
        raise PhotoFailed(f"cannot be read: {error.strerror}") from None
    except NoAnswer as error:
        raise Stopped(str(error)) from None
    except Refused as error:
        if error.problem.status in STOPPING:
            raise Stopped(str(error)) from None
        raise PhotoFailed(str(error)) from None
    except CallFailed as error:
        raise PhotoFailed(str(error)) from None


def expand(paths: Sequence[Path]) -> list[Path]:
    """The files named, and the photos in the folders named and theirs, in order; hidden ones are left out."""
    return [photo for path in paths for photo in (_photos_in(path) if path.is_dir() else [path])]


def _photos_in(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in PHOTO_SUFFIXES and not hidden and path.is_file():
            yield path


async def predict_all(
    client: AsyncClient,
    photos: Sequence[Path],
    journal: ResultLog,
    *,
    concurrency: int,
    on_done: Callable[[Path, str | None], None],
) -> None:
    """Ask for every photo that the journal has not, several at a time, and write each answer as it comes.

    Args:
        client: of the gateway to ask.
        photos: all of them.
        journal: what is done already, and where to write; a photo without an answer is written with its error.
        concurrency: how many at a time.
        on_done: called for each photo, with its error if it has one.

    Raises:
        Stopped: no photo gets an answer any more. What is done is in the journal, where the next call goes on.
    """
    todo = iter([photo for photo in photos if str(photo) not in journal.done])

    async def work() -> None:
        for photo in todo:
            error = None
            try:
                answer = await predict(client, photo)
                journal.add(str(photo), answer.model_dump(mode="json"))
            except PhotoFailed as failure:
                error = str(failure)
                journal.add(str(photo), {"error": error})
            on_done(photo, error)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(work())
    except* Stopped as stopped:
        raise stopped.exceptions[0] from None


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
