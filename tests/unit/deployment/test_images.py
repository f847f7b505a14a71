"""The Dockerfiles: their style, and what the images have to have in common."""

import re
import subprocess
from pathlib import Path

import pytest
from deployment_tools import ROOT, find_tool

from service import __version__
from service.triton import container

DOCKER = ROOT / "docker"
DOCKERFILES = sorted([*DOCKER.glob("Dockerfile.*"), DOCKER / "nvidia" / "Dockerfile"])
# DL3008: a Debian release changes packages by security fixes alone, and takes the older ones off its mirrors.
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


def test_a_base_image_is_an_argument_with_a_pinned_default(text: str) -> None:
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", text.partition("\nFROM ")[0], re.MULTILINE))
    for base in re.findall(r"^FROM (\S+)", text, re.MULTILINE):
        if not re.search(rf"^FROM \S+ AS {re.escape(base)}$", text, re.MULTILINE):
            default = arguments[base.removeprefix("${").removesuffix("}")]
            tag = default.rpartition("/")[2].partition(":")[2]
            assert tag
            assert tag != "latest"


def test_no_frontend_has_to_be_fetched(text: str) -> None:
    assert not re.search(r"^#\s*syntax\s*=", text, re.MULTILINE)


def test_it_runs_as_a_numbered_user_and_is_labelled(text: str) -> None:
    final = final_stage(text)
    assert re.findall(r"^USER (\S+)$", final, re.MULTILINE)[-1] == "10001:10001"
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in final
    assert f"ARG VERSION={__version__}\n" in final


def test_commands_are_in_exec_form(text: str) -> None:
    for line in re.findall(r"^\s*(?:CMD|ENTRYPOINT) (.*)$", final_stage(text), re.MULTILINE):
        assert line.startswith("[")


def test_nothing_is_copied_that_the_context_leaves_out(text: str) -> None:
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


@pytest.mark.parametrize("path", ["Dockerfile.triton-cpu", "nvidia/Dockerfile"])
def test_both_tritons_start_and_are_probed_alike(path: str) -> None:
    final = final_stage((DOCKER / path).read_text())
    for verb in ("serve", "probe"):
        assert f'["python3", "-I", "/opt/tandem/container.py", "{verb}"]' in final
    assert f"EXPOSE {container.GRPC_PORT} {container.METRICS_PORT}\n" in final
