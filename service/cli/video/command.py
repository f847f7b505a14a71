"""`tandem video`: the faces of a video's frames from a gateway, followed through time."""

import asyncio
import csv
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TextIO

import numpy as np
import simplejpeg

from service.cli.output_files import face_row
from service.cli.predict import PhotoFailed, Stopped, predict
from service.cli.video.io import Picture, VideoReader, VideoWriter
from service.cli.video.plot import EmotionTimeline, plot
from service.client import AsyncClient, CallFailed
from service.schemas import PhotoEmotions, TrackedFace
from service.vision.drawing import draw_emotions
from service.vision.tracking import Tracker

JPEG_QUALITY = 95
"""Of the frames as they are sent: what it loses is less than what the video has lost."""


@dataclass(frozen=True)
class Sampling:
    """Which frames are read: each ``every``-th, and of those at most ``per_s`` a second where that is given."""

    every: int = 1
    per_s: float | None = None

    def choose(self, pictures: Iterator[Picture]) -> Iterator[tuple[Picture, bool]]:
        """Each picture, and whether it is one to read; the first one is."""
        slot = -1
        for picture in pictures:
            chosen = picture.number % self.every == 0
            if self.per_s is not None and chosen:
                now = math.floor(picture.time_s * self.per_s + 1e-6)  # times are rounded to the file's units
                chosen, slot = now > slot, max(now, slot)
            yield picture, chosen


@dataclass(frozen=True)
class Outputs:
    """Where the results go, each where wanted."""

    video: Path | None = None
    table: Path | None = None
    plot: Path | None = None

    @property
    def paths(self) -> list[Path]:
        """Those that are wanted."""
        return [path for path in (self.video, self.table, self.plot) if path]


@dataclass
class Summary:
    """What became of a video: frames read, frames without an answer, faces told apart, sound that was left out."""

    read: int = 0
    failed: int = 0
    faces: int = 0
    sound_left_out: Sequence[str] = ()


class Table:
    """The CSV file: a row for each face of each frame that was read, or one without a face, or with an error."""

    def __init__(self, file: TextIO, labels: Sequence[str]) -> None:
        self._writer = csv.DictWriter(file, columns(labels), extrasaction="ignore")
        self._writer.writeheader()

    def add(self, picture: Picture, faces: Sequence[TrackedFace], error: str | None) -> None:
        """Write the rows of one frame."""
        common = {"time_s": round(picture.time_s, 6), "frame": picture.number}
        rows = [{**common, "face": face.track, **face_row(face)} for face in faces]
        self._writer.writerows(rows or [{**common, "error": error}])


def columns(labels: Sequence[str]) -> list[str]:
    """The columns of the table, for a model with these labels."""
    return [
        *("time_s", "frame", "face", "box_x", "box_y", "box_width", "box_height", "detection_score"),
        *("emotion", "confidence", *(f"p_{label}" for label in labels)),
        *("roll", "yaw", "size", "sharpness", "brightness", "reliable", "unreliable_because", "error"),
    ]


@contextmanager
def whole(paths: Sequence[Path]) -> Iterator[Mapping[Path, Path]]:
    """Names to write files under, which become ``paths`` at the end; after an error nothing is left of them."""
    partial = {path: path.with_name(f"{path.stem}.partial{path.suffix}") for path in paths}
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        for path in paths:
            partial[path].replace(path)
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)


class Recorder:
    """Follows the faces from frame to frame, and writes what they show."""

    def __init__(
        self, labels: Sequence[str], smooth: float, writer: VideoWriter | None, table: Table | None
    ) -> None:
        self.summary = Summary(sound_left_out=writer.left_out if writer else ())
        self.courses: dict[int, EmotionTimeline] = {}
        self.times: list[float] = []
        self._labels = labels
        self._tracker = Tracker(smooth)
        self._writer, self._table = writer, table
        self._shown: PhotoEmotions | None = None

    @property
    def draws(self) -> bool:
        """Whether frames that are not read are wanted too."""
        return self._writer is not None

    def add(self, picture: Picture, answer: PhotoEmotions | str | None) -> None:
        """The next frame, with its answer, or why there is none, or None where it was not asked for."""
        if answer is not None:
            self._read(picture, answer)
        if self._writer:
            shown = self._shown
            drawn = picture.pixels if shown is None else np.asarray(draw_emotions(picture.pixels, shown))
            self._writer.add(picture, drawn)

    def _read(self, picture: Picture, answer: PhotoEmotions | str) -> None:
        self.summary.read += 1
        self.times.append(picture.time_s)
        error = answer if isinstance(answer, str) else None
        faces: list[TrackedFace] = []
        self._shown = None
        if isinstance(answer, PhotoEmotions):
            faces = self._tracker.update(answer.faces)
            self._shown = answer.model_copy(update={"faces": faces})
        else:
            self.summary.failed += 1
        for face in faces:
            course = self.courses.setdefault(face.track or 0, EmotionTimeline())
            course.times.append(picture.time_s)
            course.emotions.append([face.emotions.get(label, 0.0) for label in self._labels])
        self.summary.faces = len(self.courses)
        if self._table:
            self._table.add(picture, faces, error)

    def plot(self, path: Path, kind: str) -> None:
        """Write the plot of what was added."""
        step_s = median(b - a for a, b in pairwise(self.times)) if len(self.times) > 1 else 1.0
        plot(self.courses, self._labels, step_s, path, kind)


async def read_video(
    client: AsyncClient,
    source: VideoReader,
    outputs: Outputs,
    *,
    sampling: Sampling,
    smooth: float,
    concurrency: int,
    on_frame: Callable[[], None],
) -> Summary:
    """Ask for the frames of a video, several at a time, and write the results in the frames' order.

    A frame that is not read is drawn with the faces of the one read before it.

    Args:
        client: of the gateway to ask.
        source: the video.
        outputs: where the results go.
        sampling: which frames to read.
        smooth: how much of a face's former probabilities stays, from 0 to below 1.
        concurrency: how many frames are held, and asked for, at a time.
        on_frame: called for each frame of the video that is done.

    Raises:
        VideoUnusable: the video is damaged, or the new one cannot be written.
        Stopped: no frame gets an answer any more.
        OSError: a result cannot be written.
    """
    try:
        labels = (await client.model()).labels
    except CallFailed as error:
        raise Stopped(str(error)) from None
    with ExitStack() as stack:
        partial = stack.enter_context(whole(outputs.paths))
        writer = table = None
        if outputs.video:
            writer = stack.enter_context(VideoWriter(partial[outputs.video], source))
        if outputs.table:
            file = stack.enter_context(partial[outputs.table].open("w", newline="", encoding="utf-8"))
            table = Table(file, labels)
        recorder = Recorder(labels, smooth, writer, table)
        frames = sampling.choose(source.read(writer.add_sound if writer else None))
        # Entered last, so left first: nothing is closed while the thread still works on it.
        thread = stack.enter_context(ThreadPoolExecutor(1))
        await _record(client, frames, recorder, thread, concurrency, on_frame)
        if outputs.plot:
            recorder.plot(partial[outputs.plot], outputs.plot.suffix[1:].lower())
    return recorder.summary


async def _record(
    client: AsyncClient,
    frames: Iterator[tuple[Picture, bool]],
    recorder: Recorder,
    thread: ThreadPoolExecutor,
    concurrency: int,
    on_frame: Callable[[], None],
) -> None:
    """Decode, ask and record; all that touches the files is done in ``thread``."""
    loop = asyncio.get_running_loop()
    held: deque[tuple[Picture, asyncio.Task[PhotoEmotions | str] | None]] = deque()
    try:
        more = True
        while more:
            following = await loop.run_in_executor(thread, next, frames, None)
            if following is None:
                more = False
            else:
                picture, chosen = following
                if chosen or recorder.draws:
                    held.append((picture, asyncio.create_task(_ask(client, picture)) if chosen else None))
                else:
                    on_frame()
            while held and (len(held) >= concurrency or not more):
                picture, task = held[0]
                await loop.run_in_executor(thread, recorder.add, picture, await task if task else None)
                held.popleft()
                on_frame()
    finally:
        for _, task in held:
            if task:
                task.cancel()
        await asyncio.gather(*(task for _, task in held if task), return_exceptions=True)


async def _ask(client: AsyncClient, picture: Picture) -> PhotoEmotions | str:
    """The answer for a frame, or why it has none."""
    photo = await asyncio.to_thread(
        simplejpeg.encode_jpeg, picture.pixels, quality=JPEG_QUALITY, colorsubsampling="444"
    )
    try:
        return await predict(client, photo)
    except PhotoFailed as error:
        return str(error)
