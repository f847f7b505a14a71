from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.cli.video.plot import plot_timelines, with_gaps
from service.cli.video.timeline import FaceTimeline


def test_an_absent_face_leaves_a_gap() -> None:
    timeline = FaceTimeline([0.0, 0.1, 0.5], [[0.2, 0.8], [0.3, 0.7], [1.0, 0.0]])
    times, emotions = with_gaps(timeline, 0.1)
    assert times.tolist() == pytest.approx([0, 0.1, 0.2, 0.2, 0.5, 0.6, 0.6])
    assert np.isnan(emotions[:, 0]).tolist() == [False, False, False, True, False, False, True]
    assert emotions[2].tolist() == [0.3, 0.7]


@pytest.mark.parametrize("faces", [0, 1, 30])
def test_any_number_of_faces_is_plotted(tmp_path: Path, faces: int) -> None:
    path = tmp_path / "plot.svg"
    counts = range(1, faces + 1)
    timelines = {n: FaceTimeline([0.0] * n, [[0.5, 0.5]] * n, ["a"] * n, [False] * n) for n in counts}
    plot_timelines(timelines, ["a", "b"], 0.04, path, "svg")
    text = path.read_text()
    assert ("no face found" in text) == (faces == 0)
    assert ("8 of 30 faces" in text) == (faces == 30)


def test_pictures_and_doubts_are_drawn(tmp_path: Path) -> None:
    def drawn(timeline: FaceTimeline) -> np.ndarray:
        plot_timelines({1: timeline}, ["a", "b"], 0.1, tmp_path / "plot.png", "png")
        with Image.open(tmp_path / "plot.png") as picture:
            return np.asarray(picture.convert("RGB")).astype(int)

    times, probabilities = [0.0, 0.1, 0.2, 0.3], [[0.0, 1.0]] * 4
    plain = drawn(FaceTimeline(times, probabilities, ["b"] * 4, [False] * 4))
    magenta = np.full((40, 40, 3), (255, 0, 255), np.uint8)
    marked = drawn(FaceTimeline(times, probabilities, ["b"] * 4, [False, False, True, True], magenta))
    is_magenta = (np.abs(marked - (255, 0, 255)).max(-1) < 10).nonzero()
    assert len(is_magenta[1]) > 1000
    assert is_magenta[1].max() < marked.shape[1] / 5
    panel = slice(marked.shape[1] // 5, None)
    changed = (np.abs(marked - plain).max(-1) > 60)[:, panel].nonzero()[1]
    middle = (marked.shape[1] - panel.start) / 2
    assert (changed > 0.9 * middle).mean() > 0.9  # the second half is doubtful
