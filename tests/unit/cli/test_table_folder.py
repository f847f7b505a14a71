"""Shards, the files of their tables, and what a repeated run does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
from answers import answer
from pyarrow import dataset, parquet

from service.cli.output_files import OutputUnusable
from service.cli.predict import RunAborted
from service.cli.table_folder import Shard, Store, TableFolder, find_names, predict_into_folder
from service.client import CallFailed, NoAnswer

LABELS = ["neutral", "happiness"]


class Gateway:
    """Stands for the gateway's client: answers each photo, fails for some, and dies after ``limit`` photos."""

    def __init__(self, *, limit: int = 10**6, broken: str = "none") -> None:
        self.read_photos: list[bytes] = []
        self.limit = limit
        self.broken = broken.encode()

    async def model(self) -> SimpleNamespace:
        return SimpleNamespace(labels=LABELS)

    async def read(self, photo: bytes | Path) -> Any:
        content = photo.read_bytes() if isinstance(photo, Path) else photo
        if len(self.read_photos) == self.limit:
            raise NoAnswer("the gateway cannot be reached")
        self.read_photos.append(content)
        if content == self.broken:
            raise CallFailed("is no photo")
        return answer(60, 40, (1, 2, 3, 4), (5, 6, 7, 8))


@asynccontextmanager
async def opened(gateway: Gateway) -> AsyncIterator[Any]:
    yield gateway


def write_photos(address: str, count: int) -> None:
    files, root = fsspec.core.url_to_fs(address)
    for folder in range(count // 10 + 1):
        files.makedirs(f"{root}/{folder}", exist_ok=True)
    for number in range(count):
        files.pipe_file(f"{root}/{number // 10}/{number}.jpg", str(number).encode())


def run(gateway: Gateway, source: str, out: str, shard: str = "0/1", **options: Any) -> int:
    values = {"photos_per_file": 10, "retry_failed": False, "concurrency": 3, "recursive": True, **options}
    return asyncio.run(predict_into_folder(opened(gateway), [source], out, shard=Shard.parse(shard), **values))


def photos_in(out: str) -> list[str]:
    """The photos of all rows of the table: two for each that has an answer."""
    files, root = fsspec.core.url_to_fs(out)
    table = dataset.dataset(root, filesystem=files, format="parquet").to_table()
    return sorted(table["photo"].to_pylist())


@pytest.mark.parametrize("kind", ["memory://", "file://", ""])
def test_four_shards_of_which_one_restarts_give_each_photo_once(kind: str, tmp_path: Path) -> None:
    place = f"{kind}{tmp_path}"
    source, out = f"{place}/photos", f"{place}/out"
    write_photos(source, 200)
    died = Gateway(limit=35)
    with pytest.raises(RunAborted):
        run(died, source, out, "1/4")
    rest = Gateway()
    assert run(rest, source, out, "1/4") == 0
    shard = find_names([source], Shard(1, 4), recursive=True)
    assert 35 < len(shard) < 65
    kept = len(shard) - len(rest.read_photos)
    assert kept == 30, "the parts that were finished before the restart are kept, and only they"
    for index in (0, 2, 3):
        assert run(Gateway(), source, out, f"{index}/4") == 0
    everything = find_names([source], Shard(0, 1), recursive=True)
    assert len(everything) == 200
    assert photos_in(out) == sorted(everything * 2)
    again = Gateway()
    run(again, source, out, "2/3")
    assert again.read_photos == [], "another number of shards does not change which photos are done"


def test_two_runs_of_a_shard_at_once_write_the_same_files(tmp_path: Path) -> None:
    source, out = str(tmp_path / "photos"), str(tmp_path / "out")
    write_photos(source, 40)
    first = Gateway(limit=15)
    with pytest.raises(RunAborted):
        run(first, source, out)
    written = {path.name: path.read_bytes() for path in Path(out).iterdir()}
    folder = TableFolder(out)  # has not seen the first run's file
    names = find_names([source], Shard(0, 1), recursive=True)
    lines = [
        {"photo": name, **answer(60, 40, (1, 2, 3, 4), (5, 6, 7, 8)).model_dump(mode="json")} for name in names
    ]
    folder.write(lines[:10], LABELS)
    assert {path.name: path.read_bytes() for path in Path(out).iterdir()} == written


def test_photos_that_failed_have_a_row_until_they_are_retried(tmp_path: Path) -> None:
    source, out = str(tmp_path / "photos"), str(tmp_path / "out")
    write_photos(source, 25)
    assert run(Gateway(broken="7"), source, out) == 1
    again = Gateway()
    assert run(again, source, out) == 1
    assert again.read_photos == []
    assert run(again, source, out, retry_failed=True) == 0
    assert again.read_photos == [b"7"]
    assert photos_in(out) == sorted(find_names([source], Shard(0, 1), recursive=True) * 2)


def test_a_folder_that_cannot_be_written_any_more_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("access denied")

    write_photos(str(tmp_path / "photos"), 1)
    monkeypatch.setattr(TableFolder, "_replace", refuse)
    with pytest.raises(OutputUnusable, match="out cannot be written: access denied"):
        run(Gateway(), str(tmp_path / "photos"), str(tmp_path / "out"))


def test_every_file_has_the_same_columns(tmp_path: Path) -> None:
    source, out = str(tmp_path / "photos"), str(tmp_path / "out")
    write_photos(source, 2)
    run(Gateway(broken="1"), source, out, photos_per_file=1)
    first, second = (parquet.read_schema(path) for path in Path(out).iterdir())
    assert first == second
    assert [name for name in first.names if name.startswith("p_")] == ["p_neutral", "p_happiness"]


def test_shards_share_all_photos() -> None:
    names = [f"s3://bucket/{number}.jpg" for number in range(1000)]
    shares = [sum(Shard(index, 8).has(name) for name in names) for index in range(8)]
    assert sum(shares) == 1000
    assert all(90 < share < 160 for share in shares)


@pytest.mark.parametrize("text", ["8/8", "-1/8", "1", "a/b", "1/0", ""])
def test_a_wrong_shard_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"^'{text}' is not I/N"):
        Shard.parse(text)


def test_only_photos_count_and_hidden_files_do_not(tmp_path: Path) -> None:
    for name in ("a.JPG", "deep/b.png", "notes.txt", ".hidden.jpg", ".git/c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    store = Store(f"file://{tmp_path}")
    assert sorted(store.photos(recursive=True)) == [f"file://{tmp_path}/a.JPG", f"file://{tmp_path}/deep/b.png"]
    assert sorted(store.photos(recursive=False)) == [f"file://{tmp_path}/a.JPG"]
    assert list(Store(f"file://{tmp_path}/a.JPG").photos(recursive=True)) == [f"file://{tmp_path}/a.JPG"]


def test_a_source_without_photos_is_named_and_an_empty_share_is_not(tmp_path: Path) -> None:
    write_photos(str(tmp_path / "photos"), 1)
    (tmp_path / "empty").mkdir()
    for source in (str(tmp_path / "empty"), f"file://{tmp_path}/empty", "memory://nothing/here"):
        with pytest.raises(RunAborted, match=f"{source} holds no photo"):
            run(Gateway(), source, str(tmp_path / "out"))
    runs = [run(Gateway(), str(tmp_path / "photos"), str(tmp_path / "out"), f"{index}/2") for index in (0, 1)]
    assert runs == [0, 0]
    assert len(photos_in(str(tmp_path / "out"))) == 2


def test_an_address_that_cannot_be_used_is_named() -> None:
    with pytest.raises(OutputUnusable, match="nonsense"):
        Store("nonsense://bucket")
