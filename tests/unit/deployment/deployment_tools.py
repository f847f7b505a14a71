"""Finds programs that the deployment tests need and that the lock files do not install."""

import os
import shutil
import sys
from pathlib import Path

from programs import missing

ROOT = Path(__file__).parents[3]


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
