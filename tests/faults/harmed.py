"""A real service as a process, its callers, and what it holds: processes, descriptors, threads, shared memory."""

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
"""After so long an answer is taken for one that never comes; the service itself has promised much less."""

PROBLEM = "urn:tandem:problem:"


def stat(pid: int) -> list[str]:
    """State, parent and the rest of proc(5)'s stat; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def descendants(pid: int) -> list[int]:
    """The processes below one, parents first."""
    parents = {int(each.name): stat(int(each.name)) for each in Path("/proc").iterdir() if each.name.isdigit()}
    found = [pid]
    for above in found:
        found += [each for each, fields in parents.items() if fields and int(fields[1]) == above]
    return found[1:]


def command(pid: int) -> str:
    """Its arguments; empty when there is no such process."""
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

    def photo_processes(self) -> list[int]:
        return self._running(WORKER)

    def works(self) -> bool:
        """Whether a photo is answered, and all of its processes are there."""
        with httpx.Client(timeout=TIMEOUT_S) as client:
            answer = Callers(self).ask(client)
        return answer == "200" and self.complete()

    def complete(self) -> bool:
        """Whether its supervisor, Triton, stub and workers are all running."""
        return len(descendants(self.process.pid)) == 3 + self.workers

    def shared_memory(self) -> set[Path]:
        """Files in shared memory of its Triton, found by the lock that that has open."""
        for descriptor in Path(f"/proc/{self.triton()}/fd").iterdir():
            lock = Path(os.path.realpath(descriptor))
            if lock.name.startswith(supervisor.PREFIX) and lock.suffix == ".lock":
                return set(lock.parent.glob(f"{lock.stem}*"))
        return set()

    def holds(self) -> dict[str, int]:
        """How much of each thing it holds now."""
        pid = self.process.pid
        return {
            "processes": len(descendants(pid)),
            "descriptors": len(list(Path(f"/proc/{pid}/fd").iterdir())),
            "threads": len(list(Path(f"/proc/{pid}/task").iterdir())),
            "shared memory": len(self.shared_memory()),
            "requests": int(self.metric("tandem_in_flight")) - 1,  # the one that asks
        }

    def metric(self, name: str) -> float:
        text = httpx.get(f"{self.url}/metrics", headers=self.headers, timeout=TIMEOUT_S).text
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))

    def await_no_more_than(self, before: dict[str, int]) -> str:
        """Wait until it holds no more than before; the names of what was compared."""
        # A connection just closed; threads of gRPC's and asyncio's pools, which fill up and empty as they like.
        spare = {"descriptors": 2, "threads": 8}

        def settled() -> bool:
            now = self.holds()
            return all(now[name] <= count + spare.get(name, 0) for name, count in before.items())

        wait_until(settled, f"no more is held than {before}; now {self.holds()}", TIMEOUT_S)
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
    """`tandem serve` on a free port; ended, if it still runs, as an operator would."""
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
        assert found, "it did not start"
        repository = Path(str(settings.get("model_repository", "")))
        yield Service(process, found.group(), key, repository, workers)
    finally:
        process.terminate()
        process.wait(TIMEOUT_S)
        if process.stdout:
            process.stdout.close()


def head(tandem: Service, length: int, path: str = "/v1/emotions", **headers: str) -> bytes:
    """A request for a photo of so many bytes, without them."""
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
    """So many, closed at the end of the block."""
    opened = [socket.create_connection(("127.0.0.1", tandem.port), timeout=TIMEOUT_S) for _ in range(count)]
    try:
        yield opened
    finally:
        for each in opened:
            each.close()


def everything(connection: socket.socket) -> bytes:
    """What comes until the service closes the connection."""
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    return received


def status(answer: bytes) -> str:
    """«200», status and type of a problem, or «closed» for no answer."""
    first = answer.partition(b"\r\n")[0].decode().split()
    kind = answer.rpartition(PROBLEM.encode())[2].partition(b'"')[0].decode() if PROBLEM.encode() in answer else ""
    return f"{first[1] if first else 'closed'} {kind}".strip()


def tally(outcomes: list[str]) -> dict[str, int]:
    return {each: outcomes.count(each) for each in set(outcomes)}


@cache
def small_photo() -> bytes:
    """One face, quick to decode."""
    return encoded(astronaut().resize((256, 256)))


@dataclass
class Callers:
    """Clients that post a photo again and again, and what they got: «200», or the type of a problem.

    An answer that is neither, or none at all within ``TIMEOUT_S``, is a failure of the test.
    """

    service: Service
    key: str | None = None
    photo: bytes = field(default_factory=small_photo)
    outcomes: list[tuple[float, str, float]] = field(default_factory=list)
    """When each answer came, what it was, and how many seconds it took."""
    _ends: threading.Event = field(default_factory=threading.Event)

    def ask(self, client: httpx.Client) -> str:
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
        """``count`` of them at a time, for the length of the block."""

        def call() -> None:
            with httpx.Client(timeout=TIMEOUT_S) as client:
                while not self._ends.wait(pause_s):
                    self.ask(client)

        threads = [threading.Thread(target=call) for _ in range(count)]
        for each in threads:
            each.start()
        try:
            yield self
        finally:
            self._ends.set()
            for each in threads:
                each.join()

    def seen(self) -> dict[str, int]:
        return dict(Counter(outcome for _, outcome, _ in self.outcomes))

    def back_after(self, fault_at: float) -> float:
        """Seconds from the fault to the end of the longest time without a 200, or of the last other answer."""
        good = [fault_at, *(at for at, outcome, _ in self.outcomes if outcome == "200" and at > fault_at)]
        _, outage_end = max((later - earlier, later) for earlier, later in pairwise(good))
        bad_end = max((at for at, outcome, _ in self.outcomes if outcome != "200"), default=fault_at)
        return max(outage_end, min((at for at in good if at >= bad_end), default=bad_end)) - fault_at

    def slowest(self) -> float:
        return max(seconds for _, _, seconds in self.outcomes)

    def assert_only(self, *outcomes: str) -> None:
        unexpected = set(self.seen()) - set(outcomes)
        assert not unexpected, self.seen()


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    assert stat(pid), "there is such a process"
    os.kill(pid, number)


def await_end(pids: list[int]) -> None:
    wait_until(lambda: all(stat(pid)[:1] in ([], ["Z"]) for pid in pids), "all have ended", TIMEOUT_S)
