"""Values that differ from process to process, found in the source: id(), hash() of a text, the order of a set.

Two traces in one process may well agree on them, so the lines that tracing ran are read: `id(x)` in arithmetic or given to
TensorFlow counts, as a key or in a comparison it does not; a set counts where its order does.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from modetrain.diagnostics.location import Location
from modetrain.tools.inspect.detectors.traces import Traces
from modetrain.tools.inspect.finding import Finding, finding
from modetrain.tools.inspect.python_state.name_lookup import Scope, known
from modetrain.tools.inspect.python_state.reachable import Reached, tree_of

_IN_ORDER = {
    "list",
    "tuple",
    "enumerate",
    "zip",
    "map",
    "iter",
    "next",
    "join",
    "stack",
    "concat",
    "add_n",
    "array",
    "constant",
}
_COMPREHENSIONS = (ast.ListComp, ast.GeneratorExp, ast.DictComp)
_OF_SETS = {"union", "intersection", "difference", "symmetric_difference", "copy"}
_SORTING = {"sorted", "set", "frozenset", "len", "min", "max", "any", "all"}


def look(recipe: Any, reached: Reached, seen: Traces) -> Iterator[Finding]:
    """Finds them in the lines that tracing ran."""
    ran = {(place.file, place.line) for place in seen.ran}
    for function in reached.functions:
        tree = tree_of(function)
        if tree is None:
            continue
        file = function.__code__.co_filename
        scope = Scope.of(function, reached.owners.get(function.__code__), recipe)
        parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        sets = _names_of_sets(tree)
        for node in ast.walk(tree):
            if (what := _what(node, parents, scope, sets)) and (file, node.lineno) in ran:  # type: ignore[attr-defined]
                yield finding("MT303", Location(file=file, line=node.lineno), what, evidence="source")  # type: ignore[attr-defined]


def _what(node: ast.AST, parents: dict, scope: Scope, sets: set[str]) -> str | None:
    if _is_builtin_call(node, scope) and _is_computed_with(node, parents):
        return f"{_called(node)}() becomes a number of the graph"  # type: ignore[arg-type]
    if isinstance(node, ast.For) and _has_no_order(node.iter, scope, sets):
        return f"the order of {ast.unparse(node.iter)} differs from process to process"
    if _is_sorted(node, parents):
        return None
    if isinstance(node, _COMPREHENSIONS) and any(_has_no_order(one.iter, scope, sets) for one in node.generators):
        return "the order of a set differs from process to process"
    if (
        isinstance(node, ast.Call)
        and _called(node) in _IN_ORDER
        and any(_has_no_order(a, scope, sets) for a in node.args)
    ):
        return f"{_called(node)}() takes the order of a set, which differs from process to process"
    return None


def _is_builtin_call(node: ast.AST, scope: Scope) -> bool:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        return False
    return node.func.id in ("id", "hash") and node.func.id not in scope.names


def _is_computed_with(node: ast.AST, parents: dict) -> bool:
    """Whether a value goes into arithmetic or into a call, and not into a comparison, a key or a text."""
    inner, outer = node, parents.get(node)
    while isinstance(outer, ast.expr):
        if isinstance(outer, (ast.Compare, ast.Dict, ast.DictComp, ast.SetComp, ast.Set, ast.JoinedStr, ast.Subscript)):
            return False
        if isinstance(outer, (ast.BinOp, ast.UnaryOp)):
            return True
        if isinstance(outer, ast.Call) and inner is not outer.func:
            return _called(outer) not in (
                "add",
                "append",
                "get",
                "setdefault",
                "discard",
                "format",
                "str",
                "repr",
                "print",
            )
        inner, outer = outer, parents.get(outer)
    return False


def _is_sorted(node: ast.AST, parents: dict) -> bool:
    outer = parents.get(node)
    return isinstance(outer, ast.Call) and _called(outer) in _SORTING


def _called(node: ast.Call) -> str:
    return (
        node.func.attr
        if isinstance(node.func, ast.Attribute)
        else node.func.id
        if isinstance(node.func, ast.Name)
        else ""
    )


def _has_no_order(node: ast.AST, scope: Scope, sets: set[str]) -> bool:
    if isinstance(node, ast.Set):
        return not all(isinstance(one, ast.Constant) and isinstance(one.value, (int, float)) for one in node.elts)
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute) and node.func.attr in _OF_SETS:
            return _has_no_order(node.func.value, scope, sets)
        return isinstance(node.func, ast.Name) and node.func.id in ("set", "frozenset") and bool(node.args)
    if isinstance(node, ast.SetComp):
        return True
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Sub, ast.BitAnd, ast.BitOr, ast.BitXor)):
        return any(_has_no_order(one, scope, sets) or _is_keys(one) for one in (node.left, node.right))
    if isinstance(node, ast.Name) and node.id in sets:
        return True
    value = scope.value(node)
    return (
        known(value) and isinstance(value, (set, frozenset)) and any(not isinstance(one, (int, float)) for one in value)
    )


def _is_keys(node: ast.AST) -> bool:
    """Whether it is `x.keys()`, which keeps its order, but not in a difference or an intersection."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "keys"


def _names_of_sets(tree: ast.AST) -> set[str]:
    """Local names that hold a set of other things than numbers."""
    nothing = Scope(names={}, recipe=None)
    return {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and _has_no_order(node.value, nothing, set())
        for target in node.targets
        if isinstance(target, ast.Name)
    }
