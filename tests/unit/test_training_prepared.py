import numpy as np
import pytest
from PIL import Image
from skimage import data

from service.faces.alignment import crop_faces
from service.faces.pipeline import FaceFinder
from training.datasets import cropping
from training.datasets.cropping import ALIGNED, NO_FACE, UNREADABLE, crop_image, crop_images
from training.datasets.ferplus import COLUMNS
from training.datasets.identity import read_people
from training.datasets.prepared import load_prepared, prepare_ferplus, prepare_identity
from training.framing import CROP_SIZE, TEMPLATE


def face(seed):
    """The astronaut's face, framed a little differently for each seed."""
    left, top = 150 + seed, 40 + seed
    return Image.fromarray(data.astronaut()[top : top + 150, left : left + 150]).convert("L").resize((96, 96))


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def test_a_training_crop_is_the_serving_crop(tmp_path):
    path = save(Image.fromarray(data.astronaut()), tmp_path / "a.png")
    finder = FaceFinder()
    crop, outcome = crop_image(path.read_bytes(), finder)
    served = crop_faces(data.astronaut(), finder.find(data.astronaut()), template=TEMPLATE, size=CROP_SIZE)
    assert outcome == ALIGNED
    assert np.array_equal(crop, served[0, 0])


def test_parts_are_resumed_and_bad_images_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(cropping, "CHUNK", 2)
    paths = [save(face(seed), tmp_path / f"{seed}.png") for seed in range(3)]
    paths.append(save(Image.new("L", (48, 48)), tmp_path / "blank.png"))
    (tmp_path / "broken.png").write_bytes(b"no image")
    paths.append(tmp_path / "broken.png")
    parts = tmp_path / "parts"
    crops = crop_images(paths, parts, title="test", workers=2)
    assert crops.pixels.shape == (5, 48, 48)
    assert crops.outcomes.tolist() == [ALIGNED, ALIGNED, ALIGNED, NO_FACE, UNREADABLE]
    assert crops.counts() == {"aligned": 3, "no face": 1, "unreadable": 1}

    first, *others = sorted(parts.iterdir())
    written = first.stat().st_mtime_ns
    for part in others:
        part.unlink()
    again = crop_images(paths, parts, title="test", workers=2)
    assert np.array_equal(again.pixels, crops.pixels)
    assert first.stat().st_mtime_ns == written


def test_prepared_ferplus_drops_what_also_stands_in_valid(tmp_path):
    source = tmp_path / "ferplus"
    for seed in range(3):
        save(face(seed), source / "FER2013Train" / f"t{seed}.png")
    save(face(0), source / "FER2013Valid" / "v0.png")
    rows = [("Training", f"t{seed}.png", seed) for seed in range(3)] + [("PublicTest", "v0.png", 0)]
    lines = [",".join(["Usage", "Image name", *COLUMNS])]
    lines += [",".join([usage, name, *(str(10 * (c == label)) for c in range(10))]) for usage, name, label in rows]
    (source / "fer2013new.csv").write_text("\n".join(lines))

    prepare_ferplus(source, tmp_path / "out", workers=1)
    train, valid = load_prepared(tmp_path / "out" / "train"), load_prepared(tmp_path / "out" / "valid")
    assert train.arrays["files"].tolist() == ["t1.png", "t2.png"]
    assert train.arrays["votes"].argmax(axis=1).tolist() == [1, 2]
    assert train.manifest["also in another split"] == 1
    assert valid.crops.shape == (1, 48, 48)
    assert not (tmp_path / "out" / "train" / "parts").exists()


def test_a_changed_set_is_not_read(tmp_path):
    for person in ("ann", "bob"):
        save(face(3), tmp_path / "people" / person / "1.png")
    prepare_identity(tmp_path / "people", tmp_path / "out", workers=1)
    assert load_prepared(tmp_path / "out").arrays["labels"].tolist() == [0, 1]
    manifest = tmp_path / "out" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"crops_sha256": "', '"crops_sha256": "0'))
    with pytest.raises(ValueError, match="is not what .* describes: prepare it anew"):
        load_prepared(tmp_path / "out")


def test_what_is_not_prepared_says_how_to(tmp_path):
    with pytest.raises(FileNotFoundError, match="make one with `training prepare`"):
        load_prepared(tmp_path)


def test_one_person_is_too_few(tmp_path):
    save(face(0), tmp_path / "ann" / "1.png")
    with pytest.raises(ValueError, match="holds images of 1 people; training needs at least 2"):
        read_people(tmp_path)
