"""What is wrong with an address to listen on is told with the setting's name."""

import pytest

from service.server.main import listen


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 300, "a..b", "127.0.0.1 x"])
def test_a_host_that_cannot_be_resolved_is_named(host: str) -> None:
    with pytest.raises(OSError, match="TANDEM_HOST is "):
        listen(host, 0)


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(OSError, match=r"198\.51\.100\.1 \(TANDEM_HOST\)"):
        listen("198.51.100.1", 0)
