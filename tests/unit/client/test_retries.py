"""Retries of the client, and its errors; httpx's MockTransport stands for gateways that are busy or broken."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from service.client import AsyncClient, CallFailed, Client, NoAnswer, Refused
from service.schemas import Problem

ANSWER = {"image": {"width": 1, "height": 1}, "faces": [], "model": {"name": "tandem", "version": "1"}}


def busy(status: int = 503, **headers: str) -> httpx.Response:
    problem = Problem(
        type="urn:tandem:problem:overloaded", title="Busy", status=status, detail="full", request_id="r"
    )
    return httpx.Response(status, headers=headers, json=problem.model_dump(exclude_none=True))


def answers(*responses: httpx.Response) -> httpx.MockTransport:
    waiting: Iterator[httpx.Response] = iter(responses)
    return httpx.MockTransport(lambda request: next(waiting))


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


@pytest.mark.parametrize("status", [429, 503])
def test_delays_grow_and_are_never_shorter_than_the_gateway_asks(slept: list[float], status: int) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=9), usegmt=True)
    transport = answers(
        busy(status),
        busy(status, **{"Retry-After": "7"}),
        busy(status, **{"Retry-After": date}),
        busy(status),
        httpx.Response(200, json=ANSWER),
    )
    with Client(transport=transport, retries=4) as client:
        assert client.read(b"photo").faces == []
    for delay, least in zip(slept, (0.5, 7, 7, 4), strict=True):
        assert least <= delay <= 1.25 * max(least, 9 if least == 7 else 0)


def test_what_would_not_help_soon_is_not_waited_for(slept: list[float]) -> None:
    for response in (busy(422), busy(401), busy(503, **{"Retry-After": "3600"})):
        with Client(transport=answers(response)) as client, pytest.raises(Refused) as raised:
            client.read(b"photo")
        assert raised.value.retry_after_s in (None, 3600)
    assert slept == []


def test_errors_have_the_fields_of_the_problem(slept: list[float]) -> None:
    with Client(transport=answers(*[busy()] * 4)) as client, pytest.raises(CallFailed) as raised:
        client.read(b"photo")
    error = raised.value
    assert (error.status, error.type, error.title, error.detail, error.request_id, error.errors) == (
        503, "urn:tandem:problem:overloaded", "Busy", "full", "r", [],
    )  # fmt: skip
    assert len(slept) == 3
    with (
        Client(transport=answers(httpx.Response(502, text="<html>"))) as client,
        pytest.raises(CallFailed) as raised,
    ):
        client.read(b"photo")
    assert (raised.value.status, raised.value.type, raised.value.problem) == (502, None, None)


def lines(*indices: int) -> httpx.Response:
    problem = busy().json()
    return httpx.Response(
        200, text="".join(json.dumps({"index": i, "name": "sent", "problem": problem}) + "\n" for i in indices)
    )


def test_a_batch_is_retried_and_keeps_the_names(slept: list[float]) -> None:
    names = ['a"b.jpg', "line\nbreak.jpg", "not \udcff UTF-8.jpg", "[red]ä" * 100, ""]
    with Client(transport=answers(busy(), lines(4, 1, 0, 2, 3))) as client:
        found = {line.index: line.name for line in client.read_batch([(name, b"photo") for name in names])}
    assert found == dict(enumerate(names))
    assert len(slept) == 1


@pytest.mark.anyio
async def test_an_empty_batch_is_an_empty_answer() -> None:
    with Client(transport=answers()) as client:
        assert list(client.read_batch([])) == []
    async with AsyncClient(transport=answers()) as client:
        assert [line async for line in client.read_batch(iter(()))] == []


@pytest.mark.parametrize("response", [lines(0), lines(0, 0), lines(0, 1, 2), httpx.Response(200, text="<html>\n")])
def test_a_batch_without_an_answer_for_each_photo_is_an_error(response: httpx.Response) -> None:
    with Client(transport=answers(response)) as client, pytest.raises(NoAnswer):
        list(client.read_batch([b"photo", b"photo"]))
