import pytest

from service.api.negotiation import choose_media_type
from service.errors import NotAcceptable

OFFERED = ("application/json", "image/jpeg", "image/png")


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, "application/json"),
        ("", "application/json"),
        ("*/*", "application/json"),
        ("image/png", "image/png"),
        ("IMAGE/PNG", "image/png"),
        ("image/*", "image/jpeg"),
        ("image/png, image/jpeg;q=0.5", "image/png"),
        ("image/jpeg;q=0.5, image/png;q=0.9, */*;q=0.1", "image/png"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "application/json"),
        ("application/json;q=0, */*", "image/jpeg"),
    ],
)
def test_takes_what_the_caller_likes_best(accept: str | None, chosen: str) -> None:
    assert choose_media_type(accept, OFFERED) == chosen


@pytest.mark.parametrize("accept", ["text/html", "image/gif", "*/*;q=0", "application/json;q=x"])
def test_refuses_what_it_cannot_give(accept: str) -> None:
    with pytest.raises(NotAcceptable, match="application/json, image/jpeg, image/png"):
        choose_media_type(accept, OFFERED)
