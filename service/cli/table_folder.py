"""`tandem predict` of many photos: a folder or bucket of photos becomes a folder or bucket of Parquet files.

The names of the photos are sorted and cut into parts; each part becomes one file, which is named after its photos.
So a run that is repeated goes on with the part it was at, and two runs of the same shard write the same files.
"""

import asyncio
import functools
import hashlib
import io
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self

from service.cli.console import print_error, progress_bar, stderr
from service.cli.gateway import ClientContext
from service.cli.output_files import OutputUnusable, schema_of, table_columns, to_rows
from service.cli.photo_files import PHOTO_SUFFIXES, find_photos, name_of
from service.cli.predict import PhotoFailed, RunAborted, for_each, labels_of, predict_photo, print_summary
from service.client import AsyncClient
from service.errors import install_command

BUCKETS = ("s3", "gs", "gcs")
"""Schemes for which Arrow has a client; other packages may bring further ones to fsspec."""


@dataclass(frozen=True)
class Shard:
    """One of ``count`` shares of the photos; each photo belongs to the share that its name decides."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``i/n``, such as 0/4; raises ``ValueError``."""
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise ValueError(f"{text!r} is not I/N, such as 0/4, with I from 0 to N - 1")
        return cls(int(index), int(count))

    def has(self, name: str) -> bool:
        """Return whether a photo is in this share."""
        return zlib.crc32(name.encode()) % self.count == self.index


class Store:
    """A folder or bucket, on this machine or at an address such as ``s3://bucket/folder``.

    Raises:
        OutputUnusable: a package for this kind of address is missing, or there is no such kind.
    """

    def __init__(self, address: str) -> None:
        """Open the store; a bucket is connected to on its first use."""
        self.scheme, _, path = address.rpartition("://")
        try:
            if self.scheme in BUCKETS:
                self.files, self.root = _bucket(self.scheme, path.partition("/")[0]), path
            else:
                from fsspec.core import url_to_fs

                self.files, self.root = url_to_fs(address)
                self.scheme = self.scheme or "file"
        except ImportError as error:
            raise OutputUnusable(f"{address} needs a package: {install_command('buckets')} ({error})") from None
        except ValueError as error:
            raise OutputUnusable(f"{address}: {error}") from None

    def photos(self, *, recursive: bool) -> Iterator[str]:
        """Yield the addresses of the photos in the folder, without hidden ones, or that of the one photo."""
        if self.files.isfile(self.root):
            yield f"{self.scheme}://{self.root}"
            return
        for path in self.files.find(self.root, maxdepth=None if recursive else 1):
            below = str(path)[len(self.root) :]
            if below.lower().endswith(PHOTO_SUFFIXES) and "/." not in f"/{below}":
                yield f"{self.scheme}://{path}"


@functools.cache
def _bucket(scheme: str, name: str) -> Any:
    """Return Arrow's file system of a bucket: it has the clients, and the bucket's region is looked up once."""
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow.fs import FileSystem

    filesystem, _ = FileSystem.from_uri(f"{scheme}://{name}")
    return ArrowFSWrapper(filesystem, skip_instance_cache=True)


def is_address(text: str) -> bool:
    """Return whether a text is an address instead of a path."""
    return "://" in text


def is_folder(out: str) -> bool:
    """Return whether ``--out`` names a folder or bucket instead of a file."""
    return is_address(out) or out.endswith("/") or Path(out).is_dir()


def find_names(sources: Sequence[str], shard: Shard, *, recursive: bool) -> list[str]:
    """Return the sorted names of the shard's photos: addresses or paths.

    Raises:
        RunAborted: a source holds no photo at all.
    """
    names: set[str] = set()
    for source in sources:
        if is_address(source):
            found: Iterable[str] = Store(source).photos(recursive=recursive)
        else:
            found = map(name_of, find_photos([Path(source)], recursive=recursive).paths)
        is_empty = True
        for name in found:
            is_empty = False
            if shard.has(name):
                names.add(name)
        if is_empty:
            raise RunAborted(f"{source} holds no photo ({', '.join(PHOTO_SUFFIXES)})")
    return sorted(names)


class TableFolder:
    """The Parquet files of a run, and which photos they hold."""

    def __init__(self, address: str) -> None:
        """Open the folder ``address``, which may not exist yet."""
        import pyarrow  # noqa: F401 - an optional dependency

        self.store = Store(address.rstrip("/"))
        if self.store.scheme not in BUCKETS:  # which have no folders
            self.store.files.makedirs(self.store.root, exist_ok=True)
        self.done: set[str] = set()
        self.failed: set[str] = set()

    def load(self, shard: Shard, *, retry_failed: bool) -> None:
        """Read which of the shard's photos have a row; with ``retry_failed``, remove the rows with an error."""
        import pyarrow
        from pyarrow import compute, parquet

        for path in self.store.files.glob(f"{self.store.root}/*.parquet"):
            with self.store.files.open(path, "rb") as file:
                table = parquet.read_table(file, columns=["photo", "error"])
            ours = [name for name in table["photo"].to_pylist() if shard.has(name)]
            wrong = compute.is_valid(table["error"])
            failed = {name for name in table.filter(wrong)["photo"].to_pylist() if shard.has(name)}
            if failed and retry_failed:
                with self.store.files.open(path, "rb") as file:
                    table = parquet.read_table(file)
                keep = compute.invert(
                    compute.is_in(table["photo"], pyarrow.array(sorted(failed), pyarrow.string()))
                )
                self._replace(path, table.filter(keep))
                self.done.update(name for name in ours if name not in failed)
            else:
                self.done.update(ours)
                self.failed |= failed

    def write(self, lines: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> None:
        """Write the answers or errors of a part's photos, as one file."""
        import pyarrow

        rows = [row for line in lines for row in to_rows(line)]
        names = sorted(str(line["photo"]) for line in lines)
        name = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
        table = pyarrow.Table.from_pylist(rows, schema=schema_of(table_columns(labels)))
        self._replace(f"{self.store.root}/{name}.parquet", table)
        self.done.update(names)
        self.failed |= {str(line["photo"]) for line in lines if "error" in line}

    def _replace(self, path: str, table: Any) -> None:
        """Write a file by way of a hidden one, so that no reader sees a part of it."""
        from pyarrow import parquet

        buffer = io.BytesIO()
        parquet.write_table(table, buffer)
        folder, _, name = path.rpartition("/")
        self.store.files.pipe_file(f"{folder}/.{name}", buffer.getvalue())
        self.store.files.mv(f"{folder}/.{name}", path)


async def predict_into_folder(
    context: ClientContext,
    sources: Sequence[str],
    out: str,
    *,
    shard: Shard,
    photos_per_file: int,
    concurrency: int,
    recursive: bool,
    retry_failed: bool,
) -> int:
    """Give each of the shard's photos a row in the folder ``out``; return how many of them have an error.

    Raises:
        OutputUnusable: the photos cannot be listed, or the folder cannot be used or written.
        RunAborted: the gateway answers no photo any more, or the photos cannot be read any more.
        LocalTritonError: no gateway is running, and none can be started here.
    """
    try:
        folder = TableFolder(out)
        names = find_names(sources, shard, recursive=recursive)
        folder.load(shard, retry_failed=retry_failed)
    except ImportError:
        raise OutputUnusable(f"a folder of tables needs pyarrow: {install_command('buckets')}") from None
    except (OutputUnusable, RunAborted):
        raise
    except Exception as error:  # each kind of store has errors of its own
        raise OutputUnusable(f"{out}: {error}") from error
    todo = [name for name in names if name not in folder.done]
    before, failed_before = len(names) - len(todo), len(folder.failed & set(names))
    with progress_bar(stderr, "photos", total=len(names)) as advance:
        advance(before)
        if todo:
            async with context as client:
                labels = await labels_of(client)
                rest = iter(todo)
                while part := list(islice(rest, photos_per_file)):
                    lines = await _predict_part(client, part, concurrency)
                    try:
                        await asyncio.to_thread(folder.write, lines, labels)
                    except Exception as error:  # each kind of store has errors of its own
                        raise OutputUnusable(f"{out} cannot be written: {error}") from error
                    advance(len(part))
    failed = len(folder.failed & set(names))
    print_summary(len(names), failed, out, before=before, failed_before=failed_before)
    return failed


async def _predict_part(client: AsyncClient, part: Sequence[str], concurrency: int) -> list[dict[str, Any]]:
    """Return a line for each photo of a part, in their order."""
    lines: list[dict[str, Any]] = [{} for _ in part]

    async def predict(numbered: tuple[int, str]) -> None:
        number, name = numbered
        try:
            answer = await predict_photo(client, await asyncio.to_thread(_read, name))
            lines[number] = {"photo": name, **answer.model_dump(mode="json", exclude_none=True)}
        except PhotoFailed as failure:
            print_error(str(failure), name)
            lines[number] = {"photo": name, "error": str(failure)}

    await for_each(enumerate(part), predict, concurrency=concurrency)
    return lines


def _read(name: str) -> bytes | Path:
    """Return a photo's bytes, or its path on this machine.

    Raises:
        PhotoFailed: it has disappeared.
        RunAborted: the store gives no answer, or refuses.
    """
    if not is_address(name):
        return Path(name)
    try:
        store = Store(name)
        return bytes(store.files.cat_file(store.root))
    except FileNotFoundError:
        raise PhotoFailed("cannot be read: it does not exist any more") from None
    except Exception as error:  # each kind of store has errors of its own
        raise RunAborted(f"{name} cannot be read: {error}") from error
