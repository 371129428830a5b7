"""The first difference of two traces of a step: made-up traces, in which it is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from modetrain.diagnostics.location import Location
from modetrain.tools.compare import first_difference
from modetrain.tools.compare.op_trace import OpOutput

EPSILON = 2.0**-23


def trace(*operations):
    """A trace of (op, floors that its value is off by, positions of its inputs), each on a line of its own."""
    return [
        OpOutput(
            op=op,
            value=np.float32([1.0, 1.0 + off * EPSILON]),
            shape=(2,),
            place=Location(file="step.py", line=n),
            gradient=False,
            inputs=tuple(inputs),
            most_terms=100.0 if op == "Mean" else 1.0,
        )
        for n, (op, off, inputs) in enumerate(operations)
    ]


def origin(*operations):
    """The first difference from the same trace without any."""
    exact = trace(*((op, 0, inputs) for op, _, inputs in operations))
    return first_difference.find(exact, trace(*operations), [0.0] * len(operations), epsilon=EPSILON)


def test_an_operation_whose_inputs_agree_is_the_origin():
    found = origin(("Mul", 0, []), ("Tanh", 40, [0]), ("Exp", 80, [1]))
    assert (found.entry.op, found.rounding) == ("Tanh", False)


def test_a_sum_that_loses_no_more_than_sums_may_is_rounding():
    found = origin(("Mul", 0, []), ("Mean", 40, [0]), ("Exp", 80, [1]))
    assert (found.entry.op, found.rounding) == ("Mean", True)


def test_nothing_is_found_where_nothing_differs_beyond_noise():
    assert origin(("Mul", 0, []), ("Tanh", 8, [0])) is None


@pytest.mark.parametrize("off", [40, 0], ids=["written from a rounded sum", "written by the host"])
def test_what_a_variable_holds_was_computed_before(off):
    found = origin(("Mul", 0, []), ("Mean", off, [0]), ("ReadVariableOp", 80, []), ("Exp", 80, [2]))
    assert (found.entry.op, found.rounding) == (("Mean", True) if off else ("ReadVariableOp", False))


def test_numbers_next_to_equal_taken_from_each_other_are_rounding_in_their_last_places():
    def logs(off, *, of_constant):
        large = np.float32([1000.0, 1000.0])
        made = trace(("Mul", 0, []), ("Mul", 0, []), ("Sub", off, [0, 1]))
        for n in (0, 1):
            object.__setattr__(made[n], "value", large)
        object.__setattr__(made[2], "of_constant", of_constant)
        return made

    def between(off, *, of_constant):
        exact, other = (logs(one, of_constant=of_constant) for one in (0, off))
        return first_difference.find(exact, other, [0.0] * 3, epsilon=EPSILON)

    assert between(2000, of_constant=False).rounding
    assert not between(2000, of_constant=True).rounding, "a constant was folded away"
    assert not between(20_000, of_constant=False).rounding, "more than their last places"


@pytest.mark.parametrize(
    ("number", "codes", "rounding"),
    [(3e4, (30000, 30001), True), (3e9, (2**31 - 1, -(2**31)), False), (3e4, (30000, 31000), False)],
    ids=["next to a threshold", "out of range", "too far apart"],
)
def test_a_cast_is_rounding_next_to_a_threshold_alone(number, codes, rounding):
    first, second = (trace(("Mul", off, []), ("Cast", 0, [0])) for off in (0, 1))
    for made, code in zip((first, second), codes, strict=True):
        made[0] = dataclasses.replace(made[0], value=np.float32([number, number]))
        made[1] = dataclasses.replace(made[1], value=np.int32([code, code]))
    second[0] = dataclasses.replace(second[0], value=np.nextafter(first[0].value, np.float32(np.inf)))
    found = first_difference.find(first, second, [0.0, 0.0], epsilon=EPSILON)
    assert (found.entry.op, found.rounding) == ("Cast", rounding)


def test_what_is_not_read_because_its_size_depends_on_data_is_named_before_what_follows_from_it():
    eager, graph = (trace(("Mul", 0, []), ("Where", 0, [0]), ("Sum", off, [1])) for off in (0, 5000))
    graph[1] = dataclasses.replace(graph[1], value=None, shape=(None, 1))
    found = first_difference.find(eager, graph, [0.0] * 3, epsilon=EPSILON)
    assert (found.entry.op, found.unread, found.only_in) == ("Where", True, None)
