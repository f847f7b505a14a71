import numpy as np

from training.evaluation.probe import fit_linearly


def test_what_is_linear_in_the_features_is_learned_whatever_their_scale():
    random = np.random.default_rng(3)
    labels = np.repeat([1, 4, 6], 40)
    centers = random.normal(size=(7, 20)) * 3
    features = ((centers[labels] + random.normal(size=(120, 20))) * np.geomspace(1e-3, 1e3, 20)).astype(np.float32)
    shuffled = random.permutation(120)
    train, test = shuffled[:90], shuffled[90:]
    predicted = fit_linearly(features[train], labels[train])(features[test])
    assert (predicted == labels[test]).mean() > 0.95
    unrelated = fit_linearly(features[train], random.permutation(labels[train]))(features[test])
    assert (unrelated == labels[test]).mean() < 0.7
