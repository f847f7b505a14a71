import numpy as np
import pytest
from PIL import Image

from training.datasets.ferplus import (
    COLUMNS,
    DROPPED,
    argmax_labels,
    majority_labels,
    read_split,
    vote_distributions,
)
from training.protocols.ferplus import calibration_error, score

# neutral, happiness, surprise, sadness, anger, disgust, fear, contempt, unknown, NF
VOTES = np.array(
    [
        [6, 4, 0, 0, 0, 0, 0, 0, 0, 0],  # clear
        [5, 5, 0, 0, 0, 0, 0, 0, 0, 0],  # exactly half: no majority
        [4, 3, 1, 1, 1, 0, 0, 0, 0, 0],  # single votes do not count: 4 of 7
        [0, 1, 0, 0, 0, 0, 0, 0, 9, 0],  # unknown
        [1, 0, 0, 0, 0, 0, 0, 0, 0, 9],  # no face
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 1],  # nothing left
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
    assert [path.name for path in rows.paths] == ["a.png"]
    assert rows.votes.tolist() == [votes]
    assert rows.missing == 2
    with pytest.raises(ValueError, match=r"FER2013Valid holds no image that .* names"):
        read_split(tmp_path, "valid")


def test_a_table_without_its_columns_is_refused(tmp_path):
    write_ferplus(tmp_path, [], columns=COLUMNS[:-1])
    with pytest.raises(ValueError, match=r"lacks the columns \['NF'\]"):
        read_split(tmp_path, "train")


def test_a_vote_that_is_no_number_names_its_line(tmp_path):
    write_ferplus(tmp_path, [("Training", "a.png", ["ten"] + [0] * 9)])
    (tmp_path / "FER2013Train").mkdir()
    Image.new("L", (48, 48)).save(tmp_path / "FER2013Train" / "a.png")
    with pytest.raises(ValueError, match="line 2: a vote is no whole number"):
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
    reached = score(probabilities, VOTES, answered=[False, *[True] * 6])
    assert reached.unanswered == 1
    assert reached.majority.accuracy == 0.5


def test_calibration_error_is_the_gap_of_confidence_and_accuracy():
    assert calibration_error(np.full(100, 0.8), np.arange(100) < 80) == pytest.approx(0)
    assert calibration_error(np.full(100, 0.8), np.arange(100) < 50) == pytest.approx(0.3)
