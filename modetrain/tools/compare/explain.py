"""Why a step differs: the first operation that does, and what of Python's own state the step changes.

    difference(arm, shelf, "eager", 0, "eager")       an `Explanation` of an arm's step, by the name and compile of the reference
    impurity(arm, shelf, "eager", 0)                  of a reference's own, which gives other numbers when it is repeated
    tracing(arm, 0)                                   what tracing changes of the Python of a step; of an arm that has made none

The first two run the step again with every intermediate result written down, in both modes in this process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import tensorflow as tf

from modetrain.diagnostics.location import Location
from modetrain.tools.compare import bisect, op_trace, python_changes, tolerance
from modetrain.tools.compare.bisect import Origin
from modetrain.tools.compare.diagnosis import Explanation
from modetrain.tools.compare.op_log import Log
from modetrain.tools.compare.store import Shelf, before
from modetrain.tools.compare.variant import Arm
from modetrain.tools.inspect.codes import CODES
from modetrain.tools.inspect.detectors import divergence
from modetrain.tools.inspect.inspected_step import InspectedStep, mode_for
from modetrain.tools.inspect.inspector import Inspector
from modetrain.tools.inspect.python_state.snapshot import restore_python_state

_NOISY_LOGS = 3
# How long results are asked for one at a time; each is compiled by itself.
_PATIENCE_S = 60.0
_NOT_FOUND = (
    "The operation that makes it was not found: looked at one by one, a minute at most, none differs beyond noise."
)
_IN_BODIES = re.compile(r"(Stateless)?(If|While|Case)|TensorList\w+")
_SAYS_RANDOM = re.compile(r"random|default_rng|\brng\b", re.IGNORECASE)
_USE_SEEDS = (
    "Draw with tf.random.stateless_* and seed=self.seed('name'), or with a Keras layer, whose seeds modetrain sets: these are "
    "functions of (seed, step) and the same in every mode."
)
_FROZEN = "A compiled step (graph, xla) draws once, while it is traced, and keeps that number for the whole run."
# What makes a step another one each time that Python runs it, and what several replicas compute otherwise.
_IMPURE = ("MT201", "MT202", "MT203", "MT205", "MT301", "MT302", "MT303")
_TRACED = (*_IMPURE, "MT204", "MT206", "MT207")
_OF_REPLICAS = tuple(code for code, known in CODES.items() if known.mode == "replicas")
_ONE_WAY = "Do not ask whether the step is traced, nor for values or errors that a graph does not have yet."
_USE_VARIABLES = "Keep what changes from step to step in variables, or use self.step."


def impurity(arm: Arm, shelf: Shelf, reference: str, number: int) -> Explanation:
    """Why the reference gives other numbers when a step is repeated."""
    state = before(shelf, reference, number)
    compile = arm.mode.compile
    first, second = (op_trace.log_of(arm, compile, number, state) for _ in range(2))
    found = bisect.origin(first, second, [0.0] * len(first), epsilon=0.0, exact=True)
    changed: list[python_changes.Change] = []
    if compile == "eager":
        arm.load(state)
        changed = python_changes.changes(arm.recipe, lambda: arm.step(number))
    generators = [change for change in changed if change.random]
    said = []
    if found is not None:
        which = "the second time only" if found.only_in == "second" else "the first time only"
        what = f"runs {which}" if found.only_in else "gives other numbers"
        said.append(f"The first operation that {what}: {_named(found)}.")
    drawn = found is not None and (found.random or _says_random(found))
    if generators or drawn:
        said += [f"The step changes {change}." for change in generators[:2]]
        if generators:
            said.append(_FROZEN)
        # What differs first may be computed with what was drawn on an earlier line.
        drew = found.entry.place if found is not None and (drawn or not generators) else None
        where = drew or (generators[0].place if generators else None)
        op = found.entry.op if found else None
        return Explanation(kind="random", op=op, place=where, said=tuple(said), advice=_USE_SEEDS)
    op = found.entry.op if found else None
    if not changed and (told := _of_inspect(arm, number, _IMPURE)) is not None:
        return dataclasses.replace(told, op=op, said=(*said, *told.said), blame="python")
    said += [f"The step changes Python state: {change}." for change in changed[:2]]
    where = changed[0].place if changed else found.entry.place if found else None
    return Explanation(op=op, place=where, said=tuple(said), blame="python", advice=_USE_VARIABLES)


def difference(arm: Arm, shelf: Shelf, reference: str, number: int, reference_compile: str) -> Explanation | None:
    """Why an arm's step differs from the reference's; None where that could not be found out."""
    if arm.replicas.count > 1:
        told = _of_inspect(arm, number, _OF_REPLICAS)
        return told and dataclasses.replace(told, blame="replicas")
    state = before(shelf, reference, number)
    first = op_trace.log_of(arm, reference_compile, number, state)
    size = tolerance.epsilon(arm.compute_dtype())

    def noisy() -> Iterator[Log]:  # one at a time: a log holds every intermediate result
        for draw in range(_NOISY_LOGS):
            rng = np.random.default_rng([number, draw])
            moved = {key: tolerance.moved(array, size, rng) for key, array in state.items()}
            yield op_trace.log_of(arm, reference_compile, number, moved)

    floors = bisect.floors_of(first, noisy())
    second = op_trace.log_of(arm, arm.mode.compile, number, state)
    found = bisect.origin(first, second, floors, epsilon=size)
    alone = False
    if (found is None or found.rounding) and arm.compute_dtype() != "float64":
        ones: list[bisect.Values] = [
            _Written(log) if compile == "eager" else op_trace.Graph(arm, compile, number, state)
            for compile, log in ((reference_compile, first), (arm.mode.compile, second))
        ]
        by_itself = bisect.alone(ones[0], ones[1], floors, epsilon=size, patience=_PATIENCE_S)
        if by_itself is not None and (found is None or not by_itself.rounding):
            found, alone = by_itself, True
    if found is None:
        return Explanation(said=(_NOT_FOUND,))
    if found.rounding:
        return Explanation(op=found.entry.op, place=found.entry.place, said=(_rounding(found),), rounding=True)
    return _said(found, arm.mode.compile, reference_compile, alone=alone)


def tracing(arm: Arm, number: int) -> Explanation | None:
    """What tracing changes of the Python of a step.

    That is the line at which eager and traced Python part, or else what `inspect` knows, or else the line that asks how it is run.

    Args:
      arm: one that has made no step yet, and so keeps nothing of one.
      number: of the step whose batch is taken.
    """
    if (where := _parting(arm, number, asked=False)) is not None:
        return Explanation(place=where, said=(f"Eager and traced Python part at {where}.",), advice=_ONE_WAY)
    if (told := _of_inspect(arm, number, _TRACED)) is not None:
        return told
    if (where := _parting(arm, number, asked=True)) is not None:
        return Explanation(place=where, said=(f"How the step is run is asked at {where}.",), advice=_ONE_WAY)
    return None


def _parting(arm: Arm, number: int, *, asked: bool) -> Location | None:
    mode = mode_for("graph", arm.mode)
    step = InspectedStep(
        recipe=arm.recipe,
        method="train_step",
        mode=mode,
        replicas=arm.replicas,
        global_batches=[_batch(arm, number)],
    )
    with contextlib.suppress(Exception), restore_python_state(arm.recipe):  # a step that fails has told why
        return divergence.find_line(step, asked=asked)
    return None


@dataclasses.dataclass(frozen=True)
class _Written:
    """What was written down of a step that ran eagerly, which nothing merges."""

    entries: Log

    def values_of(self, positions: Sequence[int]) -> list[np.ndarray | None]:
        return [self.entries[position].value for position in positions]


def _batch(arm: Arm, number: int) -> dict[str, tf.Tensor]:
    return {name: tf.constant(array[number]) for name, array in arm.batches.items()}


def _of_inspect(arm: Arm, number: int, codes: Collection[str]) -> Explanation | None:
    """What `inspect` knows of a step: the first line that it finds with one of these codes."""
    several = arm.replicas.count > 1
    inspector = Inspector(
        arm.recipe,
        [_batch(arm, number)],
        mode=mode_for("graph", arm.mode),
        replicas=arm.replicas,
        target="graph",
        several=several,
        methods=("train_step",),
    )
    found = next((one for one in inspector.find() if one.code in codes), None)
    if found is None:
        return None
    said = f"Inspect says {found.code}, {CODES[found.code].title}: {found.what}, at {found.place}."
    return Explanation(place=found.place, said=(said,), advice=found.fix)


def _said(found: Origin, compile: str, reference: str, *, alone: bool) -> Explanation:
    # The library draws by other operations under XLA: what only one mode runs at a line that draws is a draw.
    if found.random or (found.only_in and _says_random(found)):
        drawn = f"Different random numbers: {_named(found)} draws others in {compile} than in {reference}."
        return Explanation(kind="random", op=found.entry.op, place=found.entry.place, said=(drawn,), advice=_USE_SEEDS)
    if found.only_in and _IN_BODIES.fullmatch(found.entry.op):  # eager runs loops and branches as Python
        inside = f"It begins in a loop or a branch: {_named(found)}. What is inside was looked at from outside alone."
        return Explanation(op=found.entry.op, place=found.entry.place, said=(inside,))
    if found.only_in:
        who = compile if found.only_in == "second" else reference
        alone_in = f"Only {who} runs {_named(found)}: the traced Python took another way than the eager one."
        return Explanation(op=found.entry.op, place=found.entry.place, said=(alone_in,), blame="tracing")
    sizes = ""
    if found.gap is not None and found.gap.index is not None:
        sizes = f" ({found.gap.got:.9g} and not {found.gap.expected:.9g})"
    said = [f"The first operation that differs: {_named(found)}{sizes}."]
    if alone:
        said.append("It differs only where nothing else needs its inputs: an optimization merged them.")
    blame = "grappler" if alone and compile == "graph" else None
    return Explanation(op=found.entry.op, place=found.entry.place, said=tuple(said), blame=blame)


def _named(found: Origin) -> str:
    entry = found.entry
    where = f" at {entry.place}" if entry.place else " (made by the library)"
    return f"{'the gradient ' if entry.gradient else ''}{entry.op}{where}"


def _says_random(found: Origin) -> bool:
    return found.entry.place is not None and _SAYS_RANDOM.search(found.entry.place.text) is not None


def _rounding(found: Origin) -> str:
    if found.entry.most_terms > 1:
        count = f"{found.entry.most_terms:,.0f}"
        return f"It begins at {_named(found)}, which adds up some {count} numbers, in another order."
    if found.entry.op in bisect.CANCELS:
        return f"It begins at {_named(found)}, which takes away numbers next to equal: what is left is as uncertain as they are."
    return f"It begins at {_named(found)}, at a threshold that rounding crosses."
