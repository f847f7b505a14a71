"""A proxy that the environment names does not come between processes of one machine."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent import futures
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import pytest
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from service.client import Client, NoAnswer
from service.inference.grpc_channel import channel_options

DEAD = "http://127.0.0.1:9"


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(autouse=True)
def dead_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy"):
        monkeypatch.setenv(name, DEAD)


@pytest.fixture
def port() -> Iterator[int]:
    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_client_reaches_a_gateway_on_this_machine(port: int, host: str) -> None:
    with Client(f"http://{host}:{port}") as client, pytest.raises(NoAnswer, match="answered 404"):
        client.model()


def test_the_clients_error_names_the_proxy() -> None:
    with Client("http://tandem.invalid") as client, pytest.raises(NoAnswer, match=r"http_proxy is 127\.0\.0\.1"):
        client.model()


@pytest.mark.parametrize(("proxy", "reached"), [(None, True), (DEAD, False)])
def test_grpc_uses_a_proxy_only_if_told_to(proxy: str | None, reached: bool) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()

    async def status() -> str:
        client = InferenceServerClient(f"127.0.0.1:{port}", channel_args=channel_options(proxy))
        try:
            await client.is_server_live(client_timeout=60)
        except InferenceServerException as error:
            return str(error.status())
        finally:
            await client.close()
        return "answered"

    try:
        # A server without methods answers that there is none.
        assert (asyncio.run(status()) == "StatusCode.UNIMPLEMENTED") == reached
    finally:
        server.stop(None)
