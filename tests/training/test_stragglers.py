"""A worker is named only where what it has to do by itself stands out from the others'."""

from __future__ import annotations

import numpy as np
import pytest

from modetrain.training.stragglers import WorkerTimes


def times(step_ms, data_wait_ms, cpu_ms):
    return WorkerTimes(step_ms=np.array(step_ms), data_wait_ms=np.array(data_wait_ms), cpu_ms=np.array(cpu_ms))


@pytest.mark.parametrize(
    ("data_wait_ms", "cpu_ms", "slowest"),
    [
        ([1.0, 1.0], [60.0, 61.0], None),  # noise
        ([1.0, 30.0], [60.0, 60.0], 1),  # waits for data
        ([1.0, 1.0, 1.0], [60.0, 90.0, 60.0], 1),  # computes
        ([0.1, 0.1], [1.0, 2.0], None),  # twice as much of next to nothing: steps are long for another reason
        ([1.0], [60.0], None),
    ],
)
def test_who_stands_out(data_wait_ms, cpu_ms, slowest):
    found = times([65.4, 66.7, 66.0][: len(cpu_ms)], data_wait_ms, cpu_ms)
    assert found.slowest == slowest
    assert found.spread()["cpu_ms"]["max"] == max(cpu_ms)
