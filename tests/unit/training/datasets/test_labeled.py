"""Sets with one emotion for each image, in the forms that people have them."""

import numpy as np
import pytest
from PIL import Image

from training.datasets.ferplus import EMOTIONS
from training.datasets.labeled import BoxedFace, read_labeled


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8)).save(path)
    return path


def emotions(split):
    assert (split.votes.sum(axis=1) == 10).all()
    return {
        image.name: EMOTIONS[label] for image, label in zip(split.images, split.votes.argmax(axis=1), strict=True)
    }


def test_a_folder_for_each_emotion_in_each_split(tmp_path):
    for split in ("Train", "val"):
        picture(tmp_path / split / "Happy" / "1.jpg")
        picture(tmp_path / split / "sadness" / "2.png")
    picture(tmp_path / "Train" / "unclear" / "3.png")
    splits = read_labeled(tmp_path, "folders")
    assert emotions(splits["train"]) == emotions(splits["valid"]) == {"1.jpg": "happiness", "2.png": "sadness"}
    assert (splits["train"].missing, splits["valid"].missing) == (1, 0)


def test_a_tenth_is_kept_for_validation_where_a_set_has_no_such_part(tmp_path):
    for index in range(200):
        picture(tmp_path / "anger" / f"{index}.png")
    splits = read_labeled(tmp_path, "folders")
    assert 10 <= len(splits["valid"].images) <= 30
    names = [{image.name for image in split.images} for split in splits.values()]
    assert not names[0] & names[1]
    assert len(names[0] | names[1]) == 200


def test_a_table(tmp_path):
    picture(tmp_path / "a" / "1.png")
    rows = ["image,label,split", "a/1.png,angry,train", "a/1.png,neutral,test", "gone.png,fear,train"]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    splits = read_labeled(tmp_path, "csv")
    assert (emotions(splits["train"]), splits["train"].missing) == ({"1.png": "anger"}, 1)
    assert emotions(splits["valid"]) == {"1.png": "neutral"}


def test_a_table_that_a_spreadsheet_wrote_may_lack_labels(tmp_path):
    rows = ["image,label", *(f"{index}.png,happy" for index in range(40)), "40.png", ""]
    for index in range(41):
        picture(tmp_path / f"{index}.png")
    (tmp_path / "labels.csv").write_text("\r\n".join(rows), encoding="utf-8-sig")
    splits = read_labeled(tmp_path, "csv")
    assert sum(len(split.images) for split in splits.values()) == 40
    assert sum(split.missing for split in splits.values()) == 1


def test_a_line_of_rafdb_that_is_cut_off_is_named(tmp_path):
    table = tmp_path / "EmoLabel" / "list_patition_label.txt"
    table.parent.mkdir()
    table.write_text("train_00001.jpg 5\ntrain_00002.jpg\n")
    with pytest.raises(ValueError, match=r"list_patition_label\.txt, line 2: 'train_00002.jpg' has 1 columns"):
        read_labeled(tmp_path, "rafdb")


def test_rafdb_in_both_forms(tmp_path):
    expected = {"surprise", "neutral"}
    published, folders = tmp_path / "published", tmp_path / "folders"
    lines = []
    for number, label in ((1, 1), (2, 7)):
        for split, folder in (("train", "train"), ("test", "test")):
            lines.append(f"{split}_{number:05d}.jpg {label}")
            picture(published / "Image" / "aligned" / f"{split}_{number:05d}_aligned.jpg")
            picture(folders / "DATASET" / folder / str(label) / f"{split}_{number}.jpg")
    (published / "EmoLabel").mkdir()
    (published / "EmoLabel" / "list_patition_label.txt").write_text("\n".join(lines) + "\n")
    for folder in (published, folders):
        for split in read_labeled(folder, "rafdb").values():
            assert set(emotions(split).values()) == expected


def test_affectnet_in_both_forms(tmp_path):
    arrays, tables = tmp_path / "arrays", tmp_path / "tables"
    for part, table in (("train_set", "training.csv"), ("val_set", "validation.csv")):
        for name, label in (("1", 7), ("2", 9)):  # contempt, uncertain
            picture(arrays / part / "images" / f"{name}.jpg")
            (arrays / part / "annotations").mkdir(exist_ok=True)
            np.save(arrays / part / "annotations" / f"{name}_exp.npy", np.array(str(label)))
            picture(tables / "Manually_Annotated_Images" / part / f"{name}.jpg")
        rows = ["subDirectory_filePath,expression", f"{part}/1.jpg,7", f"{part}/2.jpg,9"]
        (tables / table).write_text("\n".join(rows))
    for folder in (arrays, tables):
        for split in read_labeled(folder, "affectnet").values():
            assert (emotions(split), split.missing) == ({"1.jpg": "contempt"}, 1)


def test_the_faces_of_a_photo_of_expw_are_cut_out_by_their_boxes(tmp_path):
    photo = np.zeros((100, 200), np.uint8)
    photo[40:60, 100:120] = 255
    (tmp_path / "image").mkdir()
    (tmp_path / "label").mkdir()
    lines = []
    for number in range(40):
        Image.fromarray(photo).save(tmp_path / "image" / f"{number}.png")
        lines += [f"{number}.png 0 40 100 120 60 50.0 3", f"{number}.png 1 0 0 20 20 50.0 6"]
    (tmp_path / "label" / "label.lst").write_text("\n".join(lines))
    train = read_labeled(tmp_path, "expw")["train"]
    bright, dark = train.images[:2]
    assert isinstance(bright, BoxedFace)
    assert [EMOTIONS[label] for label in train.votes[:2].argmax(axis=1)] == ["happiness", "neutral"]
    (tmp_path / "face.png").write_bytes(bright.read_bytes())
    cut = np.asarray(Image.open(tmp_path / "face.png").convert("L"))
    assert cut.shape == (40, 40)
    assert cut.mean() == pytest.approx(255 / 4, abs=1)
    (tmp_path / "face.png").write_bytes(dark.read_bytes())
    assert np.asarray(Image.open(tmp_path / "face.png")).max() == 0


@pytest.mark.parametrize("kind", ["folders", "rafdb", "affectnet", "expw"])
def test_a_folder_of_another_form_is_refused_with_the_labels_found(tmp_path, kind):
    picture(tmp_path / "someone" / "1.png")
    found = "none" if kind in ("affectnet", "expw") else "someone"
    with pytest.raises(ValueError, match=rf"no images of kind {kind} .*labels found: {found}; known: "):
        read_labeled(tmp_path, kind)
