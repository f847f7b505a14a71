"""The output file of `tandem predict`: a log with one line of JSON per photo, and the table made from it."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from service.errors import install_command
from service.schemas import FaceEmotion, PhotoEmotions

SUFFIXES = (".jsonl", ".csv", ".parquet")

ROWS_PER_GROUP = 5000
"""Rows of a table that are in memory at a time."""

TEXTS = ("photo", "emotion", "unreliable_because", "model", "model_version", "error")
NUMBERS = ("width", "height", "face")
"""The columns that are texts and whole numbers; ``reliable`` is a truth value, and all others are fractions."""

LOG_SUFFIX = ".partial.jsonl"
"""Added to a table's name for its log: a table cannot be appended to, a log can."""


NOT_OURS = "exists and does not hold results of `tandem predict`"


class OutputUnusable(Exception):
    """The results cannot be written to this path; the message says why."""


@contextmanager
def _written(path: Path) -> Iterator[None]:
    """Name the file in each error of writing it, such as that the disk is full."""
    try:
        yield
    except OSError as error:
        raise OutputUnusable(f"{path} cannot be written: {error.strerror or error}") from None


class ResultLog:
    """A JSON Lines file with one line per photo, flushed after each, so that an interrupted run can continue.

    Attributes:
        done: the photos that have an answer or an error, here or in the finished table.
        failed: those of them that have an error.
    """

    def __init__(
        self, path: Path, finished: Iterable[Mapping[str, Any]] = (), *, retry_failed: bool = False
    ) -> None:
        """Open a log, and cut off a last line that an interruption left incomplete.

        Args:
            path: the log.
            finished: rows of the table that an earlier run has finished.
            retry_failed: forget the photos that have an error.

        Raises:
            OutputUnusable: the file holds something else, or cannot be written.
        """
        self.path = path
        self.done: set[str] = set()
        self.failed: set[str] = set()
        for row in finished:
            self._note(str(row["photo"]), bool(row["error"]))
        valid_bytes = 0
        if path.exists():
            with path.open("rb") as file:
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._note(*_state_of(line, path))
                    valid_bytes += len(line)
        with _written(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab")
            self._file.truncate(valid_bytes)
            if retry_failed and self.failed:
                self._forget_failed()

    def _forget_failed(self) -> None:
        """Remove the lines with an error, by way of a new file, so that an interruption loses no answer."""
        self._file.close()
        rest = self.path.with_name(f"{self.path.name}.rest")
        with self.path.open("rb") as old, rest.open("wb") as new:
            new.writelines(line for line in old if not _state_of(line, self.path)[1])
        rest.replace(self.path)
        self._file = self.path.open("ab")
        self.done -= self.failed
        self.failed.clear()

    def add(self, photo: str, content: Mapping[str, Any]) -> None:
        """Append one photo's answer, or ``{"error": ...}``.

        Raises:
            OutputUnusable: the file cannot be written.
        """
        with _written(self.path):
            self._file.write(json.dumps({"photo": photo, **content}, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
        self._note(photo, "error" in content)

    def _note(self, photo: str, failed: bool) -> None:
        self.done.add(photo)
        if failed:
            self.failed.add(photo)
        else:
            self.failed.discard(photo)

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):  # of a last line, whose error ``add`` has raised
            self._file.close()


def _state_of(line: bytes, path: Path) -> tuple[str, bool]:
    """Return the photo of a line, and whether it has an error instead of an answer."""
    try:
        content = json.loads(line)
        return str(content["photo"]), "error" in content
    except (ValueError, KeyError, TypeError):
        raise OutputUnusable(f"{path} {NOT_OURS}") from None


def log_path(out: Path) -> Path:
    """Return the path of the log for the output ``out``: ``out`` itself if that is JSON Lines.

    Raises:
        OutputUnusable: the suffix is none of ``SUFFIXES``, or pyarrow is missing.
    """
    suffix = out.suffix.lower()
    if suffix not in SUFFIXES:
        raise OutputUnusable(f"the suffix of {out} is none of {', '.join(SUFFIXES)}; for a folder, end it with /")
    if suffix == ".jsonl":
        return out
    if suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401 - an optional dependency
        except ImportError:
            raise OutputUnusable(f"writing .parquet needs pyarrow: {install_command('tables')}") from None
    return out.with_name(out.name + LOG_SUFFIX)


def read_table(out: Path) -> Iterator[dict[str, Any]]:
    """Return the rows of a table that an earlier run has finished, one by one; none if there is no such file.

    Raises:
        OutputUnusable: the file holds something else.
    """
    if out.suffix.lower() == ".jsonl" or not out.exists():
        return iter(())
    try:
        columns, rows = _csv_table(out) if out.suffix.lower() == ".csv" else _parquet_table(out)
    except (ValueError, csv.Error):  # pyarrow's errors are ValueErrors
        raise OutputUnusable(f"{out} {NOT_OURS}") from None
    if not {"photo", "error"} <= set(columns):
        raise OutputUnusable(f"{out} {NOT_OURS}")
    return rows


def _csv_table(path: Path) -> tuple[Sequence[str], Iterator[dict[str, Any]]]:
    def rows() -> Iterator[dict[str, Any]]:
        with path.open(newline="", encoding="utf-8") as file:
            yield from csv.DictReader(file)

    with path.open(newline="", encoding="utf-8") as file:
        return csv.DictReader(file).fieldnames or (), rows()


def _parquet_table(path: Path) -> tuple[Sequence[str], Iterator[dict[str, Any]]]:
    from pyarrow import parquet

    def rows() -> Iterator[dict[str, Any]]:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS_PER_GROUP):
                yield from batch.to_pylist()

    with parquet.ParquetFile(path) as file:
        return file.schema_arrow.names, rows()


def finish_output(log: Path, out: Path, labels: Iterable[str] = ()) -> None:
    """Write the table ``out`` from its log and from the rows that it holds already, and delete the log.

    The table has columns for ``labels``, those of the model, even if no photo has a face.
    Where both know a photo, the log wins. Rows are read twice, and only some are in memory at a time.

    Raises:
        OutputUnusable: the table cannot be written.
    """
    if log == out:
        return
    replaced = {str(line["photo"]) for line in _lines(log)}

    def rows() -> Iterator[Mapping[str, Any]]:
        yield from (row for row in read_table(out) if row["photo"] not in replaced)
        for line in _lines(log):
            yield from to_rows(line)

    columns = merge_columns(rows(), labels)
    partial = out.with_name(out.name + ".partial")
    write = write_csv if out.suffix.lower() == ".csv" else write_parquet
    with _written(out):
        write(rows(), columns, partial)
        partial.replace(out)
        log.unlink()


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def to_rows(line: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Convert a photo's line to table rows: one per face, or a single row if it has no face or an error."""
    if "error" in line:
        return [{"photo": line["photo"], "error": line["error"]}]
    answer = PhotoEmotions.model_validate({key: value for key, value in line.items() if key != "photo"})
    common = {"photo": line["photo"], "width": answer.image.width, "height": answer.image.height}
    model = {"model": answer.model.name, "model_version": answer.model.version}
    rows = [{**common, "face": number, **face_row(face), **model} for number, face in enumerate(answer.faces, 1)]
    return rows or [{**common, **model}]


def face_row(face: FaceEmotion) -> dict[str, Any]:
    """Return the columns that describe a face; `tandem video` writes them too."""
    return {
        **{f"box_{name}": value for name, value in face.box},
        "detection_score": face.detection_score,
        "emotion": face.emotion,
        "confidence": face.confidence,
        **{f"p_{label}": probability for label, probability in face.emotions.items()},
        **dict(face.pose),
        **dict(face.quality),
        "reliable": face.reliable,
        "unreliable_because": " ".join(face.unreliable_because),
    }


def table_columns(labels: Iterable[str]) -> list[str]:
    """Return the columns of a table for a model with these labels."""
    return [
        *("photo", "width", "height", "face", "box_x", "box_y", "box_width", "box_height", "detection_score"),
        *("emotion", "confidence", *(f"p_{label}" for label in labels)),
        *("roll", "yaw", "size", "sharpness", "brightness", "reliable", "unreliable_because"),
        *("model", "model_version", "error"),
    ]


def merge_columns(rows: Iterable[Mapping[str, Any]], labels: Iterable[str]) -> list[str]:
    """Return the columns of a table for these labels and those that the rows have besides, with "error" last."""
    found = dict.fromkeys(column for row in rows for column in row)
    further = (column.removeprefix("p_") for column in found if column.startswith("p_"))
    columns = dict.fromkeys(table_columns(dict.fromkeys([*labels, *further]))) | found
    columns.pop("error")
    return [*columns, "error"]


def write_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], path: Path) -> None:
    """Write rows as CSV with a header."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], path: Path) -> None:
    """Write rows as Parquet, in groups."""
    import pyarrow as pa
    from pyarrow import parquet

    schema = schema_of(columns)
    rest = iter(rows)
    with parquet.ParquetWriter(path, schema) as writer:
        while group := list(islice(rest, ROWS_PER_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))


def schema_of(columns: Sequence[str]) -> Any:
    """Return the Arrow schema of a table with these columns."""
    import pyarrow as pa

    def kind(column: str) -> Any:
        if column in TEXTS:
            return pa.string()
        if column in NUMBERS:
            return pa.int64()
        return pa.bool_() if column == "reliable" else pa.float64()

    return pa.schema([(column, kind(column)) for column in columns])
