import pytest
from PIL import Image

from training.datasets.ckplus import read_ckplus
from training.datasets.ferplus import EMOTIONS


def write_sequence(folder, subject, sequence, frames, label=None):
    images = folder / "cohn-kanade-images" / subject / sequence
    labels = folder / "Emotion" / subject / sequence
    images.mkdir(parents=True)
    labels.mkdir(parents=True)  # the original has an empty folder for a sequence without a label
    (images / ".DS_Store").write_bytes(b"")
    for frame in range(1, frames + 1):
        Image.new("L", (64, 49)).save(images / f"{subject}_{sequence}_{frame:08d}.png")
    if label is not None:
        (labels / f"{subject}_{sequence}_{frames:08d}_emotion.txt").write_text(f"   {label:.7e}\n")


@pytest.fixture
def original(tmp_path):
    write_sequence(tmp_path, "S005", "001", 11, 3)
    write_sequence(tmp_path, "S010", "002", 5)
    write_sequence(tmp_path, "S010", "004", 4, 7)
    write_sequence(tmp_path, "S011", "001", 3, 5)
    return tmp_path


def emotions(frames):
    return [EMOTIONS[label] for label in frames.labels]


def test_the_last_three_frames_of_labelled_sequences(original):
    frames = read_ckplus(original)
    assert [path.name for path in frames.paths[:4]] == [
        "S005_001_00000009.png",
        "S005_001_00000010.png",
        "S005_001_00000011.png",
        "S010_004_00000002.png",
    ]
    assert emotions(frames) == ["disgust"] * 3 + ["surprise"] * 3 + ["happiness"] * 3
    assert frames.subjects.tolist() == ["S005"] * 3 + ["S010"] * 3 + ["S011"] * 3
    assert frames.skipped == {"sequences without a label": 1, "sequences too short": 0}
    assert frames.votes().shape == (9, 10)
    assert (frames.votes().argmax(axis=1) == frames.labels).all()


def test_the_first_frame_as_neutral(original):
    frames = read_ckplus(original, neutral=True)
    assert emotions(frames) == ["neutral", *["disgust"] * 3, "neutral", *["surprise"] * 3]
    assert frames.paths[0].name == "S005_001_00000001.png"
    assert frames.skipped["sequences too short"] == 1  # S011 has only its three peak frames


@pytest.mark.parametrize("text", ["9.0", "1.5", "happy", "", "nan", "inf"])
def test_an_invalid_label_is_named(original, text):
    (original / "Emotion" / "S005" / "001" / "S005_001_00000011_emotion.txt").write_text(text)
    with pytest.raises(ValueError, match=rf"'{text}'.* 0 to 7"):
        read_ckplus(original)


def test_missing_labels_are_named(tmp_path):
    (tmp_path / "cohn-kanade-images").mkdir()
    with pytest.raises(FileNotFoundError, match="Emotion/"):
        read_ckplus(tmp_path)
    (tmp_path / "Emotion").mkdir()
    with pytest.raises(ValueError, match="no sequence with a label"):
        read_ckplus(tmp_path)


def write_ck48(folder):
    names = ["anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise"]
    for index, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for frame in (17, 18, 19):
            Image.new("L", (48, 48)).save(folder / name / f"S0{10 + index // 2}_004_{frame:08d}.png")


def test_the_folders_of_ck48(tmp_path):
    write_ck48(tmp_path)
    frames = read_ckplus(tmp_path)
    assert emotions(frames)[::3] == ["anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise"]
    assert frames.subjects[::3].tolist() == ["S010", "S010", "S011", "S011", "S012", "S012", "S013"]
    assert frames.skipped == {}


def test_ck48_has_no_neutral_frames(tmp_path):
    write_ck48(tmp_path)
    with pytest.raises(ValueError, match="no neutral frames"):
        read_ckplus(tmp_path, neutral=True)


def test_a_name_without_its_subject_is_rejected(tmp_path):
    write_ck48(tmp_path)
    (tmp_path / "fear" / "extra.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"extra\.png"):
        read_ckplus(tmp_path)


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"cohn-kanade-images/.* anger/, contempt/"):
        read_ckplus(tmp_path)
