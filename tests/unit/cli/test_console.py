import io

from rich.console import Console
from rich.table import Table

from service.cli.console import counted, face_table, settings_table
from service.schemas import PhotoEmotions
from service.settings import Settings, environment_name


def rendered(answer: dict[str, object]) -> str:
    return printed(face_table("photo.jpg", PhotoEmotions.model_validate(answer)))


def printed(table: Table) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


POINT = {"x": 0, "y": 0}
ANSWER = {"image": {"width": 512, "height": 400}, "faces": [], "model": {"name": "tandem", "version": "1"}}


FACE = {
    "box": {"x": 10, "y": 20, "width": 90.4, "height": 113},
    "landmarks": dict.fromkeys(("left_eye", "right_eye", "nose", "mouth_left", "mouth_right"), POINT),
    "detection_score": 0.9,
    "emotion": "happiness",
    "confidence": 0.75,
    "emotions": {"neutral": 0.05, "happiness": 0.75, "fear": 0.2},
    "pose": {"roll": 0, "yaw": 0},
    "quality": {"size": 90.4, "sharpness": 0.3, "brightness": 0.5},
    "reliable": True,
    "unreliable_because": [],
}


def test_each_face_is_shown_with_its_runner_up() -> None:
    text = rendered({**ANSWER, "faces": [FACE]})
    for part in ("photo.jpg  512 x 400", "90 x 113 at 10, 20", "happiness ", "75%", "█" * 8, "fear 20%"):
        assert part in text
    assert "?" not in text


def test_a_doubtful_face_is_marked_and_the_widest_row_fits_80_columns() -> None:
    doubtful = {
        **FACE,
        "box": {"x": 4321, "y": 3210, "width": 1234, "height": 1435},
        "confidence": 1.0,
        "emotions": {"happiness": 1.0, "contempt": 0.0},
        "reliable": False,
        "unreliable_because": ["blurred", "dark"],
    }
    text = rendered({**ANSWER, "faces": [FACE, doubtful] * 50})
    row = next(line for line in text.splitlines() if "1234 x 1435 at 4321, 3210" in line)
    for part in ("happiness ?", "100%", "█" * 10, "contempt 0%"):
        assert part in row
    assert "face 2: blurred, dark; face 4" in text


def test_names_of_settings_are_whole_in_80_columns() -> None:
    text = printed(settings_table(Settings()))
    for name in Settings.model_fields:
        assert f"{environment_name(name)} " in text
    assert "Maximum size of a photo," in text


def test_what_is_counted_agrees_with_its_number() -> None:
    assert [counted(number, "photo") for number in (0, 1, 2)] == ["0 photos", "1 photo", "2 photos"]


def test_a_photo_without_a_face_says_so() -> None:
    assert "no face found" in rendered(ANSWER)
