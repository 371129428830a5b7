"""Learning-rate schedules are functions of the step alone, and hit their marks at the first and the last step."""

from __future__ import annotations

import math

import pytest
import tensorflow as tf

from modetrain.engine.schedule import learning_rate_at
from modetrain.settings import OptimizerSettings


def rates(steps, **settings):
    chosen = OptimizerSettings(name="sgd", learning_rate=2.0, **settings)
    return [float(learning_rate_at(chosen, step, steps)) for step in range(steps)]


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_several_steps_at_once_are_what_they_are_one_by_one(schedule):
    chosen = OptimizerSettings(name="sgd", learning_rate=2.0, schedule=schedule, warmup=3, final_fraction=0.1)
    found = learning_rate_at(chosen, tf.range(9, dtype=tf.int64), 9)
    assert found.numpy() == pytest.approx(rates(9, schedule=schedule, warmup=3, final_fraction=0.1), rel=1e-15)


def test_constant_is_constant():
    assert rates(4) == [2.0] * 4


def test_warm_up_rises_to_the_peak_and_the_first_update_already_moves():
    assert rates(6, warmup=4) == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]


def test_a_line_falls_from_the_peak_at_the_first_step_to_nothing_at_the_last():
    assert rates(5, schedule="linear") == [2.0, 1.5, 1.0, 0.5, 0.0]


def test_a_cosine_falls_from_the_peak_at_the_first_step_to_nothing_at_the_last():
    expected = [2.0 * (1 + math.cos(math.pi * n / 8)) / 2 for n in range(9)]
    assert rates(9, schedule="cosine") == pytest.approx(expected, abs=1e-15)
    assert rates(9, schedule="cosine")[4] == pytest.approx(1.0)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_last_update_is_at_the_final_fraction(schedule):
    found = rates(7, schedule=schedule, final_fraction=0.1)
    assert found[0] == 2.0
    assert found[-1] == pytest.approx(0.2)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_fall_begins_where_warm_up_ends(schedule):
    found = rates(10, schedule=schedule, warmup=4)
    assert found[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert found[5:] == sorted(found[5:], reverse=True)
    assert found[5] < 2.0
    assert found[-1] == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
@pytest.mark.parametrize("steps", [1, 2])
def test_the_shortest_runs_have_a_rate_too(schedule, steps):
    assert rates(steps, schedule=schedule)[0] == 2.0


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_after_the_last_step_it_stays_where_it_is(schedule):
    chosen = OptimizerSettings(name="sgd", learning_rate=2.0, schedule=schedule, final_fraction=0.5)
    assert float(learning_rate_at(chosen, 1000, 10)) == pytest.approx(1.0)


def test_a_tensor_step_gives_what_a_python_step_gives():
    chosen = OptimizerSettings(name="sgd", learning_rate=0.1, schedule="cosine", warmup=3)

    @tf.function
    def traced(step):
        return tf.cast(learning_rate_at(chosen, step, 20), tf.float64)

    for step in range(20):
        assert float(traced(tf.constant(step, tf.int64))) == pytest.approx(float(learning_rate_at(chosen, step, 20)))
