"""A second version of the model that receives copies of requests: its answers are compared, never returned."""

import asyncio
import logging
import random
import time

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Histogram

from service.errors import TandemError
from service.inference.client import TritonClient
from service.inference.request import InferenceRequest
from service.observability.metrics import Metrics
from service.settings import Settings

MAX_WAITING = 32
"""Copies that may wait; requests that arrive meanwhile are not compared."""

MAX_DELAY_S = 1.0
"""A copy waits for the end of the task that made it, so that its caller is answered first; at most this long,
because the task of a batch or a stream goes on."""

TIMEOUT_S = 5.0
"""How long the shadow version may take for a copy."""

DIFFERENCES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25)

logger = logging.getLogger("tandem.shadow")


class ShadowMetrics:
    """Counts and differences of the comparison."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "tandem_shadow_requests",
            "Requests chosen for the shadow version: compared, failed, or dropped because it is too slow.",
            ["version", "outcome"],
            registry=registry,
        )
        self.faces = Counter(
            "tandem_shadow_faces",
            "Faces that both versions have read, by whether they gave them the same label.",
            ["version", "agrees"],
            registry=registry,
        )
        self.difference = Histogram(
            "tandem_shadow_difference",
            "Mean absolute difference between both versions' probabilities for a face, over the labels.",
            ["version"],
            buckets=DIFFERENCES,
            registry=registry,
        )


class Shadow:
    """Sends copies of requests to one version, one at a time, after their callers have been answered.

    Use it within one event loop.
    """

    def __init__(self, client: TritonClient, *, version: str, share: float, metrics: ShadowMetrics) -> None:
        """Prepare without sending anything.

        Args:
            client: Client of the shadow version; the shadow closes it.
            version: The version's number, for the metrics.
            share: Fraction of requests to copy, from 0 to 1, chosen at random.
            metrics: Where to record the comparison.
        """
        self.client = client
        self._version = version
        self._share = share
        self._metrics = metrics
        self._waiting: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self._reported = ""

    def mirror(self, request: InferenceRequest, answered: NDArray[np.float32]) -> None:
        """Schedule a copy of a request, to compare its answer with what was answered, [N, labels]."""
        if random.random() >= self._share:  # noqa: S311 - not a secret
            return
        if len(self._waiting) >= MAX_WAITING:
            self._count("dropped")
            return
        task = asyncio.create_task(self._send(asyncio.current_task(), request, answered))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def close(self) -> None:
        """Drop waiting copies and close the channel."""
        for task in self._waiting:
            task.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)
        await self.client.close()

    async def _send(
        self,
        answering: "asyncio.Task[object] | None",
        request: InferenceRequest,
        answered: NDArray[np.float32],
    ) -> None:
        if answering:
            await asyncio.wait([answering], timeout=MAX_DELAY_S)
        try:
            async with self._turn:
                spec = await self.client.model_spec()
                if (spec.labels, spec.crop_shape) != (request.spec.labels, request.spec.crop_shape):
                    raise ValueError(f"version {self._version} has other labels or crops and cannot be compared")
                # The caller has been answered: neither its deadline nor its trace apply any more.
                deadline = time.monotonic() + TIMEOUT_S
                rows = await self.client.infer(InferenceRequest(request.crops, spec, deadline))
        except (TandemError, ValueError) as error:
            self._count("failed")
            if str(error) != self._reported:
                self._reported = str(error)
                logger.warning("the shadow version did not answer: %s", error)
            return
        self._compare(rows, answered)

    def _compare(self, rows: NDArray[np.float32], answered: NDArray[np.float32]) -> None:
        self._count("compared")
        for same in rows.argmax(axis=1) == answered.argmax(axis=1):
            self._metrics.faces.labels(self._version, "yes" if same else "no").inc()
        for difference in np.abs(rows - answered).mean(axis=1):
            self._metrics.difference.labels(self._version).observe(float(difference))

    def _count(self, outcome: str) -> None:
        self._metrics.requests.labels(self._version, outcome).inc()


class ShadowedClient(TritonClient):
    """A client that copies to a shadow what its callers were answered; readiness probes are not copied."""

    def __init__(
        self, url: str, *, model_name: str, model_version: str, proxy: str | None = None, shadow: Shadow
    ) -> None:
        """Open a channel as ``TritonClient`` does; ``shadow`` is reconnected and closed with it."""
        super().__init__(url, model_name=model_name, model_version=model_version, proxy=proxy)
        self._shadow = shadow

    async def infer(self, request: InferenceRequest) -> NDArray[np.float32]:
        """Behave as ``TritonClient.infer``; the copy is sent later and does not delay the answer."""
        rows = await super().infer(request)
        self._shadow.mirror(request, rows)
        return rows

    async def reconnect(self, url: str) -> None:
        """Reconnect the shadow too."""
        await super().reconnect(url)
        await self._shadow.client.reconnect(url)

    async def close(self) -> None:
        """Close the shadow first, then the channel."""
        await self._shadow.close()
        await super().close()


def connect(settings: Settings, url: str, metrics: Metrics) -> TritonClient:
    """Create the client that the settings ask for, with or without a shadow."""
    name, version, shadow = settings.model_name, settings.model_version, settings.shadow_version
    proxy = settings.triton_proxy
    if not shadow:
        return TritonClient(url, model_name=name, model_version=version, proxy=proxy)
    return ShadowedClient(
        url,
        model_name=name,
        model_version=version,
        proxy=proxy,
        shadow=Shadow(
            TritonClient(url, model_name=name, model_version=shadow, proxy=proxy),
            version=shadow,
            share=settings.shadow_share,
            metrics=ShadowMetrics(metrics.registry),
        ),
    )
