"""Lints the Dockerfiles and checks what the images have in common."""

import ast
import importlib.util
import re
import subprocess
from pathlib import Path

import pytest
from deployment_tools import ROOT, find_tool

from service import __version__
from service.triton import container, install

DOCKER = ROOT / "docker"
DOCKERFILES = sorted([*DOCKER.glob("Dockerfile.*"), DOCKER / "nvidia" / "Dockerfile"])
# DL3008: a Debian release changes packages only for security fixes, and removes older versions from its mirrors.
IGNORED = ("DL3008",)


def name(path: Path) -> str:
    return str(path.relative_to(DOCKER))


@pytest.fixture(params=DOCKERFILES, ids=name)
def text(request: pytest.FixtureRequest) -> str:
    content: str = request.param.read_text()
    return content


def final_stage(text: str) -> str:
    return re.split(r"^FROM ", text, flags=re.MULTILINE)[-1]


def test_lint() -> None:
    ignore = [f"--ignore={rule}" for rule in IGNORED]
    result = subprocess.run(
        [*find_tool("hadolint"), "--no-color", *ignore, *map(str, DOCKERFILES)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout


def test_base_images_are_arguments_with_a_pinned_default(text: str) -> None:
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", text.partition("\nFROM ")[0], re.MULTILINE))
    for base in re.findall(r"^FROM (\S+)", text, re.MULTILINE):
        if not re.search(rf"^FROM \S+ AS {re.escape(base)}$", text, re.MULTILINE):
            default = arguments[base.removeprefix("${").removesuffix("}")]
            tag = default.rpartition("/")[2].partition(":")[2]
            assert tag
            assert tag != "latest"


def test_the_audit_covers_every_image_that_is_not_our_own() -> None:
    listed = subprocess.run(["make", "-s", "images"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    compose = (DOCKER / "compose.yaml").read_text()
    used = set(re.findall(r"(?:image|TRITON_IMAGE): \$\{\w+:-([^}]+)\}", compose))
    for path in DOCKERFILES:
        used |= set(re.findall(r"^ARG \w+_IMAGE=(\S+)$", path.read_text(), re.MULTILINE))
    assert set(listed.split()) == {image for image in used if not image.startswith("tandem-")}


def test_what_is_known_of_the_pinned_tritons_is_written_down() -> None:
    text = (ROOT / "docs" / "threat-model.md").read_text()
    image = re.search(r"tritonserver:(\d\d\.\d\d)-py3", (DOCKER / "compose.yaml").read_text())
    assert image
    for release in (install.TRITON_RELEASE, image[1]):
        assert f"| {release} " in text
    assert f"`{install.PACKAGE}` {install.VERSION}," in text


def test_no_buildkit_frontend_is_downloaded(text: str) -> None:
    assert not re.search(r"^#\s*syntax\s*=", text, re.MULTILINE)


def test_images_have_a_numeric_user_and_labels(text: str) -> None:
    final = final_stage(text)
    assert re.findall(r"^USER (\S+)$", final, re.MULTILINE)[-1] == "10001:10001"
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in final
    assert f"ARG VERSION={__version__}\n" in final


def test_commands_are_in_exec_form(text: str) -> None:
    for line in re.findall(r"^\s*(?:CMD|ENTRYPOINT) (.*)$", final_stage(text), re.MULTILINE):
        assert line.startswith("[")


def test_copied_files_exist_and_are_in_the_build_context(text: str) -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for sources in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE):
        for source in sources.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert any(source == each or source.startswith(f"{each}/") for each in allowed), source


def test_the_gateway_has_no_torch_and_only_locked_wheels() -> None:
    text = (DOCKER / "Dockerfile.gateway").read_text()
    assert "--require-hashes" in text
    assert "--only-binary=:all:" in text
    lock = (ROOT / "requirements" / "gateway.txt").read_text()
    pins = re.findall(r"^([a-z0-9._-]+)==(\S+) \\\n    --hash=sha256:", lock, re.MULTILINE)
    assert len(pins) == len(re.findall(r"^[a-z]", lock, re.MULTILINE))
    assert "torch" not in dict(pins)
    assert "/livez" in text


@pytest.mark.parametrize("lock", ["gateway", "serve", "buckets", "video", "mcp", "training", "dev"])
def test_every_locked_package_has_a_hash_and_the_version_of_the_others(lock: str) -> None:
    pins = [
        dict(re.findall(r"^([a-z0-9._-]+)==(\S+) \\\n    --hash=sha256:", text, re.MULTILINE))
        for text in ((ROOT / "requirements" / f"{name}.txt").read_text() for name in (lock, "dev"))
    ]
    names = re.findall(r"^([a-z0-9._-]+)", (ROOT / "requirements" / f"{lock}.txt").read_text(), re.MULTILINE)
    assert set(names) == set(pins[0])
    assert pins[0].items() <= pins[1].items()
    assert "torch" not in pins[0]
    assert pins[1]["lightning"] not in ("2.6.2", "2.6.3")


def test_modules_that_a_build_imports_exist(text: str) -> None:
    for code in re.findall(r"python -c '([^']*)'", text):
        imported = ast.walk(ast.parse(code.replace("\\\n", "\n")))
        for node in imported:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    assert importlib.util.find_spec(alias.name), alias.name
            elif isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                for alias in node.names:
                    submodule = f"{node.module}.{alias.name}"
                    assert hasattr(module, alias.name) or importlib.util.find_spec(submodule), submodule


@pytest.mark.parametrize("path", ["Dockerfile.triton-cpu", "nvidia/Dockerfile"])
def test_both_tritons_have_the_same_entry_point_and_probe(path: str) -> None:
    final = final_stage((DOCKER / path).read_text())
    for verb in ("serve", "probe"):
        assert f'["python3", "-I", "/opt/tandem/container.py", "{verb}"]' in final
    assert f"EXPOSE {container.GRPC_PORT} {container.METRICS_PORT}\n" in final
