from pathlib import Path

import pytest

from service.cli.photo_files import annotation_paths


def test_one_photo_goes_to_the_named_file() -> None:
    assert annotation_paths([Path("a.heic")], Path("out.webp")) == [Path("out.webp")]


def test_several_photos_go_to_a_folder_without_overwriting_each_other() -> None:
    photos = [Path("a.jpg"), Path("b.png"), Path("sub/a.jpg")]
    assert annotation_paths(photos, Path("out")) == [Path("out/a.jpg"), Path("out/b.jpg"), Path("out/a-2.jpg")]


@pytest.mark.parametrize(
    ("photos", "out", "culprit"),
    [
        (["a.jpg", "b.jpg"], "out.jpg", r"^out\.jpg .* 2 photos"),
        (["a.jpg"], "out.gif", r"^out\.gif .* \.jpg, \.jpeg, \.png, \.webp$"),
        (["a.jpg"], "a.jpg", r"overwrite a\.jpg$"),
        (["x/a.jpg"], "x", r"overwrite x/a\.jpg$"),
    ],
)
def test_an_unusable_path_is_named(photos: list[str], out: str, culprit: str) -> None:
    with pytest.raises(ValueError, match=culprit):
        annotation_paths([Path(photo) for photo in photos], Path(out))
