"""Scoring through a running service: whose answers, and what is said without one."""

from typing import Any

import numpy as np
import pytest
from answers import answer

from training.datasets.ferplus import EMOTIONS
from training.datasets.images import PixelImage
from training.evaluation import evaluate

IMAGES = [PixelImage("a.png", bytes(48 * 48)), PixelImage("b.png", bytes(48 * 48))]


def test_the_largest_face_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Client:
        """Stands for the client of a service: the first image has two faces, the second none."""

        def __init__(self, url: str) -> None:
            self.answers = [answer(48, 48, (0, 0, 40, 40), (0, 0, 4, 4)), answer(48, 48)]

        def __enter__(self) -> "Client":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def read(self, photo: bytes) -> Any:
            assert photo.startswith(b"\x89PNG")
            return self.answers.pop(0)

    labels = [*answer(48, 48, (0, 0, 40, 40)).faces[0].emotions]
    monkeypatch.setattr(evaluate, "Client", Client)
    monkeypatch.setattr(evaluate, "EMOTIONS", labels)
    probabilities, found = evaluate.predict_through(IMAGES, "http://tandem")
    first = answer(48, 48, (0, 0, 40, 40)).faces[0].emotions
    np.testing.assert_allclose(probabilities[0], [first[label] for label in labels])
    assert found.tolist() == [True, False]
    monkeypatch.setattr(evaluate, "EMOTIONS", EMOTIONS[:3])
    with pytest.raises(ValueError, match="has the labels"):
        evaluate.predict_through(IMAGES, "http://tandem")


def test_a_service_that_does_not_answer_is_named() -> None:
    with pytest.raises(ValueError, match=r"a\.png got no answer: no answer from http://127\.0\.0\.1:1"):
        evaluate.predict_through(IMAGES, "http://127.0.0.1:1")
