"""A second version of the model, which gets copies of requests: its answers are compared, never given."""

import asyncio
import logging
import random
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Histogram

from service.errors import TandemError
from service.inference.client import TritonClient
from service.inference.model_spec import ModelSpec
from service.observability.metrics import Metrics
from service.settings import Settings

MAX_WAITING = 32
"""So many copies wait at most; what comes while they do is not compared."""

ANSWERED_WITHIN_S = 1.0
"""A copy waits until the task that it was made in has ended, and so its caller has the answer; at most so long,
since the task of a batch or a stream goes on."""

TIMEOUT_S = 5.0

DIFFERENCES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25)

logger = logging.getLogger("tandem.shadow")


class ShadowMetrics:
    """What the comparison comes to."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "tandem_shadow_requests",
            "Requests chosen to be mirrored to the shadow version: compared, failed, or dropped as it is slow.",
            ["version", "outcome"],
            registry=registry,
        )
        self.faces = Counter(
            "tandem_shadow_faces",
            "Faces that both versions have read, and whether they gave them the same label.",
            ["version", "agrees"],
            registry=registry,
        )
        self.difference = Histogram(
            "tandem_shadow_difference",
            "Mean absolute difference of both versions' probabilities for a face, over the labels.",
            ["version"],
            buckets=DIFFERENCES,
            registry=registry,
        )


class Shadow:
    """Mirrors inferences to one version, one at a time, after their callers have been answered.

    To be used inside one event loop.
    """

    def __init__(self, client: TritonClient, *, version: str, share: float, metrics: ShadowMetrics) -> None:
        """Mirror nothing yet.

        Args:
            client: of the shadow version; ours to close.
            version: its number, for the metrics.
            share: of the requests, 0 to 1, chosen by chance.
            metrics: where the comparison goes.
        """
        self.client = client
        self._version = version
        self._share = share
        self._metrics = metrics
        self._waiting: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self._reported = ""

    def mirror(self, crops: NDArray[np.uint8], answered: NDArray[np.float32], contract: ModelSpec) -> None:
        """Have crops [N, 1, height, width] read once more and compared with what was answered [N, labels]."""
        if random.random() >= self._share:  # noqa: S311 - no secret
            return
        if len(self._waiting) >= MAX_WAITING:
            self._count("dropped")
            return
        task = asyncio.create_task(self._follow(asyncio.current_task(), crops, answered, contract))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def close(self) -> None:
        """Drop what waits, and close the channel."""
        for task in self._waiting:
            task.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)
        await self.client.close()

    async def _follow(
        self,
        answering: "asyncio.Task[object] | None",
        crops: NDArray[np.uint8],
        answered: NDArray[np.float32],
        contract: ModelSpec,
    ) -> None:
        if answering:
            await asyncio.wait([answering], timeout=ANSWERED_WITHIN_S)
        try:
            async with self._turn:
                theirs = await self.client.contract()
                if (theirs.labels, theirs.crop_size) != (contract.labels, contract.crop_size):
                    raise ValueError(f"version {self._version} has other labels or crops: it cannot be compared")
                rows = await self.client.infer(crops, contract=theirs, timeout_s=TIMEOUT_S)
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
    """The client of the version that answers, with a shadow that gets copies of what callers were answered.

    Readiness probes are not copied.
    """

    def __init__(self, url: str, *, model_name: str, model_version: str, shadow: Shadow) -> None:
        """As its base; ``shadow`` is closed and moved with it."""
        super().__init__(url, model_name=model_name, model_version=model_version)
        self._shadow = shadow

    async def infer(
        self,
        crops: NDArray[np.uint8],
        *,
        contract: ModelSpec,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> NDArray[np.float32]:
        """As its base; the copy is sent later and costs this call nothing."""
        rows = await super().infer(crops, contract=contract, timeout_s=timeout_s, headers=headers)
        self._shadow.mirror(crops, rows, contract)
        return rows

    async def move(self, url: str) -> None:
        """As its base, with the shadow."""
        await super().move(url)
        await self._shadow.client.move(url)

    async def close(self) -> None:
        """As its base, with the shadow, which goes first."""
        await self._shadow.close()
        await super().close()


def connect(settings: Settings, url: str, metrics: Metrics) -> TritonClient:
    """The client that the settings ask for, with a shadow or without."""
    name, version, shadow = settings.model_name, settings.model_version, settings.shadow_version
    if not shadow:
        return TritonClient(url, model_name=name, model_version=version)
    return ShadowedClient(
        url,
        model_name=name,
        model_version=version,
        shadow=Shadow(
            TritonClient(url, model_name=name, model_version=shadow),
            version=shadow,
            share=settings.shadow_share,
            metrics=ShadowMetrics(metrics.registry),
        ),
    )
