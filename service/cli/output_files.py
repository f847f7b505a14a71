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


class OutputUnusable(Exception):
    """The results cannot be written to this path; the message says why."""


class ResultLog:
    """A JSON Lines file with one line per photo, flushed after each, so that an interrupted run can continue."""

    def __init__(self, path: Path) -> None:
        """Open a log, and cut off a last line that an interruption left incomplete.

        Raises:
            OutputUnusable: the file holds something else.
        """
        self.path = path
        self.done: set[str] = set()
        valid_bytes = 0
        if path.exists():
            with path.open("rb") as file:
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self.done.add(_photo_of(line, path))
                    valid_bytes += len(line)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        self._file.truncate(valid_bytes)

    def add(self, photo: str, content: Mapping[str, Any]) -> None:
        """Append one photo's answer, or ``{"error": ...}``."""
        self._file.write(json.dumps({"photo": photo, **content}, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        self.done.add(photo)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _photo_of(line: bytes, path: Path) -> str:
    try:
        return str(json.loads(line)["photo"])
    except (ValueError, KeyError, TypeError):
        raise OutputUnusable(f"{path} exists and does not hold results of `tandem predict`") from None


def log_path(out: Path) -> Path:
    """Return the path of the log for the output ``out``: ``out`` itself if that is JSON Lines.

    Raises:
        OutputUnusable: the suffix is none of ``SUFFIXES``, ``out`` is a finished table, or pyarrow is missing.
    """
    suffix = out.suffix.lower()
    if suffix not in SUFFIXES:
        raise OutputUnusable(f"the suffix of {out} is none of {', '.join(SUFFIXES)}")
    if suffix == ".jsonl":
        return out
    log = out.with_name(out.name + LOG_SUFFIX)
    if out.exists() and not log.exists():
        raise OutputUnusable(f"{out} exists and is finished; delete it or choose another name")
    if suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401 - an optional dependency
        except ImportError:
            raise OutputUnusable("writing .parquet needs pyarrow: pip install 'tandem[tables]'") from None
    return log


def finish_output(log: Path, out: Path) -> None:
    """Write the table ``out`` from its log, and delete the log."""
    if log == out:
        return
    rows = [row for line in _lines(log) for row in to_rows(line)]
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
