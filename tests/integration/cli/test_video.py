"""`tandem video` with a gateway and a real Triton: the table, the new video and the plot are checked."""

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor
from served import served
from typer.testing import CliRunner, Result
from videos import audio_of, frames_of, moving_faces, write_video
from waiting import wait_until

from service.cli.main import app
from service.settings import Settings
from service.triton.server import LocalTriton
from service.vision.drawing import COLORS

FRAMES, LEAVES_AFTER = 16, 8
TIMES_MS = [40 * n + (n % 3) * 7 for n in range(FRAMES)]
PALETTE = np.array([ImageColor.getrgb(color) for color in COLORS])


@pytest.fixture(scope="module")
def url(toy_triton: LocalTriton) -> Iterator[str]:
    with served(Settings(triton_url=toy_triton.grpc_url, workers=1)) as url:
        yield url


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = moving_faces(FRAMES, leaves_after=LEAVES_AFTER)
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    return write_video(path, frames, times_ms=TIMES_MS, audio="aac")


def video(source: Path, *arguments: object, url: str) -> Result:
    runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    return runner.invoke(app, ["video", str(source), "--url", url, *map(str, arguments)])


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def shows_a_box(pixels: np.ndarray) -> bool:
    """Whether RGB pixels [N, 3] hold a color of the palette, give or take what H.264 changes."""
    distances = np.abs(pixels[:, None].astype(int) - PALETTE).max(-1)
    return bool((distances.min(0) < 40).any())


def test_faces_are_tracked_drawn_and_plotted(source: Path, tmp_path: Path, url: str) -> None:
    out, table, plot = (tmp_path / "new" / name for name in ("out.mp4", "out.csv", "out.png"))
    result = video(source, "--out", out, "--csv", table, "--plot", plot, "--concurrency", 5, url=url)
    assert result.exit_code == 0, result.output
    assert f"{FRAMES} frames read, 0 failed, 2 faces" in result.output
    assert sorted(path.name for path in out.parent.iterdir()) == ["out.csv", "out.mp4", "out.png"]

    rows = rows_of(table)
    walker = [row for row in rows if row["face"] == rows[0]["face"]]
    other = [row for row in rows if row["face"] != rows[0]["face"]]
    if float(walker[0]["box_x"]) > float(other[0]["box_x"]):
        walker, other = other, walker
    assert [int(row["frame"]) for row in walker] == list(range(FRAMES))
    assert [int(row["frame"]) for row in other] == list(range(LEAVES_AFTER))
    assert [float(row["time_s"]) for row in walker] == pytest.approx([ms / 1000 for ms in TIMES_MS], abs=1e-3)
    assert float(walker[-1]["box_x"]) - float(walker[0]["box_x"]) == pytest.approx(4 * (FRAMES - 1), abs=8)
    for row in rows:
        probabilities = {name[2:]: float(value) for name, value in row.items() if name.startswith("p_")}
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-3)
        assert float(row["confidence"]) == probabilities[row["emotion"]]
        # Smoothed labels are held; one that is not the likeliest is ambiguous.
        likeliest = max(probabilities.values())
        assert probabilities[row["emotion"]] == likeliest or "ambiguous" in row["unreliable_because"]
        assert row["reliable"] in ("True", "False")

    before, after = frames_of(source), frames_of(out)
    assert [time for time, _ in after] == pytest.approx([time for time, _ in before], abs=1e-3)
    assert audio_of(out) == audio_of(source)
    for (_, plain), (_, drawn), row in zip(before, after, walker, strict=True):
        x, y, height = (round(float(row[f"box_{name}"])) for name in ("x", "y", "height"))
        edge = np.s_[y + height // 2 : y + height - 4, x - 1 : x + 3]  # below the label on the box
        assert shows_a_box(drawn[edge].reshape(-1, 3))
        assert np.abs(drawn[edge].astype(int) - plain[edge]).max() > 60
        assert np.abs(drawn[-8:].astype(int) - plain[-8:]).mean() < 6  # where nothing is drawn
    table_of_faces = [line.split() for line in result.stdout.splitlines()]
    assert [line[0] for line in table_of_faces if line and line[0].isdecimal()] == ["1", "2"]
    assert max(map(len, result.stdout.splitlines())) <= 80
    with Image.open(plot) as picture:
        colors = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert shows_a_box(colors)


def test_frames_are_sampled_and_the_others_keep_the_last_faces(source: Path, tmp_path: Path, url: str) -> None:
    out, table, plot = (tmp_path / name for name in ("out.mkv", "out.csv", "out.svg"))
    result = video(source, "--out", out, "--csv", table, "--every", 5, "--smooth", 0.8, url=url)
    assert result.exit_code == 0, result.output
    assert sorted({int(row["frame"]) for row in rows_of(table)}) == [0, 5, 10, 15]
    assert len(frames_of(out)) == FRAMES
    assert shows_a_box(frames_of(out)[4][1].reshape(-1, 3))
    result = video(source, "--csv", table, "--plot", plot, "--fps", 10, url=url)
    assert result.exit_code == 0, result.output
    assert sorted({int(row["frame"]) for row in rows_of(table)}) == [0, 3, 5, 8, 10, 13, 15]
    result = video(source, "--csv", table, "--every", 5, "--smooth", 0, "--json", url=url)
    summary = json.loads(result.stdout)
    assert (summary["video"], summary["frames"], summary["failed"]) == (str(source), 4, 0)
    assert [(face["face"], face["sightings"]) for face in summary["faces"]] in ([(1, 4), (2, 2)], [(1, 2), (2, 4)])
    assert summary["film"]["sightings"] == 6
    for row in rows_of(table):
        probabilities = {name[2:]: float(value) for name, value in row.items() if name.startswith("p_")}
        assert row["emotion"] == max(probabilities, key=lambda label: probabilities[label])
    assert "face 1" in plot.read_text()


def test_a_frame_with_no_face_or_no_answer_has_a_row(tmp_path: Path, toy_triton: LocalTriton) -> None:
    frames = [np.full((120, 160, 3), level, np.uint8) for level in (40, 80, 120)]
    source, table = write_video(tmp_path / "film.mp4", frames), tmp_path / "out.csv"
    with served(Settings(triton_url=toy_triton.grpc_url, workers=1)) as url:
        assert video(source, "--csv", table, url=url).exit_code == 0
    assert [(row["frame"], row["face"], row["error"]) for row in rows_of(table)] == [
        (f"{n}", "", "") for n in range(3)
    ]
    with served(Settings(triton_url=toy_triton.grpc_url, max_pixels=100)) as url:
        result = video(source, "--csv", table, url=url)
    assert result.exit_code == 1
    assert "3 frames read, 3 failed" in result.output
    assert all("TANDEM_MAX_PIXELS" in row["error"] for row in rows_of(table))


def test_the_summary_needs_no_file(source: Path, url: str) -> None:
    result = video(source, "--every", 2, url=url)
    assert result.exit_code == 0, result.output
    assert " 0 failed, 2 faces\n" in result.stderr
    assert "emotions" in result.stdout


def test_an_error_is_reported_and_leaves_no_file(source: Path, tmp_path: Path, url: str) -> None:
    outputs = ("--out", tmp_path / "out.mp4", "--csv", tmp_path / "out.csv")
    cut = tmp_path / "cut.mkv"
    write_video(cut, moving_faces(60))
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    result = video(cut, *outputs, url=url)
    assert result.exit_code == 1
    assert "was cut off" in result.output
    cut.unlink()
    result = video(source, *outputs, url="http://127.0.0.1:9")
    assert result.exit_code == 1
    assert "http://127.0.0.1:9" in result.output
    for arguments, culprit in (
        (("--out", source), source.name),
        (("--out", tmp_path / "out.gif"), ".mp4, .mov, .mkv"),
    ):
        result = video(source, *arguments, url=url)
        assert result.exit_code == 2
        assert culprit in result.output
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_no_partial_file(tmp_path: Path, url: str) -> None:
    source = write_video(tmp_path / "film.mp4", moving_faces(90))
    out = tmp_path / "out.mp4"
    command = [sys.executable, "-m", "service.cli", "video", str(source), "--url", url, "--out", str(out)]
    with subprocess.Popen(
        [*command, "--csv", str(tmp_path / "out.csv")], stderr=subprocess.PIPE, text=True
    ) as process:
        wait_until(
            lambda: any(tmp_path.glob("out.*.partial.csv")) or process.poll() is not None,
            "the run has started",
            timeout_s=60,
        )
        os.kill(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]
