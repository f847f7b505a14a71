"""The gateway's one way to infer: the Open Inference Protocol over gRPC to a Triton."""

import asyncio
import json
import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from service.contract import ModelContract
from service.errors import (
    ContractUnreadable,
    DeadlineExceeded,
    ModelChanged,
    Overloaded,
    TandemError,
    TritonUnavailable,
)

PROBE_TIMEOUT_S = 2.0
"""Deadline of each call that is not a caller's inference: the contract and the readiness probe."""

PROBE_LIFETIME_S = 1.0
"""How long the outcome of a readiness probe is believed."""

SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": "inference.GRPCInferenceService"}],
            "retryPolicy": {
                "maxAttempts": 2,
                "initialBackoff": "0.02s",
                "maxBackoff": "0.2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
}

CHANNEL = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # gRPC's own back-off reaches two minutes; a Triton that is back should be found at once.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Behind a name with several addresses (`dns:///tandem-triton:8001`) each Triton gets its share; one connection
    # would pin one of them. What one of them refuses, another may take: one more attempt, within the deadline.
    ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
    ("grpc.dns_min_time_between_resolutions_ms", 5000),
]

QUEUE_MESSAGES = ("exceeds maximum queue size", "timeout expired")
"""How Triton words the UNAVAILABLE of a full queue, and of a request that waited in it for too long."""


class TritonClient:
    """Calls one model of one Triton. To be built and used inside one event loop."""

    def __init__(self, url: str, *, model_name: str, model_version: str = "") -> None:
        """Open a channel; nothing is sent yet.

        Args:
            url: host:port of Triton's gRPC endpoint.
            model_name: the model's name in Triton.
            model_version: empty for Triton's choice, the newest.
        """
        self.url = url
        self._model_name = model_name
        self._model_version = model_version
        self._client = InferenceServerClient(url, channel_args=CHANNEL)
        self._contract: ModelContract | None = None
        self._contract_lock = asyncio.Lock()
        self._probe_lock = asyncio.Lock()
        self._probed_at = -float("inf")
        self._probe_failure: TandemError | None = None

    async def move(self, url: str) -> None:
        """Use the Triton at another address from now on: a local one takes new ports when it is restarted."""
        former, self._client = self._client, InferenceServerClient(url, channel_args=CHANNEL)
        self.url = url
        self._contract = None
        self._probed_at = -float("inf")
        await former.close()

    async def close(self) -> None:
        """Close the channel; calls in flight fail."""
        await self._client.close()

    @property
    def known_contract(self) -> ModelContract | None:
        """The contract as it was last read; None before, and after the model has changed."""
        return self._contract

    async def contract(self) -> ModelContract:
        """The served model's contract, read from Triton when it is not known.

        Raises:
            ContractUnreadable: the model does not state what it must.
            TritonUnavailable: Triton or the model cannot be reached.
        """
        async with self._contract_lock:
            if self._contract is None:
                self._contract = await self._read_contract()
            return self._contract

    async def _read_contract(self) -> ModelContract:
        name, version = self._model_name, self._model_version
        try:
            metadata = await self._client.get_model_metadata(name, version, client_timeout=PROBE_TIMEOUT_S)
            if not metadata.versions:
                raise ContractUnreadable(f"model «{name}» has no version that is loaded at {self.url}")
            version = version or max(metadata.versions, key=int)
            answer = await self._client.get_model_config(name, version, client_timeout=PROBE_TIMEOUT_S)
        except InferenceServerException as error:
            raise self._failure(error, PROBE_TIMEOUT_S) from error
        return ModelContract.from_config(answer.config, version)

    async def infer(
        self,
        crops: NDArray[np.uint8],
        *,
        contract: ModelContract,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> NDArray[np.float32]:
        """The probabilities of each label for each crop, float32 [N, labels].

        All crops go in one request, unless there are more than the model's largest batch.

        Args:
            crops: uint8 [N, 1, height, width], N >= 1, of the contract's crop size.
            contract: the contract by which the crops were cut.
            timeout_s: seconds until the call is given up.
            headers: what Triton is sent beside it, such as the trace context.

        Raises:
            ModelChanged: Triton serves another version now: read the contract, cut the crops and infer again.
            Overloaded: Triton's queue is full.
            DeadlineExceeded: no answer within ``timeout_s``.
            TritonUnavailable: Triton cannot be reached or failed.
            ValueError: the crops are not what the contract says; one bad item would fail the whole batch
                that Triton forms over all callers, so it is not sent.
        """
        expected = (1, *contract.crop_size)
        if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1:] != expected or not len(crops):
            raise ValueError(f"crops are {crops.dtype} {crops.shape}; the model takes uint8 [N, *{expected}]")
        ends_at = time.monotonic() + timeout_s
        rows = []
        for start in range(0, len(crops), contract.max_batch_size):
            batch = crops[start : start + contract.max_batch_size]
            rows.append(await self._infer_batch(batch, contract, ends_at - time.monotonic(), headers))
        return np.concatenate(rows)

    async def _infer_batch(
        self,
        crops: NDArray[np.uint8],
        contract: ModelContract,
        timeout_s: float,
        headers: Mapping[str, str] | None,
    ) -> NDArray[np.float32]:
        if timeout_s <= 0:
            raise DeadlineExceeded("no time was left for inference")
        tensor = InferInput(contract.input_name, list(crops.shape), "UINT8")
        tensor.set_data_from_numpy(crops)
        try:
            result = await self._client.infer(
                contract.name,
                [tensor],
                model_version=self._model_version,
                outputs=[InferRequestedOutput(contract.output_name)],
                client_timeout=timeout_s,
                headers=headers and dict(headers),
            )
        except InferenceServerException as error:
            failure = self._failure(error, timeout_s)
            if isinstance(failure, ContractUnreadable):
                # The request followed the contract: the model is another one by now, or its contract lies.
                self._contract = None
                raise ModelChanged(failure.detail) from error
            raise failure from error
        served = result.get_response().model_version
        if served != contract.version:
            self._contract = None
            raise ModelChanged(
                f"model «{contract.name}» is at version {served} now; the crops were for {contract.version}"
            )
        return _checked(result.as_numpy(contract.output_name), len(crops), contract)

    async def ready(self) -> ModelContract:
        """Prove by one real inference of one blank crop that answers can be given; believed for a second.

        Triton's own readiness stays true when the process behind a model has died.

        Raises:
            TritonUnavailable: it cannot be reached or failed, or its contract cannot be read.
            DeadlineExceeded: the inference took too long.
        """
        async with self._probe_lock:
            if time.monotonic() - self._probed_at > PROBE_LIFETIME_S:
                self._probe_failure = await self._probe()
                self._probed_at = time.monotonic()
            if self._probe_failure:
                raise type(self._probe_failure)(self._probe_failure.detail)
            return await self.contract()

    async def _probe(self, *, again: bool = True) -> TandemError | None:
        try:
            contract = await self.contract()
            blank = np.zeros((1, 1, *contract.crop_size), np.uint8)
            await self.infer(blank, contract=contract, timeout_s=PROBE_TIMEOUT_S)
        except Overloaded:
            return None  # a busy Triton works; looking away from every gateway at once would help nobody
        except ModelChanged as error:
            return await self._probe(again=False) if again else error
        except TandemError as error:
            return error
        return None

    def _failure(self, error: InferenceServerException, timeout_s: float) -> TandemError:
        message = error.message() or "no reason given"
        match error.status():
            case "StatusCode.UNAVAILABLE" if any(text in message.lower() for text in QUEUE_MESSAGES):
                return Overloaded(f"Triton's queue is full: {message}")
            case "StatusCode.UNAVAILABLE":
                return TritonUnavailable(f"Triton at {self.url} is not available: {message}")
            case "StatusCode.DEADLINE_EXCEEDED":
                return DeadlineExceeded(f"Triton at {self.url} did not answer within {timeout_s:.3g} s")
            case "StatusCode.INVALID_ARGUMENT" | "StatusCode.NOT_FOUND":
                return ContractUnreadable(f"Triton at {self.url} refused model «{self._model_name}»: {message}")
            case status:
                return TritonUnavailable(f"Triton at {self.url} failed ({status}): {message}")


def _checked(probabilities: NDArray[np.float32] | None, rows: int, contract: ModelContract) -> NDArray[np.float32]:
    expected = (rows, len(contract.labels))
    if probabilities is None or probabilities.shape != expected:
        shape = None if probabilities is None else probabilities.shape
        raise TritonUnavailable(f"model «{contract.name}» answered {shape} values where {expected} were due")
    if not np.isfinite(probabilities).all():
        raise TritonUnavailable(f"model «{contract.name}» answered values that are not finite")
    return probabilities
