import io

from rich.console import Console

from service.cli.console import face_table
from service.schemas import PhotoEmotions


def rendered(answer: dict[str, object]) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(face_table("photo.jpg", PhotoEmotions.model_validate(answer)))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


POINT = {"x": 0, "y": 0}
ANSWER = {"image": {"width": 512, "height": 400}, "faces": [], "model": {"name": "tandem", "version": "1"}}


def test_each_face_is_shown_with_its_runner_up() -> None:
    landmarks = dict.fromkeys(("left_eye", "right_eye", "nose", "mouth_left", "mouth_right"), POINT)
    face = {
        "box": {"x": 10, "y": 20, "width": 90.4, "height": 113},
        "landmarks": landmarks,
        "detection_score": 0.9,
        "emotion": "happiness",
        "confidence": 0.75,
        "emotions": {"neutral": 0.05, "happiness": 0.75, "fear": 0.2},
        "pose": {"roll": 0, "yaw": 0},
        "quality": {"size": 90.4, "sharpness": 0.3, "brightness": 0.5},
        "reliable": True,
        "unreliable_because": [],
    }
    text = rendered({**ANSWER, "faces": [face]})
    for part in ("photo.jpg  512 x 400", "90 x 113 at 10, 20", "happiness", "75%", "█" * 15, "fear 20%"):
        assert part in text


def test_a_photo_without_a_face_says_so() -> None:
    assert "no face found" in rendered(ANSWER)
