"""Programs that the tests of the deployment need and that no Python package of the lock files brings."""

import os
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def find_tool(*names: str) -> list[str]:
    """The first of ``names`` that is installed, in this environment or on the PATH; a name may have arguments.

    Where there is none the test is skipped and says so; in CI, where all of them must be, it fails.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    for name in names:
        program, *arguments = name.split()
        found = shutil.which(program, path=path)
        if found:
            return [found, *arguments]
    return missing(f"none of {', '.join(names)} is installed")


def missing(what: str) -> list[str]:
    """Skip the test, or fail it in CI."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)
