import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.datasets.ferplus import DROPPED
from training.protocols.bootstrap import interval, interval_over_runs
from training.protocols.breakdown import NO_FACE, break_down, confusion_matrix, macro_f1, macro_recall
from training.protocols.calibration import calibration_error, reliability
from training.protocols.ferplus import score
from training.protocols.folds import check_disjoint, folds_by_person
from training.protocols.lfw import roc, score_view2, true_accepts_at


def test_the_confusion_matrix_counts_images_without_a_face():
    probabilities = np.eye(8)[[0, 1, 1, 3]]
    labels = np.array([0, 1, 2, DROPPED])
    detail = break_down(probabilities, labels, [True, True, True, True])
    counts = np.array(detail.confusion)
    assert counts.sum() == 3
    assert (counts[0, 0], counts[1, 1], counts[2, 1]) == (1, 1, 1)
    assert np.array(break_down(probabilities, labels, [False, True, True, True]).confusion)[0, NO_FACE] == 1


@given(st.integers(0, 2**31))
def test_macro_figures_are_those_of_the_score(seed):
    random = np.random.default_rng(seed)
    votes = np.eye(10, dtype=int)[random.integers(0, 8, 60)] * 10
    probabilities, found = random.dirichlet(np.ones(8), 60), random.random(60) < 0.9
    predicted = np.where(found, probabilities.argmax(axis=1), NO_FACE)
    confusion = confusion_matrix(votes.argmax(axis=1), predicted)
    reached = score(probabilities, votes, found).majority
    assert macro_recall(confusion) == pytest.approx(reached.macro_recall)
    assert macro_f1(confusion) == pytest.approx(reached.macro_f1)


def test_intervals_are_seeded_and_match_the_binomial_width():
    right = np.arange(1000) < 800
    once = interval(1000, lambda drawn: right[drawn].mean())
    assert once == interval(1000, lambda drawn: right[drawn].mean())
    half = 1.96 * np.sqrt(0.8 * 0.2 / 1000)
    assert (once.low, once.high) == pytest.approx((0.8 - half, 0.8 + half), abs=0.003)


def test_more_runs_on_the_same_rows_do_not_narrow_the_interval():
    right = (np.arange(1000) < 800).astype(float)
    one, three = interval_over_runs(right[None]), interval_over_runs(np.stack([right] * 3))
    assert three.high - three.low == pytest.approx(one.high - one.low, abs=0.005)
    apart = interval_over_runs(np.stack([right, np.roll(right, 500), np.ones(1000), np.zeros(1000)]))
    assert apart.high - apart.low > 2 * (one.high - one.low)  # seeds that disagree widen the interval


def test_every_prediction_is_in_a_bin():
    confidence = np.array([0.05, 0.5, 0.55, 0.99, 1.0])
    right = np.array([False, True, False, True, True])
    bins = reliability(confidence, right, bins=10)
    assert [(each.count, each.accuracy) for each in bins] == [(1, 0.0), (2, 0.5), (2, 1.0)]
    assert bins[1].confidence == pytest.approx(0.525)
    assert calibration_error(confidence, right, bins=10) == pytest.approx((0.05 + 2 * 0.025 + 2 * 0.005) / 5)


def subjects_of(counts):
    return np.array([f"S{index:03d}" for index, count in enumerate(counts) for _ in range(count)])


@given(st.lists(st.integers(1, 12), min_size=10, max_size=40), st.integers(2, 10))
def test_nobody_is_in_both_sets_of_a_fold(counts, folds):
    subjects = subjects_of(counts)
    dealt = folds_by_person(subjects, folds)
    assert sorted(set(dealt)) == list(range(folds))
    for fold in range(folds):
        assert not set(subjects[dealt == fold]) & set(subjects[dealt != fold])


def test_a_subject_in_both_sets_is_named():
    with pytest.raises(ValueError, match="S005"):
        check_disjoint(np.array(["S001", "S005"]), np.array(["S005"]))


@pytest.mark.parametrize("folds", [1, 4])
def test_more_folds_than_subjects_are_rejected(folds):
    with pytest.raises(ValueError, match=f"folds is {folds}; .* 2 to 3"):
        folds_by_person(subjects_of([2, 2, 2]), folds)


def test_view_2_takes_each_threshold_from_the_other_folds():
    # In fold 2 all similarities are higher by 0.3: its own threshold would be right, that of the others is not.
    similarities = np.array([0.5, 0.6, 0.1, 0.2] * 2 + [0.8, 0.9, 0.4, 0.5], np.float32)
    same = np.array([True, True, False, False] * 3)
    folds = np.repeat([0, 1, 2], 4)
    reached = score_view2(similarities, same, folds)
    assert reached.thresholds[2] == pytest.approx(0.35, abs=1e-6)
    assert reached.accuracies[2] == 0.5
    accuracies = np.array(reached.accuracies)
    assert reached.mean == pytest.approx(accuracies.mean())
    spread = np.sqrt(((accuracies - accuracies.mean()) ** 2).sum() / 2)
    assert reached.standard_error == pytest.approx(spread / np.sqrt(3))


def test_view_2_needs_folds():
    with pytest.raises(ValueError, match="at least 2 folds"):
        score_view2(np.zeros(4, np.float32), np.array([True, True, False, False]), np.zeros(4, np.int64))


def test_the_roc_accepts_equal_pairs_together():
    similarities = np.array([0.9, 0.8, 0.8, 0.3], np.float32)
    mismatched, matched = roc(similarities, np.array([True, True, False, False]))
    assert mismatched.tolist() == [0, 0, 0.5, 1]
    assert matched.tolist() == [0, 0.5, 1, 1]


def test_true_accepts_at_a_share_of_false_ones():
    random = np.random.default_rng(0)
    similarities = np.concatenate([random.normal(1, 0.2, 3000), random.normal(0, 0.2, 3000)]).astype(np.float32)
    same = np.arange(6000) < 3000
    fourth = np.sort(similarities[3000:])[-4]  # three of 3,000 may be accepted
    assert true_accepts_at(1e-3, similarities, same) == pytest.approx((similarities[:3000] > fourth).mean())
    assert true_accepts_at(0, np.array([0.1, 0.9], np.float32), np.array([True, False])) == 0
