"""The operations of a traced step, those inside branches and loops included, and where two graphs differ."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from modetrain.diagnostics import stack
from modetrain.diagnostics.location import Location

# Parts of names that differ between two traces of one function and have no meaning.
_COUNTED = re.compile(r"_+\d+(?=\D|$)|0x[0-9a-f]+|pyfunc_\d+")
_NAMES = (
    *("_output_shapes", "token", "shared_name", "container", "_user_specified_name", "debug_name", "_gradient_op_type"),
    "_class",  # the name of an operation that this one is placed with
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """Where two graphs first differ.

    Attributes:
      place: the user's line that made the operation; None where the library made it.
      what: the difference in words.
    """

    place: Location | None
    what: str


def operations(graph: tf.Graph, depth: int = 0) -> Iterator[tf.Operation]:
    """Every operation of a graph, and of the functions that it calls: branches, loops, `tf.function`s."""
    for op in graph.get_operations():
        yield op
        for inner in inner_graphs(op):
            if depth < 8:
                yield from operations(inner, depth + 1)


def inner_graphs(op: tf.Operation) -> list[tf.Graph]:
    """The graphs of the functions that an operation calls."""
    found: list[tf.Graph] = []
    if not _calls_functions(op):
        return found
    for attribute in op.node_def.attr.values():
        names = (
            [attribute.func.name] if attribute.WhichOneof("value") == "func" else [f.name for f in attribute.list.func]
        )
        for name in names:
            try:
                inner = op.graph._get_function(name)
            except (ValueError, KeyError, AttributeError):
                continue
            graph = getattr(inner, "graph", None)
            if graph is not None:
                found.append(graph)
    return found


_callers: dict[str, bool] = {}  # by type: an operation's definition is slow to get


def _calls_functions(op: tf.Operation) -> bool:
    if op.type not in _callers:
        _callers[op.type] = any(attribute.type in ("func", "list(func)") for attribute in op.op_def.attr)
    return _callers[op.type]


def is_gradient(op: tf.Operation) -> bool:
    """Whether an operation is part of a gradient."""
    return "gradient_tape" in op.name


def ancestors(tensor: tf.Tensor, stop: Callable[[tf.Operation], bool]) -> Iterator[tf.Operation]:
    """The operations of one graph that a tensor is computed by.

    Args:
      tensor: of a graph.
      stop: whether to leave out an operation and what it alone is computed by.
    """
    pending, visited = [tensor.op], set()
    while pending:
        op = pending.pop()
        if op.name not in visited and not stop(op):
            visited.add(op.name)
            yield op
            pending.extend(one.op for one in op.inputs)


def difference(first: tf.Graph, second: tf.Graph) -> Difference | None:
    """What one trace of a step has and another one has not, or None.

    Operations count, not their order: the order in which a branch takes what it captures is random.
    """
    ours, theirs = _by_signature(first), _by_signature(second)
    here = [op for key, ops in ours.items() for op in _left_over(ops, theirs.get(key, ()))]
    there = [op for key, ops in theirs.items() for op in _left_over(ops, ours.get(key, ()))]
    if not here and not there:
        return None
    places = ((op, stack.of_op(op)) for op in sorted([*here, *there], key=lambda op: op.type != "Const"))
    op, place = next(((op, place) for op, place in places if place is not None), ((here or there)[0], None))
    constants = [
        [_short(tf.make_ndarray(op.get_attr("value"))) for op in ops if op.type == "Const"] for ops in (here, there)
    ]
    if op.type == "Const" and all(constants):
        what = f"a constant of the graph was {constants[0][0]} in one trace and {constants[1][0]} in the next"
    else:
        what = f"one trace has {len(here)} operations that the next has not, and lacks {len(there)}: {op.type}, for one"
    return Difference(place=place, what=what)


def _left_over(ops: Sequence[tf.Operation], others: Sequence[tf.Operation]) -> list[tf.Operation]:
    """The surplus of equal operations over another trace; first those whose names the other trace lacks."""
    if len(ops) <= len(others):
        return []
    names = {op.name for op in others}
    return sorted(ops, key=lambda op: op.name in names)[: len(ops) - len(others)]


def _by_signature(graph: tf.Graph) -> dict[tuple, list[tf.Operation]]:
    found: dict[tuple, list[tf.Operation]] = {}
    for op in operations(graph):
        found.setdefault(_signature(op), []).append(op)
    return found


def _signature(op: tf.Operation) -> tuple:
    if op.type == "Placeholder" or inner_graphs(op):
        return (op.type,)
    attributes = []
    for name, value in sorted(op.node_def.attr.items()):
        if name in _NAMES:
            continue
        kind = value.WhichOneof("value")
        if kind == "func" or (kind == "list" and value.list.func):
            continue  # the functions' own operations are compared
        attributes.append(
            (
                name,
                _COUNTED.sub("", str(value)) if kind in ("s", "list") else value.SerializeToString(deterministic=True),
            )
        )
    return op.type, tuple(attributes), len(op.inputs)


def _short(array) -> str:
    text = " ".join(str(array).split())
    return text if len(text) < 40 else f"{text[:36]} ..."
