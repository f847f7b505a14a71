"""The gRPC channel to Triton: its options, and what the failures of its calls mean."""

import asyncio
import json

from tritonclient.utils import InferenceServerException

from service.errors import ContractUnreadable, DeadlineExceeded, Overloaded, TandemError, TritonUnavailable

CHANNEL = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # gRPC's own back-off reaches two minutes; a Triton that is back should be found at once.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Behind a name with several addresses (`dns:///tandem-triton:8001`) each Triton gets its share; one connection
    # would pin one of them. gRPC's own retries stay off: they would send again what a full queue has refused.
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
    ("grpc.dns_min_time_between_resolutions_ms", 5000),
]

QUEUE_MESSAGES = ("exceeds maximum queue size", "timeout expired")
"""How Triton words the UNAVAILABLE of a full queue, and of a request that waited in it for too long."""


def failure(error: InferenceServerException, url: str, model: str, timeout_s: float) -> TandemError:
    """What went wrong with a call to ``model`` at ``url`` that had ``timeout_s`` seconds."""
    message = error.message() or "no reason given"
    match error.status():
        case "StatusCode.UNAVAILABLE" if any(text in message.lower() for text in QUEUE_MESSAGES):
            return Overloaded(f"Triton's queue is full: {message}")
        case "StatusCode.UNAVAILABLE":
            return TritonUnavailable(f"Triton at {url} is not available: {message}", transient=True)
        case "StatusCode.DEADLINE_EXCEEDED":
            return DeadlineExceeded(f"Triton at {url} did not answer within {timeout_s:.3g} s")
        case "StatusCode.INVALID_ARGUMENT" | "StatusCode.NOT_FOUND":
            return ContractUnreadable(f"Triton at {url} refused model «{model}»: {message}")
        case status:
            return TritonUnavailable(f"Triton at {url} failed ({status}): {message}")


def cut_off() -> BaseException:
    """What a cancellation during a call means: gRPC cancels those of a channel that is closed, as in ``move``."""
    task = asyncio.current_task()
    if task and task.cancelling():
        return asyncio.CancelledError()
    return TritonUnavailable("Triton was restarted during the call", transient=True)
