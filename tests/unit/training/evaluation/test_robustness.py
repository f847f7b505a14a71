import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from service.vision.alignment import crop_faces
from service.vision.decoding import decode_photo
from service.vision.face import Box, Face
from service.vision.face_pipeline import FacePipeline
from training.cli import app
from training.crop_spec import CROP_SIZE, TEMPLATE
from training.datasets.ferplus import COLUMNS, FOLDERS
from training.evaluation.robustness_photos import (
    CONDITIONS,
    HEIGHT,
    WIDTH,
    Condition,
    crop_all,
    find_pasted,
    make_photo,
)
from training.settings.evaluation import EvaluateSettings, RobustnessSettings


def face():
    """Return the astronaut's face as FER2013 frames it."""
    image = Image.fromarray(data.astronaut()).crop((165, 50, 285, 170)).convert("L").resize((48, 48))
    return np.asarray(image.convert("RGB"))


def decode(photo):
    return decode_photo(photo, max_pixels=HEIGHT * WIDTH)


def test_every_condition_keeps_the_size_of_the_photo():
    for condition in CONDITIONS.values():
        assert decode(make_photo(face(), condition)).shape == (HEIGHT, WIDTH, 3)


def test_conditions_degrade_the_photo_as_they_say():
    plain = decode(make_photo(face(), Condition())).astype(float)
    dark = decode(make_photo(face(), Condition(light=0.1)))
    assert dark.mean() == pytest.approx(plain.mean() / 10, abs=1.5)
    blurred = decode(make_photo(face(), Condition(blur=0.05))).astype(float)
    assert (
        np.abs(np.diff(blurred[200:280, 280:360, 0])).mean()
        < np.abs(np.diff(plain[200:280, 280:360, 0])).mean() / 2
    )
    assert len(make_photo(face(), Condition(quality=30))) < len(make_photo(face(), Condition())) / 2


@pytest.mark.parametrize("angle", [30, -30])
def test_a_rotated_face_is_found_and_cropped_upright(angle):
    pipeline, crops, angles = FacePipeline(), [], []
    for condition in (Condition(), Condition(rotation=angle)):
        photo = decode(make_photo(face(), condition))
        found = find_pasted(pipeline.find_faces(photo), condition.side)
        eyes = found.landmarks[1] - found.landmarks[0]
        angles.append(np.degrees(np.arctan2(eyes[1], eyes[0])))
        crops.append(crop_faces(photo, [found], template=TEMPLATE, size=CROP_SIZE)[0, 0].astype(float))
    assert angles[0] - angles[1] == pytest.approx(angle, abs=12)  # the accuracy of the landmarks
    assert np.corrcoef(crops[0].ravel(), crops[1].ravel())[0, 1] > 0.5


def test_a_face_found_elsewhere_does_not_count():
    points = np.zeros((5, 2), np.float32)
    corner, middle = Face(Box(0, 0, 200, 200), 0.9, points), Face(Box(300, 220, 40, 40), 0.9, points)
    assert find_pasted([corner, middle], 160) is middle
    assert find_pasted([corner], 160) is None


class BrokenImage:
    name = "broken.png"

    def read_bytes(self):
        return b"no image"


def test_an_unreadable_image_counts_as_no_face():
    crops, found = crop_all([BrokenImage()], workers=1)
    assert crops.shape == (1, len(CONDITIONS), 1, 48, 48)
    assert not found.any()


class AlwaysHappy(torch.nn.Module):
    def forward(self, face: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.ones(len(face), dtype=torch.long), 8).float()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised by torch.jit itself
def test_the_command_scores_every_condition(tmp_path, capsys):
    rows = {"happy.png": 1, "sad.png": 3, "unknown.png": 8}
    lines = [",".join(["Usage", "Image name", *COLUMNS])]
    lines += [
        ",".join(["PublicTest", name, *map(str, np.eye(10, dtype=int)[at] * 10)]) for name, at in rows.items()
    ]
    (tmp_path / "fer2013new.csv").write_text("\n".join(lines))
    folder = tmp_path / FOLDERS["PublicTest"]
    folder.mkdir()
    for name in rows:
        file = io.BytesIO()
        Image.fromarray(face()[:, :, 0]).save(file, "PNG")
        (folder / name).write_bytes(file.getvalue())
    torch.jit.script(AlwaysHappy()).save(tmp_path / "model.pt")
    command = ["robustness", "--source", str(tmp_path), "--model", str(tmp_path / "model.pt"), "--workers", "1"]
    assert app([*command, "--out", str(tmp_path / "out.json")]) == 0
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["images"] == 2  # the image with a majority for unknown is dropped
    plain = result["conditions"]["face of 160 px"]
    assert plain["faces_found"] == 1
    assert plain["accuracy"] == 0.5
    assert plain["interval"] == {"low": 0, "high": 1}
    assert "accuracy of" in capsys.readouterr().out


@pytest.mark.parametrize("limit", [0, -3])
@pytest.mark.parametrize("settings", [RobustnessSettings, EvaluateSettings])
def test_a_limit_is_at_least_one(
    settings: type[RobustnessSettings | EvaluateSettings], limit: int, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"limit is {limit}; it must be at least 1"):
        settings(source=tmp_path, limit=limit)
