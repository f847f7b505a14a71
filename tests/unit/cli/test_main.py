import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn_faces import drawn
from typer.testing import CliRunner

from service import __version__
from service.api_keys import KeyRing
from service.cli.main import app
from service.settings import Settings, environment_name

runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})


def test_help_lists_every_command() -> None:
    result = runner.invoke(app, ["--help"])
    assert result.exit_code == 0
    commands = [
        "serve",
        "install-triton",
        "predict",
        "example",
        "video",
        "create-key",
        "settings",
        "doctor",
        "mcp",
        "openapi",
    ]
    for command in commands:
        assert command in result.output
        assert runner.invoke(app, [command, "--help"]).exit_code == 0


def test_the_example_is_the_drawing_and_overwrites_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert runner.invoke(app, ["example"]).exit_code == 0
    photo = tmp_path / "photo.jpg"
    assert cv2.imread(photo).shape == drawn().shape
    assert np.abs(cv2.imread(photo).astype(int) - drawn()).mean() < 2
    photo.write_bytes(b"mine")
    again = runner.invoke(app, ["example"])
    assert again.exit_code == 1
    assert again.stderr == "photo.jpg: cannot be written: File exists\n"
    assert photo.read_bytes() == b"mine"


def test_settings_lists_every_setting_with_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_MAX_PIXELS", "12345")
    result = runner.invoke(app, ["settings"])
    assert result.exit_code == 0
    for name in Settings.model_fields:
        assert environment_name(name) in result.output
    assert "12345" in result.output


def test_an_invalid_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_PORT", "high")
    result = runner.invoke(app, ["settings"])
    assert result.exit_code == 2
    assert "TANDEM_PORT" in result.output
    assert "'high'" in result.output


def test_the_version_is_printed() -> None:
    assert runner.invoke(app, ["--version"]).stdout == f"tandem {__version__}\n"


@pytest.mark.parametrize("url", ["ftp://example.org", "http://", "example.org:port", "a b"])
def test_a_url_of_something_else_is_named(url: str) -> None:
    for command in (["predict", "photo.jpg"], ["video", "film.mp4", "--csv", "out.csv"]):
        result = runner.invoke(app, [*command, "--url", url])
        assert result.exit_code == 2
        assert repr(url) in result.output


def test_openapi_is_printed() -> None:
    result = runner.invoke(app, ["openapi"])
    assert "/v1/emotions" in json.loads(result.stdout)["paths"]


def test_a_new_key_matches_its_line() -> None:
    result = runner.invoke(app, ["create-key", "ci"])
    secret, line = result.stdout.split()
    assert KeyRing.from_lines([line]).name_of(secret) == "ci"
    assert runner.invoke(app, ["create-key", "a:b"]).exit_code == 2


@pytest.mark.parametrize("annotate", ["out.png", "out.mp4", "s3://bucket/marked"])
def test_annotate_is_checked_first(annotate: str) -> None:
    result = runner.invoke(app, ["predict", "a.jpg", "b.jpg", "--annotate", annotate])
    assert result.exit_code == 2
    assert f"--annotate: {annotate}" in result.output or f"suffix of {annotate}" in result.output


def test_standard_input_cannot_go_into_a_folder_of_tables() -> None:
    result = runner.invoke(app, ["predict", "-", "--out", "table/"], input=b"a photo")
    assert result.exit_code == 2
    assert "standard input: needs a file as --out" in result.output


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "results.csv"
    result = runner.invoke(app, ["predict", "photo.jpg", "--out", str(out), "--url", "http://127.0.0.1:1"])
    assert result.exit_code == 1
    assert result.stderr == f"{out}.partial.jsonl cannot be written: File exists\n"


@pytest.mark.parametrize("command", [["predict", "photo.jpg"], ["openapi"]])
def test_a_setting_that_needs_an_extra_names_it(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.setenv("TANDEM_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("TANDEM_TRITON_URL", "127.0.0.1:1")
    monkeypatch.setenv("TANDEM_PORT", "1")
    result = runner.invoke(app, command)
    assert result.exit_code == 1
    assert result.stderr.startswith("TANDEM_OTLP_ENDPOINT is set, but opentelemetry.sdk.trace is not installed: ")


def test_video_names_the_extra_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("service.cli.video")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "av", None)
    result = runner.invoke(app, ["video", "video.mp4", "--csv", "out.csv"])
    assert result.exit_code == 1
    assert f"{sys.executable} -m pip install 'tandem-emotions[video]'" in result.output


@pytest.mark.parametrize("module", ["service.cli.main", "service.triton.install", "service.api.app"])
def test_the_gateway_does_not_import_torch(module: str) -> None:
    code = f"import {module}, sys; sys.exit('torch' in sys.modules or 'training' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_installing_triton_imports_neither_opencv_nor_onnxruntime() -> None:
    heavy = "{'cv2', 'onnxruntime', 'grpc'}"
    code = f"import service.cli.main, service.triton.install, sys; sys.exit(bool({heavy} & {{*sys.modules}}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
