"""Sends the faces of several photos to Triton in one call while photos queue for workers.

A local Triton keeps up with the workers, so it would get the faces of nearly every photo in a call of their own.
On a CPU, though, one face alone costs three times as much as one of eight, and every call costs the event loop
some time. While photos wait for workers, no answer is delayed by sending a photo's faces with those of the next.
"""

import asyncio
import contextlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from service.inference.client import TritonClient
from service.inference.request import InferenceRequest

MAX_BATCH = 16
"""Faces that are sent without waiting for more; larger batches save little more on a CPU."""

MAX_DELAY_S = 0.05
"""How long faces wait for others at most: the photos in the queue may show none."""


class _Batch:
    """Requests that are sent together; all have the spec of the first, and are sent with its headers."""

    def __init__(self, first: InferenceRequest) -> None:
        self.spec = first.spec
        self.headers = first.headers
        self.crops: list[NDArray[np.uint8]] = []
        self.size = 0
        self.deadline = 0.0
        self.callers = 0
        self.complete = asyncio.Event()
        self.answer: asyncio.Task[NDArray[np.float32]]


class MicroBatcher:
    """Sends the faces of each photo at once or, while ``saturated``, those of several photos together.

    Use it within one event loop.
    """

    def __init__(self, triton: TritonClient, saturated: Callable[[], bool]) -> None:
        self._triton = triton
        self._saturated = saturated
        self._next: _Batch | None = None

    async def infer(self, request: InferenceRequest) -> NDArray[np.float32]:
        """Behave as ``TritonClient.infer``; its errors reach every caller of a batch.

        A batch has the latest of its callers' deadlines. Each caller limits its own waiting.
        """
        count = len(request.crops)
        if count >= MAX_BATCH or (self._next is None and not self._saturated()):
            return await self._triton.infer(request)
        batch = self._next
        if batch is None or batch.spec != request.spec:
            batch = self._open(_Batch(request))
        rows = slice(batch.size, batch.size + count)
        batch.crops.append(request.crops)
        batch.size = rows.stop
        batch.deadline = max(batch.deadline, request.deadline)
        if batch.size >= MAX_BATCH or not self._saturated():
            self._close()
        batch.callers += 1
        try:
            return (await asyncio.shield(batch.answer))[rows]  # a canceled caller leaves the others their answers
        finally:
            batch.callers -= 1

    def _open(self, batch: _Batch) -> _Batch:
        self._close()
        self._next = batch
        batch.answer = asyncio.create_task(self._send(batch))
        batch.answer.add_done_callback(lambda task: task.cancelled() or task.exception())  # all may have left
        return batch

    def _close(self) -> None:
        if self._next:
            self._next.complete.set()
            self._next = None

    async def _send(self, batch: _Batch) -> NDArray[np.float32]:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MAX_DELAY_S):
                await batch.complete.wait()
        if self._next is batch:
            self._close()
        if not batch.callers:  # all have left
            return np.empty((batch.size, 0), np.float32)
        crops = np.concatenate(batch.crops)
        return await self._triton.infer(InferenceRequest(crops, batch.spec, batch.deadline, batch.headers))
