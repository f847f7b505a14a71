import csv
import json
from pathlib import Path

import pytest
from answers import answer
from pyarrow import parquet

from service.cli.output_files import OutputUnusable, ResultLog, finish_output, log_path, read_table, to_rows

TWO_FACES = answer(600, 400, (1, 2, 30, 40), (5, 6, 7, 8)).model_dump(mode="json")
NO_FACE = answer(60, 40).model_dump(mode="json")


def test_a_log_continues_after_an_incomplete_line(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.jsonl"
    log = ResultLog(path)
    log.add("é.jpg", TWO_FACES)
    log.add("b.jpg", {"error": "broken"})
    log.close()
    with path.open("ab") as file:
        file.write(b'{"photo": "c.jpg", "ima')
    reopened = ResultLog(path)
    assert reopened.done == {"é.jpg", "b.jpg"}
    reopened.add("c.jpg", NO_FACE)
    reopened.close()
    assert [json.loads(line)["photo"] for line in path.read_text().splitlines()] == ["é.jpg", "b.jpg", "c.jpg"]


def test_a_full_disk_is_named_and_the_log_can_be_closed(tmp_path: Path) -> None:
    log = ResultLog(tmp_path / "log.jsonl")
    log.close()
    log._file = Path("/dev/full").open("ab")  # noqa: SIM115 - the log closes it
    with pytest.raises(OutputUnusable, match=r"log\.jsonl cannot be written: No space left on device"):
        log.add("a.jpg", {"error": "broken"})
    assert not log.done
    log.close()


def test_a_file_that_is_not_a_log_is_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("dear diary\n")
    with pytest.raises(OutputUnusable, match=str(path)):
        ResultLog(path)
    assert path.read_text() == "dear diary\n"


def test_each_face_is_a_row_and_so_is_a_photo_with_no_face_or_an_error() -> None:
    first, second = to_rows({"photo": "a.jpg", **TWO_FACES})
    assert (first["photo"], first["face"], first["box_x"], first["p_happiness"]) == ("a.jpg", 1, 1, 0.8)
    assert (second["face"], second["box_x"]) == (2, 5)
    (row,) = to_rows({"photo": "b.jpg", **NO_FACE})
    assert (row["width"], "face" in row) == (60, False)
    assert to_rows({"photo": "c.jpg", "error": "broken"}) == [{"photo": "c.jpg", "error": "broken"}]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_is_made_from_the_log(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"out{suffix}"
    log = ResultLog(log_path(out))
    for photo, content in (("c.jpg", {"error": "broken"}), ("a.jpg", TWO_FACES), ("b.jpg", NO_FACE)):
        log.add(photo, content)
    log.close()
    finish_output(log.path, out)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    if suffix == ".parquet":
        rows = parquet.read_table(out).to_pylist()
    else:
        rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["photo"] for row in rows] == ["c.jpg", "a.jpg", "a.jpg", "b.jpg"]
    assert [row["emotion"] or None for row in rows] == [None, "happiness", "happiness", None]
    assert rows[0]["error"] == "broken"
    assert float(rows[1]["p_happiness"]) == 0.8


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_finished_table_takes_new_photos_and_new_answers(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"out{suffix}"

    def run(answers: dict[str, dict[str, object]], *, retry_failed: bool = False) -> ResultLog:
        log = ResultLog(log_path(out), read_table(out), retry_failed=retry_failed)
        for photo, content in answers.items():
            log.add(photo, content)
        log.close()
        finish_output(log.path, out)
        return log

    run({"a.jpg": TWO_FACES, "b.jpg": {"error": "broken"}})
    log = run({"c.jpg": NO_FACE})
    assert (log.done, log.failed) == ({"a.jpg", "b.jpg", "c.jpg"}, {"b.jpg"})
    log = run({"b.jpg": TWO_FACES}, retry_failed=True)
    assert (log.done, log.failed) == ({"a.jpg", "b.jpg", "c.jpg"}, set())
    rows = list(read_table(out))
    assert [row["photo"] for row in rows] == ["a.jpg", "a.jpg", "c.jpg", "b.jpg", "b.jpg"]
    assert [row["emotion"] or None for row in rows] == ["happiness", "happiness", None, "happiness", "happiness"]
    assert [float(row["box_x"]) for row in rows if row["box_x"]] == [1, 5, 1, 5]
    assert not any(row["error"] for row in rows)


def test_retrying_forgets_the_failures_of_a_log_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    log = ResultLog(path)
    for photo, content in (("a.jpg", TWO_FACES), ("b.jpg", {"error": "broken"}), ("c.jpg", NO_FACE)):
        log.add(photo, content)
    log.close()
    resumed = ResultLog(path)
    resumed.close()
    assert (resumed.done, resumed.failed) == ({"a.jpg", "b.jpg", "c.jpg"}, {"b.jpg"})
    retrying = ResultLog(path, retry_failed=True)
    assert (retrying.done, retrying.failed) == ({"a.jpg", "c.jpg"}, set())
    retrying.add("b.jpg", NO_FACE)
    retrying.close()
    assert [json.loads(line)["photo"] for line in path.read_text().splitlines()] == ["a.jpg", "c.jpg", "b.jpg"]
    assert [each.name for each in tmp_path.iterdir()] == ["out.jsonl"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_of_something_else_is_not_changed(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"out{suffix}"
    out.write_text("name,age\nAda,36\n")
    with pytest.raises(OutputUnusable, match=str(out)):
        read_table(out)
    assert out.read_text() == "name,age\nAda,36\n"


def test_a_table_can_have_no_rows(tmp_path: Path) -> None:
    for suffix in (".csv", ".parquet"):
        out = tmp_path / f"out{suffix}"
        log = ResultLog(log_path(out))
        log.close()
        finish_output(log.path, out)
        assert out.exists()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_without_a_face_has_the_columns_of_faces(tmp_path: Path, suffix: str) -> None:
    headers = []
    for name, content in (("faces", TWO_FACES), ("none", NO_FACE)):
        out = tmp_path / f"{name}{suffix}"
        log = ResultLog(log_path(out))
        log.add("a.jpg", content)
        log.close()
        finish_output(log.path, out, TWO_FACES["faces"][0]["emotions"])
        headers.append(list(next(iter(read_table(out)))))
    assert headers[0] == headers[1]
    assert "p_happiness" in headers[0]


def test_another_format_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(
        OutputUnusable, match=r"out\.xlsx .* \.jsonl, \.csv, \.parquet; for a folder, end it with /"
    ):
        log_path(tmp_path / "out.xlsx")
