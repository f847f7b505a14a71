import io

import numpy as np
import pytest
from PIL import Image
from recordio_files import image_record, pack, write_container

from training.datasets.recordio import MAGIC, read_image_record, read_record, read_recorded_people


def picture(value):
    file = io.BytesIO()
    Image.new("RGB", (112, 112), (value, value, value)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def container(tmp_path):
    return write_container(
        tmp_path / "casia",
        {
            0: image_record([5.0, 8.0], b""),  # 1 to 4 are images, 5 to 7 summaries of people
            1: image_record([0.0], picture(10)),
            2: image_record([2.0, 0.5], picture(20)),
            3: image_record([2.0], picture(30)),
            4: image_record([1.0], b"no image"),
            5: image_record([1.0, 2.0], b""),
            6: image_record([2.0, 4.0], b""),
            7: image_record([4.0, 5.0], b""),
        },
    )


def test_summaries_are_not_images(container):
    people = read_recorded_people(container)
    assert [image.name for image in people.images] == ["1", "2", "3", "4"]
    assert people.labels.tolist() == [0, 2, 2, 1]
    assert people.names == ["0", "1", "2"]
    assert [image.read_bytes() for image in people.images] == [picture(10), picture(20), picture(30), b"no image"]


def test_without_a_summary_every_record_is_an_image(tmp_path):
    folder = write_container(tmp_path, {key: image_record([float(key)], picture(key)) for key in range(3)})
    assert read_recorded_people(folder).labels.tolist() == [0, 1, 2]


def test_labels_are_consecutive_without_people_who_have_no_image(tmp_path):
    folder = write_container(tmp_path, {1: image_record([7.0], b"a"), 2: image_record([3.0], b"b")}, classes=9)
    people = read_recorded_people(folder)
    assert people.labels.tolist() == [1, 0]
    assert people.names == ["3", "7"]


@pytest.mark.parametrize("places", [[0], [4], [0, 4], [8, 12, 100], [396]])
def test_the_magic_number_within_an_image_is_restored(tmp_path, places):
    data = bytearray(np.random.default_rng(1).integers(0, 255, 400, np.uint8).tobytes())
    for place in places:
        data[place : place + 4] = MAGIC
    file = tmp_path / "train.rec"
    file.write_bytes(pack(b"first") + pack(bytes(data)) + pack(b"last"))
    assert pack(bytes(data)).count(MAGIC) == 1 + len(places)
    with file.open("rb") as records:
        assert read_record(records, len(pack(b"first"))) == bytes(data)


def test_a_truncated_record_is_named_and_its_image_is_empty(container):
    file = container / "train.rec"
    file.write_bytes(file.read_bytes()[:-30])
    with file.open("rb") as records, pytest.raises(ValueError, match=r"train\.rec: .*at byte"):
        read_image_record(records, int((container / "train.idx").read_text().split()[-1]))
    images = read_recorded_people(container).images
    file.write_bytes(file.read_bytes()[: images[2].offset + 100])
    assert images[2].read_bytes() == b""


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("train.idx", "1\t3\n", "no record at byte 3"),
        ("train.idx", "1 0\n", "line 1: '1 0'"),
        ("property", "many", "'many'.* people,height,width"),
        ("property", "2,112,112", "record 2 has the label 2"),
    ],
)
def test_malformed_files_are_named(container, file, text, message):
    (container / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_recorded_people(container)


def test_a_missing_file_is_named(container):
    (container / "property").unlink()
    with pytest.raises(FileNotFoundError, match="property"):
        read_recorded_people(container)
