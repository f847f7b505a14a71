from pathlib import Path

import av
import numpy as np
import pytest
from films import frames_of, sound_of, walking, write_film
from photos import astronaut, encoded

from service.cli.video.io import Picture, VideoReader, VideoUnusable, VideoWriter

PICTURES = walking(12)
UNEVEN_MS = [0, 40, 55, 200, 210, 400, 640, 641, 700, 900, 950, 1500]


def read(path: Path) -> list[Picture]:
    with VideoReader(path) as reader:
        return list(reader.read())


def copy(path: Path, out: Path) -> list[Picture]:
    pictures = []
    with VideoReader(path) as reader, VideoWriter(out, reader) as writer:
        for picture in reader.read(writer.add_sound):
            pictures.append(picture)
            writer.add(picture, picture.pixels)
    return pictures


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(int) - b).mean())


@pytest.mark.parametrize(
    ("source", "target"),
    [("film.mp4", "copy.mp4"), ("film.mp4", "copy.mkv"), ("film.mkv", "copy.mov"), ("film.ts", "copy.mkv")],
)
def test_a_copy_keeps_times_pictures_and_sound(tmp_path: Path, source: str, target: str) -> None:
    film = write_film(tmp_path / source, PICTURES, times_ms=UNEVEN_MS, sound="aac")
    pictures = copy(film, tmp_path / target)
    assert [picture.number for picture in pictures] == list(range(12))
    times = [picture.time_s for picture in pictures]
    assert times == pytest.approx([time_ms / 1000 for time_ms in UNEVEN_MS], abs=1e-3)
    stored = frames_of(tmp_path / target)
    assert [time_s - stored[0][0] for time_s, _ in stored] == pytest.approx(times, abs=1e-3)
    for (_, pixels), original in zip(stored, PICTURES, strict=True):
        assert difference(pixels, original) < 6
    kind, packets = sound_of(film)
    copied_kind, copied = sound_of(tmp_path / target)
    assert copied_kind == kind
    if source != "film.ts":  # which has a header in each packet, that others have none of
        assert [content for _, content in copied] == [content for _, content in packets]
    # Sound and pictures keep their distance.
    distance = packets[0][0] - frames_of(film)[0][0]
    assert copied[0][0] - stored[0][0] == pytest.approx(distance, abs=2e-3)


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_pictures_are_read_and_written_upright(tmp_path: Path, rotation: int) -> None:
    upright = PICTURES[3]
    stored = np.rot90(upright, -rotation // 90)
    film = write_film(tmp_path / "film.mp4", [stored] * 3, rotation=rotation)
    assert all(difference(picture.pixels, upright) < 6 for picture in copy(film, tmp_path / "copy.mp4"))
    with av.open(tmp_path / "copy.mp4") as container:
        frame = next(container.decode(video=0))
        assert frame.rotation == 0
        assert difference(frame.to_ndarray(format="rgb24"), upright) < 6


def test_odd_sizes_lose_a_row_or_a_column(tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mkv", [picture[:241, :321] for picture in PICTURES], codec="ffv1")
    assert copy(film, tmp_path / "copy.mp4")[0].pixels.shape == (241, 321, 3)
    assert frames_of(tmp_path / "copy.mp4")[0][1].shape == (240, 320, 3)


def test_sound_that_the_format_does_not_take_is_left_out_and_said(tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mkv", PICTURES, sound="tta")
    with VideoReader(film) as reader:
        with VideoWriter(tmp_path / "copy.mp4", reader) as writer:
            for picture in reader.read(writer.add_sound):
                writer.add(picture, picture.pixels)
        assert writer.left_out == ["tta"]
    with av.open(tmp_path / "copy.mp4") as container:
        assert [stream.type for stream in container.streams] == ["video"]


@pytest.mark.parametrize(("name", "options"), [("film.mp4", {"movflags": "faststart"}), ("film.mkv", {})])
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, name: str, options: dict[str, str]) -> None:
    film = write_film(tmp_path / name, walking(60), **options)
    film.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    before: list[Picture] = []
    told = r"was cut off: it ends after \d\.\d s of 2\.4 s|is damaged after \d\.\d s"
    with VideoReader(film) as reader, pytest.raises(VideoUnusable, match=told):
        before.extend(reader.read())
    assert 0 < len(before) < 50


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "it is no video"),
        (b"dear diary\n" * 100, "it is no video"),
        (encoded(astronaut()), "is one picture; `tandem predict` reads those"),
        (encoded(astronaut(), "WEBP"), "is one picture"),
    ],
)
def test_what_is_no_video_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    film = tmp_path / "film.mp4"
    film.write_bytes(content)
    with pytest.raises(VideoUnusable, match=complaint):
        VideoReader(film)


def test_what_is_not_there_or_only_sound_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VideoUnusable, match="No such file"):
        VideoReader(tmp_path / "film.mp4")
    with av.open(tmp_path / "song.mp3", "w") as container:
        stream: object = container.add_stream("libmp3lame", rate=48_000)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), format="s16", layout="mono")
        samples.sample_rate, samples.pts = 48_000, 0
        for frame in (samples, None):
            container.mux(stream.encode(frame))  # type: ignore[attr-defined]
    with pytest.raises(VideoUnusable, match="has no moving pictures"):
        VideoReader(tmp_path / "song.mp3")
