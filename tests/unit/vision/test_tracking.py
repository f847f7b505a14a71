import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.schemas import FaceBox, FaceEmotion, Landmarks, PictureQuality, Point, Pose
from service.vision.tracking import MAX_MISSED, MIN_IOU, Tracker, iou, match_boxes, smooth

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


def test_iou_of_known_boxes() -> None:
    assert iou(box(0), box(0)) == 1
    assert iou(box(0), box(50)) == pytest.approx(1 / 3)
    assert iou(box(0), box(20, y=20, side=60)) == pytest.approx(0.36)
    assert iou(box(0), box(100)) == 0
    assert iou(box(0, side=0), box(0, side=0)) == 0


@given(boxes, boxes)
@example(box(0, side=1e-200), box(0, side=1e-200))  # the area rounds to zero
@example(box(500, side=1e-13), box(500, side=1e-13))  # the intersection rounds to more than the area
def test_iou_is_a_symmetric_fraction(a: FaceBox, b: FaceBox) -> None:
    assert 0 <= iou(a, b) <= 1
    assert iou(a, b) == pytest.approx(iou(b, a))


@given(st.lists(boxes, max_size=8), st.lists(boxes, max_size=8))
def test_matches_each_box_at_most_once_and_the_best_first(previous: list[FaceBox], current: list[FaceBox]) -> None:
    matches = match_boxes(previous, current)
    assert len(matches) == len(current)
    matched = [index for index in matches if index is not None]
    assert len(set(matched)) == len(matched)
    for new, index in zip(current, matches, strict=True):
        if index is not None:
            assert iou(previous[index], new) >= MIN_IOU
        else:  # every previous box that overlaps enough was matched to a box that overlaps at least as much
            for other, old in enumerate(previous):
                if iou(old, new) >= MIN_IOU:
                    assert other in matched
                    assert iou(old, current[matches.index(other)]) >= iou(old, new)


@given(st.lists(boxes.filter(lambda b: b.width > 1 and b.height > 1), max_size=8, unique=True))
def test_matches_boxes_that_do_not_move_to_themselves(still: list[FaceBox]) -> None:
    matches = match_boxes(still, still)
    assert all(index is not None and still[index] == b for b, index in zip(still, matches, strict=True))


def test_matches_the_pair_with_the_largest_iou_first() -> None:
    assert match_boxes([box(0), box(60)], [box(50)]) == [1]
    assert match_boxes([box(0), box(60)], [box(55), box(5)]) == [1, 0]


@pytest.mark.parametrize(("shift", "is_same"), [(50, True), (60, True), (66, True), (67, False), (80, False)])
def test_a_box_continues_a_track_from_an_iou_of_a_fifth(shift: float, is_same: bool) -> None:
    # Boxes of side 100 have an IoU of (100 - shift) / (100 + shift): 0.2 at 66.7.
    assert match_boxes([box(0)], [box(shift)]) == [0 if is_same else None]
    assert match_boxes([box(shift)], [box(0)]) == [0 if is_same else None]


@pytest.mark.parametrize(("shift", "is_same"), [(66, True), (74, True), (76, False), (120, False)])
def test_a_face_keeps_its_number_while_its_head_turns(shift: float, is_same: bool) -> None:
    tracker = Tracker(0)
    assert numbers(tracker, box(0), box(600)) == [1, 2]
    assert numbers(tracker, box(600)) == [2]  # a frame in which the first is not found
    assert numbers(tracker, box(shift), box(600)) == [1 if is_same else 3, 2]


def test_a_head_that_tilts_by_a_quarter_turn_keeps_its_number() -> None:
    tracker = Tracker(0)
    upright = FaceBox(x=100, y=100, width=80, height=110)
    tilted = FaceBox(x=150, y=150, width=110, height=80)  # about the neck
    assert iou(upright, tilted) < MIN_IOU
    assert numbers(tracker, upright) == [1]
    assert numbers(tracker, tilted) == [1]


def test_a_face_near_two_lost_ones_is_new() -> None:
    tracker = Tracker(0)
    assert numbers(tracker, box(0, y=20), box(140, y=20)) == [1, 2]
    assert numbers(tracker, box(70)) == [3]


def test_a_face_of_another_size_is_new() -> None:
    tracker = Tracker(0)
    assert numbers(tracker, box(0)) == [1]
    assert numbers(tracker, box(60, y=20, side=40)) == [2]


def test_ambiguity_follows_the_smoothed_probabilities() -> None:
    tracker = Tracker(0.5)
    tracker.update([face(box(0), neutral=1.0, happiness=0.0)])
    (answer,) = tracker.update([face(box(0), neutral=0.0, happiness=1.0)])
    assert (answer.reliable, answer.unreliable_because) == (False, ["ambiguous"])
    (answer,) = tracker.update([face(box(0), neutral=0.0, happiness=1.0)])
    assert (answer.reliable, answer.unreliable_because) == (True, [])


@given(distributions(), distributions(), st.floats(0, 1))
def test_smoothed_probabilities_are_a_distribution_between_both(
    previous: dict[str, float], current: dict[str, float], weight: float
) -> None:
    smoothed = smooth(previous, current, weight)
    assert list(smoothed) == LABELS
    assert sum(smoothed.values()) == pytest.approx(1)
    for label in LABELS:
        low, high = sorted((previous[label], current[label]))
        assert low - 1e-9 <= smoothed[label] <= high + 1e-9


@given(distributions(), distributions())
def test_a_weight_of_0_forgets_and_of_1_keeps(previous: dict[str, float], current: dict[str, float]) -> None:
    assert smooth(previous, current, 0) == current
    assert smooth(previous, current, 1) == previous


def test_does_not_mix_different_labels() -> None:
    assert smooth({"a": 1.0}, {"b": 1.0}, 0.9) == {"b": 1.0}


def test_a_moving_face_keeps_its_number() -> None:
    tracker = Tracker(0)
    for step in range(0, 300, 30):
        assert numbers(tracker, box(step), box(600 - step, y=300)) == [1, 2]


def test_a_new_face_gets_a_new_number_in_any_order() -> None:
    tracker = Tracker(0)
    assert numbers(tracker, box(0)) == [1]
    assert numbers(tracker, box(400, side=200), box(5)) == [2, 1]


def test_a_missing_face_continues_its_track_until_too_many_frames_miss_it() -> None:
    tracker = Tracker(0)
    assert numbers(tracker, box(0)) == [1]
    for _ in range(MAX_MISSED):
        assert numbers(tracker) == []
    assert numbers(tracker, box(10)) == [1]
    for _ in range(MAX_MISSED + 1):
        numbers(tracker)
    assert numbers(tracker, box(10)) == [2]


def test_smooths_each_face_and_takes_the_emotion_from_the_result() -> None:
    tracker = Tracker(0.75)
    tracker.update([face(box(0), neutral=1.0, happiness=0.0), face(box(300), neutral=0.0, happiness=1.0)])
    first, second = tracker.update(
        [face(box(0), neutral=0.0, happiness=1.0), face(box(300), neutral=0.0, happiness=1.0)]
    )
    assert first.emotions == {"neutral": 0.75, "happiness": 0.25}
    assert (first.emotion, first.confidence) == ("neutral", 0.75)
    assert second.emotions == {"neutral": 0.0, "happiness": 1.0}
    assert first.box == box(0)


def test_a_label_is_held_until_another_leads_by_a_tenth() -> None:
    tracker = Tracker(0.5)
    probabilities = [(0.6, 0.4), (0.3, 0.7), (0.5, 0.5), (0.2, 0.8), (0.6, 0.4), (0.6, 0.4)]
    faces = [tracker.update([face(box(0), neutral=a, happiness=b)])[0] for a, b in probabilities]
    assert [each.emotions["happiness"] for each in faces] == pytest.approx(
        [0.4, 0.55, 0.525, 0.6625, 0.53125, 0.465625]
    )
    # 0.55 leads by 0.1, 0.525 by less, and 0.465625 is the lower one, by less than 0.1.
    assert [each.emotion for each in faces] == [
        "neutral",
        "happiness",
        "happiness",
        "happiness",
        "happiness",
        "happiness",
    ]
    assert faces[-1].confidence == pytest.approx(0.465625)
    assert faces[-1].unreliable_because == ["ambiguous"]
    (switched,) = tracker.update([face(box(0), neutral=0.7, happiness=0.3)])
    assert (switched.emotion, switched.confidence) == ("neutral", pytest.approx(0.6171875))


def test_without_smoothing_the_label_is_the_likeliest() -> None:
    tracker = Tracker(0)
    for a, b, label in ((0.51, 0.49, "neutral"), (0.49, 0.51, "happiness"), (0.51, 0.49, "neutral")):
        assert tracker.update([face(box(0), neutral=a, happiness=b)])[0].emotion == label


@given(st.lists(distributions(), min_size=1, max_size=9), st.floats(0, 0.99))
def test_a_label_other_than_the_likeliest_is_ambiguous(sequence: list[dict[str, float]], weight: float) -> None:
    tracker = Tracker(weight)
    for each in sequence:
        (answer,) = tracker.update([face(box(0), **each)])
        assert answer.confidence == answer.emotions[answer.emotion]
        assert answer.confidence == max(answer.emotions.values()) or "ambiguous" in answer.unreliable_because


def test_a_frame_can_have_a_weight_of_its_own() -> None:
    tracker = Tracker(0)
    tracker.update([face(box(0), neutral=1.0, happiness=0.0)])
    (answer,) = tracker.update([face(box(0), neutral=0.0, happiness=1.0)], 0.75)
    assert answer.emotions == {"neutral": 0.75, "happiness": 0.25}
