"""The entry point of a Triton container: runs the server with production flags, watches it, and probes its health.

Both images use this file, the CPU image with the wheel's server and NVIDIA's. It is run by path and needs only the
standard library, because NVIDIA's image contains no other part of the service.

    python3 container.py serve [TRITON-ARGUMENT...]
    python3 container.py probe [--model NAME] [--timeout SECONDS]     readiness: an inference works
    python3 container.py live [--timeout SECONDS]                     liveness: the server answers

``serve`` ends when the server ends or its model no longer works, so that the container's restart policy acts: when
the process behind a model (its stub) dies, Triton keeps running and does not start it again.

gRPC and metrics listen on all interfaces of the container, HTTP only on loopback, for the checks.
"""

import argparse
import http.client
import json
import math
import os
import resource
import secrets
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any

MODELS = "/models"
HTTP_PORT = 8000
GRPC_PORT = 8001
METRICS_PORT = 8002
LOOPBACK = "127.0.0.1"
ANYWHERE = "0.0.0.0"  # noqa: S104 - inside the container, whose network decides who can connect

EXIT_TIMEOUT_S = 20
"""Seconds that requests in flight get after SIGTERM."""

CONNECTION_AGE_S = 60
"""Seconds until a client is asked to reconnect. gRPC resolves DNS only when it connects, so that an added Triton
would otherwise never get requests."""

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux keeps POSIX shared memory

LOCKED = ("shared-memory", "model-repository", "statistics", "trace", "logging")
"""Parts of the gRPC protocol that gateways do not need and that let a client write files or map memory."""

MODEL = "tandem"

CHECK_INTERVAL_S = 1.0
"""Seconds from a check that succeeded to the next one."""

RECHECK_INTERVAL_S = 0.25
"""Seconds from a check that failed to the next one."""

CHECK_TIMEOUT_S = 2.0

MAX_FAILED_CHECKS = 2
"""Failed checks in a row until the server is ended; `tandem serve` has the same rule for its local Triton."""


class Unhealthy(Exception):
    """The server cannot be reached or inferences fail; the message says why."""


def command(extra: list[str]) -> list[str]:
    """Return the server's command line. Options in ``extra`` override ours, also the model repository."""
    own_repository = any(each.startswith("--model-repository") for each in extra)  # Triton would use both
    return [
        "tritonserver",
        *([] if own_repository else [f"--model-repository={MODELS}"]),
        # Polling makes a new version's folder that is moved in go live without a restart. It also disables loading
        # and unloading models on request.
        "--model-control-mode=poll",
        "--repository-poll-secs=2",
        "--strict-readiness=true",
        "--disable-auto-complete-config",
        f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
        f"--http-address={LOOPBACK}",
        f"--http-port={HTTP_PORT}",
        f"--grpc-address={ANYWHERE}",
        f"--grpc-port={GRPC_PORT}",
        f"--grpc-max-connection-age={CONNECTION_AGE_S * 1000}",
        f"--grpc-max-connection-age-grace={EXIT_TIMEOUT_S * 1000}",
        restriction(LOCKED),
        f"--metrics-address={ANYWHERE}",
        f"--metrics-port={METRICS_PORT}",
        *extra,
    ]


def restriction(protocols: tuple[str, ...]) -> str:
    """Return the server's option that locks protocols with a key that nobody knows."""
    return f"--grpc-restricted-protocol={','.join(protocols)}:tandem-lock={secrets.token_hex(16)}"


def supervise(line: list[str], *, port: int) -> int:
    """Run the server until it ends or its model has died; returns its exit status, 128 + n for signal n.

    SIGTERM and SIGINT are passed on, so that the server finishes the requests that it has. A killed server leaves
    shared memory behind, which is removed: on Kubernetes it outlives the container.
    """
    prefix = f"tandem-{secrets.token_hex(8)}-"
    server = subprocess.Popen([*line, f"--backend-config=python,shm-region-prefix-name={prefix}"])  # noqa: S603 - our own command
    try:
        return _watch(server, port)
    finally:
        for path in SHARED_MEMORY.glob(f"{prefix}*"):
            path.unlink(missing_ok=True)


def _watch(server: "subprocess.Popen[bytes]", port: int) -> int:
    stopping = False

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        server.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    ended = select.poll()
    ended.register(os.pidfd_open(server.pid), select.POLLIN)
    started = False
    failed = 0
    while not ended.poll(1000 * (RECHECK_INTERVAL_S if failed or not started else CHECK_INTERVAL_S)):
        if stopping:
            continue
        if not started:
            started = _is_ready(port)
            continue
        try:
            check(MODEL, port=port, timeout_s=CHECK_TIMEOUT_S)
            failed = 0
        except Unhealthy as error:
            failed += 1
            print(f"check {failed} of {MAX_FAILED_CHECKS} failed: {error}", file=sys.stderr, flush=True)
        if failed == MAX_FAILED_CHECKS and not stopping:
            print("the model does not work; ending the server", file=sys.stderr, flush=True)
            server.kill()  # SIGTERM would first wait for requests that nobody answers
            server.wait()
            return 1
    status = server.wait()
    return status if status >= 0 else 128 - status


def _is_ready(port: int) -> bool:
    try:
        return _ask(port, "GET", "/v2/health/ready", CHECK_TIMEOUT_S)[0] == http.client.OK
    except Unhealthy:
        return False


def live(*, port: int = HTTP_PORT, timeout_s: float = 5.0) -> None:
    """Check that the server answers, if only that it is not ready. No inference: a busy server must not be ended.

    Raises:
        Unhealthy: the server cannot be reached.
    """
    status, text = _ask(port, "GET", "/v2/health/live", timeout_s)
    if status != http.client.OK:
        raise Unhealthy(f"the server is not live: HTTP {status} {text}")


def probe(model: str, *, port: int = HTTP_PORT, timeout_s: float = 5.0) -> None:
    """Check that the server is ready and that inferences work.

    Triton's own readiness is not enough: it stays true when the process behind a model has died.

    Raises:
        Unhealthy: the server cannot be reached, the model is not loaded, or inferences fail.
    """
    status, text = _ask(port, "GET", "/v2/health/ready", timeout_s)
    if status != http.client.OK:
        raise Unhealthy(f"the server is not ready: HTTP {status} {text}")
    if not check(model, port=port, timeout_s=timeout_s):
        raise Unhealthy(f"model {model} is not loaded")


def check(model: str, *, port: int, timeout_s: float) -> bool:
    """Check with a real inference of zeros that the model works; returns False if it is not loaded.

    While requests queue, the inference may be refused or take too long. The model works nevertheless if other
    requests were answered in the meantime.

    Raises:
        Unhealthy: the server cannot be reached, or the inference failed and no other request was answered.
    """
    before = _answered(model, port, timeout_s)
    if before is None:
        return False
    status, text = _ask(port, "GET", f"/v2/models/{model}/config", timeout_s)
    if status != http.client.OK:
        return False
    body = json.dumps({"inputs": zeros(json.loads(text))}).encode()
    try:
        status, text = _ask(port, "POST", f"/v2/models/{model}/infer", timeout_s, body)
        failure = "" if status == http.client.OK else f"HTTP {status} {text}"
    except Unhealthy as error:
        failure = str(error)
    if failure and _answered(model, port, timeout_s) == before:
        raise Unhealthy(f"an inference by model {model} failed, and no other was answered: {failure}")
    return True


def _answered(model: str, port: int, timeout_s: float) -> int | None:
    """Return how many requests all versions of a model have answered so far; None if it is not loaded."""
    status, text = _ask(port, "GET", f"/v2/models/{model}/stats", timeout_s)
    if status != http.client.OK:
        return None
    return sum(int(each["inference_stats"]["success"]["count"]) for each in json.loads(text)["model_stats"])


def zeros(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one item of zeros for each input in a model's configuration, as JSON of the inference protocol."""
    batch = [1] if config.get("max_batch_size", 0) else []
    inputs = []
    for each in config["input"]:
        shape = batch + [max(1, int(size)) for size in each["dims"]]
        datatype = each["data_type"].removeprefix("TYPE_")
        inputs.append({"name": each["name"], "shape": shape, "datatype": datatype, "data": [0] * math.prod(shape)})
    return inputs


def _ask(port: int, method: str, path: str, timeout_s: float, body: bytes | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=timeout_s)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        raise Unhealthy(f"{method} {path} on port {port}: {error or type(error).__name__}") from error
    finally:
        connection.close()


def main(arguments: list[str]) -> int:
    """Run the server, or check it; returns 0 if it is healthy, 1 if not."""
    if arguments[:1] == ["serve"]:
        resource.setrlimit(resource.RLIMIT_CORE, (1, 1))  # no core dumps, which would contain faces
        line = command(arguments[1:])
        ports = [each.partition("=")[2] for each in line if each.startswith("--http-port=")]
        return supervise(line, port=int(ports[-1]))
    parser = argparse.ArgumentParser(prog="container.py", description="serve [TRITON-ARGUMENT...], probe or live")
    parser.add_argument("verb", choices=["probe", "live"])
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--timeout", type=float, default=5.0)
    options = parser.parse_args(arguments)
    try:
        if options.verb == "live":
            live(timeout_s=options.timeout)
        else:
            probe(options.model, timeout_s=options.timeout)
    except Unhealthy as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
