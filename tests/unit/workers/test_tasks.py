import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from service.vision.face import Box, Face
from service.vision.quality import FaceQuality
from service.workers.tasks import CropSpec, DetectionOptions, FaceCrops, WorkerResult, select

CROP = CropSpec((48, 40), np.full((5, 2), 0.5), None)
IN_COLOR = replace(CROP, channels=3)
TWO_CROPS = replace(CROP, box_template=np.array([0.1, 0.0, 0.9, 1.0]))


def face(width: float, height: float) -> Face:
    return Face(Box(1.0, 2.0, width, height), 0.9, np.arange(10, dtype=np.float32).reshape(5, 2))


def result(count: int, crop: CropSpec = CROP) -> WorkerResult:
    aligned, boxed = np.random.default_rng(0).integers(0, 256, (2, count, crop.channels, 48, 40), np.uint8)
    quality = FaceQuality(1.0, 2.0, 3.0, 0.5, 0.25, ("small",))
    stages = [("wait", 0.0, 0.5), ("decode", 0.5, 0.75)]
    cutouts: list[str | None] = ["data:image/jpeg;base64,AA==", None, None, None][:count]
    crops = FaceCrops(aligned, None if crop.box_template is None else boxed, [quality] * count)
    return WorkerResult((30, 40), [face(9, 9)] * count, crops, stages, cutouts)


def test_selects_by_the_shorter_side_and_by_number() -> None:
    faces = [face(90, 50), face(60, 60), face(40, 100), face(60, 50)]
    assert select(faces, DetectionOptions(max_faces=9, min_face_size=50, threshold=0.6)) == [
        faces[0],
        faces[1],
        faces[3],
    ]
    assert select(faces, DetectionOptions(max_faces=2, min_face_size=0, threshold=0.6)) == faces[:2]


@pytest.mark.parametrize("count", [0, 2])
def test_a_result_survives_its_way_to_the_gateway(count: int) -> None:
    sent = result(count)
    fields, raw = sent.to_reply()
    received = WorkerResult.from_reply(json.loads(json.dumps(fields)), raw, crop=CROP)
    assert (received.size, received.stages) == (sent.size, sent.stages)
    assert [each.box for each in received.faces] == [each.box for each in sent.faces]
    for one, other in zip(received.faces, sent.faces, strict=True):
        np.testing.assert_array_equal(one.landmarks, other.landmarks)
    assert received.crops.qualities == sent.crops.qualities
    np.testing.assert_array_equal(received.crops.aligned, sent.crops.aligned)
    assert received.crops.boxed is None
    assert received.cutouts == sent.cutouts


def test_crops_in_color_survive_their_way() -> None:
    sent = result(2, IN_COLOR)
    received = WorkerResult.from_reply(*sent.to_reply(), crop=IN_COLOR).crops
    np.testing.assert_array_equal(received.aligned, sent.crops.aligned)


@pytest.mark.parametrize("count", [0, 2])
def test_both_crops_of_a_face_survive_their_way(count: int) -> None:
    sent = result(count, TWO_CROPS)
    received = WorkerResult.from_reply(*sent.to_reply(), crop=TWO_CROPS).crops
    np.testing.assert_array_equal(received.aligned, sent.crops.aligned)
    assert sent.crops.boxed is not None
    np.testing.assert_array_equal(received.boxed, sent.crops.boxed)


def test_a_reply_whose_parts_disagree_is_malformed() -> None:
    fields, raw = result(2).to_reply()
    read = partial(WorkerResult.from_reply, crop=CROP)
    size, faces, qualities, stages, cutouts = fields
    for wrong in (
        [size, faces[:1], qualities, stages, cutouts],
        [size, faces, qualities[:1], stages, cutouts],
        [size, faces],
    ):
        with pytest.raises(ValueError):  # noqa: PT011 - any exception will do
            read(wrong, raw)
    with pytest.raises(ValueError, match="reshape"):
        read(fields, raw[:-1])
