"""Runs the examples in the documents; those that cannot run are checked in unit/test_console_blocks.py."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from browser import Browser
from photos import astronaut, encoded
from videos import moving_faces, write_video

from service.api.openapi import STREAM_EXAMPLE

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(bash|python|javascript|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMANDS = {
    "bash": ["bash", "-euo", "pipefail", "-c"],
    "python": [sys.executable, "-W", "ignore", "-c"],
    "javascript": ["node", "--input-type=module", "-e"],
}
SERVED = "127.0.0.1:8080"
"""Where the service in the documents listens."""

USES = re.compile(r"curl |(\.venv/bin/)?tandem (predict|video|settings|openapi|create-key) ?")
"""Console lines that use a running service; the others install or operate one."""


def examples() -> list[tuple[str, str, str]]:
    """Find the document, language and code of each block and of each console line."""
    found = []
    for document in DOCUMENTS:
        for language, code in BLOCK.findall(document.read_text()):
            if language == "console":
                lines = [line.removeprefix("$ ") for line in code.splitlines() if line.startswith("$ ")]
                found += [(document.name, "bash", line) for line in lines if USES.match(line)]
            else:
                found.append((document.name, language, code))
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files that the documents use: photo.jpg, photos/another.jpg and film.mp4."""
    (tmp_path / "photos").mkdir()
    for name in ("photo.jpg", "photos/another.jpg"):
        (tmp_path / name).write_bytes(encoded(astronaut()))
    write_video(tmp_path / "film.mp4", moving_faces(4), audio="aac")
    return tmp_path


def test_finds_the_examples() -> None:
    assert {"README.md", "api.md"} <= {name for name, _, _ in examples()}
    assert len(examples()) >= 15


@pytest.mark.parametrize(
    ("language", "code"),
    [example[1:] for example in examples()],
    ids=[f"{n}-{name}-{kind}" for n, (name, kind, _) in enumerate(examples())],
)
def test_example_runs(tandem: str, folder: Path, language: str, code: str) -> None:
    assert shutil.which(COMMANDS[language][0]), f"{COMMANDS[language][0]} is not installed"
    code = code.replace("s3://bucket/", "./")  # a folder stands for the bucket
    adapted = code.replace(SERVED, tandem.removeprefix("http://")).replace(".venv/bin/tandem", "tandem")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    completed = subprocess.run(
        [*COMMANDS[language], adapted],
        cwd=folder,
        env={**os.environ, "PATH": path, "TANDEM_URL": tandem},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    written = written_by(code)
    for name in written:
        assert (folder / name).is_dir() if name.endswith("/") else (folder / name).stat().st_size, name
    if "no photo" in code:
        assert "urn:tandem:problem:unsupported-photo" in completed.stdout
    elif not written and not re.search(r"tandem (settings|openapi|create-key)", code):
        assert "happiness" in completed.stdout


def written_by(code: str) -> list[str]:
    """Return the files that a command writes."""
    words = shlex.split(code, comments=True) if re.match(r"curl|\S*tandem", code) else []
    options = ("-o", "--out", "--csv", "--plot", "--annotate")
    return [after for word, after in pairwise(words) if word in options]


def test_stream_example_runs_in_a_browser(open_page: Callable[..., Browser], tandem: str, folder: Path) -> None:
    page = open_page()
    example = STREAM_EXAMPLE.replace(SERVED, tandem.removeprefix("http://"))
    assert example != STREAM_EXAMPLE
    faces = page.driver.execute_async_script(
        f"""
        const [bytes, done] = arguments;
        const photo = new Uint8Array(bytes);
        const console = {{ log: done }};
        {example}
        """,
        list((folder / "photo.jpg").read_bytes()),
    )
    assert [(face["track"], face["emotion"]) for face in faces] == [(1, "happiness")]
