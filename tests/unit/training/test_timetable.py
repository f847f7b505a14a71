import pytest

from training import timetable
from training.timetable import Timetable, duration


def test_the_time_left_is_corrected_by_how_long_the_steps_before_took(monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr(timetable.time, "monotonic", lambda: now)
    table = Timetable({"prepare": 100, "train": 200, "export": 50})
    table.begin("prepare")
    assert "[1 of 3] prepare: about 6 min left" in capsys.readouterr().out
    assert table.left(40) == 290
    now = 200.0  # twice as long as estimated
    table.finish()
    table.begin("train")
    assert table.left(70) == 170
    table.finish()


@pytest.mark.parametrize(
    ("seconds", "text"), [(12.4, "12 s"), (95, "2 min"), (3700, "1 h 2 min"), (90000, "25 h 0 min")]
)
def test_times_are_formatted_for_people(seconds, text):
    assert duration(seconds) == text
