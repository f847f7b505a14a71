"""Soak test: check that every request gets the right answer under mixed load, and random faults or attacks.

    python tests/benchmarks/soak.py --minutes 10 --seed 1 [--callers 6] [--attacks] [--json OUT]

Starts a service with a local Triton on free loopback ports, and records its answer to each photo without load.
Then posts the photos in every format while it kills, freezes and pauses Triton, kills the model's process, workers
and supervisor, aborts uploads, sends slow uploads and sends bursts. Each answer must be a typed problem, or 200
and equal to the recorded one. Exits with 1 if a request got no answer, an untyped answer or a wrong one.

With --attacks, a stranger on another address attacks half of the time instead (attacks.py), and the figures say
how callers fared with and without: how many photos were answered, and how fast.
"""

import argparse
import base64
import contextlib
import json
import os
import random
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import ImageOps
from rich.console import Console
from rich.table import Table
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / each) for each in ("fixtures", "faults", "benchmarks")]
from attacks import Attacks  # noqa: E402
from photos import astronaut, encoded, tiles  # noqa: E402
from running_service import PROBLEM, TIMEOUT_S, Service, kill, service  # noqa: E402
from waiting import wait_until  # noqa: E402

from service.settings import available_cores  # noqa: E402

MEBIBYTE = 1024 * 1024

TOLERANCE = 0.002
"""Maximum difference of a probability from the recorded one: batches of another size sum in another order."""

QUIET_S = (8.0, 20.0)
"""Range of the random seconds between two faults."""

BURST_CALLERS, BURST_S = 40, 4.0

Answer = dict[str, Any]


def photos() -> dict[str, bytes]:
    """Return photos whose answers differ, so that swapped answers are noticed."""
    whole = astronaut()
    return {
        "whole": encoded(whole, quality=90),
        "mirrored": encoded(ImageOps.mirror(whole), quality=90),
        "small": encoded(whole.resize((300, 300)), quality=90),
        "dark": encoded(whole.point(lambda value: value // 2), quality=90),
        "four": encoded(tiles(2, 2), quality=90),
        "twelve": encoded(tiles(4, 3), quality=85),
        "sky": encoded(whole.crop((300, 0, 500, 60)).resize((400, 120)), quality=90),
    }


@dataclass
class Soak:
    """The load, the recorded answers, and the outcomes."""

    tandem: Service
    photos: dict[str, bytes]
    recorded: dict[str, Answer] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    compared: int = 0
    wrong: list[str] = field(default_factory=list)
    seconds: dict[bool, list[float]] = field(default_factory=lambda: {False: [], True: []})
    """How long answers took, without and with an attack."""
    answered: Counter[bool] = field(default_factory=Counter)
    """Answers with 200, without and with an attack."""
    attacked: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def record(self) -> None:
        """Record the answer to each photo without load."""
        with httpx.Client(timeout=TIMEOUT_S) as client:
            for name, photo in self.photos.items():
                answer = self._post(client, photo)
                answer.raise_for_status()
                self.recorded[name] = answer.json()
        faces = {name: len(answer["faces"]) for name, answer in self.recorded.items()}
        if not faces["whole"] or faces["twelve"] <= faces["four"] or faces["sky"]:
            raise SystemExit(f"unexpected numbers of faces: {faces}")

    def _post(self, client: httpx.Client, content: bytes, kind: str = "image/jpeg", **more: Any) -> httpx.Response:
        headers = {"Content-Type": kind} | more.pop("headers", {})
        return client.post(f"{self.tandem.url}/v1/emotions", content=content, headers=headers, **more)

    def call(self, seed: int, duration_s: float = float("inf")) -> None:
        """Send requests as one client until the soak ends or ``duration_s`` have passed."""
        chooser = random.Random(seed)  # noqa: S311 - not a secret
        senders: list[Callable[[httpx.Client, str], str]]
        senders = [self._raw] * 6 + [
            self._multipart,
            self._base64,
            self._annotated,
            self._batch,
            self._frame,
            self._truncated,
        ]
        end = time.monotonic() + duration_s
        address = {"X-Forwarded-For": f"198.51.100.{seed % 250 + 1}"}
        with httpx.Client(timeout=TIMEOUT_S, headers=address) as client:
            while not self.ended.is_set() and time.monotonic() < end:
                send, name = chooser.choice(senders), chooser.choice(list(self.photos))
                start, attacked = time.monotonic(), self.attacked.is_set()
                try:
                    outcome = send(client, name)
                except (httpx.HTTPError, WebSocketException, OSError) as error:
                    outcome = f"no answer ({send.__name__[1:]}: {type(error).__name__})"
                with self._lock:
                    self.outcomes[outcome] += 1
                    self.seconds[attacked].append(time.monotonic() - start)
                    self.answered[attacked] += outcome == "200" or send == self._truncated
                if outcome != "200":
                    self.ended.wait(0.2)  # shorter than Retry-After, for more load

    def _raw(self, client: httpx.Client, name: str) -> str:
        return self._compared(self._post(client, self.photos[name]), name)

    def _multipart(self, client: httpx.Client, name: str) -> str:
        files = {"image": (f"{name}.jpg", self.photos[name])}
        return self._compared(client.post(f"{self.tandem.url}/v1/emotions", files=files), name)

    def _base64(self, client: httpx.Client, name: str) -> str:
        body = json.dumps({"image": base64.b64encode(self.photos[name]).decode()}).encode()
        return self._compared(self._post(client, body, "application/json"), name)

    def _annotated(self, client: httpx.Client, name: str) -> str:
        answer = self._post(client, self.photos[name], headers={"Accept": "image/jpeg"})
        if answer.status_code == 200 and not answer.content.endswith(b"\xff\xd9"):
            self.wrong.append(f"the annotated copy of {name} is not a complete JPEG")
        return outcome_of(answer)

    def _batch(self, client: httpx.Client, name: str) -> str:
        names = [name, *self.photos][:3]
        files = [("images", (name, self.photos[name])) for name in names]
        answer = client.post(f"{self.tandem.url}/v1/emotions/batch", files=files)
        lines = [json.loads(line) for line in answer.text.splitlines()] if answer.status_code == 200 else []
        if answer.status_code == 200 and sorted(line["index"] for line in lines) != [0, 1, 2]:
            self.wrong.append(f"a batch of three has lines {[line['index'] for line in lines]}")
        for line in lines:
            if "answer" in line:
                self.compare(line["answer"], names[line["index"]])
        return outcome_of(answer)

    def _frame(self, client: httpx.Client, name: str) -> str:
        address = {"X-Forwarded-For": client.headers["X-Forwarded-For"]}
        url = self.tandem.url.replace("http", "ws") + "/v1/stream"
        with connect(url, open_timeout=TIMEOUT_S, close_timeout=TIMEOUT_S, additional_headers=address) as stream:
            stream.send(self.photos[name])
            answer = json.loads(stream.recv(TIMEOUT_S))
        if "faces" in answer:
            self.compare(answer, name)
            return "200"
        return f"{answer['status']} {answer['type'].removeprefix(PROBLEM)}"

    def _truncated(self, client: httpx.Client, name: str) -> str:
        answer = self._post(client, self.photos[name][:2000])
        if answer.status_code == 200:
            self.wrong.append(f"{name} was answered although it is truncated")
        return outcome_of(answer)

    def _compared(self, answer: httpx.Response, name: str) -> str:
        if answer.status_code == 200:
            self.compare(answer.json(), name)
        return outcome_of(answer)

    def compare(self, answer: Answer, name: str) -> None:
        """Count an answer, and note it if it differs from the recorded one."""
        recorded = self.recorded[name]["faces"]
        given = answer["faces"]
        self.compared += 1
        same = len(given) == len(recorded) and all(
            face["box"] == expected["box"]
            and all(abs(face["emotions"][label] - p) <= TOLERANCE for label, p in expected["emotions"].items())
            for face, expected in zip(given, recorded, strict=True)
        )
        if not same:
            self.wrong.append(f"{name}: {json.dumps(given)[:300]}")


def outcome_of(answer: httpx.Response) -> str:
    """Return "200", or the status and type of a problem."""
    if answer.status_code == 200:
        return "200"
    if not answer.headers.get("Content-Type", "").startswith("application/problem+json"):
        return f"untyped {answer.status_code}"
    return f"{answer.status_code} {answer.json()['type'].removeprefix(PROBLEM)}"


class Faults:
    """Inject random faults into the service, one at a time."""

    def __init__(self, soak: Soak, seed: int) -> None:
        self._soak = soak
        self._tandem = soak.tandem
        self._random = random.Random(seed)  # noqa: S311 - not a secret
        self.done: Counter[str] = Counter()
        self.recovery_s: dict[str, float] = {}

    def inject(self) -> None:
        """Inject one fault after another until the soak ends."""
        faults = [
            self.kill_triton,
            self.freeze_triton,
            self.pause_triton,
            self.kill_worker,
            self.kill_stub,
            self.kill_supervisor,
            self.abort_uploads,
            self.send_slow_uploads,
            self.send_burst,
        ]
        while not self._soak.ended.wait(self._random.uniform(*QUIET_S)):
            fault = self._random.choice(faults)
            self.done[fault.__name__] += 1
            start = time.monotonic()
            fault()
            wait_until(self._is_well, f"the service recovers from {fault.__name__}", TIMEOUT_S)
            self.recovery_s[fault.__name__] = max(self.recovery_s.get(fault.__name__, 0), time.monotonic() - start)

    def _is_well(self) -> bool:
        with httpx.Client(timeout=TIMEOUT_S) as client:
            return client.get(f"{self._tandem.url}/readyz").status_code == 200 and self._tandem.all_running()

    def kill_triton(self) -> None:
        self._signal_triton(self._tandem.triton(), signal.SIGKILL)

    def freeze_triton(self) -> None:
        self._signal_triton(self._tandem.triton(), signal.SIGSTOP)

    def kill_stub(self) -> None:
        kill(self._tandem.stub())
        self._wait_for_new(self._tandem.triton())

    def kill_supervisor(self) -> None:
        triton = self._tandem.triton()
        kill(self._tandem.supervisor())
        self._wait_for_new(triton)

    def pause_triton(self) -> None:
        triton = self._tandem.triton()
        kill(triton, signal.SIGSTOP)
        time.sleep(1)
        kill(triton, signal.SIGCONT)

    def kill_worker(self) -> None:
        kill(self._random.choice(self._tandem.worker_pids()))

    def abort_uploads(self) -> None:
        self._uploads(30, duration_s=0.5)

    def send_slow_uploads(self) -> None:
        self._uploads(30, duration_s=4)

    def send_burst(self) -> None:
        seeds = [self._random.getrandbits(32) for _ in range(BURST_CALLERS)]
        threads = [threading.Thread(target=self._soak.call, args=(seed, BURST_S)) for seed in seeds]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _signal_triton(self, triton: int, number: int) -> None:
        kill(triton, number)
        self._wait_for_new(triton)

    def _wait_for_new(self, old: int) -> None:
        def is_new() -> bool:
            return self._tandem.all_running() and self._tandem.triton() != old

        wait_until(is_new, "a new Triton is running", TIMEOUT_S)

    def _uploads(self, count: int, *, duration_s: float) -> None:
        head = (
            b"POST /v1/emotions HTTP/1.1\r\nHost: t\r\nContent-Type: image/jpeg\r\nContent-Length: 99999\r\n\r\n"
        )
        opened = [socket.create_connection(("127.0.0.1", self._tandem.port)) for _ in range(count)]
        for connection in opened:
            connection.sendall(head + b"\xff\xd8\xff")
        time.sleep(duration_s)
        for connection in opened:
            connection.close()


@dataclass
class Memory:
    """Resident MiB of the gateway and its workers over time, and the number of the gateway's file descriptors."""

    tandem: Service
    times: list[float] = field(default_factory=list)
    mebibytes: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    def sample(self) -> None:
        """Take a sample."""
        pages = 0
        for process in (self.tandem.process.pid, *self.tandem.worker_pids()):
            with contextlib.suppress(OSError):  # the process was just killed
                pages += int(Path(f"/proc/{process}/statm").read_text().split()[1])
        self.times.append(time.monotonic())
        self.mebibytes.append(pages * os.sysconf("SC_PAGE_SIZE") / MEBIBYTE)
        self.descriptors.append(len(list(Path(f"/proc/{self.tandem.process.pid}/fd").iterdir())))

    def slope(self) -> float:
        """Return MiB per minute over the second half, when pools and caches are full."""
        half = len(self.times) // 2
        return float(np.polyfit(self.times[half:], self.mebibytes[half:], 1)[0] * 60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="duration (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=1, help="random seed (default: %(default)s)")
    parser.add_argument("--callers", type=int, default=6, help="clients, without bursts (default: %(default)s)")
    parser.add_argument("--attacks", action="store_true", help="attack instead of injecting faults")
    parser.add_argument("--json", help="file for the results")
    options = parser.parse_args()
    settings = {"triton_home": ROOT / ".triton", "model_repository": ROOT / "model_repository"}
    with service(workers=available_cores(), log_level="error", upload_timeout_s=5, **settings) as tandem:
        soak = Soak(tandem, photos())
        soak.record()
        before = tandem.resources()
        faults, memory = Faults(soak, options.seed), Memory(tandem)
        attacks = Attacks(tandem.port, options.seed, soak.ended)
        soak.attacked = attacks.active
        threads = [
            threading.Thread(target=soak.call, args=(options.seed * 1000 + n,)) for n in range(options.callers)
        ]
        threads.append(threading.Thread(target=attacks.run if options.attacks else faults.inject))
        for thread in threads:
            thread.start()
        end = time.monotonic() + options.minutes * 60
        while time.monotonic() < end and threads[-1].is_alive():
            memory.sample()
            time.sleep(0.5)
        stuck = not threads[-1].is_alive()
        soak.ended.set()
        for thread in threads:
            thread.join()
        time.sleep(1)
        after = tandem.resources()
    raise SystemExit(report(options, soak, faults, attacks, memory, before, after) or stuck)


def report(
    options: argparse.Namespace,
    soak: Soak,
    faults: Faults,
    attacks: Attacks,
    memory: Memory,
    before: dict[str, int],
    after: dict[str, int],
) -> int:
    """Print and write the results; return 1 if a request got no answer, an untyped answer or a wrong one."""
    unanswered = sum(count for outcome, count in soak.outcomes.items() if outcome.startswith("no answer"))
    untyped = sum(count for outcome, count in soak.outcomes.items() if outcome.startswith("untyped"))
    figures = {
        "minutes": options.minutes,
        "seed": options.seed,
        "requests": sum(soak.outcomes.values()),
        "answers": dict(soak.outcomes.most_common()),
        "unanswered": unanswered,
        "untyped": untyped,
        "compared": soak.compared,
        "wrong": len(soak.wrong) + len(attacks.wrong),
        "seconds p50, p99, max": percentiles(soak.seconds[False]),
        "answered as asked, %": share(soak.answered[False], soak.seconds[False]),
        "during attacks: seconds p50, p99, max": percentiles(soak.seconds[True]),
        "during attacks: answered as asked, %": share(soak.answered[True], soak.seconds[True]),
        "attacks": dict(attacks.done),
        "answers to the attacker": dict(attacks.answers.most_common()),
        "faults": dict(faults.done),
        "seconds to recover, at most": {name: round(seconds, 1) for name, seconds in faults.recovery_s.items()},
        "MiB at start and end": [round(memory.mebibytes[0]), round(memory.mebibytes[-1])],
        "MiB per minute, second half": round(memory.slope(), 2),
        "held before": before,
        "held after": after,
    }
    table = Table("figure", "value", title="soak")
    for name, value in figures.items():
        table.add_row(name, json.dumps(value) if isinstance(value, dict | list) else str(value))
    Console().print(table)
    for mismatch in [*soak.wrong, *attacks.wrong][:10]:
        print(mismatch, file=sys.stderr)
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2))
    return int(bool(unanswered or untyped or soak.wrong or attacks.wrong))


def percentiles(seconds: list[float]) -> list[float]:
    """Return p50, p99 and the maximum; nothing if there are no values."""
    return [round(float(np.percentile(seconds, q)), 3) for q in (50, 99, 100)] if seconds else []


def share(answered: int, seconds: list[float]) -> float | None:
    """Return the percentage of requests that were answered."""
    return round(100 * answered / len(seconds), 1) if seconds else None


if __name__ == "__main__":
    main()
