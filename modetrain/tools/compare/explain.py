"""Explains why a step differs: the first operation that does, and what of Python's own state the step changes.

    explain_difference(variant, store, "eager", 0, "eager")    a variant's step, by the name and compile of the reference
    explain_impurity(variant, store, "eager", 0)               the reference's own, which gives other numbers when repeated
    explain_tracing(variant, 0)                                what tracing changes of the Python of a step

The first two run the step again and record every intermediate result, in both modes in this process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import tensorflow as tf

from modetrain.diagnostics.location import Location
from modetrain.tools.compare import first_difference, op_recorder, python_changes, tolerance
from modetrain.tools.compare.diagnosis import Explanation
from modetrain.tools.compare.first_difference import FirstDifference, Values
from modetrain.tools.compare.op_trace import OpTrace
from modetrain.tools.compare.python_changes import PythonChange
from modetrain.tools.compare.store import ResultStore
from modetrain.tools.compare.variant import Variant
from modetrain.tools.inspect.codes import CODES
from modetrain.tools.inspect.detectors import divergence
from modetrain.tools.inspect.inspected_step import InspectedStep, mode_for
from modetrain.tools.inspect.inspector import Inspector
from modetrain.tools.inspect.python_state.snapshot import restore_python_state

_NOISY_TRACES = 3
# How long outputs are computed one at a time; each is compiled by itself.
_PATIENCE_S = 60.0
_NOT_FOUND = (
    "The operation that makes it was not found: looked at one by one, a minute at most, none differs beyond noise."
)
_IN_BODIES = re.compile(r"(Stateless)?(If|While|Case)|TensorList\w+")
_NAMES_RANDOM = re.compile(r"random|default_rng|\brng\b", re.IGNORECASE)
_USE_SEEDS = (
    "Draw with tf.random.stateless_* and seed=self.seed('name'), or with a Keras layer, whose seeds modetrain sets: these are "
    "functions of (seed, step) and the same in every mode."
)
_FROZEN = "A compiled step (graph, xla) draws once, while it is traced, and keeps that number for the whole run."
_ONE_WAY = "Do not ask whether the step is traced, nor for values or errors that a graph does not have yet."
_USE_VARIABLES = "Keep what changes from step to step in variables, or use self.step."
# Codes of inspect: what makes a step another one each time that Python runs it, what tracing changes, and what replicas change.
_IMPURE = ("MT201", "MT202", "MT203", "MT205", "MT301", "MT302", "MT303")
_TRACED = (*_IMPURE, "MT204", "MT206", "MT207")
_REPLICAS = tuple(code for code, known in CODES.items() if known.mode == "replicas")


def explain_impurity(variant: Variant, store: ResultStore, reference: str, number: int) -> Explanation:
    """Why the reference gives other numbers when a step is repeated."""
    state = store.state_before(reference, number)
    first, second = (op_recorder.record_ops(variant, variant.mode.compile, number, state) for _ in range(2))
    found = first_difference.find(first, second, [0.0] * len(first), epsilon=0.0, exact=True)
    changes: list[PythonChange] = []
    if variant.mode.compile == "eager":
        variant.load(state)
        changes = python_changes.find_changes(variant.recipe, lambda: variant.observe(number))
    generators = [change for change in changes if change.random]
    sentences = []
    if found is not None:
        which = "the second time only" if found.only_in == "second" else "the first time only"
        what = f"runs {which}" if found.only_in else "gives other numbers"
        sentences.append(f"The first operation that {what}: {_describe_op(found)}.")
    op = found.entry.op if found else None
    place = found.entry.place if found else None
    drawn = found is not None and (found.random or _names_random(found))
    if generators or drawn:
        sentences += [f"The step changes {change}." for change in generators[:2]]
        if generators:
            sentences.append(_FROZEN)
            # The first operation that differs may use what an earlier line drew.
            place = place if drawn and place else generators[0].place
        return Explanation(kind="random", op=op, place=place, sentences=tuple(sentences), advice=_USE_SEEDS)
    if not changes and (known := _explain_by_inspect(variant, number, _IMPURE)) is not None:
        return dataclasses.replace(known, op=op, sentences=(*sentences, *known.sentences), blame="python")
    sentences += [f"The step changes Python state: {change}." for change in changes[:2]]
    place = changes[0].place if changes else place
    return Explanation(op=op, place=place, sentences=tuple(sentences), blame="python", advice=_USE_VARIABLES)


def explain_difference(
    variant: Variant, store: ResultStore, reference: str, number: int, reference_compile: str
) -> Explanation | None:
    """Why a variant's step differs from the reference's; None where that is not known."""
    if variant.replicas.count > 1:
        known = _explain_by_inspect(variant, number, _REPLICAS)
        return known and dataclasses.replace(known, blame="replicas")
    state = store.state_before(reference, number)
    first = op_recorder.record_ops(variant, reference_compile, number, state)
    size = tolerance.epsilon(variant.compute_dtype())

    def record_noisy() -> Iterator[OpTrace]:  # one at a time: a trace holds every intermediate result
        for draw in range(_NOISY_TRACES):
            rng = np.random.default_rng([number, draw])
            moved = {key: tolerance.perturb(array, size, rng) for key, array in state.items()}
            yield op_recorder.record_ops(variant, reference_compile, number, moved)

    floors = first_difference.noise_floors(first, record_noisy())
    second = op_recorder.record_ops(variant, variant.mode.compile, number, state)
    found = first_difference.find(first, second, floors, epsilon=size)
    alone = False
    if (found is None or found.rounding) and variant.compute_dtype() != "float64":
        one: Values
        one, other = (
            _RecordedStep(trace) if compile == "eager" else op_recorder.CompiledStep(variant, compile, number, state)
            for compile, trace in ((reference_compile, first), (variant.mode.compile, second))
        )
        by_itself = first_difference.find_one_at_a_time(one, other, floors, epsilon=size, patience=_PATIENCE_S)
        if by_itself is not None and (found is None or not by_itself.rounding):
            found, alone = by_itself, True
    if found is None:
        return Explanation(sentences=(_NOT_FOUND,))
    return _explain_op(found, variant.mode.compile, reference_compile, alone=alone)


def explain_tracing(variant: Variant, number: int) -> Explanation | None:
    """What tracing changes of the Python of a step; None where nothing is known.

    That is the line at which eager and traced Python part, or else what `inspect` knows, or else the line that asks how it runs.

    Args:
      variant: one that has run no step yet, and so keeps nothing of one.
      number: of the step whose batch is taken.
    """
    if (place := _diverging_line(variant, number, asked=False)) is not None:
        return Explanation(place=place, sentences=(f"Eager and traced Python part at {place}.",), advice=_ONE_WAY)
    if (known := _explain_by_inspect(variant, number, _TRACED)) is not None:
        return known
    if (place := _diverging_line(variant, number, asked=True)) is not None:
        return Explanation(place=place, sentences=(f"How the step is run is asked at {place}.",), advice=_ONE_WAY)
    return None


@dataclasses.dataclass(frozen=True)
class _RecordedStep:
    """A step that ran eagerly, in which nothing is merged."""

    entries: OpTrace

    def values_of(self, positions: Sequence[int]) -> list[np.ndarray | None]:
        return [self.entries[position].value for position in positions]


def _batch(variant: Variant, number: int) -> dict[str, tf.Tensor]:
    return {name: tf.constant(array[number]) for name, array in variant.batches.items()}


def _diverging_line(variant: Variant, number: int, *, asked: bool) -> Location | None:
    steps = InspectedStep(
        recipe=variant.recipe,
        method="train_step",
        mode=mode_for("graph", variant.mode),
        replicas=variant.replicas,
        global_batches=[_batch(variant, number)],
    )
    with (
        contextlib.suppress(Exception),
        restore_python_state(variant.recipe),
    ):  # a step that fails is reported elsewhere
        return divergence.find_line(steps, asked=asked)
    return None


def _explain_by_inspect(variant: Variant, number: int, codes: Collection[str]) -> Explanation | None:
    """The first line that `inspect` finds in a step with one of these codes."""
    inspector = Inspector(
        variant.recipe,
        [_batch(variant, number)],
        mode=mode_for("graph", variant.mode),
        replicas=variant.replicas,
        target="graph",
        several=variant.replicas.count > 1,
        methods=("train_step",),
    )
    found = next((finding for finding in inspector.find() if finding.code in codes), None)
    if found is None:
        return None
    sentence = f"Inspect says {found.code}, {CODES[found.code].title}: {found.what}, at {found.place}."
    return Explanation(place=found.place, sentences=(sentence,), advice=found.fix)


def _explain_op(found: FirstDifference, compile: str, reference: str, *, alone: bool) -> Explanation:
    what = _describe_op(found)
    plain = Explanation(op=found.entry.op, place=found.entry.place)
    if found.rounding:
        return dataclasses.replace(plain, sentences=(_describe_rounding(found),), rounding=True)
    # The library draws by other operations under XLA: what only one mode runs at a line that draws is a draw.
    if found.random or (found.only_in and _names_random(found)):
        sentence = f"Different random numbers: {what} draws others in {compile} than in {reference}."
        return dataclasses.replace(plain, kind="random", sentences=(sentence,), advice=_USE_SEEDS)
    if found.only_in and _IN_BODIES.fullmatch(found.entry.op):  # eager runs loops and branches as Python
        sentence = f"It begins in a loop or a branch: {what}. What is inside was looked at from outside alone."
        return dataclasses.replace(plain, sentences=(sentence,))
    if found.unread:
        sentence = f"It begins at {what} or after it: sizes depend on data from there on, and XLA was not asked for such results."
        return dataclasses.replace(plain, sentences=(sentence,))
    if found.only_in:
        mode = compile if found.only_in == "second" else reference
        sentence = f"Only {mode} runs {what}: the traced Python took another way than the eager one."
        return dataclasses.replace(plain, sentences=(sentence,), blame="tracing")
    values = ""
    if found.gap is not None and found.gap.index is not None:
        values = f" ({found.gap.got:.9g} and not {found.gap.expected:.9g})"
    sentences = [f"The first operation that differs: {what}{values}."]
    if alone:
        sentences.append("It differs only where nothing else needs its inputs: an optimization merged them.")
    blame = "grappler" if alone and compile == "graph" else None
    return dataclasses.replace(plain, sentences=tuple(sentences), blame=blame)


def _describe_op(found: FirstDifference) -> str:
    entry = found.entry
    where = f" at {entry.place}" if entry.place else " (made by the library)"
    return f"{'the gradient ' if entry.gradient else ''}{entry.op}{where}"


def _describe_rounding(found: FirstDifference) -> str:
    begins = f"It begins at {_describe_op(found)}"
    if found.entry.most_terms > 1:
        return f"{begins}, which adds up some {found.entry.most_terms:,.0f} numbers, in another order."
    if found.entry.op in first_difference.CANCELS:
        return f"{begins}, which takes away numbers next to equal: what is left is as uncertain as they are."
    return f"{begins}, at a threshold that rounding crosses."


def _names_random(found: FirstDifference) -> bool:
    return found.entry.place is not None and _NAMES_RANDOM.search(found.entry.place.text) is not None
