from pathlib import Path

import pytest

from service.cli.predict import annotation_paths


def test_one_photo_goes_to_the_named_file() -> None:
    assert annotation_paths([Path("a.heic")], Path("out.webp")) == [Path("out.webp")]


def test_several_photos_go_to_a_folder_and_not_over_each_other() -> None:
    photos = [Path("a.jpg"), Path("b.png"), Path("sub/a.jpg")]
    assert annotation_paths(photos, Path("out")) == [Path("out/a.jpg"), Path("out/b.jpg"), Path("out/a-2.jpg")]


@pytest.mark.parametrize(
    ("photos", "out", "complaint"),
    [
        (["a.jpg", "b.jpg"], "out.jpg", "one file for 2 photos"),
        (["a.jpg"], "out.gif", r"ends in none of .jpg, .jpeg, .png, .webp"),
        (["a.jpg"], "a.jpg", "would overwrite a.jpg"),
        (["x/a.jpg"], "x", "would overwrite x/a.jpg"),
    ],
)
def test_says_why_not(photos: list[str], out: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        annotation_paths([Path(photo) for photo in photos], Path(out))
