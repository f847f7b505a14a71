"""Video files: upright frames out of one, and frames with the sound of another into a new one (PyAV)."""

from __future__ import annotations  # PyAV's packets are generic in its stubs alone

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, Self, cast

import av
import numpy as np
from av.stream import Disposition
from numpy.typing import NDArray

SUFFIXES = (".mp4", ".mov", ".mkv")
"""What is written; each takes H.264."""

PICTURE_FORMATS = ("image2", "_pipe")
"""Parts of FFmpeg's names for files of one picture."""

ENCODER: Final = "libx264"
ENCODER_OPTIONS = {"preset": "veryfast", "crf": "20"}

SHORT_S = 1.0
"""A file whose frames end by so much before the time that it names has been cut off; the names are rough."""

DURATION_TAG = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")
"""Matroska's, of one stream."""


class VideoUnusable(Exception):
    """A video cannot be read or written; the message says why."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One frame: its number from 0, when it is shown, and its upright RGB pixels [H, W, 3].

    ``pts`` is the time in units of the stream's time base; ``time_s`` are seconds since the first frame.
    """

    number: int
    pts: int
    time_s: float
    pixels: NDArray[np.uint8]


class VideoReader:
    """A video file that is read from its beginning to its end, once."""

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            VideoUnusable: it cannot be read, or is no video.
        """
        self.path = path
        try:
            self.container = av.open(path)
        except av.FFmpegError as error:
            reason = "it is no video, or its index is missing" if isinstance(error, ValueError) else error.strerror
            raise VideoUnusable(f"{path} cannot be read: {reason}") from None
        try:
            self.stream = self._film()
        except VideoUnusable:
            self.container.close()
            raise

    def _film(self) -> av.VideoStream:
        """The first stream of moving pictures: not a song's cover, nor a photo."""
        if any(part in self.container.format.name for part in PICTURE_FORMATS):
            raise VideoUnusable(f"{self.path} is one picture; `tandem predict` reads those")
        for stream in self.container.streams.video:
            if not stream.disposition & Disposition.attached_pic:
                stream.thread_type = "AUTO"
                return stream
        raise VideoUnusable(f"{self.path} has no moving pictures")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

    @property
    def time_base(self) -> Fraction:
        """Seconds of one unit of ``Picture.pts``."""
        return self.stream.time_base or Fraction(1, 1000)

    @property
    def rate(self) -> Fraction | None:
        """Frames a second, on the average; None where the file does not say."""
        return self.stream.average_rate or self.stream.guessed_rate

    @property
    def promised_s(self) -> float | None:
        """Seconds that the pictures last by the file's own words; None where it has none on them."""
        if self.stream.duration is not None:
            return float(self.stream.duration * self.time_base)
        tag = DURATION_TAG.match(self.stream.metadata.get("DURATION", ""))
        if tag is None:
            return None
        hours, minutes, seconds = tag.groups()
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)

    @property
    def frames(self) -> int | None:
        """How many frames there are, roughly; None where the file does not say."""
        seconds = self.promised_s or (self.container.duration or 0) / av.time_base
        return round(seconds * self.rate) if seconds and self.rate else None

    def read(self, on_sound: Callable[[av.Packet[av.AudioStream]], None] | None = None) -> Iterator[Picture]:
        """Every frame, in the order in which they are shown, upright, all of the first one's size.

        A frame that is not later than the one before it is left out.

        Args:
            on_sound: called with each packet of sound, where wanted.

        Raises:
            VideoUnusable: the file is damaged, was cut off, or has no frame.
        """
        first = last = None
        size: dict[str, Any] = {}
        number = 0
        try:
            for frame in self._decode(on_sound):
                pts = frame.pts if frame.pts is not None else self._pts_of(number)
                if first is None:
                    first, size = pts, {"width": frame.width, "height": frame.height}
                if last is not None and pts <= last:
                    continue
                last = pts
                pixels = np.rot90(frame.to_ndarray(format="rgb24", **size), round(frame.rotation / 90))
                time_s = float((pts - first) * self.time_base)
                yield Picture(number, pts, time_s, np.ascontiguousarray(pixels, np.uint8))
                number += 1
        except av.FFmpegError as error:
            at_s = float((last - first) * self.time_base) if last is not None and first is not None else 0
            raise VideoUnusable(f"{self.path} is damaged after {at_s:.1f} s: {error.strerror}") from None
        if last is None or first is None:
            raise VideoUnusable(f"{self.path} has no frame that can be decoded")
        end_s = float((last - (self.stream.start_time or 0)) * self.time_base)
        if self.promised_s is not None and end_s < self.promised_s - SHORT_S - 1 / (self.rate or 1):
            raise VideoUnusable(f"{self.path} was cut off: it ends after {end_s:.1f} s of {self.promised_s:.1f} s")

    def _decode(self, on_sound: Callable[[av.Packet[av.AudioStream]], None] | None) -> Iterator[av.VideoFrame]:
        streams: list[Any] = [self.stream, *(self.container.streams.audio if on_sound else ())]
        for packet in self.container.demux(streams):
            if packet.stream is self.stream:
                yield from cast("list[av.VideoFrame]", packet.decode())
            elif on_sound and packet.dts is not None:  # the last one of each stream is empty
                on_sound(cast("av.Packet[av.AudioStream]", packet))

    def _pts_of(self, number: int) -> int:
        return round(number / ((self.rate or 25) * self.time_base))


class VideoWriter:
    """A new video file with H.264 pictures at another's times, and with its sound as it is where that can be."""

    def __init__(self, path: Path, source: VideoReader) -> None:
        """Begin a file; its suffix says the format.

        Raises:
            VideoUnusable: it cannot be written.
        """
        self._path, self._source = path, source
        with self._telling_errors():
            self._container = av.open(path, "w")
        try:
            self._pictures = self._container.add_stream(ENCODER, rate=source.rate, options=dict(ENCODER_OPTIONS))
        except ValueError as error:
            self._container.close()
            raise VideoUnusable(f"{path} cannot be written: {error}") from None
        self._begun = False
        self._early: list[av.Packet[av.AudioStream]] = []  # sound before the first picture tells its size
        self._sounds: dict[int, av.AudioStream] = {}
        self.left_out: list[str] = []
        """Kinds of sound that this format does not take."""
        for stream in source.container.streams.audio:
            if stream.codec.canonical_name in self._container.supported_codecs:
                self._sounds[stream.index] = self._container.add_stream_from_template(stream)
            else:
                self.left_out.append(stream.codec.canonical_name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            with self._telling_errors():
                self._container.mux(self._pictures.encode())
                self._container.close()
        else:
            with suppress(av.FFmpegError, ValueError):  # it is thrown away
                self._container.close()

    def add(self, picture: Picture, drawn: NDArray[np.uint8]) -> None:
        """Write RGB pixels [H, W, 3] at a picture's time; H.264 takes even sizes: an odd row or column goes."""
        height, width = (side // 2 * 2 for side in drawn.shape[:2])
        if not self._begun:
            self._begin(width, height)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(drawn[:height, :width]))
        context = self._pictures.codec_context
        frame = frame.reformat(
            format="yuv420p", dst_colorspace=context.colorspace, dst_color_range=context.color_range
        )
        frame.pts, frame.time_base = picture.pts, self._source.time_base
        with self._telling_errors():
            self._container.mux(self._pictures.encode(frame))

    def _begin(self, width: int, height: int) -> None:
        """Set what must be known before the first frame: size, times and colours of the source."""
        source, context = self._source.stream, self._pictures.codec_context
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.time_base = self._pictures.time_base = self._source.time_base
        context.colorspace, context.color_range = source.colorspace, source.color_range
        context.color_primaries, context.color_trc = source.color_primaries, source.color_trc
        if ratio := source.sample_aspect_ratio:
            turned = (height > width) != (source.height > source.width)
            context.sample_aspect_ratio = 1 / ratio if turned else ratio
        self._begun = True
        for packet in self._early:
            self.add_sound(packet)
        self._early.clear()

    def add_sound(self, packet: av.Packet[av.AudioStream]) -> None:
        """Copy a packet of the source's sound, where this format takes its kind."""
        if not self._begun:
            self._early.append(packet)
        elif packet.stream.index in self._sounds:
            packet.stream = self._sounds[packet.stream.index]
            with self._telling_errors():
                self._container.mux(packet)

    @contextmanager
    def _telling_errors(self) -> Iterator[None]:
        try:
            yield
        except av.FFmpegError as error:
            raise VideoUnusable(f"{self._path} cannot be written: {error.strerror}") from None
