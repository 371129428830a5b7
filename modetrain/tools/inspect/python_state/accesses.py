"""Python values that functions read and change: attributes, items and globals, resolved on the live objects.

for access in find_reads(function, scope, ran): ...      # in the lines that have run
for access in find_writes(function, scope): ...          # anywhere in its source
"""

from __future__ import annotations

import ast
import dataclasses
import os
import types
from collections.abc import Collection, Iterator, MutableMapping
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from modetrain.diagnostics.location import Location
from modetrain.engine.optimizer import Optimizer
from modetrain.tools.inspect.python_state.name_lookup import Scope, is_known, names_declared_outside
from modetrain.tools.inspect.python_state.reachable import is_users_object
from modetrain.tools.inspect.python_state.source import nodes_of, tree_of

MUTATING_METHODS = {
    *("append", "extend", "insert", "pop", "remove", "clear", "update", "setdefault", "add", "discard", "popitem"),
    *("appendleft", "popleft", "sort", "reverse", "fill", "put", "subtract", "rotate"),
}
SWAPPABLE = (Optimizer, keras.optimizers.Optimizer, keras.Layer, types.FunctionType, tf.Variable, keras.Variable)
SOME_ITEM = object()  # stands for each item that is read, where it is not known which one changes
_CONTAINERS = (list, set, np.ndarray, MutableMapping)
Key: TypeAlias = tuple[int, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Access:
    """An expression that is read or changed.

    Attributes:
      key: id of the object and name of the attribute, or key of the item; None for anything in it, `SOME_ITEM` for some.
      place: the line.
      text: the expression.
      value: its value now.
      owner: the object.
      in_condition: whether the expression is in the condition of a branch.
    """

    key: Key
    place: Location
    text: str
    value: Any
    owner: Any
    in_condition: bool = False


def find_reads(function: types.FunctionType, scope: Scope, ran: Collection[Location]) -> Iterator[Access]:
    """What a function reads in the lines that have run."""
    tree = tree_of(function)
    single_items = _find_single_items(function, scope)
    for node, in_condition in _with_conditions(tree) if tree is not None else ():
        if not isinstance(node, ast.expr) or _location(function, node) not in ran:
            continue
        if node in single_items:
            container, item, whole = single_items[node]
            for name in (item, SOME_ITEM):
                key = (id(container), name)
                yield _access(function, whole, key, container, _item(container, item), in_condition, node)
        is_read = isinstance(getattr(node, "ctx", None), ast.Load)
        if is_read and is_known(value := scope.value(node)) and _may_change(value):
            for key, owner in _keys(node, scope):
                if not (node in single_items and key[1] is None):
                    yield _access(function, node, key, owner, value, in_condition)


def find_optimizer_reads(
    function: types.FunctionType, scope: Scope, recipe: Any, ran: Collection[Location]
) -> Iterator[Access]:
    """The recipe's own optimizer, read by a `self.minimize(loss)` that names none."""
    value = getattr(recipe, "optimizer", None)
    for node in nodes_of(function) if value is not None else ():
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("minimize", "apply")
            and scope.value(node.func.value) is recipe
            and len(node.args) < 3
            and all(keyword.arg != "optimizer" for keyword in node.keywords)
            and _location(function, node) in ran
        ):
            access = _access(function, node, _key(recipe, "optimizer"), recipe, value)
            yield dataclasses.replace(access, text="self.optimizer")


def find_writes(function: types.FunctionType, scope: Scope) -> Iterator[Access]:
    """What a function changes, by assignments and by methods that change what they are called on."""
    for node in nodes_of(function):
        for target in _targets(node):
            if (
                isinstance(target, ast.Attribute)
                and target.attr == "trainable"
                and not is_known(scope.value(target.value))
                and not scope.misses_attribute(_iterated(target.value, function))
                and _root(_iterated(target.value, function)) not in _names_made(function, scope)
            ):
                yield _access(function, target, (0, "trainable"), None, None)
    outer = names_declared_outside(function)
    for node in nodes_of(function):
        for target in _targets(node):
            if isinstance(target, ast.Name) and target.id not in outer:
                continue
            for key, owner in list(_keys(target, scope))[:1]:
                yield _access(function, target, key, owner, scope.value(target))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MUTATING_METHODS:
            value = scope.value(node.func.value)
            if is_known(value) and not isinstance(value, (types.ModuleType, type)):
                yield _access(function, node.func.value, (id(value), None), value, value, line_of=node)


def _access(
    function: types.FunctionType,
    node: ast.AST,
    key: Key,
    owner: Any,
    value: Any,
    in_condition: bool = False,
    line_of: ast.AST | None = None,
) -> Access:
    """An access by an expression; its line is that of `line_of`, by default of the expression itself."""
    place, text = _location(function, line_of or node), ast.unparse(node)
    return Access(key=key, place=place, text=text, value=value, owner=owner, in_condition=in_condition)


def _location(function: types.FunctionType, node: Any) -> Location:
    return Location(file=function.__code__.co_filename, line=node.lineno)


def _find_single_items(function: types.FunctionType, scope: Scope) -> dict[ast.AST, tuple[Any, Any, ast.AST]]:
    """Where one item of a container is read: `x["a"]`, `x.get("a")`, `os.getenv("a")`.

    Returns:
      By the node of the container: container, item and expression.
    """
    found: dict[ast.AST, tuple[Any, Any, ast.AST]] = {}
    for node in nodes_of(function):
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            inner, item = node.value, node.slice
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            is_get = isinstance(node.func, ast.Attribute) and node.func.attr == "get"
            inner, item = node.func.value if is_get else node.func, node.args[0]  # type: ignore[attr-defined]
        else:
            continue
        container = scope.value(inner)
        container = os.environ if container is os.getenv else container
        if isinstance(container, _CONTAINERS):
            found[inner] = (container, item.value, node)
    return found


def _item(container: Any, item: Any) -> Any:
    try:
        return container[item]
    except (KeyError, IndexError, TypeError):
        return None


def _with_conditions(tree: ast.AST, in_condition: bool = False) -> Iterator[tuple[Any, bool]]:
    """Every node below, and whether it is in the condition of a branch."""
    for name, field in ast.iter_fields(tree):
        inner = in_condition or (name == "test" and isinstance(tree, (ast.If, ast.IfExp, ast.While)))
        for child in field if isinstance(field, list) else [field]:
            if isinstance(child, ast.AST):
                yield child, inner
                yield from _with_conditions(child, inner and isinstance(child, ast.expr))


def _may_change(value: Any) -> bool:
    """Whether a trace takes the value as it is: plain Python, or an object that can be exchanged."""
    if isinstance(value, (types.ModuleType, type, types.BuiltinFunctionType, types.MethodType)):
        return False
    return not tf.is_tensor(value) or isinstance(value, SWAPPABLE)


def _keys(node: Any, scope: Scope) -> Iterator[tuple[Key, Any]]:
    """What an expression names: an attribute of an object, an item of a container, a global; and all that is in it."""
    if isinstance(node, ast.Attribute):
        owner = scope.value(node.value)
        if is_known(owner):
            yield _key(owner, node.attr), owner
    elif isinstance(node, ast.Subscript):
        owner = scope.value(node.value)
        if is_known(owner):
            item = node.slice.value if isinstance(node.slice, ast.Constant) else None
            yield (id(owner), item), owner
    elif isinstance(node, ast.Name) and node.id in scope.names:
        yield (id(scope.names.get("__builtins__")), (scope.names.get("__name__"), node.id)), None
    else:
        return
    value = scope.value(node)
    if isinstance(value, _CONTAINERS) or (is_known(value) and hasattr(value, "popleft")):
        yield (id(value), None), value


def _key(owner: Any, name: str) -> Key:
    if isinstance(owner, types.ModuleType):
        return id(vars(owner).get("__builtins__")), (owner.__name__, name)
    if not isinstance(owner, type) and name not in getattr(owner, "__dict__", {}):
        for cls in type(owner).__mro__:
            if name in vars(cls) and is_users_object(cls):
                return id(cls), name  # an attribute of the class until it is set on the object
    return id(owner), name


def _iterated(node: ast.AST, function: types.FunctionType) -> ast.AST:
    """What a loop iterates over, where an expression is the name of the loop's variable."""
    if isinstance(node, ast.Name):
        for loop in nodes_of(function):
            if isinstance(loop, ast.For) and isinstance(loop.target, ast.Name) and loop.target.id == node.id:
                return loop.iter
    return node


def _root(node: Any) -> str:
    """The name that an expression begins with: `model` of `model.get_layer("body").layers[0]`; empty where it is none."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def _names_made(function: types.FunctionType, scope: Scope) -> set[str]:
    """Local names of what a function makes itself, by calling a class or a function of a module: no step has it yet."""
    return {
        target.id
        for node in nodes_of(function)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and callable(scope.value(node.value.func))
        if not isinstance(scope.value(node.value.func), types.MethodType)
        for each in node.targets
        for target in (each.elts if isinstance(each, ast.Tuple) else [each])
        if isinstance(target, ast.Name)
    }


def _targets(node: ast.AST) -> Iterator[Any]:
    """What a statement assigns to, `setattr(x, "name", ...)` included."""
    targets: list[Any] = []
    if isinstance(node, (ast.Assign, ast.Delete)):
        targets = node.targets
    elif isinstance(node, (ast.AugAssign, ast.AnnAssign)):
        targets = [node.target]
    elif (
        isinstance(node, ast.Call)
        and isinstance(node.func, (ast.Name, ast.Attribute))
        and ast.unparse(node.func) in ("setattr", "object.__setattr__")
        and len(node.args) == 3
        and isinstance(node.args[1], ast.Constant)
    ):
        made = ast.Attribute(value=node.args[0], attr=str(node.args[1].value), ctx=ast.Store())
        targets = [ast.copy_location(made, node)]
    for target in targets:
        yield from target.elts if isinstance(target, (ast.Tuple, ast.List)) else [target]
