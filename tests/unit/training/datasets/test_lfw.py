import numpy as np
import pytest
from PIL import Image

from training.datasets.lfw import read_pairs
from training.protocols.lfw import accuracy_at, best_threshold, pair_similarities


@pytest.fixture
def lfw(tmp_path):
    for name, count in (("Ann_Lee", 2), ("Bob_Ray", 1)):
        (tmp_path / name).mkdir()
        for index in range(1, count + 1):
            Image.new("RGB", (50, 50)).save(tmp_path / name / f"{name}_{index:04d}.jpg")
    return tmp_path


def test_matched_and_mismatched_lines(lfw):
    (lfw / "pairsDevTest.txt").write_text("1\nAnn_Lee\t1\t2\nAnn_Lee\t1\tBob_Ray\t1\n")
    pairs = read_pairs(lfw, "pairsDevTest.txt")
    assert [path.name for path in pairs.paths] == ["Ann_Lee_0001.jpg", "Ann_Lee_0002.jpg", "Bob_Ray_0001.jpg"]
    assert pairs.indices.tolist() == [[0, 1], [0, 2]]
    assert pairs.same.tolist() == [True, False]


def test_the_folds_of_view_2(lfw):
    fold = "Ann_Lee\t1\t2\nAnn_Lee\t1\tBob_Ray\t1\n"
    (lfw / "pairs.txt").write_text("3\t1\n" + 3 * fold)
    pairs = read_pairs(lfw, "pairs.txt")
    assert pairs.folds.tolist() == [0, 0, 1, 1, 2, 2]
    assert pairs.same.tolist() == [True, False] * 3


def test_a_list_beside_the_folder_is_found(lfw, tmp_path_factory):
    beside = tmp_path_factory.mktemp("beside")
    (beside / "pairs.txt").write_text("1\nAnn_Lee\t1\t2\nAnn_Lee\t1\tBob_Ray\t1\n")
    lfw.rename(beside / "lfw")
    assert read_pairs(beside / "lfw", "pairs.txt").same.tolist() == [True, False]
    with pytest.raises(FileNotFoundError, match=r"has no pairsDevTest\.txt, and there is none beside it"):
        read_pairs(beside / "lfw", "pairsDevTest.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2\nAnn_Lee\t1\t2\nAnn_Lee\t1\tBob_Ray\t1\n", r"1 matched among 2 pairs.* 1 x \(2 matched"),
        ("2 1\nAnn_Lee\t1\t2\nAnn_Lee\t1\tBob_Ray\t1\n", r"2 x \(1 matched"),
        ("1\nAnn_Lee\t1\tBob_Ray\t1\nAnn_Lee\t1\t2\n", "out of order"),
        ("Ann_Lee\t1\t2\n", "a count, or folds and a count"),
        ("", "a count, or folds and a count"),
    ],
)
def test_a_list_that_does_not_match_its_first_line_is_rejected(lfw, text, message):
    (lfw / "pairs.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_pairs(lfw, "pairs.txt")


def test_a_missing_image_names_its_line(lfw):
    (lfw / "pairsDevTest.txt").write_text("1\nAnn_Lee\t1\t3\n")
    with pytest.raises(FileNotFoundError, match=r"Ann_Lee_0003\.jpg.* line 2"):
        read_pairs(lfw, "pairsDevTest.txt")


def test_a_malformed_line_is_rejected(lfw):
    (lfw / "pairsDevTest.txt").write_text("1\nAnn_Lee 1\n")
    with pytest.raises(ValueError, match="line 2: 'Ann_Lee 1' has 2 columns"):
        read_pairs(lfw, "pairsDevTest.txt")


def test_the_protocol_separates_what_can_be_separated():
    features = np.array([[1, 0], [0.9, 0.1], [0, 1], [5, 0.4]], np.float32)
    pairs = np.array([[0, 1], [0, 3], [0, 2], [1, 2]])
    same = np.array([True, True, False, False])
    similarities = pair_similarities(features, pairs)
    assert similarities == pytest.approx([0.9939, 0.9968, 0, 0.1104], abs=1e-3)
    threshold = best_threshold(similarities, same)
    assert 0.1104 < threshold < 0.9939
    assert accuracy_at(threshold, similarities, same) == 1
    assert accuracy_at(2, similarities, same) == 0.5
