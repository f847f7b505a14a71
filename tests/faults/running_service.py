"""Runs `tandem serve` as a process with callers, and counts the resources that it uses."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import IO

import httpx
from photos import astronaut, encoded
from waiting import wait_until

from service.triton import supervisor
from service.workers.process import WORKER

ROOT = Path(__file__).parents[2]

TIMEOUT_S = 60.0
"""Seconds after which an answer counts as missing; the service's own timeouts are much shorter."""

PROBLEM = "urn:tandem:problem:"


def stat(pid: int) -> list[str]:
    """State, parent and the other fields of /proc/PID/stat; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def descendants(pid: int) -> list[int]:
    """Return the process ids of all descendants, parents first."""
    parents = {int(each.name): stat(int(each.name)) for each in Path("/proc").iterdir() if each.name.isdigit()}
    found = [pid]
    for above in found:
        found += [each for each, fields in parents.items() if fields and int(fields[1]) == above]
    return found[1:]


def command(pid: int) -> str:
    """Return the command line; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


@dataclass
class Service:
    """A running `tandem serve`."""

    process: "subprocess.Popen[str]"
    url: str
    key: str | None
    repository: Path
    workers: int

    @property
    def headers(self) -> dict[str, str]:
        return {"X-API-Key": self.key} if self.key else {}

    @property
    def port(self) -> int:
        return httpx.URL(self.url).port or 80

    def _running(self, program: str) -> list[int]:
        return [each for each in descendants(self.process.pid) if program in command(each)]

    def supervisor(self) -> int:
        return self._running("supervisor.py")[0]

    def triton(self) -> int:
        return self._running("bin/tritonserver")[-1]  # the supervisor's command contains it too

    def stub(self) -> int:
        return self._running("triton_python_backend_stub")[0]

    def worker_pids(self) -> list[int]:
        return self._running(WORKER)

    def works(self) -> bool:
        """Return whether a photo is answered and all processes are running."""
        with httpx.Client(timeout=TIMEOUT_S) as client:
            answer = Callers(self).post_photo(client)
        return answer == "200" and self.all_running()

    def all_running(self) -> bool:
        """Return whether supervisor, Triton, stub and all workers are running."""
        return len(descendants(self.process.pid)) == 3 + self.workers

    def shared_memory(self) -> set[Path]:
        """Return the shared memory files of its Triton, found by the lock file that it has open."""
        for descriptor in Path(f"/proc/{self.triton()}/fd").iterdir():
            lock = Path(os.path.realpath(descriptor))
            if lock.name.startswith(supervisor.PREFIX) and lock.suffix == ".lock":
                return set(lock.parent.glob(f"{lock.stem}*"))
        return set()

    def resources(self) -> dict[str, int]:
        """Return the number of resources of each kind that it uses now."""
        pid = self.process.pid
        return {
            "processes": len(descendants(pid)),
            "descriptors": len(list(Path(f"/proc/{pid}/fd").iterdir())),
            "threads": len(list(Path(f"/proc/{pid}/task").iterdir())),
            "shared memory": len(self.shared_memory()),
            "requests": int(self.metric("tandem_in_flight")) - 1,  # without the request for the metrics
        }

    def metric(self, name: str) -> float:
        text = httpx.get(f"{self.url}/metrics", headers=self.headers, timeout=TIMEOUT_S).text
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))

    def await_released(self, before: dict[str, int]) -> str:
        """Wait until it uses no more resources than before; returns the names of what was compared."""
        # Allow for connections being closed, and for threads of the pools of gRPC and asyncio.
        tolerance = {"descriptors": 2, "threads": 8}

        def settled() -> bool:
            now = self.resources()
            return all(now[name] <= count + tolerance.get(name, 0) for name, count in before.items())

        wait_until(settled, f"resources drop to {before}; now {self.resources()}", TIMEOUT_S)
        return ", ".join(before)


@contextmanager
def service(
    *,
    key: str | None = None,
    log: IO[str] | int = subprocess.DEVNULL,
    preload: Path | None = None,
    workers: int,
    **settings: object,
) -> Iterator[Service]:
    """Run `tandem serve` on a free port, and stop it with SIGTERM afterwards."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")}
    environment |= {f"TANDEM_{name.upper()}": str(value) for name, value in settings.items()}
    environment["TANDEM_WORKERS"] = str(workers)
    if preload:
        environment["LD_PRELOAD"] = str(preload)
    command = [sys.executable, "-m", "service.cli", "serve", "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found, "the service did not start"
        repository = Path(str(settings.get("model_repository", "")))
        yield Service(process, found.group(), key, repository, workers)
    finally:
        process.terminate()
        process.wait(TIMEOUT_S)
        if process.stdout:
            process.stdout.close()


def head(tandem: Service, length: int, path: str = "/v1/emotions", **headers: str) -> bytes:
    """Return the headers of a request for a photo of ``length`` bytes."""
    fields = {
        "Host": "tandem",
        "Content-Type": "image/jpeg",
        "Content-Length": str(length),
        **tandem.headers,
    } | headers
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode()


@contextmanager
def connections(tandem: Service, count: int) -> Iterator[list[socket.socket]]:
    """Open ``count`` connections and close them at the end of the block."""
    opened = [socket.create_connection(("127.0.0.1", tandem.port), timeout=TIMEOUT_S) for _ in range(count)]
    try:
        yield opened
    finally:
        for each in opened:
            each.close()


def read_to_end(connection: socket.socket) -> bytes:
    """Read until the service closes the connection."""
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    return received


def status(answer: bytes) -> str:
    """Return "200", status and type of a problem such as "408 slow-upload", or "closed" without an answer."""
    first = answer.partition(b"\r\n")[0].decode().split()
    kind = answer.rpartition(PROBLEM.encode())[2].partition(b'"')[0].decode() if PROBLEM.encode() in answer else ""
    return f"{first[1] if first else 'closed'} {kind}".strip()


def count_outcomes(outcomes: list[str]) -> dict[str, int]:
    return {each: outcomes.count(each) for each in set(outcomes)}


@cache
def small_photo() -> bytes:
    """Return a photo with one face that is fast to decode."""
    return encoded(astronaut().resize((256, 256)))


@dataclass
class Callers:
    """Clients that post a photo repeatedly, and their outcomes: "200", or status and type of a problem.

    Other answers, and no answer within ``TIMEOUT_S``, have outcomes that ``assert_only`` rejects.
    """

    service: Service
    key: str | None = None
    photo: bytes = field(default_factory=small_photo)
    outcomes: list[tuple[float, str, float]] = field(default_factory=list)
    """Of each answer: when it came, its outcome, and its duration in seconds."""
    _ends: threading.Event = field(default_factory=threading.Event)

    def post_photo(self, client: httpx.Client) -> str:
        headers = self.service.headers | {"Content-Type": "image/jpeg"}
        if self.key:
            headers["X-API-Key"] = self.key
        began = time.monotonic()
        try:
            response = client.post(f"{self.service.url}/v1/emotions", content=self.photo, headers=headers)
        except httpx.HTTPError as error:
            outcome = f"no answer: {type(error).__name__}"
        else:
            outcome = str(response.status_code)
            if outcome != "200":
                kind = str(response.json().get("type", "")) if "json" in response.headers["Content-Type"] else ""
                outcome = (
                    f"{outcome} {kind.removeprefix(PROBLEM)}" if kind.startswith(PROBLEM) else f"untyped {outcome}"
                )
            elif not response.json()["faces"]:
                outcome = "200 without the face"
        self.outcomes.append((time.monotonic(), outcome, time.monotonic() - began))
        return outcome

    @contextmanager
    def calling(self, count: int, pause_s: float = 0.1) -> Iterator["Callers"]:
        """Run ``count`` clients concurrently for the duration of the block."""

        def call() -> None:
            with httpx.Client(timeout=TIMEOUT_S) as client:
                while not self._ends.wait(pause_s):
                    self.post_photo(client)

        threads = [threading.Thread(target=call) for _ in range(count)]
        for each in threads:
            each.start()
        try:
            yield self
        finally:
            self._ends.set()
            for each in threads:
                each.join()

    def counts(self) -> dict[str, int]:
        return dict(Counter(outcome for _, outcome, _ in self.outcomes))

    def back_after(self, fault_at: float) -> float:
        """Return seconds from the fault until the outage was over.

        That is the end of the longest period without a 200, or the first 200 after the last other outcome.
        """
        good = [fault_at, *(at for at, outcome, _ in self.outcomes if outcome == "200" and at > fault_at)]
        _, outage_end = max((later - earlier, later) for earlier, later in pairwise(good))
        bad_end = max((at for at, outcome, _ in self.outcomes if outcome != "200"), default=fault_at)
        return max(outage_end, min((at for at in good if at >= bad_end), default=bad_end)) - fault_at

    def slowest(self) -> float:
        return max(seconds for _, _, seconds in self.outcomes)

    def assert_only(self, *outcomes: str) -> None:
        unexpected = set(self.counts()) - set(outcomes)
        assert not unexpected, self.counts()


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    assert stat(pid), "the process does not exist"
    os.kill(pid, number)


def await_end(pids: list[int]) -> None:
    wait_until(lambda: all(stat(pid)[:1] in ([], ["Z"]) for pid in pids), "all processes have ended", TIMEOUT_S)
