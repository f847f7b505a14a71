"""The gateway's only way to infer: the Open Inference Protocol over gRPC to Triton."""

import asyncio
import logging
import random
import time
from dataclasses import replace

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
from service.inference.grpc_channel import channel_options, error_from_cancellation, error_from_grpc
from service.inference.model_spec import ModelSpec
from service.inference.request import InferenceRequest

logger = logging.getLogger("tandem.inference")

PROBE_TIMEOUT_S = 2.0
"""Timeout of calls that serve no particular caller: reading the model's spec and probing readiness."""

PROBE_MAX_AGE_S = 1.0
"""How long the outcome of a readiness probe is reused."""

MAX_RETRY_PAUSE_S = 0.1
"""Upper bound of the random pause before a call that found no Triton is retried, once. Random, so that callers
that failed together do not return together."""

MAX_ATTEMPTS = 8
"""How many Tritons are asked for a version in turn: during a rollout some serve it and others do not."""

MAX_ATTEMPT_PAUSE_S = 0.01
"""Upper bound of the random pause before the next Triton is asked for the model's configuration. Random, because
calls that alternate with others in lockstep would reach the same Triton each time."""


class TritonClient:
    """Client of one model on Triton. Create and use it within one event loop."""

    def __init__(self, url: str, *, model_name: str, model_version: str = "", proxy: str | None = None) -> None:
        """Open a channel without sending anything yet.

        Args:
            url: host:port of Triton's gRPC endpoint.
            model_name: The model's name in Triton.
            model_version: The version to use; empty for Triton's choice, the newest.
            proxy: URL of the HTTP proxy to use; None for none.
        """
        self.url = url
        self._proxy = proxy
        self._model_name = model_name
        self._model_version = model_version
        self._client = InferenceServerClient(url, channel_args=channel_options(self._proxy))
        self._breaker = CircuitBreaker()
        self._spec: ModelSpec | None = None
        self._reading: asyncio.Task[ModelSpec] | None = None
        self._probe_lock = asyncio.Lock()
        self._probed_at = -float("inf")
        self._probe_failure: TandemError | None = None

    @property
    def _where(self) -> str:
        return self.url if self._proxy is None else f"{self.url} through the proxy {self._proxy}"

    async def reconnect(self, url: str) -> None:
        """Switch to the Triton at another address: a restarted local Triton listens on new ports.

        Calls in flight to the former address are retried at the new one if their deadlines allow.
        """
        former, self._client = self._client, InferenceServerClient(url, channel_args=channel_options(self._proxy))
        self.url = url
        self._spec = self._reading = None
        self._probed_at = -float("inf")
        self._breaker.reset()
        await former.close()

    async def close(self) -> None:
        """Close the channel; calls in flight fail."""
        await self._client.close()

    @property
    def known_spec(self) -> ModelSpec | None:
        """The spec as last read; None before the first reading and after the model has changed."""
        return self._spec

    @property
    def answered_at(self) -> float:
        """When Triton last answered any call, in seconds of ``time.monotonic``."""
        return self._breaker.answered_at

    async def model_spec(self) -> ModelSpec:
        """Return the served model's spec, reading it from Triton unless it is known.

        Raises:
            ContractUnreadable: The model's configuration lacks something or contradicts itself.
            TritonUnavailable: Triton or the model cannot be reached.
            DeadlineExceeded: Triton did not answer in time.
        """
        if self._spec is not None:
            return self._spec
        with self._breaker.call():
            return await self._known_or_read_spec()

    async def _known_or_read_spec(self) -> ModelSpec:
        if self._spec is not None:
            return self._spec
        if self._reading is None:  # all callers share one reading, and its failure
            self._reading = asyncio.create_task(self._read_spec())
            self._reading.add_done_callback(self._keep_spec)
        return await asyncio.shield(self._reading)

    def _keep_spec(self, reading: "asyncio.Task[ModelSpec]") -> None:
        failed = reading.cancelled() or reading.exception() is not None
        if reading is self._reading:  # otherwise it was read from a Triton that we have left
            self._reading = None
            if not failed:
                self._spec = reading.result()

    async def _read_spec(self) -> ModelSpec:
        name, version = self._model_name, self._model_version
        try:
            metadata = await self._client.get_model_metadata(name, version, client_timeout=PROBE_TIMEOUT_S)
            if not metadata.versions:
                raise ContractUnreadable(f'model "{name}" has no loaded version at {self.url}')
            version = version or max(metadata.versions, key=int)
            for attempt in range(1, MAX_ATTEMPTS + 1):
                try:
                    answer = await self._client.get_model_config(name, version, client_timeout=PROBE_TIMEOUT_S)
                    break
                except InferenceServerException:
                    if attempt == MAX_ATTEMPTS:
                        raise
                    await asyncio.sleep(random.uniform(0, MAX_ATTEMPT_PAUSE_S))  # noqa: S311 - not a secret
        except InferenceServerException as error:
            raise error_from_grpc(error, self._where, name, PROBE_TIMEOUT_S) from error
        except asyncio.CancelledError:
            raise error_from_cancellation() from None
        return ModelSpec.from_config(answer.config, version)

    async def infer(self, request: InferenceRequest) -> NDArray[np.float32]:
        """Return the probability of each label for each crop, float32 [N, labels].

        All crops go in one call, or in several if they exceed the model's largest batch.

        Raises:
            ModelChanged: Triton serves another version now: read the spec, cut the crops and infer again.
            Overloaded: Triton's queue is full.
            DeadlineExceeded: The deadline passed before an answer came.
            TritonUnavailable: Triton cannot be reached or failed.
            ValueError: The crops do not fit the spec. They are not sent, because one bad item would fail the
                whole batch that Triton forms over all callers.
        """
        crops, spec = request.crops, request.spec
        expected = spec.crop_shape
        if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1:] != expected or not len(crops):
            raise ValueError(f"crops are {crops.dtype} {crops.shape}; the model takes uint8 [N, *{expected}]")
        rows = []
        for start in range(0, len(crops), spec.max_batch_size):
            batch = crops[start : start + spec.max_batch_size]
            rows.append(await self._infer_batch(replace(request, crops=batch)))
        return np.concatenate(rows)

    async def _infer_batch(self, request: InferenceRequest) -> NDArray[np.float32]:
        try:
            with self._breaker.call():
                return await self._ask_in_turn(request)
        except TritonUnavailable as error:
            pause_s = random.uniform(0, MAX_RETRY_PAUSE_S)  # noqa: S311 - not a secret
            if not error.transient or time.monotonic() + pause_s >= request.deadline:
                raise
        await asyncio.sleep(pause_s)
        with self._breaker.call():
            return await self._ask_in_turn(request)

    async def _ask_in_turn(self, request: InferenceRequest) -> NDArray[np.float32]:
        for _ in range(MAX_ATTEMPTS - 1):
            try:
                return await self._ask(request)
            except ModelChanged:
                continue  # the next Triton may still, or already, serve the version of the spec
        return await self._ask(request)

    async def _ask(self, request: InferenceRequest) -> NDArray[np.float32]:
        spec = request.spec
        timeout_s = request.deadline - time.monotonic()
        if timeout_s <= 0:
            raise DeadlineExceeded("no time was left for inference")
        tensor = InferInput(spec.input_name, list(request.crops.shape), "UINT8")
        tensor.set_data_from_numpy(request.crops)
        try:
            result = await self._client.infer(
                spec.name,
                [tensor],
                model_version=self._model_version,
                outputs=[InferRequestedOutput(spec.output_name)],
                client_timeout=timeout_s,
                headers=dict(request.headers),
            )
        except InferenceServerException as error:
            reason = error_from_grpc(error, self._where, self._model_name, timeout_s)
            if isinstance(reason, ContractUnreadable):
                # The request followed the spec, so either the model has changed or its configuration is wrong.
                self._spec = None
                raise ModelChanged(reason.detail) from error
            raise reason from error
        except asyncio.CancelledError:
            raise error_from_cancellation() from None
        served = result.get_response().model_version
        if served != spec.version:
            self._spec = None
            raise ModelChanged(
                f'model "{spec.name}" is now at version {served}; the crops were cut for {spec.version}'
            )
        return _checked(result.as_numpy(spec.output_name), len(request.crops), spec)

    async def ready(self, *, max_age_s: float = PROBE_MAX_AGE_S) -> ModelSpec:
        """Prove by inferring one blank crop that photos can be answered.

        Triton's own readiness stays true when the process behind a model has died.

        Args:
            max_age_s: How old a former outcome may be to be reused, in seconds.

        Raises:
            TritonUnavailable: Triton cannot be reached or failed, or the model's spec cannot be read.
            DeadlineExceeded: The inference took too long.
        """
        async with self._probe_lock:
            if time.monotonic() - self._probed_at > max_age_s:
                self._probe_failure = await self._probe()
                self._probed_at = time.monotonic()
            if self._probe_failure:
                raise type(self._probe_failure)(self._probe_failure.detail)
            return await self._known_or_read_spec()

    async def _probe(self, *, retry: bool = True) -> TandemError | None:
        began = time.monotonic()
        try:
            with self._breaker.watch():
                spec = await self._known_or_read_spec()
                blank = np.zeros((1, *spec.crop_shape), np.uint8)
                await self._ask_in_turn(InferenceRequest(blank, spec, time.monotonic() + PROBE_TIMEOUT_S))
                await self._follow_changes(spec)
        # A busy Triton works; taking every gateway out of service at once would help nobody.
        except Overloaded:
            return None
        except DeadlineExceeded as error:
            return None if self.answered_at > began else error  # it waits behind calls that are answered
        except ModelChanged as error:
            return await self._probe(retry=False) if retry else error
        except TandemError as error:
            return error
        return None

    async def _follow_changes(self, spec: ModelSpec) -> None:
        """Read the spec again: Triton also reloads a model whose configuration alone was changed.

        Raises:
            ContractUnreadable: The configuration has become wrong.
        """
        try:
            answer = await self._client.get_model_config(
                self._model_name, spec.version, client_timeout=PROBE_TIMEOUT_S
            )
        except InferenceServerException:
            return  # another Triton was asked, which may not have this version
        if self._spec is not spec:
            return
        self._spec = None
        latest = ModelSpec.from_config(answer.config, spec.version)
        self._spec = spec if latest.says_the_same_as(spec) else latest
        if self._spec is latest:
            logger.warning("the configuration of model %s version %s has changed", spec.name, spec.version)


def _checked(probabilities: NDArray[np.float32] | None, rows: int, spec: ModelSpec) -> NDArray[np.float32]:
    expected = (rows, len(spec.labels))
    if probabilities is None or probabilities.shape != expected:
        shape = None if probabilities is None else probabilities.shape
        raise TritonUnavailable(f'model "{spec.name}" returned shape {shape}; expected {expected}')
    if not np.isfinite(probabilities).all():
        raise TritonUnavailable(f'model "{spec.name}" returned values that are not finite')
    return probabilities
