import numpy as np
import pytest
from PIL import Image

from service.vision.decoding import decode_photo
from training.datasets.ferplus import (
    COLUMNS,
    DROPPED,
    argmax_labels,
    majority_labels,
    read_split,
    vote_distributions,
)
from training.protocols.calibration import calibration_error
from training.protocols.ferplus import score

# neutral, happiness, surprise, sadness, anger, disgust, fear, contempt, unknown, NF
VOTES = np.array(
    [
        [6, 4, 0, 0, 0, 0, 0, 0, 0, 0],  # clear
        [5, 5, 0, 0, 0, 0, 0, 0, 0, 0],  # exactly half: no majority
        [4, 3, 1, 1, 1, 0, 0, 0, 0, 0],  # single votes do not count: 4 of 7
        [0, 1, 0, 0, 0, 0, 0, 0, 9, 0],  # unknown
        [1, 0, 0, 0, 0, 0, 0, 0, 0, 9],  # no face
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 1],  # no votes left
        [0, 0, 0, 0, 3, 2, 0, 0, 4, 0],  # unknown on top, no majority
    ]
)


def test_the_majority_rule():
    assert majority_labels(VOTES).tolist() == [0, DROPPED, 0, DROPPED, DROPPED, DROPPED, DROPPED]


def test_the_argmax_rule():
    assert argmax_labels(VOTES).tolist() == [0, 0, 0, DROPPED, DROPPED, 0, DROPPED]


def test_vote_distributions_leave_out_single_votes():
    shares = vote_distributions(VOTES)
    assert shares[0].tolist() == pytest.approx([0.6, 0.4, 0, 0, 0, 0, 0, 0])
    assert shares[2].tolist() == pytest.approx([4 / 7, 3 / 7, 0, 0, 0, 0, 0, 0])
    assert shares[5].sum() == 0


def write_ferplus(folder, rows, columns=COLUMNS):
    lines = [",".join(["Usage", "Image name", *columns])]
    for usage, name, votes in rows:
        lines.append(",".join([usage, name, *map(str, votes)]))
    folder.mkdir(exist_ok=True)
    (folder / "fer2013new.csv").write_text("\n".join(lines) + "\n")


def test_rows_without_an_image_are_counted(tmp_path):
    votes = [10] + [0] * 9
    write_ferplus(
        tmp_path,
        [
            ("Training", "a.png", votes),
            ("Training", "", votes),
            ("Training", "b.png", votes),
            ("PublicTest", "c.png", votes),
        ],
    )
    (tmp_path / "FER2013Train").mkdir()
    Image.new("L", (48, 48)).save(tmp_path / "FER2013Train" / "a.png")
    rows = read_split(tmp_path, "train")
    assert [image.name for image in rows.images] == ["a.png"]
    assert rows.votes.tolist() == [votes]
    assert rows.missing == 2
    with pytest.raises(ValueError, match="FER2013Valid"):
        read_split(tmp_path, "valid")


def test_a_table_that_a_spreadsheet_wrote_is_read(tmp_path):
    write_ferplus(tmp_path, [("Training", "a.png", [10] + [0] * 9)])
    table = tmp_path / "fer2013new.csv"
    table.write_text(table.read_text(), encoding="utf-8-sig")
    (tmp_path / "FER2013Train").mkdir()
    Image.new("L", (48, 48)).save(tmp_path / "FER2013Train" / "a.png")
    assert len(read_split(tmp_path, "train").images) == 1


def test_a_missing_column_is_named(tmp_path):
    write_ferplus(tmp_path, [], columns=COLUMNS[:-1])
    with pytest.raises(ValueError, match=r"\['NF'\]"):
        read_split(tmp_path, "train")


def test_an_invalid_vote_is_named_with_its_line(tmp_path):
    write_ferplus(tmp_path, [("Training", "a.png", ["ten"] + [0] * 9)])
    (tmp_path / "FER2013Train").mkdir()
    Image.new("L", (48, 48)).save(tmp_path / "FER2013Train" / "a.png")
    with pytest.raises(ValueError, match=r"line 2: .*'ten'"):
        read_split(tmp_path, "train")


def write_fer2013(folder, rows, columns="emotion,pixels,Usage"):
    lines = [columns, *(f'0,"{pixels}",{usage}' for usage, pixels in rows)]
    (folder / "fer2013.csv").write_text("\n".join(lines) + "\n")


def pixel_string(image):
    return " ".join(map(str, np.asarray(image).ravel()))


def test_the_kaggle_table_gives_the_same_images_as_the_folders(tmp_path):
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (48, 48)).astype(np.uint8) for _ in range(4)]
    usages, names = ["Training", "Training", "PublicTest", "Training"], ["a.png", "", "v.png", "b.png"]
    votes = [np.eye(10, dtype=int)[index] * 10 for index in range(4)]
    for folder in ("folders", "table"):
        write_ferplus(tmp_path / folder, list(zip(usages, names, votes, strict=True)))
    write_fer2013(tmp_path / "table", list(zip(usages, map(pixel_string, images), strict=True)))
    (tmp_path / "folders" / "FER2013Train").mkdir()
    for index in (0, 3):
        Image.fromarray(images[index]).save(tmp_path / "folders" / "FER2013Train" / names[index])

    found, expected = (read_split(tmp_path / folder, "train") for folder in ("table", "folders"))
    assert (
        [image.name for image in found.images] == [image.name for image in expected.images] == ["a.png", "b.png"]
    )
    assert found.votes.tolist() == expected.votes.tolist()
    assert found.missing == expected.missing == 1
    for one, other in zip(found.images, expected.images, strict=True):
        assert np.array_equal(
            decode_photo(one.read_bytes(), max_pixels=9999), decode_photo(other.read_bytes(), max_pixels=9999)
        )


@pytest.mark.parametrize("pixels", ["1 2 3", "", "x" * 9, " ".join(["300"] * 2304), " ".join(["-1"] * 2304)])
def test_a_broken_pixel_string_is_an_unreadable_image(tmp_path, pixels):
    write_ferplus(tmp_path, [("Training", "a.png", [10] + [0] * 9)])
    write_fer2013(tmp_path, [("Training", pixels)])
    (image,) = read_split(tmp_path, "train").images
    assert image.read_bytes() == b""


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("Training", "0"), ("Training", "0")], r"line 3 is 'PublicTest'.* 'Training'"),
        ([("Training", "0")], r"line 3 is 'PublicTest'.* ends"),
        ([("Training", "0"), ("PublicTest", "0"), ("PublicTest", "0")], "more rows than the 2"),
    ],
)
def test_tables_that_do_not_match_are_rejected(tmp_path, rows, message):
    write_ferplus(tmp_path, [("Training", "a.png", [10] + [0] * 9), ("PublicTest", "b.png", [10] + [0] * 9)])
    write_fer2013(tmp_path, rows)
    with pytest.raises(ValueError, match=message):
        read_split(tmp_path, "train")


def test_a_missing_column_of_the_kaggle_table_is_named(tmp_path):
    write_ferplus(tmp_path, [("Training", "a.png", [10] + [0] * 9)])
    write_fer2013(tmp_path, [], columns="emotion, Usage, pixels")
    with pytest.raises(ValueError, match=r"\['Usage', 'pixels'\]"):
        read_split(tmp_path, "train")


def test_scores_under_both_rules():
    probabilities = np.full((7, 8), 0.01)
    probabilities[:, 0] = 0.93
    probabilities[1] = [0.01, 0.93, *[0.01] * 6]
    reached = score(probabilities, VOTES)
    assert (reached.majority.rows, reached.majority.accuracy) == (2, 1.0)
    assert (reached.argmax.rows, reached.argmax.accuracy) == (4, 0.75)
    assert reached.argmax.recall == {"neutral": 0.75}


def test_an_image_without_a_face_is_wrong():
    probabilities = np.tile([0.93, *[0.01] * 7], (7, 1))
    reached = score(probabilities, VOTES, found=[False, *[True] * 6])
    assert reached.unanswered == 1
    assert reached.majority.accuracy == 0.5


def test_calibration_error_is_the_gap_of_confidence_and_accuracy():
    assert calibration_error(np.full(100, 0.8), np.arange(100) < 80) == pytest.approx(0)
    assert calibration_error(np.full(100, 0.8), np.arange(100) < 50) == pytest.approx(0.3)
