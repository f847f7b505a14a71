"""`tandem predict` with a gateway and a real Triton: what is printed, written, counted and resumed."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from photos import astronaut, encoded
from PIL import Image
from pyarrow import dataset
from served import served
from typer.testing import CliRunner, Result

from service.cli.main import app
from service.settings import Settings
from service.triton.server import LocalTriton

PHOTO = encoded(astronaut())


@pytest.fixture(scope="module")
def url(toy_triton: LocalTriton) -> Iterator[str]:
    with served(Settings(triton_url=toy_triton.grpc_url, workers=1)) as url:
        yield url


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name, content in (("a.jpg", PHOTO), ("trip/a.jpg", PHOTO), ("trip/broken.jpg", PHOTO[:3000])):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def predict(*arguments: object, url: str, stdin: bytes | None = None) -> Result:
    runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    return runner.invoke(app, ["predict", "--url", url, *map(str, arguments)], input=stdin)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_photo_that_failed_counts_until_it_has_an_answer(folder: Path, url: str, suffix: str) -> None:
    out = folder.parent / f"out{suffix}"
    first = predict(folder, "--out", out, url=url)
    assert first.exit_code == 1
    assert "3 photos, 1 failed: " in first.stderr
    assert "--retry-failed" not in first.stderr
    again = predict(folder, "--out", out, url=url)
    assert again.exit_code == 1
    assert "3 photos, 1 failed, 3 done before: " in again.stderr
    assert "--retry-failed" in again.stderr
    (folder / "trip/broken.jpg").write_bytes(PHOTO)
    (folder / "new.jpg").write_bytes(PHOTO)
    added = predict(folder, "--out", out, url=url)
    assert added.exit_code == 1
    assert "4 photos, 1 failed, 3 done before: " in added.stderr
    retried = predict(folder, "--out", out, "--retry-failed", url=url)
    assert retried.exit_code == 0
    assert "4 photos, 0 failed, 3 done before: " in retried.stderr
    if suffix == ".csv":
        rows = list(csv.DictReader(out.read_text().splitlines()))
        assert not any(row["error"] for row in rows)
    else:
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert not any("error" in row for row in rows)
    assert sorted(Path(row["photo"]).name for row in rows) == ["a.jpg", "a.jpg", "broken.jpg", "new.jpg"]


def test_shards_write_one_table_into_a_folder(folder: Path, url: str) -> None:
    out = f"file://{folder.parent}/tables/"
    codes = []
    for shard in ("0/2", "1/2"):
        result = predict(f"file://{folder}", "--out", out, "--shard", shard, url=url)
        assert "failed: " in result.stderr
        codes.append(result.exit_code)
    assert sorted(codes) == [0, 1], "one of the shards has the photo that failed"
    again = predict(f"file://{folder}", "--out", out, url=url)
    assert again.exit_code == 1
    assert "3 photos, 1 failed, 3 done before: " in again.stderr
    assert "--retry-failed" in again.stderr
    assert predict(f"file://{folder}", "--out", out, "--allow-failed", url=url).exit_code == 0
    (folder / "new.jpg").write_bytes(PHOTO)
    assert predict(f"file://{folder}", "--out", out, "--allow-failed", url="127.0.0.1:1").exit_code == 1
    (folder / "new.jpg").unlink()
    table = dataset.dataset(folder.parent / "tables", format="parquet").to_table()
    rows = {Path(row["photo"]).relative_to("file:" + str(folder)): row for row in table.to_pylist()}
    assert sorted(map(str, rows)) == ["a.jpg", "trip/a.jpg", "trip/broken.jpg"]
    assert [bool(row["error"]) for _, row in sorted(rows.items())] == [False, False, True]
    assert rows[Path("a.jpg")]["emotion"]


def test_shards_and_addresses_need_a_folder(folder: Path) -> None:
    for arguments in ([folder, "--shard", "0/2"], [f"file://{folder}"], [f"file://{folder}", "--out", "a.csv"]):
        result = predict(*arguments, url="127.0.0.1:1")
        assert result.exit_code == 2
        assert "--out FOLDER/" in result.stderr


def test_what_cannot_work_comes_with_what_to_do(folder: Path) -> None:
    film = folder / "film.MP4"
    film.touch()
    for arguments, remedy in (
        ([film], "use `tandem video`"),
        ([folder / "a.jpg"], "`tandem doctor`"),
        ([folder, "--out", f"{folder.parent}/tables/"], "`tandem doctor`"),
        ([folder, "--out", folder.parent / "other"], "for a folder, end it with /"),
        ([folder, "--out", "a.csv", "--json"], "take one of them"),
        ([folder, "--out", "tables/", "--annotate", "copies"], "needs a file as --out"),
    ):
        result = predict(*arguments, url="127.0.0.1:1")
        assert result.exit_code in (1, 2)
        assert remedy in result.stderr


def test_annotated_copies_keep_their_subfolders(folder: Path, url: str) -> None:
    out = folder.parent / "out"
    result = predict(folder, "--recursive", "--annotate", out, url=url)
    assert result.exit_code == 1
    assert "broken.jpg" in result.stderr
    assert result.stderr.endswith(f": {out}/\n")
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.jpg")) == ["a.jpg", "trip/a.jpg"]


def test_one_run_writes_a_table_and_copies(folder: Path, url: str) -> None:
    out, copies = folder.parent / "out.jsonl", folder / "marked"
    command = (folder, "--out", out, "--annotate", f"{copies}/")
    first = predict(*command, url=url)
    assert first.exit_code == 1, "a photo is broken"
    assert "3 photos, 1 failed: " in first.stderr
    assert first.stderr.endswith(f": {copies}/\n")
    drawn = {path.relative_to(copies): path.read_bytes() for path in copies.rglob("*.jpg")}
    assert sorted(map(str, drawn)) == ["a.jpg", "trip/a.jpg"]
    table = out.read_bytes()
    # Repeated, it neither takes the copies for photos nor writes a row twice, but draws what is missing.
    (copies / "a.jpg").unlink()
    again = predict(*command, "--allow-failed", url=url)
    assert again.exit_code == 0
    assert "skipped 1 file: 1 in the folder of --annotate" in again.stderr
    assert out.read_bytes() == table
    assert {path.relative_to(copies): path.read_bytes() for path in copies.rglob("*.jpg")} == drawn


def test_a_copy_that_cannot_be_written_costs_no_answer(folder: Path, url: str) -> None:
    out, copies = folder.parent / "out.jsonl", folder.parent / "marked"
    (copies / "a.jpg").mkdir(parents=True)
    result = predict(folder / "a.jpg", "--out", out, "--annotate", copies, url=url)
    assert result.exit_code == 1
    assert "has an answer but no copy: " in result.stderr
    assert "1 photo, 0 failed: " in result.stderr
    assert json.loads(out.read_text())["faces"]


def test_skipped_files_are_named_by_kind(folder: Path, url: str) -> None:
    (folder / "notes.txt").touch()
    (folder / ".hidden.jpg").touch()
    result = predict(folder / "a.jpg", folder, "--no-recursive", url=url)
    assert result.exit_code == 0
    assert "skipped 4 files: 2 in subfolders, 1 .txt, 1 hidden" in result.stderr


def test_a_folder_without_photos_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    result = predict(tmp_path, url="http://127.0.0.1:9")
    assert result.exit_code == 2
    assert f"{tmp_path} holds no photo" in result.stderr
    assert "skipped 1 file: 1 .txt" in result.stderr


def test_a_dash_is_standard_input(tmp_path: Path, url: str) -> None:
    printed = predict("-", "--json", "--annotate", tmp_path / "out", url=url, stdin=PHOTO)
    assert printed.exit_code == 0, printed.output
    answer = json.loads(printed.stdout)
    assert answer["photo"] == "-"
    assert len(answer["faces"]) == 1
    with Image.open(tmp_path / "out" / "stdin.jpg") as drawn:
        assert drawn.size == (512, 512)
    for faces, content in ((1, PHOTO), (0, encoded(Image.new("RGB", (64, 64)), "PNG"))):
        assert predict("-", "--out", tmp_path / "out.jsonl", url=url, stdin=content).exit_code == 0
        lines = (tmp_path / "out.jsonl").read_text().splitlines()
        assert len(json.loads(lines[-1])["faces"]) == faces
    empty = predict("-", url=url, stdin=b"")
    assert empty.exit_code == 1
    assert empty.stderr == "-: standard input is empty\n"


def test_a_url_needs_no_scheme(folder: Path, url: str) -> None:
    result = predict(folder / "a.jpg", url=url.removeprefix("http://"))
    assert result.exit_code == 0, result.output
    assert "512 x 512" in result.stdout


@pytest.mark.parametrize("option", ["--retry-failed", "--allow-failed"])
def test_options_about_failed_photos_need_an_output(tmp_path: Path, option: str) -> None:
    result = predict(tmp_path, option, url="http://127.0.0.1:9")
    assert result.exit_code == 2
    assert option in result.output


NAMES = (
    b"[red]x.jpg",
    b"[/red].jpg",  # in a folder
    b'quote".jpg',
    b"it's.jpg",
    b"line\nbreak.jpg",
    b"carriage\rreturn.jpg",
    b"\x1b[31mred.jpg",
    b"latin-\xe4.jpg",
    b"cut-\xe2\x82.jpg",
    "größe 日本.jpg".encode(),
    b"a,b;c.jpg",
    b"=1+1.jpg",
    b"-dash.jpg",
    b" .jpg",
    b"x" * 251 + b".jpg",
)
"""Names that break markup, lines, tables, encodings, or the terminal."""


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    folder = tmp_path / "odd\n[b]\udce4"
    folder.mkdir()
    for name in NAMES:
        path = folder / os.fsdecode(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(PHOTO)
    return folder


def test_no_name_of_a_file_stops_printing(odd: Path, url: str) -> None:
    copies = odd.parent / "copies"
    printed = predict(odd, "--annotate", copies, url=url)
    assert printed.exit_code == 0, printed.output
    whole = "".join(printed.stdout.split())  # long names fold the lines anywhere
    assert whole.count("512x512") == len(NAMES)
    for shown in (r"odd\n[b]\xe4/[red]x.jpg", r"[/red].jpg", r"/line\nbreak.jpg", r"/\x1b[31mred.jpg"):
        assert shown in whole
    written = [path.relative_to(copies) for path in copies.rglob("*") if path.is_file()]
    assert {os.fsencode(path) for path in written} == set(NAMES)
    as_json = predict(odd, "--json", url=url)
    names = [json.loads(line)["photo"] for line in as_json.stdout.splitlines()]
    assert len(set(names)) == len(NAMES)
    for name in names:
        name.encode()


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_no_name_of_a_file_stops_a_run_or_is_sent_twice(odd: Path, url: str, suffix: str) -> None:
    out = odd.parent / f"out{suffix}"
    (odd / "broken\n\udcff[b].jpg").write_bytes(PHOTO[:3000])
    assert predict(odd, "--out", out, url=url).exit_code == 1
    again = predict(odd, "--out", out, url=url)
    assert f"{len(NAMES) + 1} photos, 1 failed, {len(NAMES) + 1} done before" in again.stderr
    if suffix == ".csv":
        with out.open(newline="", encoding="utf-8") as file:
            found = {row["photo"] for row in csv.DictReader(file)}
        assert {name.rpartition("/")[2] for name in found} >= {"line\nbreak.jpg", "latin-\\xe4.jpg", 'quote".jpg'}


def test_a_terminal_that_cannot_show_a_name_stops_no_run(odd: Path, url: str) -> None:
    command = [sys.executable, "-m", "service.cli", "predict", "--url", url, str(odd)]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "COLUMNS": "400"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert r"gr\xf6\xdfe" in done.stdout
