"""Mixed load with faults at random, for as long as wanted: does every request get an answer, and the right one?

    python tests/benchmarks/soak.py --minutes 10 --seed 1 [--callers 6] [--json OUT]

Starts a service with a local Triton on free loopback ports, asks it once in peace for the answer to each of its
photos, then posts them in every form while Triton is killed, frozen, paused and robbed of its model's process, and
while callers leave in mid-upload, dawdle and come in bursts. Answers are 200 or a typed problem; those of 200 are
compared with the known ones. Exits with 1 if a request got no answer, an untyped one or a wrong one.
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
sys.path[:0] = [str(ROOT / "tests" / "fixtures"), str(ROOT / "tests" / "faults")]
from harmed import PROBLEM, TIMEOUT_S, Service, kill, service  # noqa: E402
from photos import astronaut, encoded, tiles  # noqa: E402
from waiting import wait_until  # noqa: E402

from service.settings import available_cores  # noqa: E402

MEBIBYTE = 1024 * 1024

TOLERANCE = 0.002
"""How far a probability may be from the known one: batches of other sizes add up in another order."""

QUIET_S = (8.0, 20.0)
"""Seconds from a fault's end to the next one, by chance between these."""

BURST_CALLERS, BURST_S = 40, 4.0

Answer = dict[str, Any]


def photos() -> dict[str, bytes]:
    """Pictures whose answers differ: swapped, they would be found out."""
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
    """The load, its known answers and what came of it."""

    tandem: Service
    photos: dict[str, bytes]
    known: dict[str, Answer] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    compared: int = 0
    wrong: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    ends: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def learn(self) -> None:
        """Ask for each photo in peace."""
        with httpx.Client(timeout=TIMEOUT_S) as client:
            for name, photo in self.photos.items():
                answer = self._post(client, photo)
                answer.raise_for_status()
                self.known[name] = answer.json()
        faces = {name: len(answer["faces"]) for name, answer in self.known.items()}
        if not faces["whole"] or faces["twelve"] <= faces["four"] or faces["sky"]:
            raise SystemExit(f"the photos are not answered as expected: {faces}")

    def _post(self, client: httpx.Client, content: bytes, kind: str = "image/jpeg", **more: Any) -> httpx.Response:
        headers = {"Content-Type": kind} | more.pop("headers", {})
        return client.post(f"{self.tandem.url}/v1/emotions", content=content, headers=headers, **more)

    def call(self, seed: int, lasts_s: float = float("inf")) -> None:
        """One caller, until the soak ends or for some seconds."""
        chance = random.Random(seed)  # noqa: S311 - no secret
        forms: list[Callable[[httpx.Client, str], str]]
        forms = [self._raw] * 6 + [self._form, self._base64, self._drawn, self._batch, self._frame, self._broken]
        ends_at = time.monotonic() + lasts_s
        with httpx.Client(timeout=TIMEOUT_S) as client:
            while not self.ends.is_set() and time.monotonic() < ends_at:
                form, name = chance.choice(forms), chance.choice(list(self.photos))
                began = time.monotonic()
                try:
                    outcome = form(client, name)
                except (httpx.HTTPError, WebSocketException, OSError) as error:
                    outcome = f"no answer ({form.__name__[1:]}: {type(error).__name__})"
                with self._lock:
                    self.outcomes[outcome] += 1
                    self.seconds.append(time.monotonic() - began)
                if outcome != "200":
                    self.ends.wait(0.2)  # as Retry-After asks for, only less patient

    def _raw(self, client: httpx.Client, name: str) -> str:
        return self._judged(self._post(client, self.photos[name]), name)

    def _form(self, client: httpx.Client, name: str) -> str:
        files = {"image": (f"{name}.jpg", self.photos[name])}
        return self._judged(client.post(f"{self.tandem.url}/v1/emotions", files=files), name)

    def _base64(self, client: httpx.Client, name: str) -> str:
        body = json.dumps({"image": base64.b64encode(self.photos[name]).decode()}).encode()
        return self._judged(self._post(client, body, "application/json"), name)

    def _drawn(self, client: httpx.Client, name: str) -> str:
        answer = self._post(client, self.photos[name], headers={"Accept": "image/jpeg"})
        if answer.status_code == 200 and not answer.content.endswith(b"\xff\xd9"):
            self.wrong.append(f"the drawn {name} is no whole JPEG")
        return outcome_of(answer)

    def _batch(self, client: httpx.Client, name: str) -> str:
        names = [name, *self.photos][:3]
        files = [("images", (each, self.photos[each])) for each in names]
        answer = client.post(f"{self.tandem.url}/v1/emotions/batch", files=files)
        lines = [json.loads(line) for line in answer.text.splitlines()] if answer.status_code == 200 else []
        if answer.status_code == 200 and sorted(line["index"] for line in lines) != [0, 1, 2]:
            self.wrong.append(f"a batch of three has lines {[line['index'] for line in lines]}")
        for line in lines:
            if "answer" in line:
                self.compare(line["answer"], names[line["index"]])
        return outcome_of(answer)

    def _frame(self, _client: httpx.Client, name: str) -> str:
        url = self.tandem.url.replace("http", "ws") + "/v1/stream"
        with connect(url, open_timeout=TIMEOUT_S, close_timeout=TIMEOUT_S) as stream:
            stream.send(self.photos[name])
            answer = json.loads(stream.recv(TIMEOUT_S))
        if "faces" in answer:
            self.compare(answer, name)
            return "200"
        return f"{answer['status']} {answer['type'].removeprefix(PROBLEM)}"

    def _broken(self, client: httpx.Client, name: str) -> str:
        answer = self._post(client, self.photos[name][:2000])
        if answer.status_code == 200:
            self.wrong.append(f"{name}, broken off, is answered")
        return outcome_of(answer)

    def _judged(self, answer: httpx.Response, name: str) -> str:
        if answer.status_code == 200:
            self.compare(answer.json(), name)
        return outcome_of(answer)

    def compare(self, answer: Answer, name: str) -> None:
        """Count it, and note how it differs from the known answer."""
        known = self.known[name]["faces"]
        given = answer["faces"]
        self.compared += 1
        same = len(given) == len(known) and all(
            mine["box"] == theirs["box"]
            and all(abs(mine["emotions"][label] - p) <= TOLERANCE for label, p in theirs["emotions"].items())
            for mine, theirs in zip(given, known, strict=True)
        )
        if not same:
            self.wrong.append(f"{name}: {json.dumps(given)[:300]}")


def outcome_of(answer: httpx.Response) -> str:
    """«200», or status and type of a problem."""
    if answer.status_code == 200:
        return "200"
    if not answer.headers.get("Content-Type", "").startswith("application/problem+json"):
        return f"untyped {answer.status_code}"
    return f"{answer.status_code} {answer.json()['type'].removeprefix(PROBLEM)}"


class Faults:
    """What is done to the service, one thing at a time."""

    def __init__(self, soak: Soak, seed: int) -> None:
        self._soak = soak
        self._tandem = soak.tandem
        self._chance = random.Random(seed)  # noqa: S311 - no secret
        self.done: Counter[str] = Counter()
        self.back_s: dict[str, float] = {}

    def inject(self) -> None:
        """One after the other, until the soak ends."""
        faults = [
            self.kill_triton,
            self.freeze_triton,
            self.pause_triton,
            self.kill_photo_process,
            self.kill_stub,
            self.kill_supervisor,
            self.leave,
            self.dawdle,
            self.burst,
        ]
        while not self._soak.ends.wait(self._chance.uniform(*QUIET_S)):
            fault = self._chance.choice(faults)
            self.done[fault.__name__] += 1
            began = time.monotonic()
            fault()
            wait_until(self._well, f"the service is well after {fault.__name__}", TIMEOUT_S)
            self.back_s[fault.__name__] = max(self.back_s.get(fault.__name__, 0), time.monotonic() - began)

    def _well(self) -> bool:
        with httpx.Client(timeout=TIMEOUT_S) as client:
            return client.get(f"{self._tandem.url}/readyz").status_code == 200 and self._tandem.complete()

    def kill_triton(self) -> None:
        self._end(self._tandem.triton(), signal.SIGKILL)

    def freeze_triton(self) -> None:
        self._end(self._tandem.triton(), signal.SIGSTOP)

    def kill_stub(self) -> None:
        kill(self._tandem.stub())
        self._until_new(self._tandem.triton())

    def kill_supervisor(self) -> None:
        triton = self._tandem.triton()
        kill(self._tandem.supervisor())
        self._until_new(triton)

    def pause_triton(self) -> None:
        triton = self._tandem.triton()
        kill(triton, signal.SIGSTOP)
        time.sleep(1)
        kill(triton, signal.SIGCONT)

    def kill_photo_process(self) -> None:
        kill(self._chance.choice(self._tandem.photo_processes()))

    def leave(self) -> None:
        self._uploads(30, lasts_s=0.5)

    def dawdle(self) -> None:
        self._uploads(30, lasts_s=4)

    def burst(self) -> None:
        seeds = [self._chance.getrandbits(32) for _ in range(BURST_CALLERS)]
        crowd = [threading.Thread(target=self._soak.call, args=(seed, BURST_S)) for seed in seeds]
        for each in crowd:
            each.start()
        for each in crowd:
            each.join()

    def _end(self, triton: int, number: int) -> None:
        kill(triton, number)
        self._until_new(triton)

    def _until_new(self, former: int) -> None:
        def new() -> bool:
            return self._tandem.complete() and self._tandem.triton() != former

        wait_until(new, "there is another Triton", TIMEOUT_S)

    def _uploads(self, count: int, *, lasts_s: float) -> None:
        head = (
            b"POST /v1/emotions HTTP/1.1\r\nHost: t\r\nContent-Type: image/jpeg\r\nContent-Length: 99999\r\n\r\n"
        )
        opened = [socket.create_connection(("127.0.0.1", self._tandem.port)) for _ in range(count)]
        for each in opened:
            each.sendall(head + b"\xff\xd8\xff")
        time.sleep(lasts_s)
        for each in opened:
            each.close()


@dataclass
class Memory:
    """Resident MiB of the gateway and its photo processes over the time, and the gateway's descriptors."""

    tandem: Service
    at: list[float] = field(default_factory=list)
    mebibytes: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    def sample(self) -> None:
        """Take one more."""
        pages = 0
        for process in (self.tandem.process.pid, *self.tandem.photo_processes()):
            with contextlib.suppress(OSError):  # it was killed just now
                pages += int(Path(f"/proc/{process}/statm").read_text().split()[1])
        self.at.append(time.monotonic())
        self.mebibytes.append(pages * os.sysconf("SC_PAGE_SIZE") / MEBIBYTE)
        self.descriptors.append(len(list(Path(f"/proc/{self.tandem.process.pid}/fd").iterdir())))

    def slope(self) -> float:
        """MiB a minute over the second half, when pools and caches are full."""
        half = len(self.at) // 2
        return float(np.polyfit(self.at[half:], self.mebibytes[half:], 1)[0] * 60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="how long (default: 10)")
    parser.add_argument("--seed", type=int, default=1, help="of all that is left to chance (default: 1)")
    parser.add_argument("--callers", type=int, default=6, help="at a time, bursts apart (default: 6)")
    parser.add_argument("--json", help="file for the figures")
    options = parser.parse_args()
    settings = {"triton_home": ROOT / ".triton", "model_repository": ROOT / "model_repository"}
    with service(workers=available_cores(), log_level="error", upload_timeout_s=5, **settings) as tandem:
        soak = Soak(tandem, photos())
        soak.learn()
        before = tandem.holds()
        faults, memory = Faults(soak, options.seed), Memory(tandem)
        jobs = [
            threading.Thread(target=soak.call, args=(options.seed * 1000 + n,)) for n in range(options.callers)
        ]
        jobs.append(threading.Thread(target=faults.inject))
        for each in jobs:
            each.start()
        ends_at = time.monotonic() + options.minutes * 60
        while time.monotonic() < ends_at and jobs[-1].is_alive():
            memory.sample()
            time.sleep(0.5)
        stuck = not jobs[-1].is_alive()
        soak.ends.set()
        for each in jobs:
            each.join()
        time.sleep(1)
        after = tandem.holds()
    raise SystemExit(report(options, soak, faults, memory, before, after) or stuck)


def report(
    options: argparse.Namespace,
    soak: Soak,
    faults: Faults,
    memory: Memory,
    before: dict[str, int],
    after: dict[str, int],
) -> int:
    """Print and write the figures; 1 if something is wrong with them."""
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
        "wrong": len(soak.wrong),
        "seconds p50, p99, most": [round(float(np.percentile(soak.seconds, q)), 3) for q in (50, 99, 100)],
        "faults": dict(faults.done),
        "well again after, at most": {name: round(seconds, 1) for name, seconds in faults.back_s.items()},
        "MiB at begin and end": [round(memory.mebibytes[0]), round(memory.mebibytes[-1])],
        "MiB a minute, second half": round(memory.slope(), 2),
        "held before": before,
        "held after": after,
    }
    table = Table("figure", "value", title="soak")
    for name, value in figures.items():
        table.add_row(name, json.dumps(value) if isinstance(value, dict | list) else str(value))
    Console().print(table)
    for each in soak.wrong[:10]:
        print(each, file=sys.stderr)
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2))
    return int(bool(unanswered or untyped or soak.wrong))


if __name__ == "__main__":
    main()
