from service.observability.timing import StageTimer


def test_each_stage_starts_where_the_last_one_ended() -> None:
    timer = StageTimer(last=1.0)
    timer.end_stage("wait")
    timer.extend([("decode", 1e9, 1e9 + 2), ("detect", 1e9 + 2, 1e9 + 5)])
    timer.end_stage("triton")
    assert timer.stages[0][:2] == ("wait", 1.0)
    assert timer.stages[3][:2] == ("triton", 1e9 + 5)


def test_stages_of_the_same_name_add_up() -> None:
    timer = StageTimer()
    timer.extend([("decode", 0.0, 1.0), ("detect", 1.0, 3.0), ("decode", 3.0, 3.5)])
    assert timer.seconds == {"decode": 1.5, "detect": 2.0}
