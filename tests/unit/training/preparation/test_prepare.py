from dataclasses import replace

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image
from recordio_files import image_record, write_container
from skimage import data

from service.vision.alignment import crop_faces, similarity_transform
from service.vision.face_pipeline import FacePipeline
from training.cli import app, prepare
from training.crop_spec import CROP_SIZE, TEMPLATE
from training.datasets.ferplus import COLUMNS
from training.datasets.people import read_people
from training.datasets.prepared import ALIGNED, NO_FACE, UNREADABLE, load_prepared
from training.preparation import cropping
from training.preparation.cropping import crop_image, crop_images, find_face
from training.preparation.prepare import prepare_ferplus, prepare_identity
from training.preparation.teacher import TEMPLATE as ARCFACE
from training.settings.commands import PrepareSettings


def face(seed):
    """Return the astronaut's face, framed slightly differently for each seed."""
    left, top = 150 + seed, 40 + seed
    return Image.fromarray(data.astronaut()[top : top + 150, left : left + 150]).convert("L").resize((96, 96))


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def test_a_training_crop_is_the_serving_crop(tmp_path):
    path = save(Image.fromarray(data.astronaut()), tmp_path / "a.png")
    pipeline = FacePipeline()
    crop, outcome = crop_image(path.read_bytes(), pipeline)
    served = crop_faces(data.astronaut(), pipeline.find_faces(data.astronaut()), template=TEMPLATE, size=CROP_SIZE)
    assert outcome == ALIGNED
    assert np.array_equal(crop, served[0])


def test_the_face_in_the_middle_may_be_smaller_than_one_beside_it(tmp_path):
    photo = Image.new("RGB", (600, 300), "gray")
    portrait = Image.fromarray(data.astronaut()[0:250, 120:370])
    photo.paste(portrait.resize((280, 280)), (0, 10))
    photo.paste(portrait.resize((140, 140)), (290, 70))
    encoded = save(photo, tmp_path / "two.png").read_bytes()
    _, largest = find_face(encoded, FacePipeline())
    _, middle = find_face(encoded, FacePipeline(), central=True)
    assert largest.landmarks[:, 0].mean() < 280
    assert middle.landmarks[:, 0].mean() > 290


def test_parts_are_resumed_and_bad_images_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(cropping, "PART_SIZE", 2)
    paths = [save(face(seed), tmp_path / f"{seed}.png") for seed in range(3)]
    paths.append(save(Image.new("L", (48, 48)), tmp_path / "blank.png"))
    (tmp_path / "broken.png").write_bytes(b"no image")
    paths.append(tmp_path / "broken.png")
    parts = tmp_path / "parts"
    crops = crop_images(paths, parts, title="test", workers=2)
    assert crops.pixels.shape == (5, 1, 48, 48)
    assert crops.outcomes.tolist() == [ALIGNED, ALIGNED, ALIGNED, NO_FACE, UNREADABLE]
    assert crops.counts() == {"aligned": 3, "no face": 1, "unreadable": 1}

    first, *others = sorted(parts.iterdir())
    written = first.stat().st_mtime_ns
    for part in others:
        part.unlink()
    again = crop_images(paths, parts, title="test", workers=2)
    assert np.array_equal(again.pixels, crops.pixels)
    assert first.stat().st_mtime_ns == written


def test_crops_have_the_size_and_color_that_were_asked_for(tmp_path):
    for person in ("ann", "bob"):
        save(Image.fromarray(data.astronaut()), tmp_path / "people" / person / "1.png")
    settings = PrepareSettings(
        kind="identity", source=tmp_path / "people", out=tmp_path / "out", crop_size=64, color=True, workers=1
    )
    prepare(settings)
    crop = load_prepared(tmp_path / "out").crops[0]
    pixels = data.astronaut()
    faces = FacePipeline().find_faces(pixels)
    served = crop_faces(pixels, faces[:1], template=TEMPLATE, size=(64, 64), channels=3)
    assert np.array_equal(crop, served[0])
    assert crop[0].mean() > crop[2].mean() + 10  # red before blue
    with pytest.raises(ValueError, match="crop_size is 16; it must be from 32 to 512"):
        replace(settings, crop_size=16)
    with pytest.raises(ValueError, match="wide is set; `training bundle` takes gray crops of 48 pixels only"):
        replace(settings, wide=True)


def test_prepared_ferplus_drops_training_images_that_are_in_valid_and_merges_equal_ones(tmp_path):
    source = tmp_path / "ferplus"
    for seed in range(3):
        save(face(seed), source / "FER2013Train" / f"t{seed}.png")
    save(face(1), source / "FER2013Train" / "t3.png")
    save(face(0), source / "FER2013Valid" / "v0.png")
    rows = [("Training", f"t{seed}.png", seed) for seed in range(4)] + [("PublicTest", "v0.png", 0)]
    lines = [",".join(["Usage", "Image name", *COLUMNS])]
    lines += [",".join([usage, name, *(str(10 * (c == label)) for c in range(10))]) for usage, name, label in rows]
    (source / "fer2013new.csv").write_text("\n".join(lines))

    prepare_ferplus(source, tmp_path / "out", workers=1)
    train, valid = load_prepared(tmp_path / "out" / "train"), load_prepared(tmp_path / "out" / "valid")
    assert train.arrays["files"].tolist() == ["t1.png", "t2.png"]
    assert train.arrays["votes"][0].tolist() == [0, 10, 0, 10, 0, 0, 0, 0, 0, 0]  # those of t3, too
    assert train.arrays["votes"].argmax(axis=1).tolist() == [1, 2]
    assert train.manifest["merged"] == 1
    assert train.manifest["also in another split"] == 1
    assert valid.crops.shape == (1, 1, 48, 48)
    framed = np.asarray(Image.open(source / "FER2013Valid" / "v0.png").resize((48, 48), Image.Resampling.BOX))
    assert (
        np.abs(valid.arrays["unaligned"][0].astype(int) - framed).max() <= 1
    )  # the whole image, not the aligned crop
    assert np.abs(valid.crops[0].astype(int) - framed).mean() > 5
    assert not (tmp_path / "out" / "train" / "parts").exists()


def test_a_changed_set_is_rejected(tmp_path):
    for person in ("ann", "bob"):
        save(face(3), tmp_path / "people" / person / "1.png")
    prepare_identity(tmp_path / "people", tmp_path / "out", workers=1)
    assert load_prepared(tmp_path / "out").arrays["labels"].tolist() == [0, 1]
    manifest = tmp_path / "out" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"crops_sha256": "', '"crops_sha256": "0'))
    with pytest.raises(ValueError, match=r"crops\.npy does not match"):
        load_prepared(tmp_path / "out")


def write_teacher(path, shape=(1, 3, 112, 112)):
    """Write a network whose embedding is the mean of each color channel, red first."""
    take = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, shape)
    give = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [shape[0], 3, 1, 1])
    node = helper.make_node("GlobalAveragePool", ["input.1"], ["embedding"])
    graph = helper.make_graph([node], "teacher", [take], [give])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_a_teacher_gets_the_aligned_face_in_color(tmp_path):
    photo = Image.fromarray(data.astronaut())
    for person in ("ann", "bob"):
        save(photo, tmp_path / "people" / person / "1.png")
    save(Image.new("RGB", (64, 64)), tmp_path / "people" / "bob" / "2.png")
    teacher = write_teacher(tmp_path / "mean.onnx")
    command = [
        "prepare",
        "--kind",
        "identity",
        "--source",
        str(tmp_path / "people"),
        "--out",
        str(tmp_path / "out"),
    ]
    assert app([*command, "--workers", "1", "--teacher", str(teacher)]) == 0
    prepared = load_prepared(tmp_path / "out")
    assert prepared.arrays["teacher"].dtype == np.float16
    assert prepared.arrays["teacher"].shape == (2, 3)
    assert prepared.manifest["teacher"] == "mean.onnx"
    assert len(prepared.manifest["teacher_sha256"]) == 64

    face = FacePipeline().find_faces(data.astronaut())[0]
    places = similarity_transform(face.landmarks, ARCFACE)
    crop = cv2.warpAffine(data.astronaut(), places, (112, 112), borderMode=cv2.BORDER_REPLICATE)
    mean = ((crop.astype(np.float32) - 127.5) / 128).mean(axis=(0, 1))
    assert prepared.arrays["teacher"][0] == pytest.approx(mean / np.linalg.norm(mean), abs=0.01)
    assert mean[0] > mean[2] + 0.1  # faces are red rather than blue, so swapped channels would show


def test_an_unsuitable_teacher_is_rejected(tmp_path):
    for person in ("ann", "bob"):
        save(face(3), tmp_path / "people" / person / "1.png")
    teacher = write_teacher(tmp_path / "small.onnx", (1, 3, 96, 96))
    with pytest.raises(ValueError, match=r"\[1, 3, 96, 96\].* \[1, 3, 112, 112\]"):
        prepare_identity(tmp_path / "people", tmp_path / "out", workers=1, teacher=teacher)
    teacher.write_bytes(b"no network")
    with pytest.raises(ValueError, match="not an ONNX network"):
        prepare_identity(tmp_path / "people", tmp_path / "out", workers=1, teacher=teacher)


def test_a_record_container_becomes_the_same_set_as_folders(tmp_path):
    pictures = [save(face(seed), tmp_path / "people" / str(seed // 2) / f"{seed}.png") for seed in range(4)]
    records = {0: image_record([6.0, 8.0], b"")}
    records |= {
        1 + seed: image_record([float(seed // 2)], path.read_bytes()) for seed, path in enumerate(pictures)
    }
    records |= {
        5: image_record([1.0], b"no image"),
        6: image_record([1.0, 3.0], b""),
        7: image_record([3.0, 6.0], b""),
    }
    write_container(tmp_path / "casia", records, classes=2)
    for source in ("people", "casia"):
        command = ["prepare", "--kind", "identity", "--source", str(tmp_path / source), "--workers", "1"]
        assert app([*command, "--out", str(tmp_path / "out" / source)]) == 0
    folders, container = (load_prepared(tmp_path / "out" / source) for source in ("people", "casia"))
    assert np.array_equal(folders.crops, container.crops)
    assert folders.arrays["labels"].tolist() == container.arrays["labels"].tolist() == [0, 0, 1, 1]
    assert container.manifest["outcomes"] == {"aligned": 4, "no face": 0, "unreadable": 1}


def test_prepared_lfw_has_the_lists_that_are_present(tmp_path, capsys):
    source = tmp_path / "lfw"
    for name, count in (("Ann_Lee", 2), ("Bob_Ray", 1)):
        for index in range(1, count + 1):
            save(face(index), source / name / f"{name}_{index:04d}.jpg")
    command = [
        "prepare",
        "--kind",
        "lfw",
        "--source",
        str(source),
        "--out",
        str(tmp_path / "out"),
        "--workers",
        "1",
    ]
    assert app(command) == 1
    assert "pairsDevTrain.txt, pairsDevTest.txt, pairs.txt" in capsys.readouterr().err
    (source / "pairs.txt").write_text("2\t1\n" + 2 * "Ann_Lee\t1\t2\nAnn_Lee\t1\tBob_Ray\t1\n")
    assert app(command) == 0
    view2 = load_prepared(tmp_path / "out" / "view2")
    assert view2.arrays["folds"].tolist() == [0, 0, 1, 1]
    assert len(view2.crops) == 3


def test_prepared_ckplus_knows_its_subjects(tmp_path):
    for subject, folder in (("S005", "happy"), ("S010", "fear")):
        for frame in range(3):
            save(face(frame), tmp_path / "CK+48" / folder / f"{subject}_001_{frame:08d}.png")
    (tmp_path / "CK+48" / "fear" / "S011_001_00000001.png").write_bytes(b"no image")
    command = ["prepare", "--kind", "ckplus", "--source", str(tmp_path / "CK+48"), "--out", str(tmp_path / "out")]
    assert app([*command, "--workers", "1"]) == 0
    prepared = load_prepared(tmp_path / "out")
    assert prepared.arrays["subjects"].tolist() == ["S010"] * 3 + ["S005"] * 3
    assert prepared.arrays["votes"].argmax(axis=1).tolist() == [6, 6, 6, 1, 1, 1]
    assert prepared.manifest["outcomes"]["unreadable"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kind", "mnist"], "kind is 'mnist'; it must be one of ferplus, identity, lfw, ckplus"),
        (["--kind", "lfw", "--teacher", "t.onnx"], "teacher is t.onnx; it needs kind identity, not lfw"),
        (["--kind", "identity", "--neutral", "true"], "neutral is set; it needs kind ckplus, not identity"),
    ],
)
def test_options_of_another_kind_are_rejected(tmp_path, capsys, options, message):
    assert app(["prepare", *options, "--source", str(tmp_path), "--out", str(tmp_path)]) == 1
    assert message in capsys.readouterr().err


def test_a_folder_without_a_prepared_set_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="`training prepare`"):
        load_prepared(tmp_path)


def test_a_single_person_is_rejected(tmp_path):
    save(face(0), tmp_path / "ann" / "1.png")
    with pytest.raises(ValueError, match="images of 1 people; at least 2"):
        read_people(tmp_path)
