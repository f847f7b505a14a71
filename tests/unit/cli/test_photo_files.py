from pathlib import Path

import pytest

from service.cli.photo_files import annotation_paths, describe_skipped, find_photos


def named(*photos: str) -> dict[Path, Path]:
    """The photos of a command line that names each file."""
    return {Path(photo): Path(Path(photo).name) for photo in photos}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        *("b.jpg", "a.PNG", "trip/b.jpg", "trip/day 2/c.heic", "notes.txt", "trip/more.txt", "README"),
        *(".DS_Store", ".cache/d.jpg", "movie.mp4"),
    ):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "photos" / "album.jpg").mkdir()
    return tmp_path / "photos"


def test_a_folder_stands_for_its_photos_and_the_rest_is_counted_by_kind(folder: Path) -> None:
    found = find_photos([folder])
    assert sorted(map(str, found.photos.values())) == ["a.PNG", "b.jpg", "trip/b.jpg", "trip/day 2/c.heic"]
    assert all(folder / relative == path for path, relative in found.photos.items())
    assert found.skipped == {".txt": 2, "hidden": 2, ".mp4": 1, "without a suffix": 1}
    assert describe_skipped(found.skipped) == "skipped 6 files: 2 .txt, 2 hidden, 1 .mp4, 1 without a suffix"
    assert found.empty_folders == []


def test_subfolders_can_be_left_out(folder: Path) -> None:
    found = find_photos([folder], recursive=False)
    assert sorted(path.name for path in found.paths) == ["a.PNG", "b.jpg"]
    assert found.skipped["in subfolders"] == 3


def test_a_photo_that_is_named_twice_is_one_photo(folder: Path) -> None:
    assert len(find_photos([folder / "b.jpg", folder, folder / "b.jpg"]).photos) == 4


def test_a_folder_without_photos_is_empty(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.txt").touch()
    found = find_photos([empty, folder])
    assert found.empty_folders == [empty]
    assert len(found.photos) == 4


def test_a_file_that_is_named_is_a_photo_whatever_its_suffix(folder: Path) -> None:
    found = find_photos([folder / "notes.txt", folder / "missing.jpg"])
    assert [path.name for path in found.paths] == ["notes.txt", "missing.jpg"]
    assert not found.skipped


def test_one_photo_goes_to_the_named_file() -> None:
    assert annotation_paths(named("a.heic"), Path("out.webp")) == {Path("a.heic"): Path("out.webp")}


def test_several_photos_go_to_a_folder_without_overwriting_each_other() -> None:
    targets = annotation_paths(named("a.jpg", "b.png", "sub/a.jpg"), Path("out"))
    assert list(targets.values()) == [Path("out/a.jpg"), Path("out/b.jpg"), Path("out/a-2.jpg")]


def test_a_folder_may_be_called_like_a_file() -> None:
    targets = annotation_paths(named("a.jpg", "b.png"), Path("marked.v2"), is_folder=True)
    assert list(targets.values()) == [Path("marked.v2/a.jpg"), Path("marked.v2/b.jpg")]


def test_subfolders_of_a_folder_are_kept(folder: Path) -> None:
    targets = annotation_paths(find_photos([folder, folder / "trip"]).photos, Path("out"))
    assert {str(photo.relative_to(folder)): str(target) for photo, target in targets.items()} == {
        "a.PNG": "out/a.jpg",
        "b.jpg": "out/b.jpg",
        "trip/b.jpg": "out/trip/b.jpg",
        "trip/day 2/c.heic": "out/trip/day 2/c.jpg",
    }


@pytest.mark.parametrize(
    ("photos", "out", "culprit"),
    [
        (["a.jpg", "b.jpg"], "out.jpg", r"^out\.jpg .* 2 photos"),
        (["a.jpg"], "out.mp4", r" out\.mp4 .* \.jpg, \.jpeg, \.png, \.webp; for a folder, end it with /$"),
        (["a.jpg"], "a.jpg", r"overwrite a\.jpg$"),
        (["x/a.jpg"], "x", r"overwrite x/a\.jpg$"),
    ],
)
def test_an_unusable_path_is_named(photos: list[str], out: str, culprit: str) -> None:
    with pytest.raises(ValueError, match=culprit):
        annotation_paths(named(*photos), Path(out))
