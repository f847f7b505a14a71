"""The output file of `tandem predict`: a log with one line of JSON per photo, and the table made from it."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from service.schemas import FaceEmotion, PhotoEmotions

SUFFIXES = (".jsonl", ".csv", ".parquet")

LOG_SUFFIX = ".partial.jsonl"
"""Added to a table's name for its log: a table cannot be appended to, a log can."""


NOT_OURS = "exists and does not hold results of `tandem predict`"


class OutputUnusable(Exception):
    """The results cannot be written to this path; the message says why."""


class ResultLog:
    """A JSON Lines file with one line per photo, flushed after each, so that an interrupted run can continue.

    Attributes:
        done: the photos that have an answer or an error, here or in the finished table.
        failed: those of them that have an error.
    """

    def __init__(
        self, path: Path, finished: Sequence[Mapping[str, Any]] = (), *, retry_failed: bool = False
    ) -> None:
        """Open a log, and cut off a last line that an interruption left incomplete.

        Args:
            path: the log.
            finished: rows of the table that an earlier run has finished.
            retry_failed: forget the photos that have an error.

        Raises:
            OutputUnusable: the file holds something else.
        """
        self.path = path
        self.done = {str(row["photo"]) for row in finished}
        self.failed = {str(row["photo"]) for row in finished if row["error"]}
        valid_bytes = 0
        if path.exists():
            with path.open("rb") as file:
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._note(*_state_of(line, path))
                    valid_bytes += len(line)
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
        """Append one photo's answer, or ``{"error": ...}``."""
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
        raise OutputUnusable(f"the suffix of {out} is none of {', '.join(SUFFIXES)}")
    if suffix == ".jsonl":
        return out
    if suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401 - an optional dependency
        except ImportError:
            raise OutputUnusable("writing .parquet needs pyarrow: pip install 'tandem-emotions[tables]'") from None
    return out.with_name(out.name + LOG_SUFFIX)


def read_table(out: Path) -> list[dict[str, Any]]:
    """Return the rows of a table that an earlier run has finished; none if there is no such file.

    Raises:
        OutputUnusable: the file holds something else.
    """
    if out.suffix.lower() == ".jsonl" or not out.exists():
        return []
    try:
        if out.suffix.lower() == ".csv":
            with out.open(newline="", encoding="utf-8") as file:
                rows: list[dict[str, Any]] = list(csv.DictReader(file))
        else:
            from pyarrow import parquet

            rows = parquet.read_table(out).to_pylist()
    except (ValueError, csv.Error):  # pyarrow's errors are ValueErrors
        raise OutputUnusable(f"{out} {NOT_OURS}") from None
    if any(not {"photo", "error"} <= row.keys() for row in rows):
        raise OutputUnusable(f"{out} {NOT_OURS}")
    return rows


def finish_output(log: Path, out: Path) -> None:
    """Write the table ``out`` from its log and from the rows that it holds already, and delete the log.

    Where both know a photo, the log wins.
    """
    if log == out:
        return
    new = [row for line in _lines(log) for row in to_rows(line)]
    replaced = {row["photo"] for row in new}
    rows = [row for row in read_table(out) if row["photo"] not in replaced] + new
    columns = merge_columns(rows)
    partial = out.with_name(out.name + ".partial")
    if out.suffix.lower() == ".csv":
        write_csv(rows, columns, partial)
    else:
        write_parquet(rows, columns, partial)
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
    rows = [{**common, "face": number, **face_row(face), **model} for number, face in enumerate(answer.faces)]
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


def merge_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the columns of all rows, in the order of the widest row, with "error" last."""
    widest: Mapping[str, Any] = max(rows, key=len) if rows else {}
    columns = dict.fromkeys(widest)
    for row in rows:
        columns.update(dict.fromkeys(row))
    columns.pop("error", None)
    return [*columns, "error"]


def write_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], path: Path) -> None:
    """Write rows as CSV with a header."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], path: Path) -> None:
    """Write rows as Parquet."""
    import pyarrow as pa
    from pyarrow import parquet

    # "error" is a string column even if no photo failed.
    arrays = {name: pa.array([row.get(name) for row in rows]) for name in columns if name != "error"}
    arrays["error"] = pa.array([row.get("error") for row in rows], pa.string())
    parquet.write_table(pa.table(arrays), path)
