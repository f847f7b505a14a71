"""The entry point of a Triton container: runs the server with production flags, and probes its health.

Both images use this file, the CPU image with the wheel's server and NVIDIA's. It is run by path and needs only the
standard library, because NVIDIA's image contains no other part of the service.

    python3 container.py serve [TRITON-ARGUMENT...]
    python3 container.py probe [--model NAME] [--timeout SECONDS]

gRPC and metrics listen on all interfaces of the container, HTTP only on loopback, for the probe.
"""

import argparse
import http.client
import json
import math
import os
import resource
import secrets
import sys
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

LOCKED = ("shared-memory", "model-repository", "statistics", "trace", "logging")
"""Parts of the gRPC protocol that gateways do not need and that let a client write files or map memory."""

BUSY = "exceeds maximum queue size"
"""Triton's error when its queue is full, which does not make a server unhealthy."""


class Unhealthy(Exception):
    """The server cannot be reached or an inference fails; the message says why."""


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


def probe(model: str, *, port: int = HTTP_PORT, timeout_s: float = 5.0) -> None:
    """Check with a real inference of zeros that the model works.

    Triton's own readiness is not enough: it stays true when the process behind a model has died.

    Raises:
        Unhealthy: the server cannot be reached, the model is not loaded, or the inference failed.
    """
    status, text = _ask(port, "GET", "/v2/health/ready", timeout_s)
    if status != http.client.OK:
        raise Unhealthy(f"the server is not ready: HTTP {status} {text}")
    status, text = _ask(port, "GET", f"/v2/models/{model}/config", timeout_s)
    if status != http.client.OK:
        raise Unhealthy(f"model {model} has no configuration: HTTP {status} {text}")
    body = json.dumps({"inputs": zeros(json.loads(text))}).encode()
    status, text = _ask(port, "POST", f"/v2/models/{model}/infer", timeout_s, body)
    if status != http.client.OK and BUSY not in text.lower():
        raise Unhealthy(f"an inference by model {model} failed: HTTP {status} {text}")


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
    """Replace this process by the server, or probe it; returns 0 if it is healthy, 1 if not."""
    if arguments[:1] == ["serve"]:
        server = command(arguments[1:])
        resource.setrlimit(resource.RLIMIT_CORE, (1, 1))  # no core dumps, which would contain faces
        os.execvp(server[0], server)  # noqa: S606 - replaces this process, so that SIGTERM reaches the server
    parser = argparse.ArgumentParser(prog="container.py", description="serve [TRITON-ARGUMENT...], or probe")
    parser.add_argument("verb", choices=["probe"])
    parser.add_argument("--model", default="tandem")
    parser.add_argument("--timeout", type=float, default=5.0)
    options = parser.parse_args(arguments)
    try:
        probe(options.model, timeout_s=options.timeout)
    except Unhealthy as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
