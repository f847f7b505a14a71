from collections.abc import Sequence

import numpy as np
import pytest

from service.cli.video.command import FrameSampling
from service.cli.video.io import Frame

NO_PIXELS = np.zeros((1, 1, 3), np.uint8)


def selected(sampling: FrameSampling, times_s: Sequence[float]) -> list[float]:
    frames = (Frame(number, 0, time_s, NO_PIXELS) for number, time_s in enumerate(times_s))
    return [frame.time_s for frame, analyze in sampling.select(frames) if analyze]


def test_frames_are_sampled_by_number_and_by_time() -> None:
    times = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 2.0, 2.1]
    assert selected(FrameSampling(), times) == times
    assert selected(FrameSampling(every=3), times) == [0, 0.3, 2.0]
    assert selected(FrameSampling(per_s=5), times) == [0, 0.2, 0.4, 2.0]
    assert selected(FrameSampling(per_s=1000), times) == times
    assert selected(FrameSampling(every=2, per_s=2), times) == [0, 2.0]


def test_a_rate_is_kept_when_times_are_rounded() -> None:
    times = [round(n / 30, 3) for n in range(300)]
    assert len(selected(FrameSampling(per_s=10), times)) == pytest.approx(100, abs=1)
