"""Read upright frames from a video file, and write frames with another file's audio to a new one (PyAV)."""

from __future__ import annotations  # PyAV's packets are generic in its stubs only

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
"""Containers that can be written; each supports H.264."""

IMAGE_FORMATS = ("image2", "_pipe")
"""Substrings of FFmpeg's format names for still images."""

IMAGE_BRANDS = ("avif", "heic", "heix", "mif1")
"""Brands of still images in the container of MP4: AVIF and HEIC."""

ENCODER: Final = "libx264"
ENCODER_OPTIONS = {"preset": "veryfast", "crf": "20"}

MAX_MISSING_S = 1.0
"""A file whose frames end earlier than its declared duration by more than this was cut off. Declared durations are
approximate."""

DURATION_TAG = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")
"""Matroska's duration of one stream, such as 00:01:02.500."""


class VideoUnusable(Exception):
    """A video cannot be read or written; the message says why."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One video frame.

    Attributes:
        number: index from 0.
        pts: presentation time in units of the stream's time base.
        time_s: seconds since the first frame.
        pixels: upright RGB, uint8 [H, W, 3].
    """

    number: int
    pts: int
    time_s: float
    pixels: NDArray[np.uint8]


class VideoReader:
    """A video file that is read once, from beginning to end."""

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            VideoUnusable: the file cannot be read, or is not a video.
        """
        self.path = path
        try:
            self.container = av.open(path)
        except av.FFmpegError as error:
            reason = (
                "it is not a video, or its index is missing" if isinstance(error, ValueError) else error.strerror
            )
            raise VideoUnusable(f"{path} cannot be read: {reason}") from None
        try:
            self.stream = self._video_stream()
        except VideoUnusable:
            self.container.close()
            raise

    def _video_stream(self) -> av.VideoStream:
        """Return the first video stream; an audio file's cover art and still images do not count."""
        is_image = any(part in self.container.format.name for part in IMAGE_FORMATS)
        if is_image or self.container.metadata.get("major_brand") in IMAGE_BRANDS:
            raise VideoUnusable(f"{self.path} is no video but a still image; use `tandem predict`")
        for stream in self.container.streams.video:
            if not stream.disposition & Disposition.attached_pic:
                stream.thread_type = "AUTO"
                return stream
        raise VideoUnusable(f"{self.path} has no video stream")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

    @property
    def time_base(self) -> Fraction:
        """Seconds per unit of ``Frame.pts``."""
        return self.stream.time_base or Fraction(1, 1000)

    @property
    def frame_rate(self) -> Fraction | None:
        """Average frames per second; None if the file does not say."""
        return self.stream.average_rate or self.stream.guessed_rate

    @property
    def declared_duration_s(self) -> float | None:
        """Duration of the video stream according to the file's metadata; None if it does not say."""
        if self.stream.duration is not None:
            return float(self.stream.duration * self.time_base)
        tag = DURATION_TAG.match(self.stream.metadata.get("DURATION", ""))
        if tag is None:
            return None
        hours, minutes, seconds = tag.groups()
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)

    @property
    def frame_count(self) -> int | None:
        """Approximate number of frames; None if the file does not say."""
        seconds = self.declared_duration_s or (self.container.duration or 0) / av.time_base
        return round(seconds * self.frame_rate) if seconds and self.frame_rate else None

    def frames(self, on_audio: Callable[[av.Packet[av.AudioStream]], None] | None = None) -> Iterator[Frame]:
        """Yield every frame in presentation order, upright, scaled to the size of the first one.

        A frame that is not later than the one before it is skipped.

        Args:
            on_audio: called with each audio packet.

        Raises:
            VideoUnusable: the file is damaged, was cut off, or has no frame.
        """
        first = last = None
        size: dict[str, Any] = {}
        number = 0
        try:
            for frame in self._decode(on_audio):
                pts = frame.pts if frame.pts is not None else self._estimated_pts(number)
                if first is None:
                    first, size = pts, {"width": frame.width, "height": frame.height}
                if last is not None and pts <= last:
                    continue
                last = pts
                pixels = np.rot90(frame.to_ndarray(format="rgb24", **size), round(frame.rotation / 90))
                time_s = float((pts - first) * self.time_base)
                yield Frame(number, pts, time_s, np.ascontiguousarray(pixels, np.uint8))
                number += 1
        except av.FFmpegError as error:
            at_s = float((last - first) * self.time_base) if last is not None and first is not None else 0
            raise VideoUnusable(f"{self.path} is damaged after {at_s:.1f} s: {error.strerror}") from None
        if last is None or first is None:
            raise VideoUnusable(f"{self.path} has no frame that can be decoded")
        end_s = float((last - (self.stream.start_time or 0)) * self.time_base)
        declared_s = self.declared_duration_s
        if declared_s is not None and end_s < declared_s - MAX_MISSING_S - 1 / (self.frame_rate or 1):
            raise VideoUnusable(f"{self.path} was cut off: it ends after {end_s:.1f} s of {declared_s:.1f} s")

    def _decode(self, on_audio: Callable[[av.Packet[av.AudioStream]], None] | None) -> Iterator[av.VideoFrame]:
        streams: list[Any] = [self.stream, *(self.container.streams.audio if on_audio else ())]
        for packet in self.container.demux(streams):
            if packet.stream is self.stream:
                yield from cast("list[av.VideoFrame]", packet.decode())
            elif on_audio and packet.dts is not None:  # the last packet of each stream is empty
                on_audio(cast("av.Packet[av.AudioStream]", packet))

    def _estimated_pts(self, number: int) -> int:
        return round(number / ((self.frame_rate or 25) * self.time_base))


class VideoWriter:
    """A new H.264 video with the frame times of a source video and a copy of its audio."""

    def __init__(self, path: Path, source: VideoReader) -> None:
        """Create a file; its suffix sets the container format.

        Raises:
            VideoUnusable: the file cannot be written.
        """
        self._path, self._source = path, source
        with self._as_video_unusable():
            self._container = av.open(path, "w")
        try:
            self._video = self._container.add_stream(
                ENCODER, rate=source.frame_rate, options=dict(ENCODER_OPTIONS)
            )
        except ValueError as error:
            self._container.close()
            raise VideoUnusable(f"{path} cannot be written: {error}") from None
        self._started = False
        self._pending_audio: list[av.Packet[av.AudioStream]] = []  # packets that precede the first frame
        self._audio: dict[int, av.AudioStream] = {}
        self.skipped_audio: list[str] = []
        """Codecs of the source's audio streams that this container does not support."""
        for stream in source.container.streams.audio:
            if stream.codec.canonical_name in self._container.supported_codecs:
                self._audio[stream.index] = self._container.add_stream_from_template(stream)
            else:
                self.skipped_audio.append(stream.codec.canonical_name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            with self._as_video_unusable():
                self._container.mux(self._video.encode())
                self._container.close()
        else:
            with suppress(av.FFmpegError, ValueError):  # the file is discarded anyway
                self._container.close()

    def write(self, frame: Frame, drawn: NDArray[np.uint8]) -> None:
        """Write RGB pixels [H, W, 3] at a frame's time, without an odd last row or column, which H.264 rejects."""
        height, width = (side // 2 * 2 for side in drawn.shape[:2])
        if not self._started:
            self._start(width, height)
        encoded = av.VideoFrame.from_ndarray(np.ascontiguousarray(drawn[:height, :width]))
        context = self._video.codec_context
        encoded = encoded.reformat(
            format="yuv420p", dst_colorspace=context.colorspace, dst_color_range=context.color_range
        )
        encoded.pts, encoded.time_base = frame.pts, self._source.time_base
        with self._as_video_unusable():
            self._container.mux(self._video.encode(encoded))

    def _start(self, width: int, height: int) -> None:
        """Set the properties that the encoder needs before the first frame: size, time base and color space."""
        source, context = self._source.stream, self._video.codec_context
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.time_base = self._video.time_base = self._source.time_base
        context.colorspace, context.color_range = source.colorspace, source.color_range
        context.color_primaries, context.color_trc = source.color_primaries, source.color_trc
        if ratio := source.sample_aspect_ratio:
            rotated = (height > width) != (source.height > source.width)
            context.sample_aspect_ratio = 1 / ratio if rotated else ratio
        self._started = True
        for packet in self._pending_audio:
            self.copy_audio(packet)
        self._pending_audio.clear()

    def copy_audio(self, packet: av.Packet[av.AudioStream]) -> None:
        """Copy an audio packet of the source if this container supports its codec."""
        if not self._started:
            self._pending_audio.append(packet)
        elif packet.stream.index in self._audio:
            packet.stream = self._audio[packet.stream.index]
            with self._as_video_unusable():
                self._container.mux(packet)

    @contextmanager
    def _as_video_unusable(self) -> Iterator[None]:
        try:
            yield
        except av.FFmpegError as error:
            raise VideoUnusable(f"{self._path} cannot be written: {error.strerror}") from None
