"""`tandem video`: send a video's frames to a gateway, several at a time, and write the results in frame order."""

import asyncio
import json
import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import simplejpeg
import typer
from rich.console import Console
from rich.table import Table

from service.cli.console import NARROW, counted, print_error, print_status, progress_bar, stderr
from service.cli.gateway import ClientContext
from service.cli.predict import PhotoFailed, labels_of, predict_photo
from service.cli.video.io import Frame, VideoReader, VideoWriter
from service.cli.video.results import FaceTable, OutputPaths, ResultWriter, VideoSummary, all_or_nothing
from service.client import AsyncClient
from service.schemas import PhotoEmotions

JPEG_QUALITY = 95
"""Of the frames sent to the gateway; high enough to lose less than the video's own compression."""

MIN_SHARE = 0.005
"""Share of the sightings from which the table names an emotion; less is rounded to 0 %."""


@dataclass(frozen=True)
class FrameSampling:
    """Selects every ``every``-th frame, and of those at most ``per_s`` per second of video if given."""

    every: int = 1
    per_s: float | None = None

    def select(self, frames: Iterator[Frame]) -> Iterator[tuple[Frame, bool]]:
        """Yield each frame and whether to analyze it; the first frame always is."""
        last_slot = -1
        for frame in frames:
            selected = frame.number % self.every == 0
            if self.per_s is not None and selected:
                slot = math.floor(frame.time_s * self.per_s + 1e-6)  # frame times are rounded to the time base
                selected, last_slot = slot > last_slot, max(slot, last_slot)
            yield frame, selected


async def run_video(
    context: ClientContext,
    path: Path,
    outputs: OutputPaths,
    sampling: FrameSampling,
    *,
    smooth: float | None,
    concurrency: int,
    as_json: bool,
) -> int:
    """Analyze a video with a progress bar, and print its summary; return how many frames got no answer.

    Raises:
        VideoUnusable: the video cannot be read, or the new one cannot be written.
        OSError: another output cannot be written.
        RunAborted: the gateway answers no frame any more.
        LocalTritonError: no gateway is running, and none can be started here.
    """
    with VideoReader(path) as source:
        async with context as client:
            with progress_bar(stderr, "frames", total=source.frame_count) as advance:
                summary = await analyze_video(
                    client,
                    source,
                    outputs,
                    sampling=sampling,
                    smooth=smooth,
                    concurrency=concurrency,
                    on_frame=lambda: advance(1),
                )
    for codec in summary.skipped_audio:
        print_error(f"the {codec} audio is left out: {outputs.video} cannot hold it, an .mkv file can")
    faces = counted(len(summary.faces), "face")
    counts = f"{counted(summary.analyzed, 'frame')} read, {summary.failed} failed, {faces}"
    print_status(": ".join([counts, *([", ".join(map(str, outputs.wanted))] if outputs.wanted else [])]))
    if as_json:
        typer.echo(json.dumps({"video": str(path), **summary.to_json()}))
    else:
        Console().print(summary_table(summary))
    return summary.failed


def summary_table(summary: VideoSummary) -> Table:
    """Return a table of a video's faces, and of all together if there are several, that fits 80 columns."""
    table = Table("face", "seconds", "frames", "emotions", "changes", "doubtful", **NARROW)
    rows = {str(number): face for number, face in summary.faces.items()}
    if summary.film and len(rows) > 1:
        rows["all"] = summary.film
    for name, face in rows.items():
        shares = ", ".join(f"{label} {share:.0%}" for label, share in face.emotions.items() if share >= MIN_SHARE)
        table.add_row(
            name,
            f"{face.first_s:.1f} to {face.last_s:.1f}",
            str(face.sightings),
            shares,
            str(face.changes),
            f"{face.doubtful:.0%}",
        )
    table.caption = None if rows else "no face found"
    return table


async def analyze_video(
    client: AsyncClient,
    source: VideoReader,
    outputs: OutputPaths,
    *,
    sampling: FrameSampling,
    smooth: float | None,
    concurrency: int,
    on_frame: Callable[[], None],
) -> VideoSummary:
    """Send the selected frames of a video to the gateway, and write the outputs.

    Args:
        client: client of the gateway.
        source: the video.
        outputs: files to write.
        sampling: selects the frames to analyze. The others are drawn with the faces of the last analyzed frame.
        smooth: weight of a face's previous probabilities in its smoothed ones, from 0 to below 1; if None, it
            follows the time between frames (``SMOOTHING_S``).
        concurrency: number of frames held in memory and in flight.
        on_frame: called after each frame of the video.

    Raises:
        VideoUnusable: the video is damaged, or the new one cannot be written.
        RunAborted: the gateway answers no frame any more.
        OSError: an output cannot be written.
    """
    labels = await labels_of(client)
    with ExitStack() as stack:
        partial = stack.enter_context(all_or_nothing(outputs.wanted))
        video = table = None
        if outputs.video:
            video = stack.enter_context(VideoWriter(partial[outputs.video], source))
        if outputs.table:
            file = stack.enter_context(partial[outputs.table].open("w", newline="", encoding="utf-8"))
            table = FaceTable(file, labels)
        results = ResultWriter(labels, smooth, video, table)
        frames = sampling.select(source.frames(video.copy_audio if video else None))
        # Entered last and so left first: the thread ends before the files it uses are closed.
        thread = stack.enter_context(ThreadPoolExecutor(1))
        await _process_frames(client, frames, results, thread, concurrency, on_frame)
        if outputs.plot:
            results.write_plot(partial[outputs.plot], outputs.plot.suffix[1:].lower())
    return results.summary


async def _process_frames(
    client: AsyncClient,
    frames: Iterator[tuple[Frame, bool]],
    results: ResultWriter,
    thread: ThreadPoolExecutor,
    concurrency: int,
    on_frame: Callable[[], None],
) -> None:
    """Decode, send and write frames. Everything that touches a file runs in ``thread``."""
    loop = asyncio.get_running_loop()
    in_flight: deque[tuple[Frame, asyncio.Task[PhotoEmotions | str] | None]] = deque()
    try:
        more = True
        while more:
            following = await loop.run_in_executor(thread, next, frames, None)
            if following is None:
                more = False
            else:
                frame, selected = following
                if selected or results.needs_every_frame:
                    in_flight.append(
                        (frame, asyncio.create_task(_predict_frame(client, frame)) if selected else None)
                    )
                else:
                    on_frame()
            while in_flight and (len(in_flight) >= concurrency or not more):
                frame, task = in_flight[0]
                await loop.run_in_executor(thread, results.add, frame, await task if task else None)
                in_flight.popleft()
                on_frame()
    finally:
        tasks = [task for _, task in in_flight if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _predict_frame(client: AsyncClient, frame: Frame) -> PhotoEmotions | str:
    """Return the answer for a frame, or the reason why it has none."""
    photo = await asyncio.to_thread(
        simplejpeg.encode_jpeg, frame.pixels, quality=JPEG_QUALITY, colorsubsampling="444"
    )
    try:
        return await predict_photo(client, photo)
    except PhotoFailed as error:
        return str(error)
