from pathlib import Path

import numpy as np
import pytest

from service.cli.video.plot import EmotionTimeline, plot_timelines, with_gaps


def test_an_absent_face_leaves_a_gap() -> None:
    timeline = EmotionTimeline([0.0, 0.1, 0.5], [[0.2, 0.8], [0.3, 0.7], [1.0, 0.0]])
    times, emotions = with_gaps(timeline, 0.1)
    assert times.tolist() == pytest.approx([0, 0.1, 0.2, 0.2, 0.5, 0.6, 0.6])
    assert np.isnan(emotions[:, 0]).tolist() == [False, False, False, True, False, False, True]
    assert emotions[2].tolist() == [0.3, 0.7]


@pytest.mark.parametrize("faces", [0, 1, 30])
def test_any_number_of_faces_is_plotted(tmp_path: Path, faces: int) -> None:
    path = tmp_path / "plot.svg"
    timelines = {n: EmotionTimeline([0.0] * (n + 1), [[0.5, 0.5]] * (n + 1)) for n in range(faces)}
    plot_timelines(timelines, ["a", "b"], 0.04, path, "svg")
    text = path.read_text()
    assert ("no face found" in text) == (faces == 0)
    assert ("8 of 30 faces" in text) == (faces == 30)
