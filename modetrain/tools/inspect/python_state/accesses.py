"""Python values that functions read and change: attributes, items and globals, resolved on the live objects.

for use in reads(function, scope, ran): ...      # in the lines that have run
for use in writes(function, scope): ...          # anywhere in its source
"""

from __future__ import annotations

import ast
import dataclasses
import os
import types
from collections.abc import Iterator, MutableMapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from modetrain.diagnostics.location import Location
from modetrain.engine.optimizer import Optimizer
from modetrain.tools.inspect.python_state.name_lookup import Scope, declared_outside, known
from modetrain.tools.inspect.python_state.reachable import is_users_object, tree_of

CHANGING = {
    *(
        "append",
        "extend",
        "insert",
        "pop",
        "remove",
        "clear",
        "update",
        "setdefault",
        "add",
        "discard",
        "popitem",
        "appendleft",
    ),
    *("popleft", "sort", "reverse", "fill", "put", "subtract", "rotate"),
}
SOME_ITEM = object()  # stands for each item that is read, where it is not known which one changes
SWAPPED = (Optimizer, keras.optimizers.Optimizer, keras.Layer, types.FunctionType, tf.Variable, keras.Variable)
_CONTAINERS = (list, set, np.ndarray, MutableMapping)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Use:
    """An expression that is read or changed.

    Attributes:
      key: id of the object and name of the attribute, or key of the item; None for anything in it, `SOME_ITEM` for some.
      place: the line.
      text: the expression.
      value: what it is now.
      owner: the object.
      decides: whether the expression is in the condition of a branch.
    """

    key: tuple[int, Any]
    place: Location
    text: str
    value: Any
    owner: Any
    decides: bool = False


def reads(function: types.FunctionType, scope: Scope, ran: set[tuple[str, int]]) -> Iterator[Use]:
    """What a function reads in the lines that have run, as (file, line)."""
    tree = tree_of(function)
    file = function.__code__.co_filename
    picks = _picks(tree, scope) if tree is not None else {}
    for node, decides in _with_conditions(tree) if tree is not None else ():
        if not isinstance(node, ast.expr) or (file, node.lineno) not in ran:
            continue
        place = Location(file=file, line=node.lineno)
        if node in picks:
            container, item, text = picks[node]
            for key in ((id(container), item), (id(container), SOME_ITEM)):
                yield Use(
                    key=key, place=place, text=text, value=_item(container, item), owner=container, decides=decides
                )
        if not isinstance(getattr(node, "ctx", None), ast.Load):
            continue
        for key, owner in _keys(node, scope):
            value = scope.value(node)
            if known(value) and _may_change(value) and not (node in picks and key[1] is None):
                yield Use(key=key, place=place, text=ast.unparse(node), value=value, owner=owner, decides=decides)


def of_optimizer(
    function: types.FunctionType, scope: Scope, recipe: Any, ran: set[tuple[str, int]]
) -> Iterator[tuple[tuple[int, Any], Use]]:
    """The recipe's own optimizer, read by a `self.minimize(loss)` that names none."""
    tree = tree_of(function)
    file = function.__code__.co_filename
    value = getattr(recipe, "optimizer", None)
    for node in ast.walk(tree) if tree is not None and value is not None else ():
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("minimize", "apply")
            and scope.value(node.func.value) is recipe
            and len(node.args) < 3
            and all(keyword.arg != "optimizer" for keyword in node.keywords)
            and (file, node.lineno) in ran
        ):
            key = _key(recipe, "optimizer")
            place = Location(file=file, line=node.lineno)
            yield key, Use(key=key, place=place, text="self.optimizer", value=value, owner=recipe)


def writes(function: types.FunctionType, scope: Scope) -> Iterator[Use]:
    """What a function changes, by assignments and by methods that change what they are called on."""
    tree = tree_of(function)
    file = function.__code__.co_filename
    if tree is None:
        return
    for node in ast.walk(tree):
        for target in _targets(node):
            if (
                isinstance(target, ast.Attribute)
                and target.attr == "trainable"
                and not known(scope.value(target.value))
                and not scope.lacks(_source(target.value, tree))
            ):
                place = Location(file=file, line=target.lineno)
                yield Use(key=(0, "trainable"), place=place, text=ast.unparse(target), value=None, owner=None)
    outer = declared_outside(tree)
    for node in ast.walk(tree):
        for target in _targets(node):
            if isinstance(target, ast.Name) and target.id not in outer:
                continue
            found = list(_keys(target, scope))[:1]
            for key, owner in found:
                place = Location(file=file, line=target.lineno)
                yield Use(key=key, place=place, text=ast.unparse(target), value=scope.value(target), owner=owner)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGING:
            value = scope.value(node.func.value)
            if known(value) and not isinstance(value, (types.ModuleType, type)):
                place = Location(file=file, line=node.lineno)
                yield Use(
                    key=(id(value), None), place=place, text=ast.unparse(node.func.value), value=value, owner=value
                )


def _picks(tree: ast.AST, scope: Scope) -> dict[ast.AST, tuple[Any, Any, str]]:
    """Where one item is taken out of a container, by the node of the container: `x["a"]`, `x.get("a")`, `os.getenv("a")`."""
    found: dict[ast.AST, tuple[Any, Any, str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            inner, item = node.value, node.slice
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            gets = isinstance(node.func, ast.Attribute) and node.func.attr == "get"
            inner, item = node.func.value if gets else node.func, node.args[0]  # type: ignore[attr-defined]
        else:
            continue
        container = scope.value(inner)
        container = os.environ if container is os.getenv else container
        if isinstance(container, _CONTAINERS):
            found[inner] = (container, item.value, ast.unparse(node))
    return found


def _item(container: Any, item: Any) -> Any:
    try:
        return container[item]
    except (KeyError, IndexError, TypeError):
        return None


def _with_conditions(tree: ast.AST, decides: bool = False) -> Iterator[tuple[Any, bool]]:
    for name, field in ast.iter_fields(tree):
        inner = decides or (name == "test" and isinstance(tree, (ast.If, ast.IfExp, ast.While)))
        for child in field if isinstance(field, list) else [field]:
            if isinstance(child, ast.AST):
                yield child, inner
                yield from _with_conditions(child, inner and isinstance(child, ast.expr))


def _may_change(value: Any) -> bool:
    """Whether a trace takes the value as it is: plain Python, or an object that can be exchanged."""
    if isinstance(value, (types.ModuleType, type, types.BuiltinFunctionType, types.MethodType)):
        return False
    return not tf.is_tensor(value) or isinstance(value, SWAPPED)


def _keys(node: Any, scope: Scope) -> Iterator[tuple[tuple[int, Any], Any]]:
    """What an expression names: an attribute of an object, an item of a container, a global; and all that is in it."""
    if isinstance(node, ast.Attribute):
        owner = scope.value(node.value)
        if known(owner):
            yield _key(owner, node.attr), owner
    elif isinstance(node, ast.Subscript):
        owner = scope.value(node.value)
        if known(owner):
            item = node.slice.value if isinstance(node.slice, ast.Constant) else None
            yield (id(owner), item), owner
    elif isinstance(node, ast.Name) and node.id in scope.names:
        yield (id(scope.names.get("__builtins__")), (scope.names.get("__name__"), node.id)), None
    else:
        return
    value = scope.value(node)
    if isinstance(value, _CONTAINERS) or (known(value) and hasattr(value, "popleft")):
        yield (id(value), None), value


def _key(owner: Any, name: str) -> tuple[int, Any]:
    if isinstance(owner, types.ModuleType):
        return id(vars(owner).get("__builtins__")), (owner.__name__, name)
    if not isinstance(owner, type) and name not in getattr(owner, "__dict__", {}):
        for cls in type(owner).__mro__:
            if name in vars(cls) and is_users_object(cls):
                return id(cls), name  # an attribute of the class until somebody sets it on the object
    return id(owner), name


def _source(node: ast.AST, tree: ast.AST) -> ast.AST:
    """What a loop's name runs over, where an expression is such a name."""
    if isinstance(node, ast.Name):
        for loop in ast.walk(tree):
            if isinstance(loop, ast.For) and isinstance(loop.target, ast.Name) and loop.target.id == node.id:
                return loop.iter
    return node


def _targets(node: ast.AST) -> Iterator[Any]:
    """What a statement assigns to, `setattr(x, "name", ...)` included."""
    if isinstance(node, ast.Assign):
        targets = list(node.targets)
    elif isinstance(node, (ast.AugAssign, ast.AnnAssign)):
        targets = [node.target]
    elif isinstance(node, ast.Delete):
        targets = list(node.targets)
    elif (
        isinstance(node, ast.Call)
        and isinstance(node.func, (ast.Name, ast.Attribute))
        and ast.unparse(node.func) in ("setattr", "object.__setattr__")
        and len(node.args) == 3
        and isinstance(node.args[1], ast.Constant)
    ):
        made = ast.Attribute(value=node.args[0], attr=str(node.args[1].value), ctx=ast.Store())
        targets = [ast.copy_location(made, node)]
    else:
        return
    for target in targets:
        yield from target.elts if isinstance(target, (ast.Tuple, ast.List)) else [target]
