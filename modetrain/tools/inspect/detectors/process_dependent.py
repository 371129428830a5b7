"""Values that differ from process to process, found in the source: id(), hash() of a text, the order of a set.

Two traces in one process may well agree on them, so the lines that tracing ran are read. `id(x)` counts in arithmetic or given
to TensorFlow; as a key or in a comparison it does not. A set counts where its order does.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Set
from typing import Any

from modetrain.diagnostics.location import Location
from modetrain.tools.inspect.finding import Finding, make_finding
from modetrain.tools.inspect.python_state.name_lookup import Scope
from modetrain.tools.inspect.python_state.reachable import Reachable
from modetrain.tools.inspect.python_state.source import called_name, nodes_of

_DEPEND_ON_ORDER = {
    *("list", "tuple", "enumerate", "zip", "map", "iter", "next", "join"),
    *("stack", "concat", "add_n", "array", "constant"),
}
_COMPREHENSIONS = (ast.ListComp, ast.GeneratorExp, ast.DictComp)
_SET_METHODS = {"union", "intersection", "difference", "symmetric_difference", "copy"}
_IGNORE_ORDER = {"sorted", "set", "frozenset", "len", "min", "max", "any", "all"}
# An id given to one of these is a key or a text.
_TAKE_KEYS = ("add", "append", "get", "setdefault", "discard", "format", "str", "repr", "print")
_NOT_NUMBERS = (ast.Compare, ast.Dict, ast.DictComp, ast.SetComp, ast.Set, ast.JoinedStr, ast.Subscript)


def find(recipe: Any, reachable: Reachable, ran: Set[Location]) -> Iterator[Finding]:
    """Finds them in the lines that tracing ran."""
    for function in reachable.functions:
        nodes = list(nodes_of(function))
        scope = Scope.of_function(function, reachable.owners.get(function.__code__), recipe)
        parents = {child: node for node in nodes for child in ast.iter_child_nodes(node)}
        sets = _names_of_sets(nodes)
        for node in nodes:
            if what := _describe(node, parents, scope, sets):
                place = Location(file=function.__code__.co_filename, line=node.lineno)
                if place in ran:
                    yield make_finding("MT303", place, what, evidence="source")


def _describe(node: ast.AST, parents: dict, scope: Scope, sets: set[str]) -> str | None:
    if _calls_id_or_hash(node, scope) and _is_computed_with(node, parents):
        return f"{called_name(node)}() becomes a number of the graph"
    if isinstance(node, ast.For) and _has_no_order(node.iter, scope, sets):
        return f"the order of {ast.unparse(node.iter)} differs from process to process"
    parent = parents.get(node)
    if isinstance(parent, ast.Call) and called_name(parent) in _IGNORE_ORDER:
        return None
    if isinstance(node, _COMPREHENSIONS) and any(_has_no_order(one.iter, scope, sets) for one in node.generators):
        return "the order of a set differs from process to process"
    arguments = node.args if isinstance(node, ast.Call) and called_name(node) in _DEPEND_ON_ORDER else []
    if any(_has_no_order(argument, scope, sets) for argument in arguments):
        return f"{called_name(node)}() takes the order of a set, which differs from process to process"
    return None


def _calls_id_or_hash(node: ast.AST, scope: Scope) -> bool:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        return False
    return node.func.id in ("id", "hash") and node.func.id not in scope.names


def _is_computed_with(node: ast.AST, parents: dict) -> bool:
    """Whether a value goes into arithmetic or into a call, and not into a comparison, a key or a text."""
    inner, outer = node, parents.get(node)
    while isinstance(outer, ast.expr):
        if isinstance(outer, _NOT_NUMBERS):
            return False
        if isinstance(outer, (ast.BinOp, ast.UnaryOp)):
            return True
        if isinstance(outer, ast.Call) and inner is not outer.func:
            return called_name(outer) not in _TAKE_KEYS
        inner, outer = outer, parents.get(outer)
    return False


def _has_no_order(node: ast.AST, scope: Scope, sets: set[str]) -> bool:
    if isinstance(node, ast.Set):
        return not all(isinstance(one, ast.Constant) and isinstance(one.value, (int, float)) for one in node.elts)
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute) and node.func.attr in _SET_METHODS:
            return _has_no_order(node.func.value, scope, sets)
        return isinstance(node.func, ast.Name) and node.func.id in ("set", "frozenset") and bool(node.args)
    if isinstance(node, ast.SetComp):
        return True
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Sub, ast.BitAnd, ast.BitOr, ast.BitXor)):
        return any(_has_no_order(one, scope, sets) or _is_keys(one) for one in (node.left, node.right))
    if isinstance(node, ast.Name) and node.id in sets:
        return True
    value = scope.value(node)
    return isinstance(value, (set, frozenset)) and any(not isinstance(one, (int, float)) for one in value)


def _is_keys(node: ast.AST) -> bool:
    """Whether it is `x.keys()`, which keeps its order, but not in a difference or an intersection."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "keys"


def _names_of_sets(nodes: list[Any]) -> set[str]:
    """Local names that hold a set of other things than numbers."""
    nothing = Scope(names={}, recipe=None)
    return {
        target.id
        for node in nodes
        if isinstance(node, ast.Assign) and _has_no_order(node.value, nothing, set())
        for target in node.targets
        if isinstance(target, ast.Name)
    }
