import socket

import pytest

from service.cli import gateway
from service.cli.gateway import own_url, url_of
from service.settings import Settings


def test_a_service_on_another_port_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    monkeypatch.setattr(gateway, "remote_client", lambda url, *_: used.append(url))
    monkeypatch.setattr(gateway, "local_client", lambda _: used.append(None))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        settings = Settings(port=listener.getsockname()[1])
        gateway.open_client(None, settings, None)
    gateway.open_client(None, settings, None)
    assert used == [f"http://127.0.0.1:{settings.port}", None]


def test_addresses_that_stand_for_all_are_reached_by_loopback() -> None:
    assert url_of("0.0.0.0", 80) == "http://127.0.0.1:80"  # noqa: S104 - connects only
    assert url_of("::", 80) == "http://[::1]:80"
    assert url_of("::1", 80) == "http://[::1]:80"
    assert own_url(Settings(host="10.0.0.1", port=0)) == "http://127.0.0.1:8080"
