"""Where an error begins that TensorFlow raises late: it names a loop or a use, and the cause is another of the user's lines.

    place = find_origin(error) or tf_errors.find_place(error)

Known are a value whose shape or dtype changes in a loop over tensors, a tensor that was kept in the body of a loop or a branch
and is used after it, and a shape that an earlier operation has left unknown.
"""

from __future__ import annotations

import ast
import linecache
import re
import traceback
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from modetrain.diagnostics import graph_ops, stack, tf_errors
from modetrain.diagnostics.location import Location, innermost

_CHANGES_IN_LOOP = re.compile(
    r"'(?P<name>[\w.]+)' (has (shape|dtype|type) .* before the loop, but|does not have the same nested structure after one"
    r"|must be defined before the loop)"
)
_GROWS_IN_BODY = re.compile(r"enters the loop with (shape|type) .* but has (shape|type) .* after one iteration")
_LEFT_ITS_BODY = re.compile(r"was defined in FuncGraph\(name=\w*(while_body|while_cond|cond_true|cond_false|branch)")
_UNKNOWN_SHAPE = re.compile(
    r"[Uu]nknown (rank|TensorShape|shape)|shape=<unknown>|rank is (not known|unknown)|(shape|rank) that is not known"
    r"|(operand|argument|interpreted as an integer|multiply)[^\n]*NoneType|NoneType[^\n]*(as an integer|operand)|got None of type"
    r"|\bNone\b.*\bTensor\b|[Ss]hould be defined|[Ff]ound `?None`?|known (static )?(rank|shape)|statically known"
    r"|None values not supported"
)
# The position of the function among the arguments of those that loop.
_LOOPS = {"while_loop": 1, "scan": 0, "foldl": 0, "foldr": 0}
_GROW = ("concat", "stack", "pad", "tile", "repeat", "expand_dims", "append", "concatenate")
_FILL = ("append", "extend", "insert", "add", "setdefault", "update")


def find_origin(error: BaseException) -> Location | None:
    """The line at which an error of a trace begins; None where that is not known, or the line that raises is as good."""
    message = tf_errors.read(error)
    text = message.text if message is not None else str(error)
    raised = tf_errors.find_place(error)
    if _LEFT_ITS_BODY.search(str(error)) and message is not None and message.stacks:
        made = innermost((frame.filename, frame.lineno or 1, frame.name) for frame in message.stacks[-1])
        return _find_filled(made, raised) if made is not None else None
    if raised is not None and (changed := _CHANGES_IN_LOOP.search(text)):
        return _last_assignment(raised, changed["name"])
    if raised is not None and _GROWS_IN_BODY.search(text):
        return _find_growing(raised)
    if _UNKNOWN_SHAPE.search(str(error)) and (op := find_unknown_shape(error)) is not None:
        return stack.of_op(op)
    return None


def find_unknown_shape(error: BaseException) -> tf.Operation | None:
    """The first operation of the user's that leaves a rank unknown, or else a size, in the graph that an error has ended."""
    partly = None
    for graph in _graphs_of(error):
        for op in graph_ops.operations(graph):
            shapes = [tensor.shape for tensor in op.outputs if tensor.dtype not in (tf.resource, tf.variant)]
            known = all(tensor.shape.is_fully_defined() for tensor in op.inputs)
            if op.type == "Placeholder" or not known or all(shape.is_fully_defined() for shape in shapes):
                continue
            if stack.of_op(op) is not None:
                if any(shape.rank is None for shape in shapes):
                    return op
                partly = partly or op
    return partly


def _graphs_of(error: BaseException) -> Iterator[tf.Graph]:
    """The graphs that were being traced as an error was raised, the outermost first."""
    seen: set[int] = set()
    for frame, _ in traceback.walk_tb(error.__traceback__):
        graph = frame.f_locals.get("func_graph")
        if isinstance(graph, tf.Graph) and id(graph) not in seen:
            seen.add(id(graph))
            yield graph


# --- source -----------------------------------------------------------------------------------------------------------


def _nodes(file: str) -> list[Any]:
    try:
        return list(ast.walk(ast.parse("".join(linecache.getlines(file)))))
    except (SyntaxError, ValueError):
        return []


def _called_name(node: ast.AST) -> str:
    function = node.func if isinstance(node, ast.Call) else None
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _assignments(tree: ast.AST, name: str) -> list[Any]:
    """The statements below a node that assign to a name or an attribute, in order."""
    found = []
    for node in ast.walk(tree):
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign) else []
        )
        if any(
            ast.unparse(part) == name for to in targets for part in (to.elts if isinstance(to, ast.Tuple) else [to])
        ):
            found.append(node)
    return sorted(found, key=lambda node: node.lineno)


def _at(place: Location, node: Any) -> Location:
    return Location(file=place.file, line=node.lineno, function=place.function)


def _last_assignment(loop: Location, name: str) -> Location | None:
    """The last line in the loop that begins at a line that assigns to a name."""
    for node in _nodes(loop.file):
        if isinstance(node, ast.For | ast.While) and node.lineno == loop.line and (found := _assignments(node, name)):
            return _at(loop, found[-1])
    return None


def _find_growing(call: Location) -> Location | None:
    """The line in the function that `tf.while_loop` repeats that makes a tensor larger."""
    nodes = _nodes(call.file)
    for node in nodes:
        position = _LOOPS.get(_called_name(node), -1)
        if position < 0 or not node.lineno <= call.line <= (node.end_lineno or node.lineno):
            continue
        given = next((keyword.value for keyword in node.keywords if keyword.arg in ("body", "fn")), None)
        body: Any = given if given is not None else node.args[position] if len(node.args) > position else None
        if isinstance(body, ast.Name):
            named = [one for one in nodes if isinstance(one, ast.FunctionDef) and one.name == body.id]
            body = max((one for one in named if one.lineno <= node.lineno), key=lambda one: one.lineno, default=body)
        for part in ast.walk(body) if body is not None else ():
            if isinstance(part, ast.Call) and _called_name(part) in _GROW:
                return _at(call, part)
    return None


def _find_filled(made: Location, raised: Location | None) -> Location:
    """The line that keeps a tensor outside of the loop or branch that made it; that which made it where none is found."""
    nodes = _nodes(made.file)
    around = [
        node
        for node in nodes
        if isinstance(node, ast.For | ast.While | ast.If)
        and node.lineno < made.line <= (node.end_lineno or node.lineno)
    ]
    used = raised.text if raised is not None else ""
    found = []
    inside: list[Any] = list(ast.walk(max(around, key=lambda one: one.lineno))) if around else []
    for node in inside:
        kept: Any = None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _FILL:
            kept = node.func.value
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript | ast.Attribute):
            kept = node.targets[0].value
        if kept is not None and node.lineno >= made.line:
            found.append((ast.unparse(kept) not in used, node.lineno, node))
    return _at(made, min(found, key=lambda one: one[:2])[2]) if found else made
