"""A gateway that the tests of a module share."""

from collections.abc import AsyncIterator

import httpx
import pytest
from gateways import gateway

from service.triton.server import LocalTriton


@pytest.fixture(scope="module")
async def client(toy_triton: LocalTriton) -> AsyncIterator[httpx.AsyncClient]:
    """A client of one gateway for all tests of a module; tests of counts and limits start their own."""
    async with gateway(triton_url=toy_triton.grpc_url) as client:
        yield client
