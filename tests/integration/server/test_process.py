"""The `tandem` command as a separate process, with a real Triton."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from photos import astronaut, encoded, tiles
from PIL import Image
from toy_model import write_repository
from waiting import wait_until

from service.cli.gateway import is_listening
from service.client import DEFAULT_URL
from service.triton import install
from service.triton.server import LocalTriton, has_gpu

TANDEM = [sys.executable, "-m", "service.cli"]
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "astronaut.jpg"
    path.write_bytes(encoded(astronaut()))
    return path


def environment(**settings: object) -> dict[str, str]:
    others = {name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")}
    return others | {f"TANDEM_{name.upper()}": str(value) for name, value in settings.items()}


class Served:
    """A running `tandem serve` and its log so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.log: list[str] = []
        assert process.stderr
        self._reader = threading.Thread(target=self._read, args=(process.stderr,))
        self._reader.start()
        assert process.stdout
        announced = re.search(r"http://\S+", process.stdout.readline())
        self.url = announced.group() if announced else ""

    def _read(self, lines: Iterator[str]) -> None:
        self.log.extend(lines)

    def entries(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in list(self.log) if line.startswith("{")]

    def has_logged(self, message: str) -> bool:
        return any(message in str(entry["message"]) for entry in self.entries())

    def end(self, signal_number: int = signal.SIGTERM) -> int:
        self.process.send_signal(signal_number)
        status = self.process.wait(60)
        self._reader.join(10)
        return status

    def triton(self) -> int:
        """Process id of its Triton."""
        return child(child(self.process.pid, "supervisor.py"))


def child(pid: int, command: str = "") -> int:
    """Return the first child process whose command line contains ``command``; 0 if there is none."""
    found = subprocess.run(["pgrep", "-P", str(pid), "-f", command], capture_output=True, text=True, check=False)
    return int((found.stdout.split() or ["0"])[0])


@contextmanager
def serving(*, launcher: Sequence[str] = (), **settings: object) -> Iterator[Served]:
    process = subprocess.Popen(
        [*launcher, *TANDEM, "serve"],
        cwd=ROOT,
        env=environment(port=0, workers=1, **settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    served = Served(process)
    try:
        yield served
    finally:
        if process.poll() is None:
            served.end()
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        process.stderr.close()


def is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_serves_and_stops_gracefully(triton_home: Path, repository: Path, photo: Path) -> None:
    with serving(triton_home=triton_home, model_repository=repository) as served:
        response = httpx.post(f"{served.url}/v1/emotions", files={"image": photo.read_bytes()}, timeout=60)
        assert len(response.json()["faces"]) == 1
        triton = served.triton()
        assert is_running(triton)
        assert served.end() == 0
        assert not is_running(triton)
        requests = [entry for entry in served.entries() if entry["logger"] == "tandem.requests"]
        assert [(entry["route"], entry["status"], entry["faces"]) for entry in requests] == [
            ("/v1/emotions", 200, 1)
        ]
        assert any("ready after" in line for line in served.log)
        if not has_gpu():
            assert not [
                line for line in served.log if any(text in line for text in ("CUDA", "Cuda", "NVML", "DCGM"))
            ]


def test_operations_routes_can_have_a_separate_port(triton_home: Path, repository: Path) -> None:
    with serving(triton_home=triton_home, model_repository=repository, operations_port=0) as served:
        wait_until(lambda: served.has_logged("operations routes at"), "the operations port is open")
        message = next(str(e["message"]) for e in served.entries() if "operations routes" in str(e["message"]))
        operations = message.rpartition(" ")[2]
        assert operations != served.url
        assert httpx.get(f"{operations}/readyz", timeout=60).json()["status"] == "ready"
        assert "tandem_in_flight" in httpx.get(f"{operations}/metrics", timeout=60).text
        assert httpx.get(f"{operations}/v1/model", timeout=60).status_code == 404
        assert httpx.get(f"{served.url}/metrics", timeout=60).status_code == 404
        assert httpx.get(f"{served.url}/v1/model", timeout=60).status_code == 200
        assert served.end() == 0


def test_ctrl_c_stops_triton_too(triton_home: Path, repository: Path) -> None:
    with serving(triton_home=triton_home, model_repository=repository) as served:
        triton = served.triton()
        assert served.end(signal.SIGINT) == 0
        assert not is_running(triton)


def test_a_triton_that_dies_or_stops_working_is_restarted(
    triton_home: Path, repository: Path, photo: Path
) -> None:
    with serving(triton_home=triton_home, model_repository=repository) as served:
        first = served.triton()
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: served.has_logged("Triton was restarted"), "Triton is restarted")
        second = served.triton()
        assert second != first
        answer = httpx.post(f"{served.url}/v1/emotions", files={"image": photo.read_bytes()}, timeout=60)
        assert answer.status_code == 200
        os.kill(child(second), signal.SIGKILL)  # the stub: Triton itself keeps running and reports ready
        wait_until(lambda: served.has_logged("Triton does not work"), "Triton is restarted again")
        wait_until(
            lambda: httpx.get(f"{served.url}/readyz", timeout=60).status_code == 200 and served.triton() != second,
            "the new Triton works",
        )


def test_a_port_in_use_is_reported_before_anything_is_started(triton_home: Path, repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        settings = environment(port=port, triton_home=triton_home, model_repository=repository)
        ended = subprocess.run(
            [*TANDEM, "serve"], cwd=ROOT, env=settings, capture_output=True, text=True, check=False, timeout=60
        )
    assert ended.returncode == 1
    (message,) = ended.stderr.splitlines()
    assert f"port {port} on 127.0.0.1" in message
    assert "set another port, such as TANDEM_PORT=" in message


def test_a_triton_that_cannot_start_is_reported(tmp_path: Path) -> None:
    settings = environment(port=0, triton_home=tmp_path) | {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null"}
    ended = subprocess.run(
        [*TANDEM, "serve"], cwd=ROOT, env=settings, capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 1
    assert f"{install.PACKAGE}=={install.VERSION}" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGHUP])
def test_draining_answers_and_fails_readiness(
    triton_home: Path, repository: Path, photo: Path, signal_number: signal.Signals
) -> None:
    with serving(triton_home=triton_home, model_repository=repository, drain_s=30) as served:
        served.process.send_signal(signal_number)
        wait_until(lambda: httpx.get(f"{served.url}/readyz", timeout=60).status_code == 503, "readiness fails")
        assert httpx.get(f"{served.url}/readyz", timeout=60).json()["type"] == "urn:tandem:problem:draining"
        answer = httpx.post(f"{served.url}/v1/emotions", files={"image": photo.read_bytes()}, timeout=60)
        assert answer.status_code == 200
        assert served.end() == 0  # a second signal skips the rest of drain_s


def test_photos_are_never_written_to_disk(triton_home: Path, repository: Path) -> None:
    photo = encoded(tiles(6, 6), "PNG", compress_level=0)
    assert len(photo) > 4_000_000  # more than form parsers keep in memory by default

    # Makes every write to a file fail, but not to pipes and sockets.
    launcher = ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh"]
    with LocalTriton(home=triton_home, model_repository=repository) as triton:
        settings = {"triton_url": triton.grpc_url, "log_level": "debug"}
        with serving(launcher=launcher, **settings) as served:
            upload = {"image": ("private-name.png", photo)}
            response = httpx.post(f"{served.url}/v1/emotions", files=upload, timeout=60)
            assert response.status_code == 200, response.text
            assert len(response.json()["faces"]) == 36
            drawn = httpx.post(
                f"{served.url}/v1/emotions", files=upload, headers={"Accept": "image/png"}, timeout=60
            )
            assert drawn.status_code == 200
            served.end()
            log = "".join(served.log)
    assert "private-name" not in log
    assert len(log) < 20_000


def predict(*arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TANDEM, "predict", *arguments],
        cwd=ROOT,
        env=environment(**settings),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_predict_starts_a_local_triton(triton_home: Path, repository: Path, photo: Path, tmp_path: Path) -> None:
    if is_listening(DEFAULT_URL):
        pytest.skip("a gateway listens on the default port and would be used")
    out = tmp_path / "drawn.png"
    ended = predict(str(photo), "--annotate", str(out), triton_home=triton_home, model_repository=repository)
    assert ended.returncode == 0, ended.stderr
    assert "512 x 512" in " ".join(ended.stdout.split())  # a long path folds the line
    (announced,) = ended.stderr.splitlines()  # without Triton's log
    assert announced.startswith(f"no service at {DEFAULT_URL}; starting one for this command")
    with Image.open(out) as drawn:
        assert (drawn.format, drawn.size) == ("PNG", (512, 512))


def test_predict_uses_a_gateway_and_continues_after_a_bad_file(
    triton_home: Path, repository: Path, photo: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photo.read_bytes()[:9000])
    with serving(triton_home=triton_home, model_repository=repository) as served:
        files = [str(broken), str(tmp_path / "missing.jpg"), str(photo)]
        ended = predict(*files, "--json", "--url", served.url)
    assert ended.returncode == 1
    (line,) = ended.stdout.splitlines()
    answer = json.loads(line)
    assert answer["photo"] == str(photo)
    assert len(answer["faces"]) == 1
    errors = ended.stderr.splitlines()
    assert [line.partition(": ")[0] for line in errors] == [str(broken), str(tmp_path / "missing.jpg")]
    assert errors[1].endswith("no such file")


def test_predict_reports_an_unreachable_gateway(photo: Path) -> None:
    ended = predict(str(photo), url="http://127.0.0.1:9")
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"{photo}: ")
    assert "http://127.0.0.1:9" in ended.stderr


def test_predict_writes_a_folder_to_a_file_and_resumes(
    triton_home: Path, repository: Path, photo: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        content = photo.read_bytes()
        (folder / f"{number:02}.jpg").write_bytes(content if number != 5 else content[:9000])
    lines, table = tmp_path / "out.jsonl", tmp_path / "out.csv"
    with serving(triton_home=triton_home, model_repository=repository) as served:
        first = predict(str(folder / "00.jpg"), "--out", str(lines), "--url", served.url)
        assert first.returncode == 0, first.stderr
        assert f"1 photo, 0 failed: {lines}" in first.stderr
        second = predict(str(folder), "--out", str(lines), "--url", served.url)
        third = predict(str(folder), "--out", str(table), "--url", served.url)
        fourth = predict(str(folder), "--out", str(table), "--url", served.url)
    assert second.returncode == 1
    assert f"12 photos, 1 failed, 1 done before: {lines}" in second.stderr
    written = [json.loads(line) for line in lines.read_text().splitlines()]
    assert sorted(Path(line["photo"]).name for line in written) == [f"{n:02}.jpg" for n in range(12)]
    assert [Path(line["photo"]).name for line in written if "error" in line] == ["05.jpg"]
    assert "photos/s" in third.stderr
    assert len(table.read_text().splitlines()) == 13
    assert fourth.returncode == 1
    assert f"12 photos, 1 failed, 12 done before: {table}" in fourth.stderr
