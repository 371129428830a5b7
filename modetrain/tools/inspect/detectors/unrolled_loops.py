"""Python loops that tracing unrolls: one line makes an operation in every round.

Operations with the same stack of the user's lines were made by rounds of a loop. A loop over layers or variables is how models
are written and is not reported. A loop that counts, or iterates over rows of a tensor, is.
"""

from __future__ import annotations

import ast
import collections
import dataclasses
import functools
import re
import statistics
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import tensorflow as tf

from modetrain.diagnostics import graph_ops
from modetrain.diagnostics import stack as lines
from modetrain.diagnostics.location import Location, is_users
from modetrain.tools.inspect.finding import Finding, make_finding
from modetrain.tools.inspect.python_state.source import nodes_of_file, spans

# Rounds from which on a loop is reported: over the rows of a tensor, one that counts, any other.
_ROWS, _COUNTED, _OTHERS = 4, 10, 32
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_LOOPS = (ast.For, ast.While, *_COMPREHENSIONS)
_NOT_COUNTED = ("Const", "Placeholder", "Identity", "NoOp")
_OF_ROWS = re.compile(r"\.shape|unstack\(|split\(|range\(len\(")
_OF_COLUMNS = re.compile(r"axis=-?[1-9]")


_Line: TypeAlias = tuple[str, int]


@dataclasses.dataclass(kw_only=True)
class _Loop:
    """A loop, and what its rounds made.

    Attributes:
      node: of its source; None for a line outside of loops.
      counts: by line in it, how many operations of the most frequent type it made, for each stack.
      total: how many operations were made.
      resources: names of the variables that they use.
    """

    node: ast.AST | None
    counts: dict[_Line, list[int]] = dataclasses.field(default_factory=dict)
    total: int = 0
    resources: set[str] = dataclasses.field(default_factory=set)


def find(graph: tf.Graph, replicas: int = 1) -> Iterator[Finding]:
    """Finds the loops that were unrolled into a graph.

    Args:
      graph: of a step.
      replicas: how many the graph has; each makes the operations of a line once more.
    """
    loops: dict[Location, _Loop] = {}
    for stack, ops in _by_stack(graph).items():
        most = max(collections.Counter(op.type for op in ops).values()) // replicas
        users = [line for line in stack if is_users(line[0])]
        if most < _ROWS or not users:
            continue
        place, node = _loop_around(users)
        loop = loops.setdefault(place, _Loop(node=node))
        loop.counts.setdefault(users[0], []).append(most)
        loop.total += len(ops) // replicas
        loop.resources |= {tensor.name for op in ops for tensor in op.inputs if tensor.dtype == tf.resource}
    for place, loop in loops.items():
        # A line may make several operations of a type in a round, and a round may leave a line out.
        count = max(map(statistics.median_low, loop.counts.values()))
        if count >= _threshold(loop.node) and len(loop.resources) < count / 2:
            what = f"the loop made {loop.total} operations in about {count} rounds"
            yield make_finding("MT501", place, what, evidence="operations by the line that made them")


def _by_stack(graph: tf.Graph) -> dict[tuple[_Line, ...], list[tf.Operation]]:
    """Operations by the lines that made them, innermost first; without those of gradients."""
    counts = collections.Counter(op.type for op in graph.get_operations())
    often = {kind for kind, count in counts.items() if count >= _ROWS and kind not in _NOT_COUNTED}
    found: dict[tuple[_Line, ...], list[tf.Operation]] = {}
    if not often:
        return found
    keys: dict[Any, tuple[_Line, ...]] = {}
    for op in graph_ops.operations(graph):
        if op.type in often and not graph_ops.is_gradient(op):
            stack = op.traceback  # cheap to hash, expensive to read
            if stack not in keys:
                # A function that calls itself has its lines in the stack many times.
                frames = lines.inside_trace(list(stack))
                keys[stack] = tuple(dict.fromkeys((frame.filename, frame.lineno) for frame in frames))
            found.setdefault(keys[stack], []).append(op)
    return found


def _loop_around(users: Sequence[_Line]) -> tuple[Location, ast.AST | None]:
    """The innermost loop that the user's lines are in; the innermost line itself where none of them is in a loop."""
    for file, line in users:
        if (node := _loop_at(file, line)) is not None:
            return Location(file=file, line=node.lineno), node
    return Location(file=users[0][0], line=users[0][1]), None


def _loop_at(file: str, line: int) -> Any:
    around = [node for node in _loops_of(file) if spans(node, line) and _in_body(node, line)]
    return max(around, key=lambda node: node.lineno, default=None)


@functools.lru_cache(maxsize=256)
def _loops_of(file: str) -> tuple[Any, ...]:
    return tuple(node for node in nodes_of_file(file) if isinstance(node, _LOOPS))


def _in_body(node: Any, line: int) -> bool:
    """Whether the line is in what is repeated: not in a `for`'s iterable, nor in a function defined there."""
    if isinstance(node, _COMPREHENSIONS):
        return True
    body = node.body
    return body[0].lineno <= line <= (body[-1].end_lineno or body[-1].lineno) or (
        isinstance(node, ast.While) and line == node.lineno
    )


def _threshold(node: Any) -> int:
    if node is None:
        return _OTHERS
    if isinstance(node, ast.While):
        return _COUNTED
    iterables = [one.iter for one in node.generators] if isinstance(node, _COMPREHENSIONS) else [node.iter]
    text = " ".join(ast.unparse(one) for one in iterables)
    if _OF_ROWS.search(text) and not _OF_COLUMNS.search(text):
        return _ROWS
    return _COUNTED if "range(" in text or "count(" in text else _OTHERS
