"""`tandem predict`: send photos to a gateway, and print the answers or write them to a file."""

import asyncio
import json
from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path

import typer
from rich.console import Console

from service.cli.console import face_table, print_error, print_status, progress_bar, stderr
from service.cli.gateway import ClientContext
from service.cli.output_files import ResultLog, finish_output, log_path
from service.cli.photo_files import write_annotated
from service.client import AsyncClient, CallFailed, NoAnswer, Photo, Refused
from service.schemas import PhotoEmotions
from service.settings import Settings

FATAL_STATUSES = (HTTPStatus.UNAUTHORIZED, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
"""Statuses that have nothing to do with the photo: the next one would get the same answer."""


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
    try:
        return await client.read(photo)
    except OSError as error:
        raise PhotoFailed(f"cannot be read: {error.strerror}") from None
    except NoAnswer as error:
        raise RunAborted(str(error)) from None
    except Refused as error:
        if error.problem.status in FATAL_STATUSES:
            raise RunAborted(str(error)) from None
        raise PhotoFailed(str(error)) from None
    except CallFailed as error:
        raise PhotoFailed(str(error)) from None


async def print_predictions(
    context: ClientContext, photos: list[Path], targets: list[Path] | None, settings: Settings, *, as_json: bool
) -> int:
    """Print the answer to each photo, and write annotated copies to ``targets``; return how many photos failed."""
    console = Console()
    failures = 0
    async with context as client:
        for number, photo in enumerate(photos):
            try:
                answer = await predict_photo(client, photo)
                if targets:
                    write_annotated(photo, answer, targets[number], settings)
            except (PhotoFailed, OSError) as error:
                failures += 1
                print_error(f"{photo}: {error}")
                continue
            except RunAborted as error:
                print_error(f"{photo}: {error}")
                return failures + 1
            if as_json:
                typer.echo(json.dumps({"photo": str(photo), **answer.model_dump()}))
            else:
                console.print(face_table(str(photo), answer))
    return failures


async def write_predictions(context: ClientContext, photos: list[Path], out: Path, concurrency: int) -> int:
    """Write the answer to each photo to ``out``, with a progress bar; return how many photos failed.

    Raises:
        OutputUnusable: the answers cannot be written to ``out``.
        RunAborted: the gateway answers no photo any more.
        LocalTritonError: no gateway is running, and none can be started here.
    """
    log = ResultLog(log_path(out))
    failures = 0
    try:
        with progress_bar(stderr, "photos", total=len(photos)) as advance:
            already = sum(str(photo) in log.done for photo in photos)
            advance(already)

            def on_done(photo: Path, error: str | None) -> None:
                nonlocal failures
                advance(1)
                if error:
                    failures += 1
                    print_error(f"{photo}: {error}")

            async with context as client:
                await predict_photos(client, photos, log, concurrency=concurrency, on_done=on_done)
    except RunAborted as error:
        raise RunAborted(f"{error}\nfinished photos are kept; run the same command again to continue") from None
    finally:
        log.close()
    finish_output(log.path, out)
    summary = f"{len(photos)} photos, {failures} failed"
    print_status(f"{summary}, {already} done before: {out}" if already else f"{summary}: {out}")
    return failures


async def predict_photos(
    client: AsyncClient,
    photos: Sequence[Path],
    log: ResultLog,
    *,
    concurrency: int,
    on_done: Callable[[Path, str | None], None],
) -> None:
    """Send every photo that is not in the log yet, and log each answer as it arrives.

    Args:
        client: client of the gateway.
        photos: every photo of the run.
        log: holds finished photos and takes new ones; a photo that failed is logged with its error.
        concurrency: number of photos in flight.
        on_done: called once per photo, with its error or None.

    Raises:
        RunAborted: the gateway answers no photo any more. The next call with the same log continues there.
    """
    todo = iter([photo for photo in photos if str(photo) not in log.done])

    async def work() -> None:
        for photo in todo:
            error = None
            try:
                answer = await predict_photo(client, photo)
                log.add(str(photo), answer.model_dump(mode="json"))
            except PhotoFailed as failure:
                error = str(failure)
                log.add(str(photo), {"error": error})
            on_done(photo, error)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(work())
    except* RunAborted as aborted:
        raise aborted.exceptions[0] from None
