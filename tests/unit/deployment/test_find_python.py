"""What `make` says on machines that cannot run everything, and which Python it takes on others.

Scripts stand for the programs of other machines, which cannot be had.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from deployment_tools import ROOT

LINUX = {"uname": "case $1 in -s) echo Linux;; *) echo x86_64;; esac", "getconf": "echo glibc 2.36"}


def python(version: str, *, venv: bool = True, libpython: bool = True) -> str:
    """A script that answers find-python's questions as a Python would."""
    missing = "echo service.triton.errors.LibpythonMissing: libpython was not found >&2; exit 1"
    return f"""case "$2" in *version_info*) echo {version};; *ensurepip*) exit {int(not venv)};;
*find_libpython*) {":" if libpython else missing};; esac"""


def ask(folder: Path, programs: dict[str, str], *arguments: str, **environment: str) -> tuple[int, str]:
    """Run find-python where only these programs exist; returns its status and what it printed."""
    for name in ("sh", "dirname", "printf", "sort", "head", "sed"):
        (folder / name).symlink_to(str(shutil.which(name)))
    for name, script in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    result = subprocess.run(
        [str(ROOT / "find-python"), *arguments],
        env={"PATH": str(folder), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return result.returncode, (result.stdout + result.stderr).replace(str(folder), "").strip()


def test_the_newest_is_taken(tmp_path: Path) -> None:
    pythons = {f"python{version}": python(version) for version in ("3.9", "3.11", "3.13", "3.14")}
    assert ask(tmp_path, LINUX | pythons) == (0, "/python3.13")


def test_without_a_local_triton_any_machine_and_a_newer_python_will_do(tmp_path: Path) -> None:
    programs = {"uname": "echo Darwin", "python3.14": python("3.14", libpython=False)}
    assert ask(tmp_path, programs, TANDEM_TRITON_URL="host:8001") == (0, "/python3.14")


def test_one_that_cannot_be_used_is_passed_over(tmp_path: Path) -> None:
    pythons = {"python3.13": python("3.13", venv=False), "python3.11": python("3.11"), "python3.12": "exit 1"}
    assert ask(tmp_path, LINUX | pythons) == (0, "/python3.11")


def test_uv_brings_a_python(tmp_path: Path) -> None:
    uv = 'case "$2" in find) [ -e "$0.installed" ] && echo /uv/python3.13;; install) : > "$0.installed";; esac'
    assert ask(tmp_path, LINUX | {"uv": uv, "python3": python("3.9")}) == (0, "/uv/python3.13")


@pytest.mark.parametrize(
    ("programs", "arguments", "line"),
    [
        (
            {"uname": "case $1 in -s) echo Darwin;; *) echo arm64;; esac"},
            [],
            "needs Linux x86_64, but this is Darwin arm64",
        ),
        (
            {"uname": "case $1 in -s) echo Linux;; *) echo aarch64;; esac"},
            [],
            "but this is Linux aarch64: use Docker",
        ),
        (LINUX | {"getconf": "exit 1"}, [], "but this is musl"),
        (LINUX | {"getconf": "echo glibc 2.31"}, [], "but this is glibc 2.31"),
        (LINUX, [], "no Python 3.13 3.12 3.11 was found: install python3.11"),
        (LINUX | {"python3": python("3.9")}, [], "python3 is Python 3.9; Python 3.13 3.12 3.11 will do"),
        (LINUX | {"python3.11": python("3.11", venv=False)}, [], "install the package python3.11-venv"),
        (LINUX | {"python3.11": python("3.11", libpython=False)}, [], "libpython was not found"),
        (LINUX | {"python3.11": python("3.11")}, ["python3.12"], "there is no python3.12"),
    ],
)
def test_one_line_says_what_to_do(
    programs: dict[str, str], arguments: list[str], line: str, tmp_path: Path
) -> None:
    status, said = ask(tmp_path, programs, *arguments)
    assert status == 1
    assert line in said
    assert "\n" not in said


def test_this_python_is_accepted() -> None:
    result = subprocess.run([ROOT / "find-python", sys.executable], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout.strip()) == (0, sys.executable), result.stderr


def test_make_up_names_the_missing_compose_plugin(tmp_path: Path) -> None:
    (tmp_path / "docker").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "docker").chmod(0o755)
    command = ["make", "-s", "up"]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "docker-compose-plugin" in result.stderr
