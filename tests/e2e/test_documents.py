"""What the documents tell people to type works when typed."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from photos import astronaut, encoded

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(bash|python|javascript)\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall((ROOT / "docs" / "api.md").read_text())
COMMANDS = {
    "bash": ["bash", "-euo", "pipefail", "-c"],
    "python": [sys.executable, "-W", "ignore", "-c"],
    "javascript": ["node", "--input-type=module", "-e"],
}


@pytest.mark.parametrize(("language", "code"), BLOCKS, ids=[f"{n}-{kind}" for n, (kind, _) in enumerate(BLOCKS)])
def test_a_block_of_the_api_document_runs(tandem: str, tmp_path: Path, language: str, code: str) -> None:
    assert shutil.which(COMMANDS[language][0]), f"{COMMANDS[language][0]} is not installed"
    (tmp_path / "photo.jpg").write_bytes(encoded(astronaut()))
    there = code.replace("127.0.0.1:8080", tandem.removeprefix("http://"))
    assert there != code
    ran = subprocess.run(
        [*COMMANDS[language], there], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    if "Accept: image" in code:
        assert (tmp_path / "annotated.png").read_bytes().startswith(b"\x89PNG")
    elif "no photo" in code:
        assert "urn:tandem:problem:unsupported-photo" in ran.stdout
    else:
        assert "happiness" in ran.stdout
