"""`tandem mcp` with the SDK's own client over stdio, a gateway and a real Triton."""

import base64
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters
from photos import astronaut, encoded
from served import served

from service.cli.mcp import create_server
from service.settings import Settings
from service.triton.server import LocalTriton

pytestmark = pytest.mark.anyio

PHOTO = encoded(astronaut())


@pytest.fixture(scope="module")
def url(toy_triton: LocalTriton) -> Iterator[str]:
    with served(Settings(triton_url=toy_triton.grpc_url, workers=1)) as url:
        yield url


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    """Start `tandem mcp` and connect to it."""
    command = ["-m", "service.cli", "mcp", "--url", url]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    server = StdioServerParameters(command=sys.executable, args=command, env=environment)
    async with Client(server, read_timeout_seconds=30) as client:
        yield client


async def test_one_tool_reads_the_faces_of_a_photo(url: str, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(PHOTO)
    (tmp_path / "notes.txt").write_text("no photo")
    async with connected(url) as client:
        (tool,) = (await client.list_tools()).tools
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint
        by_path = await client.call_tool(tool.name, {"path": str(tmp_path / "photo.jpg")})
        by_bytes = await client.call_tool(tool.name, {"data": base64.b64encode(PHOTO).decode()})
        assert not by_path.is_error
        assert by_path.structured_content == by_bytes.structured_content
        answer = by_path.structured_content
        assert answer is not None
        assert answer["image"] == {"width": 512, "height": 512}
        (face,) = answer["faces"]
        assert answer["summary"] == {face["emotion"]: 1}
        assert sum(face["emotions"].values()) == pytest.approx(1, abs=0.01)
        for arguments, message in (
            ({}, "either path or data"),
            ({"path": "a.jpg", "data": "AAAA"}, "either path or data"),
            ({"data": "not base64!"}, "not base64"),
            ({"data": "Zürich"}, "not base64"),
            ({"path": str(tmp_path / "none.jpg")}, "none.jpg"),
            ({"path": str(tmp_path / "notes.txt")}, "text"),
        ):
            failed = await client.call_tool(tool.name, arguments)
            assert failed.is_error
            assert message in failed.content[0].text  # type: ignore[union-attr]


async def test_says_that_no_gateway_answers() -> None:
    async with Client(create_server("http://127.0.0.1:9", None)) as client:
        failed = await client.call_tool("read_faces", {"data": base64.b64encode(PHOTO).decode()})
        assert failed.is_error
        assert "no answer from http://127.0.0.1:9" in failed.content[0].text  # type: ignore[union-attr]
