"""Security rules for the source: ruff enforces most of them; those that it lacks are checked here."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def violations(source: str) -> Iterator[str]:
    """Find calls that can run code from the file that they load."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        arguments = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        # Bandit's B614 (pytorch_load) is not in ruff.
        if called == "torch.load" and arguments.get("weights_only") != "True":
            yield f"line {node.lineno}: torch.load without weights_only=True"
        # No linter knows Lightning: Trainer.fit unpickles the checkpoint that it resumes from.
        if called.endswith(".fit") and "ckpt_path" in arguments and arguments.get("weights_only") != "True":
            yield f"line {node.lineno}: {called} resumes without weights_only=True"
        # Ruff's S301 covers pickle itself, but not NumPy's use of it.
        if "allow_pickle" in arguments and arguments["allow_pickle"] != "False":
            yield f"line {node.lineno}: {called} with allow_pickle"


def test_the_source_has_no_violations() -> None:
    files = [*ROOT.glob("service/**/*.py"), *ROOT.glob("training/**/*.py")]
    assert len(files) > 50
    found = {str(file): list(violations(file.read_text())) for file in files}
    assert {file: what for file, what in found.items() if what} == {}


HTML_SINKS = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|srcdoc|\beval\(|new Function")
"""What turns text into markup or code. File names, labels and problems are texts that others choose."""


def test_hints_name_our_own_package() -> None:
    name = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    sources = [path.read_text() for folder in ("service", "training") for path in (ROOT / folder).rglob("*.py")]
    hints = {hint for source in sources for hint in re.findall(r"pip install '([^']*)'", source)}
    assert hints
    assert hints <= {f"{name}[{extra}]" for extra in (*extras, "{extra}")}  # in some the extra is filled in
    named = {extra for source in sources for extra in re.findall(r"install_command\(['\"](\w+)", source)}
    assert {"video", "training"} <= named <= extras.keys()


def test_the_page_writes_texts_only_as_text() -> None:
    scripts = [*ROOT.glob("service/api/ui/*.js"), *ROOT.glob("service/api/ui/*.html")]
    assert len(scripts) > 4
    assert {script.name: found for script in scripts if (found := HTML_SINKS.findall(script.read_text()))} == {}


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "trainer.fit(stage, ckpt_path=last)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_finds_violations(source: str) -> None:
    assert list(violations(source))


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ("import pickle", "TID251"),
        ("from urllib import request", "TID251"),
        ("import http.client", "TID251"),
        ("import httpx", "TID251"),
        ("import onnxruntime", "TID251"),
        ("import subprocess\nsubprocess.run(text, shell=True)", "S602"),
        ("import os\nos.system(text)", "S605"),
        ("import yaml\nyaml.load(text)", "S506"),
        ("eval(text)", "S307"),
        ("exec(text)", "S102"),
        ("import httpx\nhttpx.Client(verify=False)", "S501"),
    ],
)
def test_ruff_finds_violations(source: str, rule: str) -> None:
    for package in ("service", "training"):
        command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format=concise"]
        command += [f"--stdin-filename={package}/new.py", "-"]
        checked = subprocess.run(command, cwd=ROOT, input=source, capture_output=True, text=True, check=False)
        assert f" {rule} " in checked.stdout
