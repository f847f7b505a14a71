import threading

import pytest

from service.errors import Overloaded
from service.memory import DecodingMemory, Hold, UploadMemory


def _fill(hold: Hold) -> None:
    hold.take(40)
    hold.give(10)
    hold.take(10)
    hold.take(1)


def test_what_a_request_held_is_given_back_whatever_becomes_of_it() -> None:
    memory = UploadMemory(100)
    with memory.hold() as hold:
        hold.take(60)
        with pytest.raises(Overloaded, match=r"TANDEM_MAX_HELD_BYTES"), memory.hold() as other:
            _fill(other)
        assert memory.held == 60
    assert memory.held == 0


def test_room_is_for_as_long_as_it_is_needed() -> None:
    memory = UploadMemory(10)
    with memory.hold() as hold:
        with hold.room(10), pytest.raises(Overloaded):
            hold.check_room(1)
        hold.check_room(10)


def test_photos_are_decoded_side_by_side_only_as_far_as_there_is_room() -> None:
    memory = DecodingMemory(100)
    begun, go = [threading.Event() for _ in range(4)], [threading.Event() for _ in range(4)]

    def decode(number: int, size: int) -> None:
        with memory.room(size):
            begun[number].set()
            assert go[number].wait(30)

    threads = [threading.Thread(target=decode, args=work) for work in enumerate((60, 40, 500, 1))]
    for number in (0, 1):
        threads[number].start()
        assert begun[number].wait(30)
    threads[2].start()
    assert not begun[2].wait(0.2)
    go[0].set()
    assert not begun[2].wait(0.2)  # more than there is: alone or not at all
    threads[3].start()
    assert not begun[3].wait(0.2)  # and no small one passes it
    go[1].set()
    assert begun[2].wait(30)
    go[2].set()
    assert begun[3].wait(30)
    go[3].set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
