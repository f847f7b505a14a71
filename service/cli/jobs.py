"""What `tandem predict` and `tandem video` do, and print while they do it. Each returns how much has failed."""

import json
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from service.cli.console import errors, face_table, print_error, print_status, progress_bar
from service.cli.output_files import ResultLog, finish, journal_path
from service.cli.predict import PhotoFailed, Stopped, predict, predict_all, write_annotated
from service.client import AsyncClient
from service.settings import Settings

if TYPE_CHECKING:
    from service.cli.video.command import Outputs, Sampling

Gateway = AbstractAsyncContextManager[AsyncClient]
"""A gateway to be, which starts when it is entered."""


async def predict_to_screen(
    gateway: Gateway, photos: list[Path], targets: list[Path] | None, settings: Settings, *, as_json: bool
) -> int:
    """Print an answer for each photo."""
    console = Console()
    failures = 0
    async with gateway as client:
        for number, photo in enumerate(photos):
            try:
                answer = await predict(client, photo)
                if targets:
                    write_annotated(photo, answer, targets[number], settings)
            except (PhotoFailed, OSError) as error:
                failures += 1
                print_error(f"{photo}: {error}")
                continue
            except Stopped as error:
                print_error(f"{photo}: {error}")
                return failures + 1
            if as_json:
                typer.echo(json.dumps({"photo": str(photo), **answer.model_dump()}))
            else:
                console.print(face_table(str(photo), answer))
    return failures


async def predict_to_file(gateway: Gateway, photos: list[Path], out: Path, concurrency: int) -> int:
    """Write an answer for each photo, with progress on standard error.

    Raises:
        OutputUnusable: the answers cannot be written to ``out``.
        Stopped: no photo gets an answer any more.
        LocalTritonError: there is no gateway elsewhere, and none can be started.
    """
    journal = ResultLog(journal_path(out))
    failures = 0
    try:
        with progress_bar(errors, "photos", total=len(photos)) as advance:
            already = sum(str(photo) in journal.done for photo in photos)
            advance(already)

            def on_done(photo: Path, error: str | None) -> None:
                nonlocal failures
                advance(1)
                if error:
                    failures += 1
                    print_error(f"{photo}: {error}")

            async with gateway as client:
                await predict_all(client, photos, journal, concurrency=concurrency, on_done=on_done)
    except Stopped as error:
        raise Stopped(f"{error}\nwhat is done is kept; the same command goes on from there") from None
    finally:
        journal.close()
    finish(journal.path, out)
    done = f"{len(photos)} photos, {failures} failed"
    print_status(f"{done}, {already} done before: {out}" if already else f"{done}: {out}")
    return failures


async def read_video(
    gateway: Gateway, film: Path, outputs: "Outputs", sampling: "Sampling", *, smooth: float, concurrency: int
) -> int:
    """Write what the faces of a video show, with progress on standard error; counts frames without an answer.

    Raises:
        VideoUnusable: the video cannot be read, or the new one cannot be written.
        OSError: another result cannot be written.
        Stopped: no frame gets an answer any more.
        LocalTritonError: there is no gateway elsewhere, and none can be started.
    """
    from service.cli.video import command as video
    from service.cli.video.io import VideoReader

    with VideoReader(film) as source:
        async with gateway as client:
            with progress_bar(errors, "frames", total=source.frames) as advance:
                summary = await video.read_video(
                    client,
                    source,
                    outputs,
                    sampling=sampling,
                    smooth=smooth,
                    concurrency=concurrency,
                    on_frame=lambda: advance(1),
                )
    for kind in summary.sound_left_out:
        print_error(f"the sound is left out: {outputs.video} takes no {kind}; an .mkv file does")
    where = ", ".join(map(str, outputs.paths))
    print_status(f"{summary.read} frames read, {summary.failed} failed, {summary.faces} faces: {where}")
    return summary.failed
