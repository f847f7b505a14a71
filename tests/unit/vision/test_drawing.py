import io

import numpy as np
import pytest
from answers import answer
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.vision.drawing import IMAGE_FORMATS, Label, Pen, annotate, draw_emotions, place_label


def test_draws_only_at_the_face_and_not_in_the_original() -> None:
    photo = np.zeros((400, 600, 3), np.uint8)
    drawn = np.asarray(draw_emotions(photo, answer(600, 400, (200, 150, 100, 120))))
    assert drawn.shape == photo.shape
    assert not photo.any()
    rows, columns = np.nonzero(drawn.any(axis=2))
    assert rows.max() == 270
    assert 100 < rows.min() < 150
    assert columns.min() == 200
    assert columns.max() < 320
    assert not drawn[160:260, 210:290].any()


def test_the_bar_is_as_long_as_the_confidence() -> None:
    drawn = np.asarray(
        draw_emotions(np.full((400, 600, 3), 255, np.uint8), answer(600, 400, (200, 150, 100, 120)))
    )
    rows, columns = np.nonzero((drawn != 255).any(axis=2))
    above = rows < 150
    left, right, bottom = columns[above].min(), columns[above].max(), rows[above].max()
    dark = np.nonzero((drawn[bottom] == 0).all(axis=1))[0]
    assert (dark.min(), len(dark)) == (left, pytest.approx(0.8 * (right - left + 1), abs=2))


def test_the_label_of_an_unreliable_face_has_a_question_mark() -> None:
    (face,) = answer(600, 400, (200, 150, 100, 120)).faces
    doubted = face.model_copy(update={"reliable": False, "unreliable_because": ["small"]})
    pen = Pen.for_photo(600, 400)
    assert [Label.for_face(each, 100, 600, pen).text for each in (face, doubted)] == [
        "happiness 80%",
        "happiness? 80%",
    ]


def test_a_reduced_picture_looks_like_the_whole_one() -> None:
    whole = answer(3000, 2000, (1000, 800, 300, 360))
    reduced = answer(1500, 1000, (500, 400, 150, 180))
    blank = np.zeros((1000, 1500, 3), np.uint8)
    np.testing.assert_array_equal(np.asarray(draw_emotions(blank, whole)), draw_emotions(blank, reduced))


def test_draws_nothing_without_faces() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    np.testing.assert_array_equal(np.asarray(draw_emotions(photo, answer(60, 50))), photo)


@pytest.mark.parametrize("size", [(1, 1), (30, 20), (640, 480), (6000, 4000)])
@pytest.mark.parametrize("box", [(0, 0, 1, 1), (0.9, 0.9, 0.1, 0.1), (0.2, 0.2, 0.2, 0.4)])
def test_draws_in_photos_of_any_size(size: tuple[int, int], box: tuple[float, float, float, float]) -> None:
    width, height = size
    scaled = (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
    drawn = draw_emotions(np.zeros((height, width, 3), np.uint8), answer(width, height, scaled))
    assert drawn.size == size
    assert np.asarray(drawn).any()


def test_the_pen_scales_with_the_photo() -> None:
    small, large = Pen.for_photo(640, 480), Pen.for_photo(6400, 4800)
    assert large.line_width == pytest.approx(10 * small.line_width, rel=0.5)
    assert large.max_font_size == pytest.approx(10 * small.max_font_size, rel=0.1)
    assert Pen.for_photo(10, 10) == Pen(line_width=1, min_font_size=11, max_font_size=11)


@given(
    st.tuples(st.integers(1, 500), st.integers(1, 500)),
    st.tuples(*[st.floats(0, 1)] * 4),
    st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
)
def test_labels_stay_inside_the_image(
    size: tuple[int, int], fractions: tuple[float, ...], label: tuple[float, float]
) -> None:
    left, right = sorted(f * size[0] for f in fractions[:2])
    top, bottom = sorted(f * size[1] for f in fractions[2:])
    width, height = label[0] * size[0], label[1] * size[1]
    x, y = place_label((left, top, right, bottom), (width, height), size)
    assert x >= 0
    assert y >= 0
    assert x + width <= size[0] + 1e-6
    assert y + height <= size[1] + 1e-6


def test_labels_avoid_each_other_and_other_faces() -> None:
    box, above, size = (100, 100, 150, 160), (100, 80, 200, 100), (400, 400)
    label = (100, 20)
    assert place_label(box, label, size) == (100, 80)
    assert place_label(box, label, size, [(160, 70, 200, 100)]) == (50, 80)  # at the right edge
    assert place_label(box, label, size, [(0, 70, 200, 100)]) == (100, 160)  # below
    assert place_label(box, label, size, [(0, 0, 400, 100), (0, 160, 400, 400)]) == (100, 100)  # inside
    assert place_label(box, label, size, [above, (0, 0, 400, 400)]) == (100, 160)  # covers the least
    assert place_label((0, 5, 50, 60), label, size) == (0, 60)
    group = answer(640, 480, *((60 * column, 100 + 8 * column, 40, 50) for column in range(10)))
    drawn = np.asarray(draw_emotions(np.zeros((480, 640, 3), np.uint8), group))
    one = np.asarray(draw_emotions(np.zeros((480, 640, 3), np.uint8), answer(640, 480, (60, 108, 40, 50))))
    # Ten labels overlap only in the lines that they share with a box, so they take ten times the pixels of one.
    assert drawn.any(axis=2).sum() == pytest.approx(10 * one.any(axis=2).sum(), rel=0.05)


@pytest.mark.parametrize("media_type", IMAGE_FORMATS)
def test_encodes_each_format(media_type: str) -> None:
    data = annotate(np.zeros((40, 50, 3), np.uint8), answer(50, 40, (5, 5, 20, 20)), media_type)
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.size) == (IMAGE_FORMATS[media_type], (50, 40))


def test_rejects_other_formats() -> None:
    with pytest.raises(ValueError, match="image/gif"):
        annotate(np.zeros((4, 5, 3), np.uint8), answer(5, 4), "image/gif")
