"""What the documents tell people to type works when typed; what cannot run is in unit/test_console_blocks.py."""

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
from films import walking, write_film
from photos import astronaut, encoded

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
"""Where the documents' service listens."""

USES = re.compile(r"curl |(\.venv/bin/)?tandem (predict|video|settings|openapi|create-key) ?")
"""Lines of a console that use a service which runs; the others install or operate one."""


def examples() -> list[tuple[str, str, str]]:
    """Document, language and code of each block, and of each line of a console."""
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
    """A folder with what the documents speak of: photo.jpg, photos with one more, and film.mp4."""
    (tmp_path / "photos").mkdir()
    for name in ("photo.jpg", "photos/another.jpg"):
        (tmp_path / name).write_bytes(encoded(astronaut()))
    write_film(tmp_path / "film.mp4", walking(4), sound="aac")
    return tmp_path


def test_each_document_has_examples() -> None:
    assert {"README.md", "api.md"} <= {name for name, _, _ in examples()}
    assert len(examples()) >= 15


@pytest.mark.parametrize(
    ("language", "code"),
    [example[1:] for example in examples()],
    ids=[f"{n}-{name}-{kind}" for n, (name, kind, _) in enumerate(examples())],
)
def test_an_example_runs(tandem: str, folder: Path, language: str, code: str) -> None:
    assert shutil.which(COMMANDS[language][0]), f"{COMMANDS[language][0]} is not installed"
    there = code.replace(SERVED, tandem.removeprefix("http://")).replace(".venv/bin/tandem", "tandem")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    ran = subprocess.run(
        [*COMMANDS[language], there],
        cwd=folder,
        env={**os.environ, "PATH": path, "TANDEM_URL": tandem},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    written = [word for word in written_by(code) if "/" not in word]
    for name in written:
        assert (folder / name).stat().st_size, name
    if "no photo" in code:
        assert "urn:tandem:problem:unsupported-photo" in ran.stdout
    elif not written and not re.search(r"tandem (settings|openapi|create-key)", code):
        assert "happiness" in ran.stdout


def written_by(code: str) -> list[str]:
    """The files that a command is told to write."""
    words = shlex.split(code, comments=True) if re.match(r"curl|\S*tandem", code) else []
    options = ("-o", "--out", "--csv", "--plot", "--annotate")
    return [after for word, after in pairwise(words) if word in options]


def test_the_example_of_the_stream_runs_in_a_browser(
    open_page: Callable[..., Browser], tandem: str, folder: Path
) -> None:
    page = open_page()
    there = STREAM_EXAMPLE.replace(SERVED, tandem.removeprefix("http://"))
    assert there != STREAM_EXAMPLE
    faces = page.driver.execute_async_script(
        f"""
        const [bytes, done] = arguments;
        const photo = new Uint8Array(bytes);
        const console = {{ log: done }};
        {there}
        """,
        list((folder / "photo.jpg").read_bytes()),
    )
    assert [(face["track"], face["emotion"]) for face in faces] == [(1, "happiness")]
