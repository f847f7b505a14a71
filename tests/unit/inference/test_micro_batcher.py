"""Which faces are sent together, and that each photo gets its own answer."""

import asyncio

import numpy as np
import pytest

from service.errors import TritonUnavailable
from service.inference.micro_batcher import MAX_BATCH, MicroBatcher
from service.inference.request import InferenceRequest

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


class Triton:
    """Answers each crop with its first byte, and records its requests, which a real Triton does not reveal."""

    def __init__(self):
        self.calls = []
        self.fails = False

    async def infer(self, request):
        self.calls.append(request)
        if self.fails:
            raise TritonUnavailable("gone")
        return request.crops[:, 0, 0, :1].astype(np.float32)


def faces(*values):
    return np.array(values, np.uint8)[:, None, None, None].repeat(48, 2).repeat(48, 3)


async def ask(batcher, *values, spec="one", deadline=30.0, headers=None):
    answer = await batcher.infer(InferenceRequest(faces(*values), spec, deadline, headers))
    return answer[:, 0].tolist()


def sizes(triton):
    return [len(call.crops) for call in triton.calls]


async def test_a_photo_is_sent_at_once_while_none_waits():
    triton = Triton()
    batcher = MicroBatcher(triton, lambda: False)
    assert await asyncio.gather(ask(batcher, 1), ask(batcher, 2, 3)) == [[1], [2, 3]]
    assert sizes(triton) == [1, 2]


async def test_photos_are_sent_together_while_others_wait_and_each_gets_its_own_answer():
    triton, waiting = Triton(), [True]
    batcher = MicroBatcher(triton, lambda: waiting[0])
    first = [asyncio.create_task(ask(batcher, *photo, headers={"of": str(photo[0])})) for photo in ([1], [2, 3])]
    await asyncio.sleep(0)
    waiting[0] = False  # the next photo is the last, so the batch is sent with it
    assert await asyncio.gather(*first, ask(batcher, 4)) == [[1], [2, 3], [4]]
    (call,) = triton.calls
    assert (len(call.crops), call.spec, call.headers) == (4, "one", {"of": "1"})


async def test_a_batch_has_the_latest_deadline_of_its_callers():
    triton = Triton()
    batcher = MicroBatcher(triton, lambda: True)
    await asyncio.gather(*(ask(batcher, 1, deadline=deadline) for deadline in (20.0, 30.0, 10.0)))
    assert [call.deadline for call in triton.calls] == [30.0]


async def test_a_full_batch_is_sent_without_waiting(monkeypatch):
    monkeypatch.setattr("service.inference.micro_batcher.MAX_DELAY_S", 60)
    triton = Triton()
    batcher = MicroBatcher(triton, lambda: True)
    async with asyncio.timeout(30):
        await asyncio.gather(*(ask(batcher, 1) for _ in range(2 * MAX_BATCH)))
    assert sizes(triton) == [MAX_BATCH, MAX_BATCH]


async def test_a_lone_face_is_sent_after_the_delay():
    assert await ask(MicroBatcher(Triton(), lambda: True), 7) == [7]


async def test_crops_for_different_specs_are_sent_apart():
    triton = Triton()
    batcher = MicroBatcher(triton, lambda: True)
    asked = (ask(batcher, 1), ask(batcher, 2, spec="two"), ask(batcher, 3, spec="two"))
    assert await asyncio.gather(*asked) == [[1], [2], [3]]
    assert sorted((len(call.crops), call.spec) for call in triton.calls) == [(1, "one"), (2, "two")]


async def test_a_failure_reaches_exactly_the_callers_of_its_batch():
    triton = Triton()
    batcher = MicroBatcher(triton, lambda: True)
    triton.fails = True
    results = await asyncio.gather(ask(batcher, 1), ask(batcher, 2), return_exceptions=True)
    assert [type(result) for result in results] == [TritonUnavailable] * 2
    triton.fails = False
    assert await ask(batcher, 3) == [3]


async def test_a_photo_with_a_full_batch_of_faces_is_sent_alone():
    triton = Triton()
    batcher = MicroBatcher(triton, lambda: True)
    alone, group = asyncio.create_task(ask(batcher, 1)), [2] * MAX_BATCH
    await asyncio.sleep(0)
    assert await ask(batcher, *group) == group
    assert not alone.done()
    assert await alone == [1]


async def test_a_batch_that_all_callers_have_left_is_not_sent():
    triton = Triton()
    batcher = MicroBatcher(triton, lambda: True)
    leaves = asyncio.create_task(ask(batcher, 1))
    await asyncio.sleep(0)
    answer = batcher._next.answer
    leaves.cancel()
    await answer
    assert not triton.calls
    assert await ask(batcher, 2) == [2]


async def test_a_canceled_caller_leaves_the_others_their_answers():
    triton = Triton()
    batcher = MicroBatcher(triton, lambda: True)
    leaves, stays = (asyncio.create_task(ask(batcher, value)) for value in (1, 2))
    await asyncio.sleep(0)
    leaves.cancel()
    assert await stays == [2]
    assert leaves.cancelled()
