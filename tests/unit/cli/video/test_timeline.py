import numpy as np
import pytest
from answers import answer

from service.cli.video.timeline import FaceSummary, FaceTimeline
from service.schemas import TrackedFace

LABELS = ["neutral", "happiness"]


def seen(*sightings: tuple[float, str, bool]) -> FaceTimeline:
    """A timeline of sightings (seconds, label, doubtful)."""
    timeline = FaceTimeline()
    for time_s, label, doubtful in sightings:
        timeline.times.append(time_s)
        timeline.probabilities.append([0.5, 0.5])
        timeline.emotions.append(label)
        timeline.doubtful.append(doubtful)
    return timeline


def face(x: float, score: float, *, reliable: bool = True) -> TrackedFace:
    (found,) = answer(100, 80, (x, 20, 20, 20)).faces
    return TrackedFace(**{**dict(found), "track": 1, "detection_score": score, "reliable": reliable})


def test_the_picture_is_of_the_best_sighting() -> None:
    timeline = FaceTimeline()
    pixels = np.repeat(np.arange(100, dtype=np.uint8), 80 * 3).reshape(100, 80, 3).transpose(1, 0, 2)  # gray is x
    for time_s, each in enumerate(
        (face(10, 0.8), face(30, 0.9), face(50, 0.7), face(60, 0.99, reliable=False), face(70, 0.9))
    ):
        timeline.add(time_s, each, LABELS, pixels)
    assert timeline.picture is not None
    assert (int(timeline.picture.min()), int(timeline.picture.max())) == (27, 52)  # from 30 to 50, with the margin
    assert timeline.doubtful == [False, False, False, True, False]
    assert timeline.probabilities[0] == [0.2, 0.8]


def test_spans_end_where_the_face_is_absent() -> None:
    timeline = seen((0.0, "a", False), (0.1, "a", False), (0.5, "a", False))
    assert list(timeline.spans(0.1)) == [slice(0, 2), slice(2, 3)]
    assert list(FaceTimeline().spans(0.1)) == []


def test_doubtful_spans_join_neighbors_and_end_with_a_gap() -> None:
    doubts = [(0.0, False), (0.1, True), (0.2, True), (0.3, False), (0.4, True), (0.9, True), (1.0, True)]
    timeline = seen(*((time_s, "a", doubtful) for time_s, doubtful in doubts))
    spans = timeline.doubtful_spans(0.1)
    assert [pytest.approx(span) for span in spans] == [(0.1, 0.2), (0.4, 0.1), (0.9, 0.2)]


def test_a_summary_counts_labels_changes_and_doubts() -> None:
    one = seen(
        (0.0, "happiness", False), (0.1, "neutral", True), (0.2, "happiness", False), (0.3, "happiness", False)
    )
    other = seen((0.2, "neutral", True))
    assert FaceSummary.of(one) == FaceSummary(4, 0.0, 0.3, {"happiness": 0.75, "neutral": 0.25}, 2, 0.25)
    assert FaceSummary.of(one, other) == FaceSummary(5, 0.0, 0.3, {"happiness": 0.6, "neutral": 0.4}, 2, 0.4)
