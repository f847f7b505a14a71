"""The load generator: post one photo over keep-alive connections, and print JSON. It runs in its own process.

Closed loop: each client sends its next photo when it has its answer; after a 503 it waits for Retry-After seconds.
Open loop (``--rate``): photos are due at a constant rate regardless of the answers, and latency counts from the
time a photo was due, so that a stall counts for every photo it delays (no coordinated omission).
"""

import argparse
import asyncio
import json
import re
import resource
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import httptools
import numpy as np
import uvloop

STAGE = re.compile(rb"(\w+);dur=([\d.]+)")
DRAIN_TIMEOUT_S = 30.0
"""Time for the last answers to arrive after the end; if it runs out, the benchmark fails."""

PERCENTILES = (50, 95, 99)


@dataclass
class Answer:
    """One HTTP response."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""

    def header(self, wanted: bytes) -> bytes:
        """Return the value of a header; empty if it is missing."""
        return next((value for name, value in self.headers if name.lower() == wanted), b"")


class Connection(asyncio.Protocol):
    """One keep-alive connection with one request at a time.

    It uses far less CPU than a general client, which would distort the results.
    """

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Answer] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._waiting and not self._waiting.done():
            self._waiting.set_exception(error or ConnectionError("the service closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._answer.headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        self._answer.body += body

    def on_message_complete(self) -> None:
        self._answer.status = self._parser.get_status_code()
        if self._waiting and not self._waiting.done():
            self._waiting.set_result(self._answer)

    @property
    def open(self) -> bool:
        return self._transport is not None

    async def post(self, request: bytes) -> Answer:
        assert self._transport
        self._answer = Answer()
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._waiting


@dataclass
class Record:
    """What a run measured.

    Attributes:
        latencies: seconds by status, of photos that were due after the warm-up.
        in_time: photos answered between warm-up and end, whenever they were due: those in flight at the start make
            up for those in flight at the end.
        stages: milliseconds by stage from the Server-Timing header, and "gateway", which is the rest.
        broken: connection errors by type.
    """

    latencies: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    in_time: int = 0
    stages: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    broken: Counter[str] = field(default_factory=Counter)

    def add(self, answer: Answer, seconds: float) -> None:
        self.latencies[answer.status].append(seconds)
        if answer.status != 200:
            return
        known = 0.0
        for name, value in STAGE.findall(answer.header(b"server-timing")):
            self.stages[name.decode()].append(float(value))
            known += float(value) if name != b"wait" else 0.0
        self.stages["gateway"].append(seconds * 1000 - known)


class Load:
    """Clients that post ``photo`` to ``url`` in a closed or an open loop."""

    def __init__(self, url: str, photo: bytes, *, faces: int, clients: int, rate: float | None) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname, parts.port)
        self._request = (
            f"POST /v1/emotions HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: image/jpeg\r\n"
            f"Content-Length: {len(photo)}\r\n\r\n"
        ).encode() + photo
        self._faces = faces
        self._clients = clients
        self._rate = rate
        self._due = count()
        self.record = Record()

    async def run(self, warm_up_s: float, seconds: float) -> None:
        """Send photos and fill ``record``."""
        start = time.perf_counter()
        self._counts_from, self._ends_at = start + warm_up_s, start + warm_up_s + seconds
        self._start = start
        async with asyncio.timeout(warm_up_s + seconds + DRAIN_TIMEOUT_S), asyncio.TaskGroup() as tasks:
            for _ in range(self._clients):
                tasks.create_task(self._client())

    async def _client(self) -> None:
        loop = asyncio.get_running_loop()
        connection = Connection()
        while True:
            due = await self._next_due()
            if due >= self._ends_at:
                return
            try:
                if not connection.open:
                    _, connection = await loop.create_connection(Connection, *self._address)
                answer = await connection.post(self._request)
            except OSError as error:
                self.record.broken[type(error).__name__] += 1
                continue
            now = time.perf_counter()
            if due >= self._counts_from:
                self.record.add(answer, now - due)
            self.record.in_time += answer.status == 200 and self._counts_from <= now < self._ends_at
            self._check(answer)
            if self._rate is None and answer.status == 503:
                await asyncio.sleep(float(answer.header(b"retry-after")))

    async def _next_due(self) -> float:
        if self._rate is None:
            return time.perf_counter()
        due = self._start + next(self._due) / self._rate
        if due < self._ends_at:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
        return due

    def _check(self, answer: Answer) -> None:
        """End the benchmark on a wrong answer, which may be fast because it is wrong."""
        if answer.status == 200:
            found = len(json.loads(answer.body)["faces"])
            if found != self._faces:
                raise SystemExit(f"expected {self._faces} faces, the answer has {found}")
        elif answer.status != 503:
            raise SystemExit(f"status {answer.status}: {answer.body.decode()}")


def milliseconds(seconds: list[float]) -> dict[str, float]:
    """Return percentiles and the maximum in milliseconds."""
    values = np.array(seconds) * 1000
    return {f"p{p}": float(np.percentile(values, p)) for p in PERCENTILES} | {"max": float(values.max())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("photo", type=Path)
    parser.add_argument("--faces", type=int, required=True, help="faces that each answer must have")
    parser.add_argument("--clients", type=int, required=True, help="number of connections")
    parser.add_argument("--rate", type=float, help="photos per second in an open loop (default: closed loop)")
    parser.add_argument(
        "--warm-up", type=float, default=1.0, help="seconds before the measurement (default: %(default)g)"
    )
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="seconds of the measurement (default: %(default)g)"
    )
    options = parser.parse_args()
    load = Load(
        options.url,
        options.photo.read_bytes(),
        faces=options.faces,
        clients=options.clients,
        rate=options.rate,
    )
    uvloop.run(load.run(options.warm_up, options.seconds))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    record = load.record
    answered, refused = record.latencies.get(200, []), record.latencies.get(503, [])
    result = {
        "clients": options.clients,
        "rate": options.rate,
        "seconds": options.seconds,
        "answered": len(answered),
        "refused": len(refused),
        "broken": dict(record.broken),
        "throughput": record.in_time / options.seconds,
        "latency_ms": milliseconds(answered) if answered else None,
        "refusal_ms": milliseconds(refused) if refused else None,
        "stages_ms": {name: float(np.median(values)) for name, values in record.stages.items()},
        "client_cpu_s": usage.ru_utime + usage.ru_stime,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
