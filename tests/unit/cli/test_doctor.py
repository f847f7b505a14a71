import shutil
import socket
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from typer.testing import CliRunner

from service.cli import doctor
from service.cli.doctor import EXTRAS, Finding, examine
from service.cli.main import app
from service.schemas import Problem

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def found(name: str) -> Finding:
    return next(finding for finding in examine() if finding.name == name)


def test_the_committed_model_and_the_face_networks_are_intact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_MODEL_REPOSITORY", str(ROOT / "model_repository"))
    assert (found("model").state, found("face networks").state) == ("ok", "ok")
    assert "tandem version 1 (model.onnx, model.pt)" in found("model").text


def test_a_wheels_model_has_no_torchscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "model_repository", tmp_path, ignore=lambda *_: ["model.pt"], dirs_exist_ok=True)
    monkeypatch.setenv("TANDEM_MODEL_REPOSITORY", str(tmp_path))
    for gpu, state in ((False, "ok"), (True, "note")):
        monkeypatch.setattr("service.cli.doctor.has_gpu", lambda gpu=gpu: gpu)
        assert (found("model").state, "(model.onnx)" in found("model").text) == (state, True)


def test_weights_that_are_not_those_of_the_card_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "model_repository", tmp_path / "models")
    with (tmp_path / "models/tandem/1/model.onnx").open("ab") as file:
        file.write(b"more")
    monkeypatch.setenv("TANDEM_MODEL_REPOSITORY", str(tmp_path / "models"))
    finding = found("model")
    assert (finding.state, "model.onnx" in finding.text, "model.pt" in finding.text) == ("problem", True, False)
    monkeypatch.setenv("TANDEM_MODEL_VERSION", "7")
    assert (found("model").state, "tandem/7" in found("model").text) == ("problem", True)
    monkeypatch.setenv("TANDEM_MODEL_REPOSITORY", str(tmp_path))
    assert "TANDEM_MODEL_REPOSITORY" in found("model").remedy


def test_a_missing_triton_is_to_be_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_TRITON_HOME", str(tmp_path))
    finding = found("Triton")
    assert (finding.state, finding.remedy) == ("problem", "tandem install-triton")


@pytest.mark.parametrize("url", ["127.0.0.1:9", "nowhere"])
def test_a_triton_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("TANDEM_TRITON_URL", url)
    finding = found("Triton")
    assert (finding.state, url in finding.text, finding.remedy != "") == ("problem", True, True)


def test_ports_are_free_or_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        monkeypatch.setenv("TANDEM_OPERATIONS_PORT", f"{port}")
        finding = found("operations port")
        assert (finding.state, f":{port} is taken" in finding.text) == ("problem", True)
        assert "TANDEM_OPERATIONS_PORT" in finding.remedy
    monkeypatch.setenv("TANDEM_PORT", f"{port}")
    monkeypatch.delenv("TANDEM_OPERATIONS_PORT")
    assert (found("port").state, found("port").text) == ("ok", f"127.0.0.1:{port} is free")


@pytest.mark.parametrize(("status", "state"), [(401, "ok"), (404, "ok"), (500, "problem")])
def test_a_gateway_that_refuses_is_a_gateway(status: int, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            problem = Problem(type="urn:x", title="x", status=status, detail="it refuses", request_id="x")
            self.send_response(status)
            self.end_headers()
            self.wfile.write(problem.model_dump_json().encode())

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("TANDEM_OPERATIONS_PORT", f"{server.server_port}")
        finding = found("operations port")
        server.shutdown()
    assert finding.state == state
    assert finding.text.startswith(f"a gateway runs at http://127.0.0.1:{server.server_port}")
    assert ("it refuses" in finding.text) == (state == "problem")


def test_a_proxy_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found("proxy").state == "ok"
    hidden = "not-to-be-shown"
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:{hidden}@proxy.example:3128")
    finding = found("proxy")
    assert (finding.state, "https_proxy=proxy.example:3128" in finding.text) == ("note", True)
    assert hidden not in finding.text


def test_invalid_settings_are_a_problem_and_the_rest_is_still_examined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_PORT", "high")
    monkeypatch.setenv("TANDEM_WORKRES", "2")
    findings = {finding.name: finding for finding in examine()}
    assert findings["settings"].state == "problem"
    assert "TANDEM_PORT" in findings["settings"].text
    assert "TANDEM_WORKRES" in findings["settings"].text
    assert {"Python", "processor", "Triton", "model", "port", "proxy"} <= findings.keys()


def test_problems_set_the_exit_code_and_everything_fits_80_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TANDEM_TRITON_HOME", str(tmp_path / ("long-" * 20)))
    monkeypatch.setenv("TANDEM_PORT", "0")
    result = CliRunner(env={"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}).invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "-> tandem install-triton" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_every_extra_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert EXTRAS.keys() == project["optional-dependencies"].keys() - {"dev"}
    monkeypatch.setattr(doctor, "EXTRAS", {"absent": ("no_such_package.module",), "present": ("json.decoder",)})
    assert found("extras").text == "here: present; not here: absent"
    assert found("extras").remedy.endswith("pip install 'tandem-emotions[absent]'")
