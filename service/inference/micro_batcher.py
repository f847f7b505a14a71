"""Faces of several photos in one call to Triton, while more photos come than can be worked on.

A local Triton keeps up with the processes that find faces, and so would get the faces of nearly every photo by
themselves; but on a CPU a face by itself costs three times as much as one of eight, and each call costs the event
loop its part. Where photos wait for a process, nobody's answer comes later if his faces go with the next photo's.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from service.inference.client import TritonClient
from service.inference.model_spec import ModelSpec

MAX_BATCH = 16
"""So many faces go at once; a larger batch saves little more on a CPU."""

MAX_DELAY_S = 0.05
"""At most so long faces wait for others: the photos in line may show none."""


class _Call:
    """Faces that go together, cut for one contract."""

    def __init__(self, contract: ModelSpec, headers: Mapping[str, str] | None) -> None:
        self.contract = contract
        self.headers = headers
        self.crops: list[NDArray[np.uint8]] = []
        self.faces = 0
        self.ends_at = 0.0
        self.callers = 0
        self.complete = asyncio.Event()
        self.answer: asyncio.Task[NDArray[np.float32]]


class MicroBatcher:
    """Hands faces to Triton: each photo's at once or, while ``crowded``, those of several together.

    To be used inside one event loop.
    """

    def __init__(self, triton: TritonClient, crowded: Callable[[], bool]) -> None:
        self._triton = triton
        self._crowded = crowded
        self._next: _Call | None = None

    async def infer(
        self,
        crops: NDArray[np.uint8],
        *,
        contract: ModelSpec,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> NDArray[np.float32]:
        """As ``TritonClient.infer``, whose errors reach all whose faces went together.

        A call lasts as long as the most patient of its callers; each bounds his own wait. It bears the headers of
        the first.
        """
        if len(crops) >= MAX_BATCH or (self._next is None and not self._crowded()):
            return await self._triton.infer(crops, contract=contract, timeout_s=timeout_s, headers=headers)
        call = self._next
        if call is None or call.contract != contract:
            call = self._begin(_Call(contract, headers))
        rows = slice(call.faces, call.faces + len(crops))
        call.crops.append(crops)
        call.faces = rows.stop
        call.ends_at = max(call.ends_at, time.monotonic() + timeout_s)
        if call.faces >= MAX_BATCH or not self._crowded():
            self._end()
        call.callers += 1
        try:
            return (await asyncio.shield(call.answer))[rows]  # who leaves takes nobody's answer with him
        finally:
            call.callers -= 1

    def _begin(self, call: _Call) -> _Call:
        self._end()
        self._next = call
        call.answer = asyncio.create_task(self._make(call))
        call.answer.add_done_callback(lambda task: task.cancelled() or task.exception())  # all may have left
        return call

    def _end(self) -> None:
        if self._next:
            self._next.complete.set()
            self._next = None

    async def _make(self, call: _Call) -> NDArray[np.float32]:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MAX_DELAY_S):
                await call.complete.wait()
        if self._next is call:
            self._end()
        if not call.callers:  # all have left
            return np.empty((call.faces, 0), np.float32)
        return await self._triton.infer(
            np.concatenate(call.crops),
            contract=call.contract,
            timeout_s=call.ends_at - time.monotonic(),
            headers=call.headers,
        )
