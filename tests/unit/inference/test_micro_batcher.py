"""Which faces go together, and that each photo gets its own answer."""

import asyncio

import numpy as np
import pytest

from service.errors import TritonUnavailable
from service.inference.micro_batcher import MAX_BATCH, MicroBatcher

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


class Triton:
    """Answers each crop with its first byte; keeps what it was called with, which a real one does not tell."""

    def __init__(self):
        self.calls = []
        self.fails = False

    async def infer(self, crops, *, contract, timeout_s, headers):
        self.calls.append((len(crops), contract, headers))
        if self.fails:
            raise TritonUnavailable("gone")
        assert timeout_s > 0
        return crops[:, 0, 0, :1].astype(np.float32)


def faces(*values):
    return np.array(values, np.uint8)[:, None, None, None].repeat(48, 2).repeat(48, 3)


async def ask(gatherer, *values, contract="one", headers=None):
    answer = await gatherer.infer(faces(*values), contract=contract, timeout_s=30, headers=headers)
    return answer[:, 0].tolist()


async def test_a_photo_goes_at_once_where_none_waits():
    triton = Triton()
    gatherer = MicroBatcher(triton, lambda: False)
    assert await asyncio.gather(ask(gatherer, 1), ask(gatherer, 2, 3)) == [[1], [2, 3]]
    assert [faces for faces, _, _ in triton.calls] == [1, 2]


async def test_photos_go_together_while_others_wait_and_each_gets_its_own_answer():
    triton, waiting = Triton(), [True]
    gatherer = MicroBatcher(triton, lambda: waiting[0])
    first = [asyncio.create_task(ask(gatherer, *photo, headers={"of": str(photo[0])})) for photo in ([1], [2, 3])]
    await asyncio.sleep(0)
    waiting[0] = False  # the next one is the last: all go with it
    assert await asyncio.gather(*first, ask(gatherer, 4)) == [[1], [2, 3], [4]]
    assert triton.calls == [(4, "one", {"of": "1"})]


async def test_enough_faces_wait_for_no_more(monkeypatch):
    monkeypatch.setattr("service.inference.micro_batcher.MAX_DELAY_S", 60)
    triton = Triton()
    gatherer = MicroBatcher(triton, lambda: True)
    async with asyncio.timeout(30):
        await asyncio.gather(*(ask(gatherer, 1) for _ in range(2 * MAX_BATCH)))
    assert [faces for faces, _, _ in triton.calls] == [MAX_BATCH, MAX_BATCH]


async def test_a_face_waits_in_vain_only_for_a_while():
    assert await ask(MicroBatcher(Triton(), lambda: True), 7) == [7]


async def test_crops_for_different_contracts_stay_apart():
    triton = Triton()
    gatherer = MicroBatcher(triton, lambda: True)
    asked = (ask(gatherer, 1), ask(gatherer, 2, contract="two"), ask(gatherer, 3, contract="two"))
    assert await asyncio.gather(*asked) == [[1], [2], [3]]
    assert sorted(call[:2] for call in triton.calls) == [(1, "one"), (2, "two")]


async def test_a_failure_reaches_all_and_only_those_who_went_together():
    triton = Triton()
    gatherer = MicroBatcher(triton, lambda: True)
    triton.fails = True
    results = await asyncio.gather(ask(gatherer, 1), ask(gatherer, 2), return_exceptions=True)
    assert [type(result) for result in results] == [TritonUnavailable] * 2
    triton.fails = False
    assert await ask(gatherer, 3) == [3]


async def test_a_group_goes_by_itself():
    triton = Triton()
    gatherer = MicroBatcher(triton, lambda: True)
    alone, group = asyncio.create_task(ask(gatherer, 1)), [2] * MAX_BATCH
    await asyncio.sleep(0)
    assert await ask(gatherer, *group) == group
    assert not alone.done()
    assert await alone == [1]


async def test_nothing_is_asked_for_nobody():
    triton = Triton()
    gatherer = MicroBatcher(triton, lambda: True)
    leaves = asyncio.create_task(ask(gatherer, 1))
    await asyncio.sleep(0)
    answer = gatherer._next.answer
    leaves.cancel()
    await answer
    assert not triton.calls
    assert await ask(gatherer, 2) == [2]


async def test_who_leaves_takes_nobodys_answer_with_him():
    triton = Triton()
    gatherer = MicroBatcher(triton, lambda: True)
    leaves, stays = (asyncio.create_task(ask(gatherer, value)) for value in (1, 2))
    await asyncio.sleep(0)
    leaves.cancel()
    assert await stays == [2]
    assert leaves.cancelled()
