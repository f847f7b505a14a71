"""Rolling a model version out and back, and losing a Triton, under load on real Tritons."""

import asyncio
import os
import re
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from gateways import gateway, post
from photos import encoded, tiles
from prometheus_client import CollectorRegistry
from toy_model import LABELS, write_repository, write_version
from waiting import wait_until

from service.cli.model_versions import VersionedModel
from service.inference.client import TritonClient
from service.inference.request import InferenceRequest
from service.inference.shadow import MAX_WAITING, Shadow, ShadowedClient, ShadowMetrics
from service.triton import server
from service.triton.server import LocalTriton

pytestmark = pytest.mark.anyio

PHOTO = encoded(tiles(1, 1))
CALLERS = 3
PHOTOS = 36
"""Number of photos to count per Triton; a multiple of two and of three."""


class Load:
    """The answers of callers that post one photo after another."""

    def __init__(self) -> None:
        self.answers: list[httpx.Response] = []
        self.posted = 0
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    @property
    def failures(self) -> list[str]:
        return [each.text for each in self.answers if each.status_code != 200]

    async def until(self, condition: Callable[[], bool], what: str, timeout_s: float = 90) -> None:
        """Wait until ``condition`` holds; it is checked after each answer."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    await self.more(1)
        except TimeoutError:
            pytest.fail(f"waited {timeout_s:g} s in vain until {what}")

    async def more(self, count: int) -> None:
        """Wait for ``count`` more answers."""
        wanted = len(self.answers) + count
        while len(self.answers) < wanted:
            await asyncio.sleep(0.01)

    async def pause(self) -> None:
        """Stop posting, and wait until everything posted is answered."""
        self.goes_on.clear()
        while len(self.answers) < self.posted:
            await asyncio.sleep(0.01)


@asynccontextmanager
async def load(client: httpx.AsyncClient) -> AsyncIterator[Load]:
    """Keep callers posting until the block ends; none of their photos may have failed."""
    running = Load()

    async def call() -> None:
        while True:
            await running.goes_on.wait()
            running.posted += 1
            running.answers.append(await post(client, PHOTO))

    callers = [asyncio.create_task(call()) for _ in range(CALLERS)]
    try:
        yield running
        assert running.failures == []
    finally:
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)


async def test_from_version_1_to_2_and_back_without_a_failed_photo(triton_home: Path, tmp_path: Path) -> None:
    repository = write_repository(tmp_path)
    model = VersionedModel(repository, "tandem")
    model.activate(1)
    # Version 2 has another spec: smaller crops, and the labels in another order.
    write_version(tmp_path / "2", seed=1, size=32)
    labels = ",".join(reversed(LABELS.split(",")))
    config = (model.folder / "config.pbtxt").read_text().replace("[ 1, 48, 48 ]", "[ 1, 32, 32 ]")
    (tmp_path / "2" / "config.pbtxt").write_text(config.replace(LABELS, labels).partition("\n# By")[0])

    with LocalTriton(home=triton_home, model_repository=repository) as triton:
        async with gateway(triton_url=triton.grpc_url) as client, load(client) as running:

            def answered_by(version: str) -> bool:
                return bool(running.answers) and running.answers[-1].json()["model"]["version"] == version

            await running.until(lambda: answered_by("1"), "version 1 answers")
            (tmp_path / "2").rename(model.folder / "2")
            await running.more(CALLERS)
            model.activate(2)
            await running.until(lambda: answered_by("2"), "version 2 answers")
            await running.more(2 * CALLERS)
            model.roll_back()
            await running.until(lambda: answered_by("1"), "version 1 answers again")
            await running.more(2 * CALLERS)

            bodies = [each.json() for each in running.answers]
            by_version = {
                version: [each for each in bodies if each["model"]["version"] == version] for version in "12"
            }
            assert set(by_version["1"][0]["faces"][0]["emotions"]) == set(LABELS.split(","))
            for version, order in (("1", LABELS), ("2", labels)):
                first, *others = (each["faces"][0]["emotions"] for each in by_version[version])
                assert list(first) == order.split(",")
                for other in others:
                    assert other == pytest.approx(first, abs=1e-5)


def served(triton: LocalTriton) -> int:
    """Number of faces that a Triton reports as answered; a request may hold those of several photos."""
    text = httpx.get(triton.metrics_url).text
    found = re.search(r'^nv_inference_count\{model="tandem",version="1"\} (\d+)', text, re.MULTILINE)
    return int(found[1]) if found else 0


async def spread(running: Load, tritons: list[LocalTriton]) -> list[int]:
    """Count how many of the next requests each Triton answers; it reports them with a delay."""
    await running.pause()
    before, answered = [served(each) for each in tritons], len(running.answers)
    running.goes_on.set()
    await running.more(PHOTOS)
    await running.pause()

    def counts() -> list[int]:
        return [served(each) - former for each, former in zip(tritons, before, strict=True)]

    wait_until(lambda: sum(counts()) >= len(running.answers) - answered, "all faces are counted")
    result = counts()
    running.goes_on.set()
    return result


async def test_one_of_three_tritons_is_killed_and_restarted(
    triton_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = write_repository(tmp_path)
    tritons = [LocalTriton(home=triton_home, model_repository=repository) for _ in range(3)]
    try:
        with ThreadPoolExecutor() as threads:
            list(threads.map(LocalTriton.start, tritons))
        url = "ipv4:" + ",".join(triton.grpc_url for triton in tritons)
        async with gateway(triton_url=url) as client, load(client) as running:
            await running.until(lambda: all(map(served, tritons)), "each Triton is connected")
            # Round robin: the counts may differ only by requests that were reported late.
            counts = await spread(running, tritons)
            assert max(counts) - min(counts) <= CALLERS, counts

            killed, *rest = tritons
            os.kill(killed.pid, signal.SIGKILL)
            await running.more(CALLERS)
            counts = await spread(running, rest)
            assert max(counts) - min(counts) <= CALLERS, counts

            ports = [
                int(address.rpartition(":")[2])
                for address in (killed.grpc_url, killed.metrics_url[: -len("/metrics")])
            ]
            monkeypatch.setattr(server, "free_ports", lambda _: ports)
            await asyncio.to_thread(killed.start)
            await running.until(lambda: served(killed) > 0, "the restarted Triton gets photos again")
            counts = await spread(running, tritons)
            assert max(counts) - min(counts) <= CALLERS, counts
    finally:
        for triton in tritons:
            triton.stop(force=True)


@pytest.fixture(scope="module")
def both(triton_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTriton]:
    """A Triton with version 1 active and version 2 as the shadow."""
    folder = tmp_path_factory.mktemp("shadow")
    repository = write_repository(folder)
    write_version(repository / "tandem" / "2", seed=1)
    model = VersionedModel(repository, "tandem")
    model.activate(1)
    model.shadow(2)
    with LocalTriton(home=triton_home, model_repository=repository) as triton:
        yield triton
        triton.stop(force=True)


async def test_tritons_with_and_without_the_new_version_side_by_side(
    toy_triton: LocalTriton, both: LocalTriton
) -> None:
    url = f"ipv4:{toy_triton.grpc_url},{both.grpc_url}"
    async with gateway(triton_url=url) as client:
        for _ in range(6):  # one at a time: calls alternate between the Tritons
            assert (await post(client, PHOTO)).status_code == 200
        async with load(client) as running:
            for _ in range(3):
                await running.more(PHOTOS // 3)
                assert (await client.get("/readyz")).status_code == 200
            await running.pause()
    versions = Counter(each.json()["model"]["version"] for each in running.answers)
    assert set(versions) == {"1", "2"}, "toy_triton has only version 1; both serves 2 unless asked for 1"
    by_version = {
        (body := each.json())["model"]["version"]: body["faces"][0]["emotions"] for each in running.answers
    }
    for each in running.answers:
        body = each.json()
        expected = by_version[body["model"]["version"]]
        assert body["faces"][0]["emotions"] == pytest.approx(expected, abs=1e-5)


async def sampled(registry: CollectorRegistry, name: str, at_least: float, **labels: str) -> float:
    """Wait until a metric reaches ``at_least`` and return its value."""
    async with asyncio.timeout(30):
        while (value := registry.get_sample_value(name, labels) or 0) < at_least:
            await asyncio.sleep(0.01)
    return value


async def test_a_shadow_is_compared(both: LocalTriton) -> None:
    crops = np.random.default_rng(0).integers(0, 200, (50, 1, 48, 48), np.uint8)
    registry = CollectorRegistry()
    other = TritonClient(both.grpc_url, model_name="tandem", model_version="2")
    shadow = Shadow(other, version="2", share=1, metrics=ShadowMetrics(registry))
    client = ShadowedClient(both.grpc_url, model_name="tandem", model_version="1", shadow=shadow)
    try:
        await client.ready()
        spec = await client.model_spec()
        request = InferenceRequest(crops, spec, time.monotonic() + 30)
        mine = await client.infer(request)
        theirs = await other.infer(replace(request, spec=await other.model_spec()))
        agreeing = int((mine.argmax(axis=1) == theirs.argmax(axis=1)).sum())
        assert 0 < agreeing < 50, "the toy models must differ for some crops"

        await sampled(registry, "tandem_shadow_difference_count", 50, version="2")
        values = {
            agrees: registry.get_sample_value("tandem_shadow_faces_total", {"version": "2", "agrees": agrees})
            for agrees in ("yes", "no")
        }
        assert values == {"yes": agreeing, "no": 50 - agreeing}
        total = registry.get_sample_value("tandem_shadow_difference_sum", {"version": "2"})
        assert total / 50 == pytest.approx(np.abs(mine - theirs).mean(), rel=1e-4)
        compared = {"version": "2", "outcome": "compared"}
        assert registry.get_sample_value("tandem_shadow_requests_total", compared) == 1, (
            "a probe must not be mirrored"
        )
    finally:
        await client.close()


async def test_a_shadow_that_never_answers_delays_no_caller(both: LocalTriton) -> None:
    silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    registry = CollectorRegistry()
    port = silent.sockets[0].getsockname()[1]
    other = TritonClient(f"127.0.0.1:{port}", model_name="tandem", model_version="2")
    shadow = Shadow(other, version="2", share=1, metrics=ShadowMetrics(registry))
    client = ShadowedClient(both.grpc_url, model_name="tandem", model_version="1", shadow=shadow)
    try:
        spec = await client.model_spec()
        request = InferenceRequest(np.zeros((1, 1, 48, 48), np.uint8), spec, time.monotonic() + 60)
        rows = await client.infer(request)
        for _ in range(MAX_WAITING + 2):
            shadow.mirror(request, rows)
        dropped = {"version": "2", "outcome": "dropped"}
        assert registry.get_sample_value("tandem_shadow_requests_total", dropped) == 3
        assert (await client.infer(request)).shape == (1, 8)
        none = Shadow(other, version="none", share=0, metrics=shadow._metrics)
        for _ in range(MAX_WAITING + 2):
            none.mirror(request, rows)
        assert registry.get_sample_value("tandem_shadow_requests_total", dropped | {"version": "none"}) is None
    finally:
        await client.close()
        silent.close()


@pytest.mark.parametrize(("version", "outcome"), [("2", "compared"), ("9", "failed")])
async def test_callers_get_the_pinned_version_whatever_the_shadow_does(
    both: LocalTriton, version: str, outcome: str
) -> None:
    settings = {"triton_url": both.grpc_url, "model_version": "1", "shadow_version": version}
    async with gateway(**settings) as client:
        answers = [await post(client, PHOTO) for _ in range(4)]
        assert Counter(each.json()["model"]["version"] for each in answers) == {"1": 4}
        line = f'tandem_shadow_requests_total{{outcome="{outcome}",version="{version}"}} 4.0'
        async with asyncio.timeout(30):
            while line not in (await client.get("/metrics")).text:
                await asyncio.sleep(0.05)
