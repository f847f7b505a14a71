"""Fuzz the HTTP interface of a service: raw bytes, heads, chunks, photos, forms, JSON, ZIP archives, streams.

    python -m tests.hostile.http_fuzz [--seconds 20] [--seed 1] [--kind KIND] [--number N]

Starts `tandem serve` with a local Triton and short time limits, and sends it the cases of http_cases.py on several
connections at a time. Every answer must be a success or a typed problem that a caller can cause, every stream must
close with a proper code, and every connection must be closed in time. Meanwhile `/livez` answers.
In the end a photo is answered as at the beginning, and the memory is given back. Prints a table of what was
answered, and exits with 1 if anything was wrong. ``--kind`` and ``--number`` repeat a case that the report names.
"""

import argparse
import collections
import contextlib
import http.client
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .http_answers import Wrong, outcomes, receive_all
from .http_cases import KINDS, Case, make, photo

ROOT = Path(__file__).parents[2]

SETTINGS: dict[str, object] = {
    "max_upload_bytes": 1024 * 1024,
    "max_batch_bytes": 2 * 1024 * 1024,
    "max_batch_photos": 20,
    "upload_timeout_s": 1,
    "batch_upload_timeout_s": 1,
    "stream_idle_s": 1,
    "keep_alive_s": 1,
    "batch_patience_s": 10,
}
"""Small and short, so that limits are reached."""

CONNECTIONS = 12
"""How many connections are attacked with at a time."""

CLOSED_WITHIN_S = 60.0
"""Far more than the time limits above, for a busy machine."""

LIVEZ_S = 20.0
"""Longer, and the event loop hangs. The p99 of `/livez` is printed; how fast it is, is a matter for benchmarks."""

KEPT_MIB = 96.0
"""Memory that may stay, for the allocator and decoders that have not been used before."""

GIVEN_BACK_WITHIN_S = 60.0

WARM_UP = 0.3
"""Share of the time and of the cases before the memory is measured first."""


@dataclass
class Report:
    """What was answered to the cases of each kind, and what was wrong."""

    counts: dict[str, collections.Counter[str]] = field(
        default_factory=lambda: collections.defaultdict(collections.Counter)
    )
    wrong: list[str] = field(default_factory=list)
    livez_s: list[float] = field(default_factory=list)
    before_mib: float = 0
    after_mib: float = 0

    def table(self) -> str:
        """Return a Markdown table with a row per kind."""
        rows = ["| sent | cases | answers |", "|---|---|---|"]
        for kind, counts in self.counts.items():
            answers = ", ".join(f"{count} × {outcome}" for outcome, count in counts.most_common() if outcome)
            rows.append(f"| {kind} | {counts['']} | {answers} |")
        return "\n".join(rows)


class Fuzzer:
    """Sends cases to a service on this machine."""

    def __init__(self, port: int, pid: int, seed: int) -> None:
        self._port = port
        self._pid = pid
        self._seed = seed
        self._lock = threading.Lock()
        self._numbers: collections.Counter[str] = collections.Counter()
        self.report = Report()

    def run(self, *, seconds: float = 0, cases: int = 0) -> Report:
        """Send all kinds of cases for so long, and so many of each kind."""
        good, started = self._good_answer(), time.monotonic()

        def is_over(share: float) -> bool:
            is_sent = all(self._numbers[kind] >= share * cases for kind in KINDS)
            return is_sent and time.monotonic() > started + share * seconds

        self._send_until(lambda: is_over(WARM_UP))
        self.report.before_mib = self._memory_mib()
        ended = threading.Event()
        watcher = threading.Thread(target=self._watch_livez, args=(ended,))
        watcher.start()
        try:
            self._send_until(lambda: is_over(1))
        finally:
            ended.set()
            watcher.join()
        if self._good_answer() != good:
            self.report.wrong.append("a photo is no longer answered as at the beginning")
        self._await_memory()
        return self.report

    def send(self, kind: str, number: int) -> None:
        """Send one case, and note its outcomes or what is wrong with them."""
        try:
            found = self._exchange(make(kind, self._seed, number))
            wrong = None
        except Exception as error:  # whatever is not understood is wrong, too
            found, wrong = ["wrong"], f"{kind}, number {number}: {type(error).__name__}: {error}"
        with self._lock:
            self.report.counts[kind].update(["", *(found or ["closed"])])
            if wrong:
                self.report.wrong.append(wrong)

    def _send_until(self, is_over: Callable[[], bool]) -> None:
        def send() -> None:
            while not is_over() and len(self.report.wrong) < 20:
                with self._lock:
                    kind = min(KINDS, key=lambda kind: self._numbers[kind])
                    self._numbers[kind] += 1
                    number = self._numbers[kind]
                self.send(kind, number)

        threads = [threading.Thread(target=send) for _ in range(CONNECTIONS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _exchange(self, case: Case) -> list[str]:
        with socket.create_connection(("127.0.0.1", self._port), timeout=CLOSED_WITHIN_S) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with contextlib.suppress(OSError):  # the service may refuse it before its end
                for number, piece in enumerate(case.pieces):
                    connection.sendall(piece)
                    if case.is_stream and number == 0:  # frames before the answer to the handshake are not read
                        select.select([connection], [], [], CLOSED_WITHIN_S)
                if case.is_cut:
                    connection.shutdown(socket.SHUT_WR)
            received = receive_all(connection, within_s=CLOSED_WITHIN_S, is_stream=case.is_stream)
            return list(outcomes(received, is_head=case.is_head))

    def _good_answer(self) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=CLOSED_WITHIN_S)
        connection.request("POST", "/v1/emotions", photo(), {"Content-Type": "image/jpeg"})
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        if answer.status != 200:
            raise Wrong(f"a good photo is answered with {answer.status}: {body[:300]!r}")
        return body

    def _watch_livez(self, ended: threading.Event) -> None:
        while not ended.wait(0.05):
            started = time.monotonic()
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=CLOSED_WITHIN_S)
                connection.request("GET", "/livez")
                connection.getresponse().read()
                connection.close()
            except OSError as error:
                self.report.wrong.append(f"/livez: {error!r}")
            self.report.livez_s.append(time.monotonic() - started)
            if self.report.livez_s[-1] > LIVEZ_S:
                self.report.wrong.append(
                    f"/livez took {self.report.livez_s[-1]:.1f} s; the limit is {LIVEZ_S:g} s"
                )

    def _await_memory(self) -> None:
        ends_at = time.monotonic() + GIVEN_BACK_WITHIN_S
        while True:
            self.report.after_mib = self._memory_mib()
            if self.report.after_mib <= self.report.before_mib + KEPT_MIB:
                return
            if time.monotonic() > ends_at:
                break
            time.sleep(0.2)
        before, after = self.report.before_mib, self.report.after_mib
        self.report.wrong.append(f"memory grew from {before:.0f} to {after:.0f} MiB; {KEPT_MIB:g} may stay")

    def _memory_mib(self) -> float:
        """Memory of the service's own processes: the gateway and its workers."""
        pages = 0
        for pid in (self._pid, *_workers(self._pid)):
            with contextlib.suppress(OSError):
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _workers(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found += map(int, (task / "children").read_text().split())
    return [each for each in found if "service.workers" in Path(f"/proc/{each}/cmdline").read_text()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20, help="duration (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=1, help="random seed (default: %(default)s)")
    parser.add_argument("--kind", choices=KINDS, help="repeat one case of this kind")
    parser.add_argument("--number", type=int, default=1, help="the case's number")
    options = parser.parse_args()
    sys.path[:0] = [str(ROOT / "tests" / "fixtures"), str(ROOT / "tests" / "faults")]
    from running_service import service  # noqa: PLC0415 - needs the paths above

    repository = {"triton_home": ROOT / ".triton", "model_repository": ROOT / "model_repository"}
    with service(workers=2, **repository, **SETTINGS) as tandem:
        fuzzer = Fuzzer(tandem.port, tandem.process.pid, options.seed)
        if options.kind:
            case = make(options.kind, options.seed, options.number)
            print(*(repr(piece[:500]) for piece in case.pieces), sep="\n")
            fuzzer.send(options.kind, options.number)
            report = fuzzer.report
        else:
            report = fuzzer.run(seconds=options.seconds)
    print(report.table())
    if report.livez_s:
        times = sorted(report.livez_s)
        p50, p99 = (times[int(len(times) * share)] * 1000 for share in (0.5, 0.99))
        print(f"/livez p50 {p50:.0f} ms, p99 {p99:.0f} ms, max {times[-1] * 1000:.0f} ms")
        print(f"memory {report.before_mib:.0f} MiB before, {report.after_mib:.0f} MiB after")
    for each in report.wrong:
        print(f"wrong (seed {options.seed}): {each}")
    sys.exit(bool(report.wrong))


if __name__ == "__main__":
    main()
