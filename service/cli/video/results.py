"""Track the faces of a video from frame to frame, and write the annotated video, the table and the plot."""

import csv
import math
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, TextIO

import numpy as np

from service.cli.output_files import face_row
from service.cli.video.io import Frame, VideoWriter
from service.cli.video.plot import plot_timelines
from service.cli.video.timeline import FaceSummary, FaceTimeline
from service.schemas import PhotoEmotions, TrackedFace
from service.vision.drawing import draw_emotions
from service.vision.tracking import Tracker

SMOOTHING_S = 0.4
"""Seconds after which a face's former probabilities count for 1/e, unless a weight is given: ten frames or so."""


@dataclass(frozen=True)
class OutputPaths:
    """The files to write; None skips one."""

    video: Path | None = None
    table: Path | None = None
    plot: Path | None = None

    @property
    def wanted(self) -> list[Path]:
        """The paths that are not None."""
        return [path for path in (self.video, self.table, self.plot) if path]


@dataclass
class VideoSummary:
    """What a whole video shows.

    Attributes:
        analyzed: frames sent to the gateway.
        failed: frames among them that got no answer.
        faces: each face, by its number.
        film: all of them together; None if there is no face.
        skipped_audio: codecs of the audio streams that the new video does not hold.
    """

    analyzed: int = 0
    failed: int = 0
    faces: Mapping[int, FaceSummary] = field(default_factory=dict)
    film: FaceSummary | None = None
    skipped_audio: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        """Return what `tandem video --json` prints."""
        faces = [{"face": number, **asdict(face)} for number, face in self.faces.items()]
        film = asdict(self.film) if self.film else None
        return {"frames": self.analyzed, "failed": self.failed, "film": film, "faces": faces}


class FaceTable:
    """The CSV file: a row per face of each analyzed frame, or one row if it has no face or an error."""

    def __init__(self, file: TextIO, labels: Sequence[str]) -> None:
        self._writer = csv.DictWriter(file, table_columns(labels), extrasaction="ignore")
        self._writer.writeheader()

    def add(self, frame: Frame, faces: Sequence[TrackedFace], error: str | None) -> None:
        """Write the rows of one frame."""
        common = {"time_s": round(frame.time_s, 6), "frame": frame.number}
        rows = [{**common, "face": face.track, **face_row(face)} for face in faces]
        self._writer.writerows(rows or [{**common, "error": error}])


def table_columns(labels: Sequence[str]) -> list[str]:
    """Return the table's columns for a model with these labels."""
    return [
        *("time_s", "frame", "face", "box_x", "box_y", "box_width", "box_height", "detection_score"),
        *("emotion", "confidence", *(f"p_{label}" for label in labels)),
        *("roll", "yaw", "size", "sharpness", "brightness", "reliable", "unreliable_because", "error"),
    ]


@contextmanager
def all_or_nothing(paths: Sequence[Path]) -> Iterator[Mapping[Path, Path]]:
    """Yield a temporary path for each of ``paths``; rename all on success, delete all after an error."""
    run = secrets.token_hex(4)  # a file of the caller's, such as the video itself, never has this name
    partial = {path: path.with_name(f"{path.stem}.{run}.partial{path.suffix}") for path in paths}
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        for path in paths:
            partial[path].replace(path)
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)


class ResultWriter:
    """Takes a video's frames in order with their answers, tracks the faces, and writes every output."""

    def __init__(
        self, labels: Sequence[str], smooth: float | None, video: VideoWriter | None, table: FaceTable | None
    ) -> None:
        self._labels = list(labels)
        self._smooth = smooth
        self._tracker = Tracker(0)
        self._video, self._table = video, table
        self._timelines: dict[int, FaceTimeline] = {}
        self._failed = 0
        self._times: list[float] = []
        self._latest: PhotoEmotions | None = None

    @property
    def needs_every_frame(self) -> bool:
        """Whether frames that are not analyzed must be added too, for the annotated video."""
        return self._video is not None

    def add(self, frame: Frame, answer: PhotoEmotions | str | None) -> None:
        """Write the next frame.

        Args:
            frame: the frame.
            answer: its answer, the reason why it has none, or None if it was not analyzed: then the faces of the
                last analyzed frame are drawn.
        """
        if answer is not None:
            self._add_answer(frame, answer)
        if self._video:
            drawn = frame.pixels if self._latest is None else np.asarray(draw_emotions(frame.pixels, self._latest))
            self._video.write(frame, drawn)

    def _add_answer(self, frame: Frame, answer: PhotoEmotions | str) -> None:
        error = answer if isinstance(answer, str) else None
        faces: list[TrackedFace] = []
        self._latest = None
        if isinstance(answer, PhotoEmotions):
            faces = self._tracker.update(answer.faces, self._weight(frame.time_s))
            self._latest = answer.model_copy(update={"faces": faces})
        else:
            self._failed += 1
        self._times.append(frame.time_s)
        for face in faces:
            timeline = self._timelines.setdefault(face.track or 0, FaceTimeline())
            timeline.add(frame.time_s, face, self._labels, frame.pixels)
        if self._table:
            self._table.add(frame, faces, error)

    def _weight(self, time_s: float) -> float:
        """Return the weight of the former probabilities in a frame: as asked for, else less the later it is."""
        if self._smooth is not None:
            return self._smooth
        return math.exp((self._times[-1] - time_s) / SMOOTHING_S) if self._times else 0.0

    @property
    def summary(self) -> VideoSummary:
        """What the frames added so far show."""
        timelines = self._timelines
        return VideoSummary(
            analyzed=len(self._times),
            failed=self._failed,
            faces={number: FaceSummary.of(timelines[number]) for number in sorted(timelines)},
            film=FaceSummary.of(*timelines.values()) if timelines else None,
            skipped_audio=self._video.skipped_audio if self._video else (),
        )

    def write_plot(self, path: Path, kind: str) -> None:
        """Plot every face added so far."""
        step_s = median(b - a for a, b in pairwise(self._times)) if len(self._times) > 1 else 1.0
        plot_timelines(self._timelines, self._labels, step_s, path, kind)
