"""Evidence from tracing: calls that were heard, Python state that changed, and two traces that differ.

A step is traced twice. What changes in both traces, or makes the second graph another one, would change at every step of an
eager run; what is set once and stays (a constant computed on first use) does no harm and is not told.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Iterable, Iterator
from typing import Any

from modetrain.diagnostics import graph_ops
from modetrain.diagnostics.location import Location
from modetrain.tools.inspect.detectors import collectives, trace_failures
from modetrain.tools.inspect.detectors.eager_variables import Escapes
from modetrain.tools.inspect.detectors.file_writes import Writes
from modetrain.tools.inspect.detectors.retraces import Retraces
from modetrain.tools.inspect.detectors.side_effects import Call, Calls
from modetrain.tools.inspect.finding import Finding, finding
from modetrain.tools.inspect.python_state.diff import Change, State, is_inside
from modetrain.tools.inspect.python_state.line_tracer import Blame
from modetrain.tools.inspect.python_state.reachable import Reached, tree_of
from modetrain.tools.inspect.traced_step import Concrete, Steps

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traces:
    """What tracing a step showed.

    Attributes:
      findings: what was found.
      concrete: the first trace; None where tracing failed.
      ran: the user's lines that tracing ran.
    """

    findings: list[Finding]
    concrete: Concrete | None
    ran: frozenset[Location]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Trace:
    concrete: Concrete | None
    error: BaseException | None
    changes: list[tuple[Location, Change]]
    heard: list[Call]
    retraces: Retraces
    ran: frozenset[Location]
    lasting: frozenset[str]


def look(steps: Steps, reached: Reached) -> Traces:
    """Traces a step twice and tells what came to light."""
    first = _trace(steps, reached)
    second = _trace(steps, reached) if first.error is None else None
    findings = list(_findings(steps, reached, first, second))
    return Traces(findings=findings, concrete=first.concrete, ran=first.ran)


def _trace(steps: Steps, reached: Reached) -> _Trace:
    state = State.of(steps.recipe, reached)
    calls, retraces = Calls(reached.functions, [vars(steps.recipe)], silent=True), Retraces()
    concrete, error = None, None
    with collectives.marked(), calls, Writes() as writes, Escapes() as escapes, retraces, Blame(state) as blame:
        try:
            concrete = steps.trace(steps.batches[0])
        except Exception as failed:
            error = failed
    return _Trace(
        concrete=concrete,
        error=error,
        changes=blame.changes,
        heard=[*calls.heard, *writes.heard, *escapes.heard],
        retraces=retraces,
        ran=frozenset(blame.ran),
        lasting=blame.lasting,
    )


def _findings(steps: Steps, reached: Reached, first: _Trace, second: _Trace | None) -> Iterator[Finding]:
    for one in (first, second):
        for call in one.heard if one else ():
            yield finding(call.code, call.place, said(call.code, call.name), evidence="calls heard while tracing")
    yield from first.retraces.findings
    if first.error is not None:
        yield trace_failures.of_trace(first.error, steps)
    elif second is not None and second.error is not None:
        yield trace_failures.of_trace(second.error, steps, again=True)
    differs = None
    if second is not None and first.concrete is not None and second.concrete is not None:
        differs = graph_ops.difference(first.concrete.graph, second.concrete.graph)
    again = {change.expression for _, change in second.changes} if second is not None else set()
    harmless = second is not None and second.error is None and differs is None
    explained = any(call.code in ("MT301", "MT302", "MT303") for call in first.heard)
    for place, change in first.changes:
        if change.kind in _MAY_BE_HARMLESS:
            if not _concerns(change.expression, first.lasting):  # put back before the step ended
                continue
            if harmless and not _concerns(change.expression, again):  # set on first use, and the same ever since
                continue
        explained = True
        code, evidence = CODE_OF_CHANGE[change.kind], "state before and after each line"
        yield finding(code, place, change.described(), evidence=evidence)
        if (made := _place_in_cached(change, steps.recipe, reached, first.ran)) is not None:
            yield finding(code, made, "what is made here is cached, a tensor of the step", evidence=evidence)
    if differs is not None and not explained:
        yield finding("MT304", differs.place or steps.place, differs.what, evidence="two traces compared")


def _place_in_cached(change: Change, recipe: Any, reached: Reached, ran: frozenset[Location]) -> Location | None:
    """Where an `lru_cache` or a `cached_property` makes what it keeps: its last line that was run."""
    if change.kind not in ("cache", "tensor"):
        return None
    name = change.expression.partition("[")[0].removesuffix(" (a cache)").rpartition(".")[2]
    cached: Any = next((one for one in reached.caches.values() if getattr(one, "__name__", "") == name), None)
    if cached is None and isinstance(known := vars(type(recipe)).get(name), functools.cached_property):
        cached = known.func
    function = getattr(cached, "__wrapped__", cached)
    tree = tree_of(function) if isinstance(function, types.FunctionType) else None
    if tree is None:
        return None
    file, lines_ = function.__code__.co_filename, range(tree.lineno, (tree.end_lineno or tree.lineno) + 1)  # type: ignore[attr-defined]
    return max((one for one in ran if one.file == file and one.line in lines_), default=None)


def _concerns(expression: str, others: Iterable[str]) -> bool:
    """Whether it is one of the others, is in one of them, or one of them is in it."""
    return any(one == expression or is_inside(one, expression) or is_inside(expression, one) for one in others)


def said(code: str, name: str) -> str:
    """What was heard, in words."""
    if code == "MT207":
        return f"{name} outside of the graph"
    return f"{name} is made here" if code == "MT206" else f"{name} is called here"
