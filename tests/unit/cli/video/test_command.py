from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from service.cli.video.command import Sampling, whole
from service.cli.video.io import Picture
from service.cli.video.plot import EmotionTimeline, plot, with_gaps

NO_PIXELS = np.zeros((1, 1, 3), np.uint8)


def chosen(sampling: Sampling, times_s: Sequence[float]) -> list[float]:
    pictures = (Picture(number, 0, time_s, NO_PIXELS) for number, time_s in enumerate(times_s))
    return [picture.time_s for picture, wanted in sampling.choose(pictures) if wanted]


def test_samples_by_number_and_by_time() -> None:
    times = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 2.0, 2.1]
    assert chosen(Sampling(), times) == times
    assert chosen(Sampling(every=3), times) == [0, 0.3, 2.0]
    assert chosen(Sampling(per_s=5), times) == [0, 0.2, 0.4, 2.0]
    assert chosen(Sampling(per_s=1000), times) == times
    assert chosen(Sampling(every=2, per_s=2), times) == [0, 2.0]


def test_a_rate_holds_where_times_are_rounded() -> None:
    times = [round(n / 30, 3) for n in range(300)]
    assert len(chosen(Sampling(per_s=10), times)) == pytest.approx(100, abs=1)


def test_files_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    paths = [tmp_path / "new" / "a.csv", tmp_path / "b.mp4"]
    paths[1].write_text("before")

    def interrupted() -> None:
        with whole(paths) as partial:
            for path in paths:
                partial[path].write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not paths[0].exists()
    assert paths[1].read_text() == "before"
    with whole(paths) as partial:
        for path in paths:
            partial[path].write_text("all")
    assert [path.read_text() for path in paths] == ["all", "all"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.mp4", "new"]


def test_a_face_that_is_away_leaves_a_gap() -> None:
    course = EmotionTimeline([0.0, 0.1, 0.5], [[0.2, 0.8], [0.3, 0.7], [1.0, 0.0]])
    times, emotions = with_gaps(course, 0.1)
    assert times.tolist() == pytest.approx([0, 0.1, 0.2, 0.2, 0.5, 0.6, 0.6])
    assert np.isnan(emotions[:, 0]).tolist() == [False, False, False, True, False, False, True]
    assert emotions[2].tolist() == [0.3, 0.7]


@pytest.mark.parametrize("faces", [0, 1, 30])
def test_any_number_of_faces_is_plotted(tmp_path: Path, faces: int) -> None:
    path = tmp_path / "plot.svg"
    plot(
        {n: EmotionTimeline([0.0] * (n + 1), [[0.5, 0.5]] * (n + 1)) for n in range(faces)},
        ["a", "b"],
        0.04,
        path,
        "svg",
    )
    text = path.read_text()
    assert ("no face found" in text) == (faces == 0)
    assert ("the 8 of 30 faces that are seen longest" in text) == (faces == 30)
