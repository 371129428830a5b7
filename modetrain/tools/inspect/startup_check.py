"""The short form: what tracing changes, told in a line each as a graph or XLA run traces its steps.

It watches the one trace that happens anyway, so that it costs next to nothing (`benchmarks/inspection.py`), and tells only what
that one trace leaves no doubt of; `do=inspect` traces twice, runs the step and tells the whole story.
"""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Callable, Iterator

from modetrain.config import arguments
from modetrain.diagnostics import graph_ops, stack
from modetrain.diagnostics.location import Location
from modetrain.engine.devices import Replicas
from modetrain.engine.guards.step_guards import unguarded
from modetrain.engine.loop import Concrete
from modetrain.files.quoting import key_of
from modetrain.mode import Mode
from modetrain.recipe import Recipe
from modetrain.tools.inspect import findings_report
from modetrain.tools.inspect.detectors import operations, unrolled_loops
from modetrain.tools.inspect.detectors import replicas as sharing
from modetrain.tools.inspect.detectors.side_effects import Calls
from modetrain.tools.inspect.detectors.traces import CODE_OF_CHANGE, said
from modetrain.tools.inspect.finding import Finding, finding, merged, waived
from modetrain.tools.inspect.python_state.diff import Change, State, changes
from modetrain.tools.inspect.python_state.reachable import Reached, nodes_of, reached

log = logging.getLogger(__name__)

_OF_THE_RUN = ("do", "run_dir", "resume", "stop_after")


class Start:
    """Watches the traces of a run.

    Args:
      recipe: the recipe.
      mode: of the run.
      command: the command line of the run.
      replicas: of the run; one device by default.
    """

    def __init__(
        self,
        recipe: Recipe,
        mode: Mode,
        command: str = "",
        replicas: Replicas | None = None,
    ):
        self._recipe = recipe
        self._mode = mode
        self._replicas = replicas or Replicas()
        self._command = command
        self._told: set[tuple[str, str, int]] = set()

    def of(self, method: str) -> Callable[[Callable[[], Concrete]], Concrete]:
        """What `Program` calls to trace a step.

        Args:
          method: `train_step` or `eval_step`.
        """

        def observe(trace: Callable[[], Concrete]) -> Concrete:
            reach = reached(self._recipe, [method])
            state = State.of(self._recipe, reach)
            before = state.look()
            calls = Calls(reach.functions, [vars(self._recipe)])
            concrete = None
            try:
                with calls:
                    concrete = trace()
            finally:
                self._tell(self._findings(calls, changes(before, state.look()), reach, concrete, method))
            if self._mode.guarded and (places := unguarded(concrete.graph)):
                shown = ", ".join(f"{place.shown}" for place in places)
                log.info(
                    f"not guarded, because nothing but its result comes out of an XLA program inside the step: {shown}"
                )
            return concrete

        return observe

    def _findings(
        self, calls: Calls, changed: list[Change], reach: Reached, concrete: Concrete | None, method: str
    ) -> Iterator[Finding]:
        for call in calls.heard:
            yield finding(call.code, call.place, said(call.code, call.name), evidence="calls heard while tracing")
        drawn = any(call.code == "MT301" for call in calls.heard)
        for change in changed:
            if _leaves_no_doubt(change) and not (drawn and change.expression in ("random", "numpy.random")):
                place = place_of_change(change.expression, reach) or place_of_method(self._recipe, method)
                yield finding(CODE_OF_CHANGE[change.kind], place, change.described(), evidence="state before and after")
        if concrete is not None:
            yield from operations.look(concrete.graph, self._mode.compile)
            yield from unrolled_loops.look(concrete.graph, self._replicas.local)
            if self._replicas.count > 1 and method == "train_step":
                told = list(sharing.of_source(self._recipe, reach))
                ran = {stack.of_op(op) for op in graph_ops.operations(concrete.graph)} if told else ()
                yield from (one for one in told if one.place in ran)

    def _tell(self, findings: Iterator[Finding]) -> None:
        new = [one for one in merged(findings) if not waived(one) and (one.code, one.file, one.line) not in self._told]
        self._told |= {(one.code, one.file, one.line) for one in new}
        for one in new:
            log.warning(findings_report.short(one))
        if new and self._command:
            log.info("details with:")
            log.info(f"  {whole_story(self._command)}")


def whole_story(command: str) -> str:
    """The command line of a run with `do=inspect`, which has a run folder of its own and goes on from nothing."""
    line = arguments.read(command)
    words = [word for word in line.overrides if key_of(word) not in _OF_THE_RUN]
    return arguments.printed({"do": "inspect"}, words=words, config_dirs=line.config_dirs)


def _leaves_no_doubt(change: Change) -> bool:
    """Whether a change would happen at each trace, and is no constant that is computed on first use."""
    if change.kind in ("random", "iterator", "tensor", "cache"):
        return True
    if change.before is None or change.after is None:
        return False
    if change.kind == "container":
        return change.after.token[0] == "sequence"
    numbers = [
        isinstance(one.token, str) or (isinstance(one.token, tuple) and one.token[0] in ("int", "float"))
        for one in (change.before, change.after)
    ]
    return change.kind == "plain" and all(numbers)


def place_of_method(recipe: Recipe, method: str) -> Location:
    """Where a step begins."""
    code = getattr(type(recipe), method).__code__
    return Location(file=code.co_filename, line=code.co_firstlineno)


def place_of_change(expression: str, reach: Reached) -> Location | None:
    """The line in the reached functions that changes what an expression names, found by its last name."""
    names = re.findall(r"[A-Za-z_]\w*", re.sub(r"\[.*?\]|\(.*?\)", "", expression))
    if not names:
        return None
    for function, node in nodes_of(reach.functions):
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign) else []
        )
        if isinstance(node, ast.Call):
            inner = node.func.value if isinstance(node.func, ast.Attribute) else None
            targets = [*([inner] if inner is not None else []), *node.args]  # a method of it, or next(it)
        if any(_last_name(target) == names[-1] for target in targets):
            return Location(file=function.__code__.co_filename, line=node.lineno)  # type: ignore[attr-defined]
    return None


def place_of_read(expression: str, reach: Reached) -> Location | None:
    """The line in the reached functions that reads what an expression names."""
    names = re.findall(r"[A-Za-z_]\w*", re.sub(r"\[.*?\]|\(.*?\)", "", expression))
    for function, node in nodes_of(reach.functions):
        if isinstance(getattr(node, "ctx", None), ast.Load) and names and _last_name(node) == names[-1]:
            return Location(file=function.__code__.co_filename, line=node.lineno)  # type: ignore[attr-defined]
    return None


def _last_name(node: ast.AST) -> str | None:
    if isinstance(node, ast.Subscript):
        return _last_name(node.value)
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else None
