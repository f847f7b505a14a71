import csv
import json
from pathlib import Path

import pytest
from answers import answer
from pyarrow import parquet

from service.cli.output_files import OutputUnusable, ResultLog, finish, flatten, journal_path

TWO = answer(600, 400, (1, 2, 30, 40), (5, 6, 7, 8)).model_dump(mode="json")
NONE = answer(60, 40).model_dump(mode="json")


def test_a_journal_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.jsonl"
    journal = ResultLog(path)
    journal.add("é.jpg", TWO)
    journal.add("b.jpg", {"error": "broken"})
    journal.close()
    with path.open("ab") as file:
        file.write(b'{"photo": "c.jpg", "ima')
    again = ResultLog(path)
    assert again.done == {"é.jpg", "b.jpg"}
    again.add("c.jpg", NONE)
    again.close()
    assert [json.loads(line)["photo"] for line in path.read_text().splitlines()] == ["é.jpg", "b.jpg", "c.jpg"]


def test_what_is_no_journal_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("dear diary\n")
    with pytest.raises(OutputUnusable, match="holds no results"):
        ResultLog(path)
    assert path.read_text() == "dear diary\n"


def test_each_face_is_a_row_and_so_is_a_photo_without_one_or_with_an_error() -> None:
    first, second = flatten({"photo": "a.jpg", **TWO})
    assert (first["photo"], first["face"], first["box_x"], first["p_happiness"]) == ("a.jpg", 0, 1, 0.8)
    assert (second["face"], second["box_x"]) == (1, 5)
    (none,) = flatten({"photo": "b.jpg", **NONE})
    assert (none["width"], "face" in none) == (60, False)
    assert flatten({"photo": "c.jpg", "error": "broken"}) == [{"photo": "c.jpg", "error": "broken"}]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_is_made_of_the_lines(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"out{suffix}"
    journal = ResultLog(journal_path(out))
    for photo, content in (("c.jpg", {"error": "broken"}), ("a.jpg", TWO), ("b.jpg", NONE)):
        journal.add(photo, content)
    journal.close()
    finish(journal.path, out)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    if suffix == ".parquet":
        rows = parquet.read_table(out).to_pylist()
    else:
        rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["photo"] for row in rows] == ["c.jpg", "a.jpg", "a.jpg", "b.jpg"]
    assert [row["emotion"] or None for row in rows] == [None, "happiness", "happiness", None]
    assert rows[0]["error"] == "broken"
    assert float(rows[1]["p_happiness"]) == 0.8
    with pytest.raises(OutputUnusable, match="is there already, finished"):
        journal_path(out)


def test_a_table_of_errors_alone_can_be_written(tmp_path: Path) -> None:
    for suffix in (".csv", ".parquet"):
        out = tmp_path / f"out{suffix}"
        journal = ResultLog(journal_path(out))
        journal.close()
        finish(journal.path, out)
        assert out.exists()


def test_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputUnusable, match=r"ends in none of .jsonl, .csv, .parquet"):
        journal_path(tmp_path / "out.xlsx")
