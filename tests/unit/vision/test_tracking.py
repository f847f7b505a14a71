import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.schemas import FaceBox, FaceEmotion, Landmarks, PictureQuality, Point, Pose
from service.vision.tracking import MAX_MISSED, MIN_IOU, Tracker, iou, match, smooth

LABELS = ["neutral", "happiness", "surprise"]

sides = st.floats(0, 500, allow_nan=False)
boxes = st.builds(FaceBox, x=sides, y=sides, width=sides, height=sides)


@st.composite
def distributions(draw: st.DrawFn) -> dict[str, float]:
    weights = [draw(st.floats(0.01, 1)) for _ in LABELS]
    return {label: weight / sum(weights) for label, weight in zip(LABELS, weights, strict=True)}


def box(x: float, y: float = 0, side: float = 100) -> FaceBox:
    return FaceBox(x=x, y=y, width=side, height=side)


def face(where: FaceBox, **emotions: float) -> FaceEmotion:
    emotions = emotions or {"neutral": 1.0}
    point = Point(x=where.x, y=where.y)
    return FaceEmotion(
        box=where,
        landmarks=Landmarks(left_eye=point, right_eye=point, nose=point, mouth_left=point, mouth_right=point),
        detection_score=0.9,
        emotion=max(emotions, key=lambda label: emotions[label]),
        confidence=max(emotions.values()),
        emotions=emotions,
        pose=Pose(roll=0, yaw=0),
        quality=PictureQuality(size=where.width, sharpness=1, brightness=0.5),
        reliable=True,
        unreliable_because=[],
    )


def numbers(tracker: Tracker, *where: FaceBox) -> list[int | None]:
    return [answer.track for answer in tracker.update([face(place) for place in where])]


def test_overlap_of_known_boxes() -> None:
    assert iou(box(0), box(0)) == 1
    assert iou(box(0), box(50)) == pytest.approx(1 / 3)
    assert iou(box(0), box(100)) == 0
    assert iou(box(0, side=0), box(0, side=0)) == 0


@given(boxes, boxes)
def test_overlap_is_a_symmetric_fraction(a: FaceBox, b: FaceBox) -> None:
    assert 0 <= iou(a, b) <= 1
    assert iou(a, b) == pytest.approx(iou(b, a))


@given(st.lists(boxes, max_size=8), st.lists(boxes, max_size=8))
def test_no_box_is_joined_twice_or_to_one_that_it_does_not_overlap(
    before: list[FaceBox], now: list[FaceBox]
) -> None:
    joined = match(before, now)
    assert len(joined) == len(now)
    partners = [index for index in joined if index is not None]
    assert len(set(partners)) == len(partners)
    for place, index in zip(now, joined, strict=True):
        if index is not None:
            assert iou(before[index], place) >= MIN_IOU
        else:  # whatever it overlaps enough went to a box that overlaps it at least as much
            for other, old in enumerate(before):
                if iou(old, place) >= MIN_IOU:
                    assert other in partners
                    assert iou(old, now[joined.index(other)]) >= iou(old, place)


@given(st.lists(boxes.filter(lambda b: b.width > 1 and b.height > 1), max_size=8, unique=True))
def test_faces_that_stay_are_joined_to_themselves(where: list[FaceBox]) -> None:
    joined = match(where, where)
    assert all(index is not None and where[index] == place for place, index in zip(where, joined, strict=True))


def test_the_closest_pair_is_joined_first() -> None:
    assert match([box(0), box(60)], [box(50)]) == [1]
    assert match([box(0), box(60)], [box(55), box(5)]) == [1, 0]


@given(distributions(), distributions(), st.floats(0, 1))
def test_smoothed_probabilities_stay_a_distribution_between_both(
    before: dict[str, float], now: dict[str, float], weight: float
) -> None:
    smoothed = smooth(before, now, weight)
    assert list(smoothed) == LABELS
    assert sum(smoothed.values()) == pytest.approx(1)
    for label in LABELS:
        low, high = sorted((before[label], now[label]))
        assert low - 1e-9 <= smoothed[label] <= high + 1e-9


@given(distributions(), distributions())
def test_weight_nought_forgets_and_weight_one_keeps(before: dict[str, float], now: dict[str, float]) -> None:
    assert smooth(before, now, 0) == now
    assert smooth(before, now, 1) == before


def test_other_labels_are_not_mixed() -> None:
    assert smooth({"a": 1.0}, {"b": 1.0}, 0.9) == {"b": 1.0}


def test_a_face_keeps_its_number_while_it_moves() -> None:
    tracker = Tracker(0)
    for step in range(0, 300, 30):
        assert numbers(tracker, box(step), box(600 - step, y=300)) == [1, 2]


def test_a_face_that_comes_later_gets_a_new_number_whatever_the_order() -> None:
    tracker = Tracker(0)
    assert numbers(tracker, box(0)) == [1]
    assert numbers(tracker, box(400, side=200), box(5)) == [2, 1]


def test_a_face_comes_back_within_patience_and_is_forgotten_after_it() -> None:
    tracker = Tracker(0)
    assert numbers(tracker, box(0)) == [1]
    for _ in range(MAX_MISSED):
        assert numbers(tracker) == []
    assert numbers(tracker, box(10)) == [1]
    for _ in range(MAX_MISSED + 1):
        numbers(tracker)
    assert numbers(tracker, box(10)) == [2]


def test_smooths_each_face_by_itself_and_names_what_leads_then() -> None:
    tracker = Tracker(0.75)
    tracker.update([face(box(0), neutral=1.0, happiness=0.0), face(box(300), neutral=0.0, happiness=1.0)])
    first, second = tracker.update(
        [face(box(0), neutral=0.0, happiness=1.0), face(box(300), neutral=0.0, happiness=1.0)]
    )
    assert first.emotions == {"neutral": 0.75, "happiness": 0.25}
    assert (first.emotion, first.confidence) == ("neutral", 0.75)
    assert second.emotions == {"neutral": 0.0, "happiness": 1.0}
    assert first.box == box(0)
