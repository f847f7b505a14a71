"""The console blocks of the documents, most of which cannot be run here: their commands and options exist."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from deployment_tools import find_tool, helm
from typer.main import get_command

from service.cli.main import app
from service.settings import Settings, environment_name

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
CONSOLE = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
ASSIGNMENT = re.compile(r"([A-Z_]+)=(.*)")
OUTSIDE_SETTINGS = {"TANDEM_URL", "TANDEM_API_KEY", "TANDEM_CONFIG"}
"""Variables that the command line reads and that are not settings."""

LINES = [
    (document.name, line.removeprefix("$ "))
    for document in DOCUMENTS
    for block in CONSOLE.findall(document.read_text())
    for line in block.splitlines()
    if line.startswith("$ ")
]


def commands(line: str) -> Iterator[list[str]]:
    """Split a line into simple commands, each a list of words without the variables set before it."""
    words: list[str] = []
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.commenters, lexer.whitespace_split = "#", True
    for word in [*lexer, ";"]:
        if set(word) <= set(";&|"):
            yield words
            words = []
        elif words or not ASSIGNMENT.fullmatch(word):
            words.append(word)


def check_tandem(words: list[str]) -> None:
    """Check that the command and each of its options exist, without running it."""
    command: Any = get_command(app)
    while hasattr(command, "commands"):  # a group
        assert words[0] in command.commands, f"there is no command {words[0]!r}"
        command, words = command.commands[words[0]], words[1:]
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        if word.startswith("--"):
            assert word.partition("=")[0] in options, word


def check_kubectl(words: list[str]) -> None:
    (kubectl,) = find_tool("kubectl")
    while words[0].startswith("-"):  # -n tandem
        words = words[2:]
    command = [word for word in words[:2] if re.fullmatch("[a-z-]+", word) and not word.startswith("-")]
    process = subprocess.run([kubectl, *command, "--help"], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    for name in re.findall(r"(?:deployment|svc)/(\S+)", " ".join(words)):
        assert any(f"name: {name}" in file.read_text() for file in (ROOT / "k8s" / "base").rglob("*.yaml")), name


def check_helm(words: list[str]) -> None:
    """Check that the chart can be rendered with these options."""
    assert words[0] in ("install", "upgrade")
    options = [word for word in words[1:] if word != "--reuse-values"]
    command = [helm(), "template", *options]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr


def check_make(words: list[str]) -> None:
    process = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr


def check_docker(words: list[str]) -> None:
    for option, file in pairwise(words):
        assert option != "-f" or (ROOT / file).is_file(), file


@pytest.mark.parametrize(("document", "line"), LINES, ids=[f"{n}-{name}" for n, (name, _) in enumerate(LINES)])
def test_a_command_is_valid(document: str, line: str) -> None:
    subprocess.run(["bash", "-nc", line], check=True)
    checks = {
        "tandem": check_tandem,
        "kubectl": check_kubectl,
        "helm": check_helm,
        "make": check_make,
        "docker": check_docker,
    }
    for program, *words in commands(line):
        if check := checks.get(Path(program).name):
            check(words)
        elif program == "cd":
            assert (ROOT / words[0]).is_dir()
        elif Path(program).name == "python" and words[0] == "-m":
            assert (ROOT / words[1].replace(".", "/")).with_suffix(".py").is_file(), words[1]
        elif Path(program).name == "python":
            made = any(f"--out {words[0]}" in other for _, other in LINES)
            assert made or (ROOT / words[0]).is_file(), words[0]
        elif Path(program).name == "training":
            assert words
        else:
            unchecked = (
                "curl",
                "pip",
                "kustomize",
                "mv",
                "rm",
                "cp",
                "git",
                "npx",
                "openapi-python-client",
                "torchrun",
                "srun",
            )
            assert Path(program).name in unchecked, f"no check for {program}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_variable_in_a_document_exists(document: Path) -> None:
    known = {environment_name(name) for name in Settings.model_fields} | OUTSIDE_SETTINGS
    named = set(re.findall(r"\bTANDEM_[A-Z0-9_]+", document.read_text()))
    assert named <= known, named - known
