"""What a stranger on one address does to a service for the soak test; every attack ends by itself."""

import contextlib
import random
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from tests.hostile.http_answers import outcomes, receive_all  # noqa: E402
from tests.hostile.http_cases import KINDS, make, photo  # noqa: E402
from tests.hostile.seeds import png  # noqa: E402

ATTACK_S, QUIET_S = 10.0, 10.0
"""How long attacks and the pauses between them take."""

ANSWERED_WITHIN_S = 60.0

HANDSHAKE = (
    b"GET /v1/stream HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def head(kind: str, length: int, more: str = "") -> bytes:
    lines = (
        f"POST /v1/emotions HTTP/1.1\r\nHost: t\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{more}\r\n"
    )
    return lines.encode()


class Attacks:
    """One attack after another, with pauses in which the service is measured without any."""

    def __init__(self, port: int, seed: int, ended: threading.Event) -> None:
        self._port = port
        self._random = random.Random(seed)  # noqa: S311 - not a secret
        self._seed = seed
        self._ended = ended
        self._until = 0.0
        self.active = threading.Event()
        """Set while an attack lasts."""
        self.done: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        """What the attacker was answered; not counted among the answers of callers."""
        self.wrong: list[str] = []

    def run(self) -> None:
        """Attack until the soak ends."""
        attacks: list[Callable[[], None]] = [
            self.send_anything,
            self.send_endless_heads,
            self.send_json_cut_by_blanks,
            self.send_fragments,
            self.send_pings,
            self.hold_uploads,
            self.hold_frames,
            self.send_large_photos,
            self.hold_connections,
            self.read_slowly,
        ]
        while not self._ended.wait(QUIET_S):
            if not any(self.done[attack.__name__] == 0 for attack in attacks):
                self._random.shuffle(attacks)
            attack = min(attacks, key=lambda each: self.done[each.__name__])
            self.done[attack.__name__] += 1
            self._until = time.monotonic() + ATTACK_S
            self.active.set()
            attack()
            self.active.clear()

    def send_anything(self) -> None:
        """Send what the fuzzer sends."""
        number = self._random.getrandbits(32)

        def send(worker: int) -> None:
            for count in self._while_active():
                kind = list(KINDS)[count % len(KINDS)]
                case = make(kind, self._seed, number + 1000 * worker + count)
                try:
                    with self._connection() as connection:
                        with contextlib.suppress(OSError):
                            for piece in case.pieces:
                                connection.sendall(piece)
                        received = receive_all(connection, within_s=ANSWERED_WITHIN_S, is_stream=case.is_stream)
                    self.answers.update(outcomes(received, is_head=case.is_head))
                except Exception as error:  # whatever is not understood is wrong
                    self.wrong.append(f"{kind}: {type(error).__name__}: {error}")

        self._in_parallel(send, 6)

    def send_endless_heads(self) -> None:
        """Pipeline requests, then send a head without an end."""
        line = b"X: " + b"x" * 8000 + b"\r\n"
        self._flood(
            b"GET /openapi.json HTTP/1.1\r\nHost: t\r\n\r\n" * 100 + b"GET / HTTP/1.1\r\nHost: t\r\n", line
        )

    def send_json_cut_by_blanks(self) -> None:
        """Send a photo in base64 with a blank after every two characters."""
        body = b'{"image":"' + b"AA " * 6_000_000 + b'"}'
        self._post_repeatedly(head("application/json", len(body)) + body, 3)

    def send_fragments(self) -> None:
        """Send one message in fragments of a byte."""
        self._flood(HANDSHAKE, b"\x00\x81\0\0\0\0x" * 1000, waits=True)

    def send_pings(self) -> None:
        """Send pings and read no pongs."""
        self._flood(HANDSHAKE, (b"\x89\xfd\0\0\0\0" + b"x" * 125) * 100, waits=True)

    def hold_uploads(self) -> None:
        """Announce large photos, send most of them and wait."""
        self._hold(head("image/jpeg", 20_000_000) + bytes(8_000_000), 40)

    def hold_frames(self) -> None:
        """Send most of a frame on each of many streams."""
        self._hold(HANDSHAKE, 30, then=b"\x82\xff" + struct.pack("!Q", 2_000_000) + bytes(1_900_000))

    def send_large_photos(self) -> None:
        """Send flat photos of 49 Mpx."""
        file = png(7000, 7000, 8, 0, rows=bytes(7001 * 7000))
        self._post_repeatedly(head("image/png", len(file)) + file, 3)

    def hold_connections(self) -> None:
        """Open 500 connections and send nothing."""
        self._hold(b"", 500)

    def read_slowly(self) -> None:
        """Ask for pictures and do not read them."""
        file = photo()
        self._hold(head("image/jpeg", len(file), "Accept: image/png\r\n") + file, 30)

    def _while_active(self) -> Iterator[int]:
        count = 0
        while time.monotonic() < self._until and not self._ended.is_set():
            yield count
            count += 1

    def _connection(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self._port), timeout=ANSWERED_WITHIN_S)

    @staticmethod
    def _in_parallel(send: Callable[[int], None], count: int) -> None:
        threads = [threading.Thread(target=send, args=(worker,)) for worker in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _post_repeatedly(self, request: bytes, connections: int) -> None:
        def send(_worker: int) -> None:
            for _ in self._while_active():
                try:
                    with self._connection() as connection:
                        with contextlib.suppress(OSError):
                            connection.sendall(request)
                        received = receive_all(connection, within_s=ANSWERED_WITHIN_S)
                    self.answers.update(outcomes(received, is_head=False))
                except Exception as error:
                    self.wrong.append(f"{type(error).__name__}: {error}")

        self._in_parallel(send, connections)

    def _flood(self, first: bytes, then: bytes, *, waits: bool = False) -> None:
        """Send ``then`` again and again, on a new connection whenever one is closed."""
        for _ in self._while_active():
            with contextlib.suppress(OSError), self._connection() as connection:
                connection.settimeout(0.5)
                connection.sendall(first)
                if waits:
                    connection.recv(1000)
                for _ in self._while_active():
                    connection.sendall(then)

    def _hold(self, request: bytes, count: int, *, then: bytes = b"") -> None:
        """Keep so many connections open that have sent this."""
        with contextlib.ExitStack() as stack:
            for _ in range(count):
                with contextlib.suppress(OSError):
                    connection = stack.enter_context(self._connection())
                    connection.settimeout(0.5)
                    connection.sendall(request)
                    if then:
                        connection.recv(1000)
                        connection.sendall(then)
                if time.monotonic() > self._until:
                    break
            self._ended.wait(max(0.0, self._until - time.monotonic()))
