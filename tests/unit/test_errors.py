from collections.abc import Iterator

from service.errors import TandemError


def family(base: type[TandemError] = TandemError) -> Iterator[type[TandemError]]:
    yield base
    for child in base.__subclasses__():
        yield from family(child)


def test_each_error_has_its_own_type_and_an_error_status() -> None:
    kinds = list(family())
    assert len({kind.slug for kind in kinds}) == len(kinds)
    assert len({kind.title for kind in kinds}) == len(kinds)
    for kind in kinds:
        assert 400 <= kind.status < 600
        assert kind("what was wrong").detail == "what was wrong"


def test_every_429_and_503_has_retry_after() -> None:
    assert all(kind.retry_after_s for kind in family() if kind.status in (429, 503))
