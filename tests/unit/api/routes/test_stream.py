import pytest
from starlette.datastructures import Headers

from service.api.routes.stream import check_origin, shortened
from service.errors import ForeignOrigin


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        (None, "tandem.example", ()),
        ("https://tandem.example", "tandem.example", ()),
        ("http://127.0.0.1:8080", "127.0.0.1:8080", ()),
        ("https://Tandem.Example", "tandem.example", ()),
        ("https://shop.example", "tandem.example", ("https://shop.example",)),
        ("null", "tandem.example", ("*",)),
    ],
)
def test_own_and_configured_origins_may_open_a_stream(
    origin: str | None, host: str, allowed: tuple[str, ...]
) -> None:
    check_origin(Headers({"host": host} | ({"origin": origin} if origin else {})), allowed)


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "http://tandem.example:81", "null", "https://tandem.example.evil.example", "", "//"],
)
def test_another_origin_may_not(origin: str) -> None:
    headers = Headers({"host": "tandem.example", "origin": origin})
    with pytest.raises(ForeignOrigin, match="TANDEM_CORS_ORIGINS"):
        check_origin(headers, ("https://shop.example",))


def test_a_reason_fits_into_a_close_frame() -> None:
    assert shortened("too big") == "too big"
    assert len(shortened("ü" * 100).encode()) <= 123
    assert set(shortened("ü" * 100)) == {"ü"}
