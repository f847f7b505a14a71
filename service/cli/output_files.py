"""What `tandem predict` writes of many photos: a line of JSON each as they are done, and tables of those."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from service.schemas import FaceEmotion, PhotoEmotions

FORMATS = (".jsonl", ".csv", ".parquet")

PARTIAL = ".partial.jsonl"
"""Added to a table's name: the lines that it will be made from. A table cannot be added to; lines can."""


class OutputUnusable(Exception):
    """The results cannot be written there; the message says why."""


class ResultLog:
    """Lines of JSON, one for each photo, that are safe on disk as soon as they are written."""

    def __init__(self, path: Path) -> None:
        """Open a journal, and drop what an interruption has left of its last line.

        Raises:
            OutputUnusable: the file holds something else.
        """
        self.path = path
        self.done: set[str] = set()
        whole = 0
        if path.exists():
            with path.open("rb") as file:
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self.done.add(_photo_of(line, path))
                    whole += len(line)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        self._file.truncate(whole)

    def add(self, photo: str, content: Mapping[str, Any]) -> None:
        """Write one photo's answer, or ``{"error": …}``."""
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
        raise OutputUnusable(f"{path} is there already and holds no results of `tandem predict`") from None


def journal_path(out: Path) -> Path:
    """Where the lines go while the work is on: the output itself if it is of lines.

    Raises:
        OutputUnusable: the suffix is none of ``FORMATS``, or a finished table is there already.
    """
    suffix = out.suffix.lower()
    if suffix not in FORMATS:
        raise OutputUnusable(f"{out} ends in none of {', '.join(FORMATS)}")
    if suffix == ".jsonl":
        return out
    journal = out.with_name(out.name + PARTIAL)
    if out.exists() and not journal.exists():
        raise OutputUnusable(f"{out} is there already, finished; delete it, or give another name")
    if suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401 - an extra
        except ImportError:
            raise OutputUnusable("writing .parquet needs pyarrow: pip install 'tandem[tables]'") from None
    return journal


def finish(journal: Path, out: Path) -> None:
    """Make the table, and delete the lines that it was made from."""
    if journal == out:
        return
    rows = [row for line in _lines(journal) for row in flatten(line)]
    columns = columns_of(rows)
    partial = out.with_name(out.name + ".partial")
    if out.suffix.lower() == ".csv":
        write_csv(rows, columns, partial)
    else:
        write_parquet(rows, columns, partial)
    partial.replace(out)
    journal.unlink()


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def flatten(line: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A photo's line as rows: one for each face, or one without where there is none or an error."""
    if "error" in line:
        return [{"photo": line["photo"], "error": line["error"]}]
    answer = PhotoEmotions.model_validate({key: value for key, value in line.items() if key != "photo"})
    common = {"photo": line["photo"], "width": answer.image.width, "height": answer.image.height}
    model = {"model": answer.model.name, "model_version": answer.model.version}
    rows = [{**common, "face": number, **face_row(face), **model} for number, face in enumerate(answer.faces)]
    return rows or [{**common, **model}]


def face_row(face: FaceEmotion) -> dict[str, Any]:
    """What a row says of its face; the columns of `tandem video` too."""
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


def columns_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every column that a row has, in the order of the row that has most; «error» last."""
    widest: Mapping[str, Any] = max(rows, key=len) if rows else {}
    columns = dict.fromkeys(widest)
    for row in rows:
        columns.update(dict.fromkeys(row))
    columns.pop("error", None)
    return [*columns, "error"]


def write_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], path: Path) -> None:
    """Write rows as CSV, with a head."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], path: Path) -> None:
    """Write rows as Parquet."""
    import pyarrow as pa
    from pyarrow import parquet

    # «error» is text also where there is none.
    arrays = {name: pa.array([row.get(name) for row in rows]) for name in columns if name != "error"}
    arrays["error"] = pa.array([row.get("error") for row in rows], pa.string())
    parquet.write_table(pa.table(arrays), path)
