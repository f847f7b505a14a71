"""Restarts a local Triton that has ended, or that runs but no longer answers."""

import asyncio
import logging
import time

from service.errors import ContractUnreadable, TandemError
from service.inference.client import TritonClient
from service.triton.errors import LocalTritonError
from service.triton.server import LocalTriton

CHECK_INTERVAL_S = 1.0
"""Seconds from a successful check, which is a real inference, to the next one."""

RECHECK_INTERVAL_S = 0.25
"""Seconds from the start of a failed check to the next one; a check that timed out is repeated immediately."""

PROCESS_CHECK_INTERVAL_S = 0.1
"""Seconds between looks at the server's process."""

MAX_FAILED_CHECKS = 2
"""Consecutive failed checks, without any other answer in between, until a running Triton is restarted. Neither a
dead stub nor a frozen server recovers by itself."""

MAX_BACKOFF_S = 30.0
STABLE_AFTER_S = 10.0
"""A Triton that ran for longer is restarted without back-off."""

logger = logging.getLogger("tandem.server")


class TritonWatchdog:
    """Watches a local Triton through the gateway's client, and reconnects the client after a restart."""

    def __init__(self, triton: LocalTriton, client: TritonClient) -> None:
        """Watch ``triton`` once ``run`` is called."""
        self._triton = triton
        self._client = client

    async def run(self) -> None:
        """Watch and restart Triton until cancelled."""
        backoff_s, started_at = 0.0, time.monotonic()
        while True:
            await self._until_broken()
            logger.error("Triton %s; restarting it", "does not work" if self._triton.alive() else "has ended")
            if time.monotonic() - started_at > STABLE_AFTER_S:
                backoff_s = 0.0
            await asyncio.sleep(backoff_s)
            backoff_s = min(MAX_BACKOFF_S, max(1.0, backoff_s * 2))
            started_at = time.monotonic()
            try:
                await asyncio.to_thread(self._restart)
            except (LocalTritonError, OSError) as error:  # OSError: out of memory, or the disk is full
                logger.error("Triton could not be restarted: %s", error)
                continue
            await self._client.reconnect(self._triton.grpc_url)
            logger.warning("Triton was restarted at %s", self._triton.grpc_url)

    async def _until_broken(self) -> None:
        failed, next_check_at = 0, time.monotonic() + CHECK_INTERVAL_S
        while self._triton.alive() and failed < MAX_FAILED_CHECKS:
            await asyncio.sleep(PROCESS_CHECK_INTERVAL_S)
            started_at = time.monotonic()
            if started_at >= next_check_at:
                failed = 0 if await self._works() else failed + 1
                next_check_at = started_at + RECHECK_INTERVAL_S if failed else time.monotonic() + CHECK_INTERVAL_S

    async def _works(self) -> bool:
        started_at = time.monotonic()
        try:
            await self._client.ready(max_age_s=0)
        except ContractUnreadable:
            return True  # Triton itself works, and restarting it does not repair a missing or invalid model
        except TandemError:
            return self._client.answered_at > started_at  # this check was too slow, but other requests succeeded
        return True

    def _restart(self) -> None:
        self._triton.stop(force=True)  # a broken server has nothing to finish
        self._triton.start()
