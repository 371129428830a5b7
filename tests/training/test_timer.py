"""A timer adds every second to one account, and measures steps; shown with a clock that is set by hand."""

from __future__ import annotations

import time

import pytest

from modetrain.training.timer import Timer


class Hand:
    """A time that only moves when it is moved."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def hand():
    return Hand()


@pytest.fixture
def clock(hand):
    return Timer(hand)


def test_what_happens_inside_a_booking_is_booked(clock, hand):
    hand.pass_(5)
    with clock.measure("data"):
        hand.pass_(2)
    hand.pass_(5)
    with clock.measure("data"):
        hand.pass_(1)
    assert clock.seconds == {"data": 3}
    assert clock.total == 13


def test_a_booking_inside_another_pauses_it(clock, hand):
    with clock.measure("eval"):
        hand.pass_(1)
        with clock.measure("compile"):
            hand.pass_(10)
            with clock.measure("data"):
                hand.pass_(100)
            hand.pass_(20)
        hand.pass_(2)
    assert clock.seconds == {"eval": 3, "compile": 30, "data": 100}
    assert sum(clock.seconds.values()) == clock.total, "no second is booked twice"


def test_an_account_inside_itself_is_counted_once(clock, hand):
    with clock.measure("eval"):
        hand.pass_(1)
        with clock.measure("eval"):
            hand.pass_(1)
        hand.pass_(1)
    assert clock.seconds == {"eval": 3}


def test_what_fails_is_booked_all_the_same(clock, hand):
    with pytest.raises(ZeroDivisionError), clock.measure("eval"):
        hand.pass_(4)
        raise ZeroDivisionError
    hand.pass_(50)
    with clock.measure("data"):
        hand.pass_(1)
    assert clock.seconds == {"eval": 4, "data": 1}


def test_steps_of_one_call_count_with_its_mean(clock, hand):
    with clock.measure_steps(4):
        hand.pass_(2)
    assert clock.step_ms() == {"p50": 500, "p90": 500, "max": 500}
    assert (clock.read().steps, clock.read().calls) == (4, 1)


def test_a_call_weighs_as_much_as_it_has_steps(clock, hand):
    # 95 steps of 1 ms in one call, 5 of 100 ms in calls of their own: 95 % of the steps are fast
    with clock.measure_steps(95):
        hand.pass_(0.095)
    for _ in range(5):
        with clock.measure_steps(1):
            hand.pass_(0.1)
    assert clock.step_ms() == pytest.approx({"p50": 1, "p90": 1, "max": 100})
    for _ in range(10):
        with clock.measure_steps(1):
            hand.pass_(0.1)
    assert clock.step_ms() == pytest.approx({"p50": 1, "p90": 100, "max": 100})


def test_a_wait_inside_a_call_is_no_step_time(clock, hand):
    with clock.measure_steps(2):
        hand.pass_(1)
        with clock.measure("data"):
            hand.pass_(7)
    assert clock.step_ms()["max"] == 500
    assert clock.seconds == {"steps": 1, "data": 7}


def test_only_the_calls_since_a_call_can_be_asked_for(clock, hand):
    for seconds in (9, 1, 3):
        with clock.measure_steps(1):
            hand.pass_(seconds)
    assert clock.step_ms(since=1) == {"p50": 2000, "p90": pytest.approx(2800), "max": 3000}
    assert clock.step_ms(since=clock.read().calls) == {}


def test_a_failed_call_is_no_step(clock, hand):
    with pytest.raises(ZeroDivisionError), clock.measure_steps(3):
        hand.pass_(1)
        raise ZeroDivisionError
    assert clock.read().steps == 0
    assert clock.step_ms() == {}


def test_what_went_before_the_clock_was_made_can_count_as_importing(hand):
    clock = Timer(hand, start=hand() - 4)
    with clock.measure("data"):
        hand.pass_(2)
    assert clock.seconds == {"import": 4, "data": 2}
    assert clock.total == 6


def test_the_default_is_a_clock_that_never_goes_back():
    clock = Timer()
    with clock.measure("data"):
        time.sleep(0.01)
    assert 0.01 <= clock.seconds["data"] <= clock.total
