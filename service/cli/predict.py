"""`tandem predict`: send photos to a gateway, and print the answers or write them to a file."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

import typer
from rich.console import Console

from service.cli.console import counted, face_table, print_error, print_status, progress_bar, stderr
from service.cli.gateway import ClientContext
from service.cli.output_files import OutputUnusable, ResultLog, finish_output, log_path, read_table
from service.cli.photo_files import STDIN, Copies, FoundPhotos, name_of
from service.client import AsyncClient, CallFailed, NoAnswer, Photo, Refused
from service.errors import TandemError
from service.schemas import PhotoEmotions

FATAL_STATUSES = (HTTPStatus.UNAUTHORIZED, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
"""Statuses that have nothing to do with the photo: the next one would get the same answer."""

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mpg", ".mpeg", ".wmv")

REMEDY = (
    "is it running there? `tandem doctor` looks at this machine; without --url and TANDEM_URL, a service is "
    "started if none runs here"
)


Item = TypeVar("Item")


class PhotoFailed(Exception):
    """One photo got no answer; the message says why."""


class RunAborted(Exception):
    """The gateway answers no photo any more; the message says why. Answers that were written are kept."""


async def predict_photo(client: AsyncClient, photo: Photo) -> PhotoEmotions:
    """Return the gateway's answer to one photo.

    Raises:
        PhotoFailed: the file cannot be read, or the gateway rejects this photo.
        RunAborted: the gateway would reject every photo, or cannot be reached.
    """
    if photo == b"":
        raise PhotoFailed("standard input is empty")
    if isinstance(photo, Path) and photo.suffix.lower() in VIDEO_SUFFIXES:
        raise PhotoFailed("this is no photo; for a video use `tandem video`")
    try:
        return await client.read(photo)
    except OSError as error:
        raise PhotoFailed(f"cannot be read: {error.strerror}") from None
    except NoAnswer as error:
        raise _unreachable(error) from None
    except Refused as error:
        if error.problem.status in FATAL_STATUSES:
            raise RunAborted(str(error)) from None
        raise PhotoFailed(str(error)) from None
    except CallFailed as error:
        raise PhotoFailed(str(error)) from None


async def labels_of(client: AsyncClient) -> Sequence[str]:
    """Return the labels of the gateway's model.

    Raises:
        RunAborted: there is no answer.
    """
    try:
        return (await client.model()).labels
    except NoAnswer as error:
        raise _unreachable(error) from None
    except CallFailed as error:
        raise RunAborted(str(error)) from None


def _unreachable(error: NoAnswer) -> RunAborted:
    return RunAborted(f"{error}\n{REMEDY}")


async def print_predictions(
    context: ClientContext, found: FoundPhotos, copies: Copies | None, *, as_json: bool
) -> int:
    """Print the answer to each photo, and write the copies; return how many photos failed."""
    console = Console()
    failures = 0
    async with context as client:
        for photo in found.paths:
            try:
                answer = await predict_photo(client, found.content(photo))
                if copies:
                    copies.write(photo, answer)
            except (PhotoFailed, OSError, TandemError) as error:
                failures += 1
                print_error(str(error), name_of(photo))
                continue
            except RunAborted as error:
                print_error(str(error), name_of(photo))
                return failures + 1
            if as_json:
                typer.echo(json.dumps({"photo": name_of(photo), **answer.model_dump(exclude_none=True)}))
            else:
                console.print(face_table(name_of(photo), answer))
    return failures


async def write_predictions(
    context: ClientContext,
    found: FoundPhotos,
    out: Path,
    copies: Copies | None = None,
    *,
    concurrency: int,
    retry_failed: bool,
) -> int:
    """Write the answer to each photo to ``out``, and the copies, with a progress bar.

    Returns:
        How many photos in ``out`` have an error instead of an answer, whenever they were sent, or have no copy.

    Raises:
        OutputUnusable: the answers cannot be written to ``out``.
        RunAborted: the gateway answers no photo any more.
        LocalTritonError: no gateway is running, and none can be started here.
    """
    log = ResultLog(log_path(out), read_table(out), retry_failed=retry_failed)
    before, failed_before = len(log.done), len(log.failed)
    todo = unfinished(found.paths, log, copies)
    without_copy: set[str] = set()
    labels: Sequence[str] = ()
    try:
        with progress_bar(stderr, "photos", total=len(found.paths)) as advance:
            advance(len(found.paths) - len(todo))

            def on_done(photo: Path, error: str | None) -> None:
                advance(1)
                if error:
                    print_error(error, name_of(photo))
                    without_copy.add(name_of(photo))

            if todo:
                async with context as client:
                    await predict_photos(client, found, log, copies, concurrency=concurrency, on_done=on_done)
                    with suppress(RunAborted):  # the faces of the photos say them too, if there are any
                        labels = await labels_of(client)
    except RunAborted as error:
        raise RunAborted(f"{error}\nfinished photos are kept; run the same command again to continue") from None
    finally:
        log.close()
    finish_output(log.path, out, labels)
    print_summary(len(log.done), len(log.failed), str(out), before=before, failed_before=failed_before)
    return len(log.failed | without_copy)


def print_summary(photos: int, failed: int, out: str, *, before: int, failed_before: int) -> None:
    """Print how many photos ``out`` holds and how many of them failed, and of both how many already did before."""
    done_before = f", {before} done before" if before else ""
    print_status(f"{counted(photos, 'photo')}, {failed} failed{done_before}: {out}")
    if failed_before:
        them = "it" if failed_before == 1 else "them"
        print_status(f"{failed_before} failed in an earlier run; --retry-failed sends {them} again")


def unfinished(photos: Sequence[Path], log: ResultLog, copies: Copies | None) -> list[Path]:
    """Return the photos that have to be sent; standard input holds another photo each time."""

    def is_unfinished(photo: Path) -> bool:
        name = name_of(photo)
        lacks_copy = copies is not None and name not in log.failed and copies.lack(photo)
        return photo == STDIN or name not in log.done or lacks_copy

    return list(filter(is_unfinished, photos))


async def predict_photos(
    client: AsyncClient,
    found: FoundPhotos,
    log: ResultLog,
    copies: Copies | None = None,
    *,
    concurrency: int,
    on_done: Callable[[Path, str | None], None],
) -> None:
    """Send every photo that is not in the log yet or lacks its copy; log each answer as it arrives.

    Args:
        client: client of the gateway.
        found: the photos of the run.
        log: holds finished photos and takes new ones; a photo that failed is logged with its error.
        copies: where the photos are drawn, if they are.
        concurrency: number of photos in flight.
        on_done: called once per photo, with its error, or why it has no copy, or None.

    Raises:
        RunAborted: the gateway answers no photo any more. The next call with the same log continues there.
    """
    drawing = asyncio.Lock()  # one at a time: the pixels of a photo take far more memory than its bytes

    async def predict(photo: Path) -> None:
        name, error = name_of(photo), None
        is_new = photo == STDIN or name not in log.done
        try:
            answer = await predict_photo(client, found.content(photo))
        except PhotoFailed as failure:
            error = str(failure)
            content = {"error": error}
        else:
            content = answer.model_dump(mode="json", exclude_none=True)
            if copies:
                async with drawing:
                    error = await asyncio.to_thread(_draw, copies, photo, answer)
        if is_new:
            log.add(name, content)
        on_done(photo, error)

    await for_each(unfinished(found.paths, log, copies), predict, concurrency=concurrency)


def _draw(copies: Copies, photo: Path, answer: PhotoEmotions) -> str | None:
    """Write a photo's copy; return why there is none."""
    try:
        copies.write(photo, answer)
    except (OSError, TandemError) as error:
        return f"has an answer but no copy: {error}"
    return None


async def for_each(items: Iterable[Item], work: Callable[[Item], Awaitable[None]], *, concurrency: int) -> None:
    """Do the work for every item, for ``concurrency`` of them at a time.

    Raises:
        RunAborted, OutputUnusable: the work for one raised it; the rest is given up.
    """
    todo = iter(items)

    async def worker() -> None:
        for item in todo:
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(worker())
    except* (RunAborted, OutputUnusable) as given_up:
        raise given_up.exceptions[0] from None
