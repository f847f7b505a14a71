"""Small videos for tests, of real photos that move."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from photos import astronaut

MILLISECOND = Fraction(1, 1000)
SOUND_RATE = 48_000


def walking(frames: int, *, leaves_after: int | None = None) -> list[NDArray[np.uint8]]:
    """640 x 360, a face that goes to the right by 4 pixels a frame, and one on the right that leaves."""
    person = np.asarray(astronaut())[:300, 90:340]
    scene = np.full((360, 640, 3), 90, np.uint8)
    pictures = []
    for number in range(frames):
        picture = scene.copy()
        picture[40:340, 4 * number : 4 * number + 250] = person
        if leaves_after is None or number < leaves_after:
            picture[50:350, 390:640] = person[:, ::-1]
        pictures.append(picture)
    return pictures


def write_film(
    path: Path,
    pictures: Sequence[NDArray[np.uint8]],
    *,
    times_ms: Iterable[int] | None = None,
    codec: str = "libx264",
    rotation: int = 0,
    sound: str | None = None,
    **container_options: Any,
) -> Path:
    """Encode RGB pictures [H, W, 3], 25 a second unless their times say otherwise, with a tone beside them.

    ``rotation``: degrees counterclockwise by which a player is told to turn them.
    """
    with av.open(path, "w", options=container_options) as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.gop_size = 10
        stream.codec_context.time_base = stream.time_base = MILLISECOND
        if rotation:
            stream.set_display_rotation(rotation)
        tone: Any = container.add_stream(sound, rate=SOUND_RATE) if sound else None
        times = list(times_ms or range(0, 40 * len(pictures), 40))
        for time_ms, picture in zip(times, pictures, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture))
            frame.pts, frame.time_base = time_ms, MILLISECOND
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if tone:
            for start in range(0, (times[-1] + 40) * SOUND_RATE // 1000, 1024):
                wave = np.sin(np.arange(start, start + 1024) * 0.05) * 8000
                samples = av.AudioFrame.from_ndarray(wave.astype(np.int16)[None], format="s16", layout="mono")
                samples.sample_rate, samples.pts = SOUND_RATE, start
                container.mux(tone.encode(samples))
            container.mux(tone.encode())
    return path


def frames_of(path: Path) -> list[tuple[float, NDArray[np.uint8]]]:
    """Seconds and RGB pixels of each frame, as they are stored."""
    with av.open(path) as container:
        return [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def sound_of(path: Path) -> tuple[str, list[tuple[float, bytes]]]:
    """The kind of a file's sound, and the seconds and bytes of its packets."""
    with av.open(path) as container:
        (stream,) = container.streams.audio
        packets = [packet for packet in container.demux(stream) if packet.pts is not None]
        return stream.codec.canonical_name, [(float(p.pts * p.time_base), bytes(p)) for p in packets]
