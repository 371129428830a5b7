"""Evidence from tracing: calls that were recorded, Python state that changed, and two traces that differ.

A step is traced twice. What changes in both traces, or changes the second graph, would change at every step of an eager run.
What is set once and stays (a constant computed on first use) does no harm and is not reported.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Iterable, Iterator
from typing import Any

import tensorflow as tf

from modetrain.diagnostics import graph_ops
from modetrain.diagnostics.location import Location
from modetrain.tools.inspect.detectors import trace_failures
from modetrain.tools.inspect.detectors.collectives import mark_collectives
from modetrain.tools.inspect.detectors.eager_variables import record_eager_variables
from modetrain.tools.inspect.detectors.file_writes import record_file_writes
from modetrain.tools.inspect.detectors.recorded_calls import RecordedCall
from modetrain.tools.inspect.detectors.retraces import record_retraces
from modetrain.tools.inspect.detectors.side_effects import CallRecorder
from modetrain.tools.inspect.finding import Finding, make_finding
from modetrain.tools.inspect.inspected_step import Concrete, InspectedStep
from modetrain.tools.inspect.python_state.change_tracer import ChangeTracer
from modetrain.tools.inspect.python_state.diff import Change, PythonState, is_inside
from modetrain.tools.inspect.python_state.reachable import Reachable
from modetrain.tools.inspect.python_state.source import spans, tree_of

CODE_OF_CHANGE = {
    "plain": "MT201",
    "object": "MT201",
    "layer": "MT201",
    "container": "MT202",
    "array": "MT202",
    "tensor": "MT203",
    "cache": "MT204",
    "iterator": "MT205",
    "random": "MT301",
}
_MAY_BE_HARMLESS = ("plain", "object", "layer", "container", "array")


_UNREPEATABLE = {"MT205", "MT302", "MT304"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TraceResult:
    """What tracing a step showed.

    Attributes:
      findings: what was found.
      concrete: the first trace; None where tracing failed.
      ran: the user's lines that tracing ran.
    """

    findings: list[Finding]
    concrete: Concrete | None
    ran: frozenset[Location]

    @property
    def is_repeatable(self) -> bool:
        """Whether nothing was found that makes every run of the step differ, and so two parts of a batch and the whole."""
        return not _UNREPEATABLE & {one.code for one in self.findings}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Trace:
    """One trace: its graph or its error, and what was recorded meanwhile."""

    concrete: Concrete | None
    error: Exception | None
    tracer: ChangeTracer
    calls: list[RecordedCall]
    retraces: list[Finding]
    keeps_variables: bool  # all that were made


def trace_twice(step: InspectedStep, reachable: Reachable) -> TraceResult:
    """Traces a step twice and returns what was found."""
    first = _trace(step, reachable)
    second = _trace(step, reachable) if first.error is None else None
    findings = list(_findings(step, reachable, first, second))
    return TraceResult(findings=findings, concrete=first.concrete, ran=frozenset(first.tracer.ran))


def _trace(step: InspectedStep, reachable: Reachable) -> _Trace:
    tracer = ChangeTracer(PythonState.for_recipe(step.recipe, reachable))
    calls = CallRecorder(reachable.functions, [vars(step.recipe)], silent=True)
    concrete, error = None, None
    tf.random.set_seed(None)  # so that an operation shows whether it has a seed; the inspector restores it
    with (
        mark_collectives(),
        calls,
        record_file_writes() as writes,
        record_eager_variables() as variables,
        record_retraces() as retraces,
        tracer,
    ):
        try:
            concrete = step.trace(step.batches[0])
        except Exception as failed:
            error = failed
    recorded = [*calls.calls, *writes.calls, *variables.calls]
    return _Trace(
        concrete=concrete,
        error=error,
        tracer=tracer,
        calls=recorded,
        retraces=retraces,
        keeps_variables=calls.made_only_what_is_kept(step.recipe),
    )


def _findings(step: InspectedStep, reachable: Reachable, first: _Trace, second: _Trace | None) -> Iterator[Finding]:
    difference = None
    if second is not None and first.concrete is not None and second.concrete is not None:
        difference = graph_ops.difference(first.concrete.graph, second.concrete.graph)
    harmless = second is not None and second.error is None and difference is None
    for one in filter(None, (first, second)):
        for call in one.calls:
            if not (call.code == "MT206" and harmless and one.keeps_variables):  # made once, and kept
                yield make_finding(call.code, call.place, call.describe(), evidence="calls heard while tracing")
    yield from first.retraces
    if first.error is not None:
        yield from trace_failures.explain_failure(first.error, step)
    elif second is not None and second.error is not None:
        yield from trace_failures.explain_failure(second.error, step, again=True)
    again = {change.expression for _, change in second.tracer.changes} if second is not None else set()
    explained = any(call.code in ("MT301", "MT302", "MT303") for call in first.calls)
    for place, change in first.tracer.changes:
        if change.kind in _MAY_BE_HARMLESS:
            if not _is_related(change.expression, first.tracer.lasting):  # restored before the step ended
                continue
            if harmless and not _is_related(change.expression, again):  # set on first use, and the same ever since
                continue
        explained = True
        code, evidence = CODE_OF_CHANGE[change.kind], "state before and after each line"
        yield make_finding(code, place, change.describe(), evidence=evidence)
        if (made := _place_in_cached(change, step.recipe, reachable, first.tracer.ran)) is not None:
            yield make_finding(code, made, "what is made here is cached, a tensor of the step", evidence=evidence)
    if difference is not None and not explained:
        yield make_finding("MT304", difference.place or step.place, difference.what, evidence="two traces compared")


def _place_in_cached(change: Change, recipe: Any, reachable: Reachable, ran: set[Location]) -> Location | None:
    """Where an `lru_cache` or a `cached_property` makes what it keeps: its last line that was run."""
    if change.kind not in ("cache", "tensor"):
        return None
    name = change.expression.partition("[")[0].removesuffix(" (a cache)").rpartition(".")[2]
    cached: Any = next((one for one in reachable.caches.values() if getattr(one, "__name__", "") == name), None)
    if cached is None and isinstance(known := vars(type(recipe)).get(name), functools.cached_property):
        cached = known.func
    function = getattr(cached, "__wrapped__", cached)
    tree = tree_of(function) if isinstance(function, types.FunctionType) else None
    if tree is None:
        return None
    return max(
        (one for one in ran if one.file == function.__code__.co_filename and spans(tree, one.line)), default=None
    )


def _is_related(expression: str, others: Iterable[str]) -> bool:
    """Whether it is one of the others, is in one of them, or one of them is in it."""
    return any(one == expression or is_inside(one, expression) or is_inside(expression, one) for one in others)
