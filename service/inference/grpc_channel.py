"""The gRPC channel to Triton: its options, and what failures of its calls mean."""

import asyncio
import json

from tritonclient.utils import InferenceServerException

from service.errors import ContractUnreadable, DeadlineExceeded, Overloaded, TandemError, TritonUnavailable

CHANNEL_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # gRPC's default backoff grows to two minutes; a Triton that is back should be found at once.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Behind a name with several addresses (`dns:///tandem-triton:8001`) every Triton gets its share; the default
    # policy would pin one of them. gRPC's own retries stay off: they would resend what a full queue has refused.
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
    ("grpc.dns_min_time_between_resolutions_ms", 5000),
)


def channel_options(proxy: str | None = None) -> list[tuple[str, int | str]]:
    """Return the options of a channel through ``proxy``, or through none, whatever the environment says."""
    if proxy is None:
        return [*CHANNEL_OPTIONS, ("grpc.enable_http_proxy", 0)]
    return [*CHANNEL_OPTIONS, ("grpc.http_proxy", proxy)]


QUEUE_MESSAGES = ("exceeds maximum queue size", "timeout expired")
"""How Triton words the UNAVAILABLE of a full queue, and that of a request that waited in it for too long."""


def error_from_grpc(error: InferenceServerException, url: str, model: str, timeout_s: float) -> TandemError:
    """Translate the failure of a call for ``model`` to ``url`` that had ``timeout_s`` seconds."""
    message = error.message() or "no reason given"
    match error.status():
        case "StatusCode.UNAVAILABLE" if any(text in message.lower() for text in QUEUE_MESSAGES):
            return Overloaded(f"Triton's queue is full: {message}")
        case "StatusCode.UNAVAILABLE":
            return TritonUnavailable(f"Triton at {url} is not available: {message}", transient=True)
        case "StatusCode.DEADLINE_EXCEEDED":
            return DeadlineExceeded(f"Triton at {url} did not answer within {timeout_s:.3g} s")
        case "StatusCode.INVALID_ARGUMENT" | "StatusCode.NOT_FOUND":
            return ContractUnreadable(f'Triton at {url} refused model "{model}": {message}')
        case status:
            return TritonUnavailable(f"Triton at {url} failed ({status}): {message}")


def error_from_cancellation() -> BaseException:
    """Tell a canceled task from a closed channel, whose calls gRPC cancels, as ``TritonClient.reconnect`` does."""
    task = asyncio.current_task()
    if task and task.cancelling():
        return asyncio.CancelledError()
    return TritonUnavailable("Triton was restarted during the call", transient=True)
