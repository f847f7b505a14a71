from dataclasses import replace

import numpy as np
import pytest

from service.analyzer import compose
from service.inference.model_spec import ModelSpec
from service.vision.face import Box, Face
from service.vision.quality import measure_quality
from service.workers.tasks import FaceCrops, WorkerResult

SPEC = ModelSpec(
    name="tandem",
    version="3",
    labels=("neutral", "happiness"),
    input_name="face",
    crop_size=(48, 48),
    output_name="probabilities__0",
    alignment_template=np.full((5, 2), 0.5),
    box_template=None,
    max_batch_size=8,
    provenance={},
)


def face(width: float, height: float) -> Face:
    points = np.arange(10, dtype=np.float32).reshape(5, 2)
    return Face(Box(1.04, 2.06, width, height), 0.87654321, points)


def found(one: Face, size: tuple[int, int], gray: int = 0) -> WorkerResult:
    crop = np.full((48, 48), gray, np.uint8)
    crops = FaceCrops(crop[None, None], None, [measure_quality(one, crop, size)])
    return WorkerResult(size, [one], crops, [], ["data:image/jpeg;base64,AA=="])


def test_composes_the_answer() -> None:
    answer = compose(found(face(10, 20), (30, 40), gray=51), np.array([[0.25, 0.75]], np.float32), SPEC)
    assert answer.model_dump() == {
        "image": {"width": 40, "height": 30},
        "faces": [
            {
                "box": {"x": 1.0, "y": 2.1, "width": 10.0, "height": 20.0},
                "landmarks": {
                    "left_eye": {"x": 0.0, "y": 1.0},
                    "right_eye": {"x": 2.0, "y": 3.0},
                    "nose": {"x": 4.0, "y": 5.0},
                    "mouth_left": {"x": 6.0, "y": 7.0},
                    "mouth_right": {"x": 8.0, "y": 9.0},
                },
                "detection_score": 0.8765,
                "emotion": "happiness",
                "confidence": 0.75,
                "emotions": {"neutral": 0.25, "happiness": 0.75},
                "pose": {"roll": 45.0, "yaw": 0.0},
                "quality": {"size": 10.0, "sharpness": 0.0, "brightness": 0.2},
                "reliable": False,
                "unreliable_because": ["small", "blurred"],
                "crop": "data:image/jpeg;base64,AA==",
            }
        ],
        "model": {"name": "tandem", "version": "3"},
        "summary": {"happiness": 1},
    }


def test_probabilities_are_clamped_to_their_range() -> None:
    answer = compose(found(face(1, 1), (9, 9)), np.array([[-1e-3, 1.001]], np.float32), SPEC)
    assert answer.faces[0].emotions == {"neutral": 0.0, "happiness": 1.0}
    assert answer.faces[0].confidence == 1.0


@pytest.mark.parametrize(("score", "expected"), [(-1e-3, 0.0), (1.001, 1.0)])
def test_the_detection_score_is_clamped_to_its_range(score: float, expected: float) -> None:
    one = replace(face(1, 1), score=score)
    answer = compose(found(one, (9, 9)), np.array([[0.25, 0.75]], np.float32), SPEC)
    assert answer.faces[0].detection_score == expected
