from pathlib import Path

import av
import numpy as np
import pytest
from photos import astronaut, encoded
from videos import audio_of, frames_of, moving_faces, write_video

from service.cli.video.io import Frame, VideoReader, VideoUnusable, VideoWriter

FRAMES = moving_faces(12)
UNEVEN_MS = [0, 40, 55, 200, 210, 400, 640, 641, 700, 900, 950, 1500]


def read(path: Path) -> list[Frame]:
    with VideoReader(path) as reader:
        return list(reader.frames())


def copy(path: Path, out: Path) -> list[Frame]:
    frames = []
    with VideoReader(path) as reader, VideoWriter(out, reader) as writer:
        for frame in reader.frames(writer.copy_audio):
            frames.append(frame)
            writer.write(frame, frame.pixels)
    return frames


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(int) - b).mean())


@pytest.mark.parametrize(
    ("source", "target"),
    [("video.mp4", "copy.mp4"), ("video.mp4", "copy.mkv"), ("video.mkv", "copy.mov"), ("video.ts", "copy.mkv")],
)
def test_a_copy_keeps_frame_times_pixels_and_audio(tmp_path: Path, source: str, target: str) -> None:
    video = write_video(tmp_path / source, FRAMES, times_ms=UNEVEN_MS, audio="aac")
    frames = copy(video, tmp_path / target)
    assert [frame.number for frame in frames] == list(range(12))
    times = [frame.time_s for frame in frames]
    assert times == pytest.approx([time_ms / 1000 for time_ms in UNEVEN_MS], abs=1e-3)
    stored = frames_of(tmp_path / target)
    assert [time_s - stored[0][0] for time_s, _ in stored] == pytest.approx(times, abs=1e-3)
    for (_, pixels), original in zip(stored, FRAMES, strict=True):
        assert difference(pixels, original) < 6
    kind, packets = audio_of(video)
    copied_kind, copied = audio_of(tmp_path / target)
    assert copied_kind == kind
    if source != "video.ts":  # an MPEG transport stream has a header in each packet
        assert [content for _, content in copied] == [content for _, content in packets]
    # Audio and video stay in sync.
    distance = packets[0][0] - frames_of(video)[0][0]
    assert copied[0][0] - stored[0][0] == pytest.approx(distance, abs=2e-3)


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_frames_are_read_and_written_upright(tmp_path: Path, rotation: int) -> None:
    upright = FRAMES[3]
    stored = np.rot90(upright, -rotation // 90)
    video = write_video(tmp_path / "video.mp4", [stored] * 3, rotation=rotation)
    assert all(difference(frame.pixels, upright) < 6 for frame in copy(video, tmp_path / "copy.mp4"))
    with av.open(tmp_path / "copy.mp4") as container:
        frame = next(container.decode(video=0))
        assert frame.rotation == 0
        assert difference(frame.to_ndarray(format="rgb24"), upright) < 6


def test_odd_sizes_lose_a_row_and_a_column(tmp_path: Path) -> None:
    video = write_video(tmp_path / "video.mkv", [frame[:241, :321] for frame in FRAMES], codec="ffv1")
    assert copy(video, tmp_path / "copy.mp4")[0].pixels.shape == (241, 321, 3)
    assert frames_of(tmp_path / "copy.mp4")[0][1].shape == (240, 320, 3)


def test_audio_that_the_container_does_not_support_is_skipped_and_reported(tmp_path: Path) -> None:
    video = write_video(tmp_path / "video.mkv", FRAMES, audio="tta")
    with VideoReader(video) as reader:
        with VideoWriter(tmp_path / "copy.mp4", reader) as writer:
            for frame in reader.frames(writer.copy_audio):
                writer.write(frame, frame.pixels)
        assert writer.skipped_audio == ["tta"]
    with av.open(tmp_path / "copy.mp4") as container:
        assert [stream.type for stream in container.streams] == ["video"]


@pytest.mark.parametrize(("name", "options"), [("video.mp4", {"movflags": "faststart"}), ("video.mkv", {})])
def test_a_truncated_file_is_rejected(tmp_path: Path, name: str, options: dict[str, str]) -> None:
    video = write_video(tmp_path / name, moving_faces(60), **options)
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    before: list[Frame] = []
    cut_off = r"\d\.\d s of 2\.4 s|damaged after \d\.\d s"
    with VideoReader(video) as reader, pytest.raises(VideoUnusable, match=cut_off):
        before.extend(reader.frames())
    assert 0 < len(before) < 50


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "not a video"),
        (b"dear diary\n" * 100, "not a video"),
        (encoded(astronaut()), "still image; use `tandem predict`"),
        (encoded(astronaut(), "WEBP"), "still image"),
        (encoded(astronaut(), "AVIF"), "still image"),
    ],
)
def test_a_file_that_is_not_a_video_is_rejected(tmp_path: Path, content: bytes, kind: str) -> None:
    video = tmp_path / "video.mp4"
    video.write_bytes(content)
    with pytest.raises(VideoUnusable, match=kind):
        VideoReader(video)


def test_a_missing_file_and_one_with_only_audio_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(VideoUnusable, match="No such file"):
        VideoReader(tmp_path / "video.mp4")
    with av.open(tmp_path / "song.mp3", "w") as container:
        stream: object = container.add_stream("libmp3lame", rate=48_000)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), format="s16", layout="mono")
        samples.sample_rate, samples.pts = 48_000, 0
        for frame in (samples, None):
            container.mux(stream.encode(frame))  # type: ignore[attr-defined]
    with pytest.raises(VideoUnusable, match="no video stream"):
        VideoReader(tmp_path / "song.mp3")
