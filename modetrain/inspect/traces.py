"""Evidence from tracing: calls that were heard, Python state that changed, and two traces that differ.

A step is traced twice. What changes in both traces, or makes the second graph another one, would change at every step of an
eager run; what is set once and stays (a constant computed on first use) does no harm and is not told.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from modetrain.inspect import failures, graphs
from modetrain.inspect.blame import Blame
from modetrain.inspect.calls import Calls
from modetrain.inspect.finding import Finding, Place, finding
from modetrain.inspect.reach import Reached
from modetrain.inspect.state import Change, State
from modetrain.inspect.steps import Concrete, Steps

_OF_CHANGE = {
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traces:
    """What tracing a step showed.

    Attributes:
      findings: what was found.
      concrete: the first trace; None where tracing failed.
      ran: the user's lines that tracing ran.
      changed: expressions that the step itself changes.
    """

    findings: list[Finding]
    concrete: Concrete | None
    ran: frozenset[Place]
    changed: frozenset[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Trace:
    concrete: Concrete | None
    error: BaseException | None
    changes: list[tuple[Place, Change]]
    calls: Calls
    ran: frozenset[Place]


def look(steps: Steps, reached: Reached) -> Traces:
    """Traces a step twice and tells what came to light."""
    first = _trace(steps, reached)
    second = _trace(steps, reached) if first.error is None else None
    findings = list(_findings(steps, first, second))
    changed = frozenset(change.expression for one in (first, second) if one for _, change in one.changes)
    return Traces(findings=findings, concrete=first.concrete, ran=first.ran, changed=changed)


def _trace(steps: Steps, reached: Reached) -> _Trace:
    state = State.of(steps.recipe, reached)
    calls = Calls(reached.functions, [vars(steps.recipe)], silent=True)
    concrete, error = None, None
    with calls, Blame(state) as blame:
        try:
            concrete = steps.trace(steps.batches[0])
        except Exception as failed:
            error = failed
    return _Trace(concrete=concrete, error=error, changes=blame.changes, calls=calls, ran=frozenset(blame.ran))


def _findings(steps: Steps, first: _Trace, second: _Trace | None) -> Iterator[Finding]:
    for one in (first, second):
        for call in one.calls.heard if one else ():
            yield finding(call.code, call.place, _said(call.code, call.name), evidence="calls heard while tracing")
    if first.error is not None:
        yield failures.of_trace(first.error, steps)
    elif second is not None and second.error is not None:
        yield failures.of_trace(second.error, steps, again=True)
    differs = None
    if second is not None and first.concrete is not None and second.concrete is not None:
        differs = graphs.difference(first.concrete.graph, second.concrete.graph)
    again = {change.expression for _, change in second.changes} if second is not None else set()
    explained = any(call.code in ("MT301", "MT302", "MT303") for call in first.calls.heard)
    for place, change in first.changes:
        # Set on first use, and the same ever since.
        if change.kind in ("plain", "object", "layer", "container", "array") and change.expression not in again:
            if second is not None and second.error is None and differs is None:
                continue
        explained = True
        yield finding(_OF_CHANGE[change.kind], place, change.described(), evidence="state before and after each line")
    if differs is not None and not explained:
        yield finding("MT304", differs.place or steps.place, differs.what, evidence="two traces compared")


def _said(code: str, name: Any) -> str:
    return f"{name} is made here" if code == "MT206" else f"{name} is called here"
