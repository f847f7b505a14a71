"""The gateway's one way to infer: the Open Inference Protocol over gRPC to a Triton."""

import asyncio
import random
import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from service.errors import (
    ContractUnreadable,
    DeadlineExceeded,
    ModelChanged,
    Overloaded,
    TandemError,
    TritonUnavailable,
)
from service.inference.circuit_breaker import CircuitBreaker
from service.inference.grpc_channel import CHANNEL, cut_off, failure
from service.inference.model_spec import ModelSpec

PROBE_TIMEOUT_S = 2.0
"""Deadline of each call that is not a caller's inference: the contract and the readiness probe."""

PROBE_LIFETIME_S = 1.0
"""How long the outcome of a readiness probe is believed."""

RETRY_PAUSE_S = 0.1
"""At most so long a call that found no Triton waits before its second and last attempt; by chance, so that callers
who failed together do not come back together."""

MAX_ATTEMPTS = 8
"""So many Tritons in turn are asked for a version: during a rollout some serve it and others do not."""

ATTEMPT_PAUSE_S = 0.01
"""At most so long before the contract is asked of the next one; by chance, as calls that alternate with others in
step would come to the same Triton each time."""


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
        self._breaker = CircuitBreaker()
        self._contract: ModelSpec | None = None
        self._reading: asyncio.Task[ModelSpec] | None = None
        self._probe_lock = asyncio.Lock()
        self._probed_at = -float("inf")
        self._probe_failure: TandemError | None = None

    async def move(self, url: str) -> None:
        """Use the Triton at another address from now on: a local one takes new ports when it is restarted.

        Calls in flight to the former one are made again here, as far as their time allows.
        """
        former, self._client = self._client, InferenceServerClient(url, channel_args=CHANNEL)
        self.url = url
        self._contract = self._reading = None
        self._probed_at = -float("inf")
        self._breaker.reset()
        await former.close()

    async def close(self) -> None:
        """Close the channel; calls in flight fail."""
        await self._client.close()

    @property
    def known_contract(self) -> ModelSpec | None:
        """The contract as it was last read; None before, and after the model has changed."""
        return self._contract

    @property
    def answered_at(self) -> float:
        """When Triton last answered anything, in seconds of ``time.monotonic``."""
        return self._breaker.answered_at

    async def contract(self) -> ModelSpec:
        """The served model's contract, read from Triton when it is not known.

        Raises:
            ContractUnreadable: the model does not state what it must.
            TritonUnavailable: Triton or the model cannot be reached.
            DeadlineExceeded: it did not answer in time.
        """
        if self._contract is not None:
            return self._contract
        with self._breaker.call():
            return await self._current_contract()

    async def _current_contract(self) -> ModelSpec:
        """Known or read; all who wait for it share one reading, and its failure."""
        if self._contract is not None:
            return self._contract
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_contract())
            self._reading.add_done_callback(self._keep_contract)
        return await asyncio.shield(self._reading)

    def _keep_contract(self, reading: "asyncio.Task[ModelSpec]") -> None:
        failed = reading.cancelled() or reading.exception() is not None
        if reading is self._reading:  # else it was read from a Triton that we left
            self._reading = None
            if not failed:
                self._contract = reading.result()

    async def _read_contract(self) -> ModelSpec:
        name, version = self._model_name, self._model_version
        try:
            metadata = await self._client.get_model_metadata(name, version, client_timeout=PROBE_TIMEOUT_S)
            if not metadata.versions:
                raise ContractUnreadable(f"model «{name}» has no version that is loaded at {self.url}")
            version = version or max(metadata.versions, key=int)
            for turn in range(1, MAX_ATTEMPTS + 1):
                try:
                    answer = await self._client.get_model_config(name, version, client_timeout=PROBE_TIMEOUT_S)
                    break
                except InferenceServerException:
                    if turn == MAX_ATTEMPTS:
                        raise
                    await asyncio.sleep(random.uniform(0, ATTEMPT_PAUSE_S))  # noqa: S311 - no secret
        except InferenceServerException as error:
            raise failure(error, self.url, self._model_name, PROBE_TIMEOUT_S) from error
        except asyncio.CancelledError:
            raise cut_off() from None
        return ModelSpec.from_config(answer.config, version)

    async def infer(
        self,
        crops: NDArray[np.uint8],
        *,
        contract: ModelSpec,
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
            rows.append(await self._infer_batch(batch, contract, ends_at, headers))
        return np.concatenate(rows)

    async def _infer_batch(
        self,
        crops: NDArray[np.uint8],
        contract: ModelSpec,
        ends_at: float,
        headers: Mapping[str, str] | None,
    ) -> NDArray[np.float32]:
        try:
            with self._breaker.call():
                return await self._attempt(crops, contract, ends_at, headers)
        except TritonUnavailable as error:
            pause_s = random.uniform(0, RETRY_PAUSE_S)  # noqa: S311 - no secret
            if not error.transient or time.monotonic() + pause_s >= ends_at:
                raise
        await asyncio.sleep(pause_s)
        with self._breaker.call():
            return await self._attempt(crops, contract, ends_at, headers)

    async def _attempt(
        self,
        crops: NDArray[np.uint8],
        contract: ModelSpec,
        ends_at: float,
        headers: Mapping[str, str] | None,
    ) -> NDArray[np.float32]:
        for _ in range(MAX_ATTEMPTS - 1):
            try:
                return await self._ask(crops, contract, ends_at, headers)
            except ModelChanged:
                continue  # the next Triton may serve the contract's version still, or already
        return await self._ask(crops, contract, ends_at, headers)

    async def _ask(
        self,
        crops: NDArray[np.uint8],
        contract: ModelSpec,
        ends_at: float,
        headers: Mapping[str, str] | None,
    ) -> NDArray[np.float32]:
        timeout_s = ends_at - time.monotonic()
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
            reason = failure(error, self.url, self._model_name, timeout_s)
            if isinstance(reason, ContractUnreadable):
                # The request followed the contract: the model is another one by now, or its contract lies.
                self._contract = None
                raise ModelChanged(reason.detail) from error
            raise reason from error
        except asyncio.CancelledError:
            raise cut_off() from None
        served = result.get_response().model_version
        if served != contract.version:
            self._contract = None
            raise ModelChanged(
                f"model «{contract.name}» is at version {served} now; the crops were for {contract.version}"
            )
        return _checked(result.as_numpy(contract.output_name), len(crops), contract)

    async def ready(self, *, believed_s: float = PROBE_LIFETIME_S) -> ModelSpec:
        """Prove by one real inference of one blank crop that answers can be given.

        Triton's own readiness stays true when the process behind a model has died.

        Args:
            believed_s: how many seconds old a proof, or a failure, may be.

        Raises:
            TritonUnavailable: it cannot be reached or failed, or its contract cannot be read.
            DeadlineExceeded: the inference took too long.
        """
        async with self._probe_lock:
            if time.monotonic() - self._probed_at > believed_s:
                self._probe_failure = await self._probe()
                self._probed_at = time.monotonic()
            if self._probe_failure:
                raise type(self._probe_failure)(self._probe_failure.detail)
            return await self._current_contract()

    async def _probe(self, *, again: bool = True) -> TandemError | None:
        try:
            with self._breaker.watch():
                contract = await self._current_contract()
                blank = np.zeros((1, 1, *contract.crop_size), np.uint8)
                await self._attempt(blank, contract, time.monotonic() + PROBE_TIMEOUT_S, None)
        except Overloaded:
            return None  # a busy Triton works; looking away from every gateway at once would help nobody
        except ModelChanged as error:
            return await self._probe(again=False) if again else error
        except TandemError as error:
            return error
        return None


def _checked(probabilities: NDArray[np.float32] | None, rows: int, contract: ModelSpec) -> NDArray[np.float32]:
    expected = (rows, len(contract.labels))
    if probabilities is None or probabilities.shape != expected:
        shape = None if probabilities is None else probabilities.shape
        raise TritonUnavailable(f"model «{contract.name}» answered {shape} values where {expected} were due")
    if not np.isfinite(probabilities).all():
        raise TritonUnavailable(f"model «{contract.name}» answered values that are not finite")
    return probabilities
