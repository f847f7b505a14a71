"""Keeps a local Triton at work: restarts it when it has died, or lives but answers nobody any more."""

import asyncio
import logging
import time

from service.errors import ContractUnreadable, TandemError
from service.inference.client import TritonClient
from service.triton.errors import LocalTritonError
from service.triton.server import LocalTriton

CHECK_INTERVAL_S = 1.0
"""How often it is asked for an inference."""

CHECK_AGAIN_S = 0.25
"""How soon after the begin of a check that failed; one that waited for an answer in vain has waited enough."""

LOOK_S = 0.1
"""How often its process is looked for."""

FAILED_CHECKS = 2
"""A Triton that runs, but fails so many checks in a row and meanwhile answers nobody, is restarted: a dead stub
does not come back, nor does a frozen server."""

MAX_BACKOFF_S = 30.0
STEADY_AFTER_S = 10.0
"""A Triton that ran for so long is restarted without back-off."""

logger = logging.getLogger("tandem.serving")


class TritonWatchdog:
    """Watches a local Triton through the gateway's client, which follows it to its new port."""

    def __init__(self, triton: LocalTriton, client: TritonClient) -> None:
        """Nothing is done before ``keep_alive``."""
        self._triton = triton
        self._client = client

    async def keep_alive(self) -> None:
        """Watch and restart, without end."""
        backoff_s, started_at = 0.0, time.monotonic()
        while True:
            await self._until_broken()
            logger.error("Triton %s; restarting it", "does not work" if self._triton.alive() else "has died")
            if time.monotonic() - started_at > STEADY_AFTER_S:
                backoff_s = 0.0
            await asyncio.sleep(backoff_s)
            backoff_s = min(MAX_BACKOFF_S, max(1.0, backoff_s * 2))
            started_at = time.monotonic()
            try:
                await asyncio.to_thread(self._restart)
            except (LocalTritonError, OSError) as error:  # the latter: no memory, no room on the disk
                logger.error("Triton could not be restarted: %s", error)
                continue
            await self._client.reconnect(self._triton.grpc_url)
            logger.warning("Triton was restarted at %s", self._triton.grpc_url)

    async def _until_broken(self) -> None:
        failed, next_at = 0, time.monotonic() + CHECK_INTERVAL_S
        while self._triton.alive() and failed < FAILED_CHECKS:
            await asyncio.sleep(LOOK_S)
            began = time.monotonic()
            if began >= next_at:
                failed = 0 if await self._works() else failed + 1
                next_at = began + CHECK_AGAIN_S if failed else time.monotonic() + CHECK_INTERVAL_S

    async def _works(self) -> bool:
        began = time.monotonic()
        try:
            await self._client.ready(max_age_s=0)
        except ContractUnreadable:
            return True  # Triton works; a model that is missing or wrong is none the better for a restart
        except TandemError:
            return self._client.answered_at > began  # too slow for this check, but others got their answers
        return True

    def _restart(self) -> None:
        self._triton.stop(force=True)  # there is nothing left in it to finish
        self._triton.start()
