from pathlib import Path

import numpy as np
import pytest
from answers import answer

from service.cli.video.io import Frame
from service.cli.video.results import ResultWriter, VideoSummary, all_or_nothing
from service.schemas import PhotoEmotions

PIXELS = np.zeros((60, 80, 3), np.uint8)


def flickering(count: int, step_s: float, smooth: float | None) -> VideoSummary:
    """The summary of a film whose only face is called happy and neutral in turn, both with a small lead."""
    results = ResultWriter(["neutral", "happiness"], smooth, None, None)
    for number in range(count):
        happiness = 0.55 if number % 2 else 0.4
        (face,) = answer(80, 60, (10, 10, 30, 30)).faces
        emotions = {"neutral": 1 - happiness, "happiness": happiness}
        emotion = max(emotions, key=lambda label: emotions[label])
        face = face.model_copy(update={"emotions": emotions, "emotion": emotion, "confidence": emotions[emotion]})
        frame = answer(80, 60).model_copy(update={"faces": [face]})
        results.add(Frame(number, number, number * step_s, PIXELS), frame)
    return results.summary


def test_labels_do_not_flicker_unless_smoothing_is_off() -> None:
    assert flickering(20, 0.04, 0).faces[1].changes == 19
    assert flickering(20, 0.04, None).faces[1].changes == 0


@pytest.mark.parametrize("step_s", [0.02, 0.04, 0.2, 1.0])
def test_smoothing_fades_with_time_and_not_with_frames(step_s: float) -> None:
    results = ResultWriter(["neutral", "happiness"], None, None, None)
    (happy,) = answer(80, 60, (10, 10, 30, 30)).faces
    before = happy.model_copy(update={"emotions": {"neutral": 1.0, "happiness": 0.0}, "emotion": "neutral"})
    after = happy.model_copy(update={"emotions": {"neutral": 0.0, "happiness": 1.0}})
    shown = []
    for number in range(1 + round(1.0 / step_s)):
        frame = answer(80, 60).model_copy(update={"faces": [after if number else before]})
        results.add(Frame(number, number, number * step_s, PIXELS), frame)
        assert results._latest is not None
        shown.append(results._latest.faces[0].emotions["happiness"])
    assert shown[0] == 0
    assert shown[-1] == pytest.approx(1 - np.exp(-1.0 / 0.4), abs=1e-4)  # after one second


def test_the_summary_counts_frames_and_failures() -> None:
    results = ResultWriter(["neutral", "happiness"], None, None, None)
    answers: list[PhotoEmotions | str | None] = [answer(80, 60, (10, 10, 30, 30)), "broken", None, answer(80, 60)]
    for number, each in enumerate(answers):
        results.add(Frame(number, number, number / 25, PIXELS), each)
    summary = results.summary.to_json()
    assert (summary["frames"], summary["failed"]) == (3, 1)
    assert [face["face"] for face in summary["faces"]] == [1]
    assert summary["film"]["sightings"] == 1
    assert ResultWriter(["neutral"], None, None, None).summary.to_json()["film"] is None


def test_files_appear_complete_or_not_at_all(tmp_path: Path) -> None:
    paths = [tmp_path / "new" / "a.csv", tmp_path / "b.mp4"]
    paths[1].write_text("before")

    def interrupted() -> None:
        with all_or_nothing(paths) as partial:
            for path in paths:
                partial[path].write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not paths[0].exists()
    assert paths[1].read_text() == "before"
    with all_or_nothing(paths) as partial:
        for path in paths:
            partial[path].write_text("all")
    assert [path.read_text() for path in paths] == ["all", "all"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.mp4", "new"]


def test_a_film_whose_name_says_partial_is_not_overwritten(tmp_path: Path) -> None:
    film = tmp_path / "film.partial.mp4"
    film.write_text("mine")
    with all_or_nothing([tmp_path / "film.mp4"]) as partial:
        partial[tmp_path / "film.mp4"].write_text("drawn")
    assert film.read_text() == "mine"
    assert (tmp_path / "film.mp4").read_text() == "drawn"
