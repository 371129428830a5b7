"""Python values that a step reads and other code changes between steps: a compiled step goes on with the old ones.

What the step reads is found in the lines that tracing ran; who changes it, in the source of the recipe's other methods, of
callbacks and of functions beside them. Both are resolved on the live objects, so that names alone raise no alarm.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect as python_inspect
import os
import sys
import types
from collections.abc import Iterator, MutableMapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from modetrain.callbacks import Callback
from modetrain.inspect.finding import Finding, finding
from modetrain.inspect.reach import Reached, is_users_object, tree_of
from modetrain.inspect.resolve import Scope, declared_outside, known
from modetrain.inspect.traces import Traces
from modetrain.optimizer import Optimizer
from modetrain.place import Place, is_users

_EVIDENCE = "source"
_AT_START = {"__init__", "__new__", "__post_init__", "__setstate__", "build", "__init_subclass__", "setUp", "setup"}
_CHANGES = {
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
_CONTAINERS = (list, set, np.ndarray, MutableMapping)
_SOME_ITEM = object()  # stands for each item that is read, where it is not known which one changes
_SWAPPED = (Optimizer, keras.optimizers.Optimizer, keras.Layer, types.FunctionType, tf.Variable, keras.Variable)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Use:
    """An expression that is read or changed.

    Attributes:
      key: id of the object and name of the attribute, or key of the item; None for anything in it, `_SOME_ITEM` for some.
      place: the line.
      text: the expression.
      value: what it is now.
      owner: the object.
      decides: whether the expression is in the condition of a branch.
    """

    key: tuple[int, Any]
    place: Place
    text: str
    value: Any
    owner: Any
    decides: bool = False


def look(recipe: Any, reached: Reached, seen: Traces) -> Iterator[Finding]:
    """Finds what the step reads and something else changes.

    Args:
      recipe: the recipe.
      reached: from its step.
      seen: what tracing the step showed.
    """
    ran = {(place.file, place.line) for place in seen.ran}
    inside = [function for function in reached.functions if _has_run(function, ran)]
    reads: dict[tuple[int, Any], _Use] = {}
    for function in inside:
        scope = Scope.of(function, reached.owners.get(function.__code__), recipe)
        for use in _reads(function, scope, ran):
            known_use = reads.setdefault(use.key, use)
            if use.decides and not known_use.decides:
                reads[use.key] = use
        for key, use in _optimizers(function, scope, recipe, ran):
            reads.setdefault(key, use)
    told: set[tuple[Place, str]] = set()
    for function, owner in _outside(recipe, reached, ran):
        scope = Scope.of(function, owner, recipe)
        for change in _writes(function, scope):
            for one in _told(change, reads):
                if (one.place, one.code) not in told:
                    told.add((one.place, one.code))
                    yield one


def _told(change: _Use, reads: dict[tuple[int, Any], _Use]) -> Iterator[Finding]:
    name = change.key[1]
    if name == "trainable" and (change.owner is None or isinstance(change.owner, keras.Layer)):
        yield finding("MT403", change.place, f"{change.text} is set outside the step", evidence=_EVIDENCE)
        return
    if _is_setting_of_optimizer(change) or _is_setting_of_keras(change):
        what = f"{change.text} is set outside the step, which has its old value in the graph"
        yield finding("MT401", change.place, what, evidence=_EVIDENCE)
        return
    read = reads.get(change.key) or reads.get((change.key[0], None))
    if read is None and name is None:
        read = reads.get((change.key[0], _SOME_ITEM))
    if read is None:
        return
    swapped = isinstance(read.value, _SWAPPED)
    code = "MT404" if swapped else "MT402" if read.decides else "MT401"
    where = f"line {change.place.line}" + ("" if change.place.file == read.place.file else f" of {change.place.file}")
    yield finding(
        code, read.place, f"{read.text} is {_short(read.value)} now, and {where} changes it", evidence=_EVIDENCE
    )
    what = f"{change.text}: the step reads it at line {read.place.line}"
    yield finding("MT405", change.place, what, evidence=_EVIDENCE)


def _is_setting_of_optimizer(change: _Use) -> bool:
    """Whether a plain attribute of an optimizer is set; a Keras optimizer's learning rate is a variable."""
    if isinstance(change.value, (tf.Variable, keras.Variable)):
        return False
    if isinstance(change.owner, keras.optimizers.Optimizer):
        return change.key[1] not in ("learning_rate", "iterations")
    return isinstance(change.owner, Optimizer)


def _is_setting_of_keras(change: _Use) -> bool:
    """Whether a number of a Keras layer, loss or regularizer is set, which its own code reads: a rate, a momentum."""
    return (
        isinstance(change.owner, (keras.Layer, keras.losses.Loss, keras.regularizers.Regularizer))
        and not isinstance(change.owner, keras.Model)
        and not is_users_object(change.owner)
        and isinstance(change.value, (int, float, np.number))
    )


# --- reads ------------------------------------------------------------------------------------------------------------


def _reads(function: types.FunctionType, scope: Scope, ran: set[tuple[str, int]]) -> Iterator[_Use]:
    tree = tree_of(function)
    file = function.__code__.co_filename
    picks = _picks(tree, scope) if tree is not None else {}
    for node, decides in _with_conditions(tree) if tree is not None else ():
        if not isinstance(node, ast.expr) or (file, node.lineno) not in ran:
            continue
        place = Place(file=file, line=node.lineno)
        if node in picks:
            container, item, text = picks[node]
            for key in ((id(container), item), (id(container), _SOME_ITEM)):
                yield _Use(
                    key=key, place=place, text=text, value=_item(container, item), owner=container, decides=decides
                )
        if not isinstance(getattr(node, "ctx", None), ast.Load):
            continue
        for key, owner in _keys(node, scope):
            value = scope.value(node)
            if known(value) and _may_change(value) and not (node in picks and key[1] is None):
                yield _Use(key=key, place=place, text=ast.unparse(node), value=value, owner=owner, decides=decides)


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


def _optimizers(
    function: types.FunctionType, scope: Scope, recipe: Any, ran: set[tuple[str, int]]
) -> Iterator[tuple[tuple[int, Any], _Use]]:
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
            place = Place(file=file, line=node.lineno)
            yield key, _Use(key=key, place=place, text="self.optimizer", value=value, owner=recipe)


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
    return not tf.is_tensor(value) or isinstance(value, _SWAPPED)


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


# --- changes ----------------------------------------------------------------------------------------------------------


def _outside(recipe: Any, reached: Reached, ran: set[tuple[str, int]]) -> Iterator[tuple[types.FunctionType, Any]]:
    """Functions of the user's that run between steps, if ever, each with the object whose method it is."""
    objects = [
        recipe,
        *(thing for thing in reached.objects.values() if not isinstance(thing, (type, types.ModuleType))),
    ]
    files = {file for file in reached.files if is_users(file)}
    for cls in type(recipe).__mro__:  # callbacks stand beside a recipe, also one that inherits its steps
        if is_users_object(cls):
            files.add(getattr(sys.modules.get(cls.__module__), "__file__", None) or "")
    done: set[types.CodeType] = set()
    for thing in objects:
        at_start = _called_at_start(type(thing))
        for cls in type(thing).__mro__:
            for name, value in vars(cls).items():
                function = value.fset if isinstance(value, property) else getattr(value, "__func__", value)
                if isinstance(function, types.FunctionType) and is_users(function.__code__.co_filename):
                    files.add(function.__code__.co_filename)
                    fresh = function.__code__ not in done
                    done.add(function.__code__)
                    if fresh and name not in at_start and not _has_run(function, ran):
                        yield function, thing
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) not in files:
            continue
        for value in list(vars(module).values()):
            callbacks = isinstance(value, type) and issubclass(value, Callback) and value.__module__ == module.__name__
            members = (
                [member for _, member in python_inspect.getmembers(value, python_inspect.isfunction)]
                if callbacks
                else [value]
            )
            for function in members:
                if (
                    not isinstance(function, types.FunctionType)
                    or function.__code__ in done
                    or function.__name__ in _AT_START
                ):
                    continue
                done.add(function.__code__)
                if is_users(function.__code__.co_filename) and not _has_run(function, ran):
                    yield function, None


def _called_at_start(cls: type) -> set[str]:
    """Names of the methods that run as an object is made: constructors, and what they call on `self`."""
    found, pending = set(_AT_START), list(_AT_START)
    while pending:
        function = getattr(cls, pending.pop(), None)
        if isinstance(function, types.FunctionType) and is_users(function.__code__.co_filename):
            tree = tree_of(function)
            for node in ast.walk(tree) if tree is not None else ():
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr not in found:
                    found.add(node.func.attr)
                    pending.append(node.func.attr)
    return found - _CHANGES


def _has_run(function: types.FunctionType, ran: set[tuple[str, int]]) -> bool:
    tree = tree_of(function)
    file = function.__code__.co_filename
    if tree is None:
        return False
    body = tree.body if isinstance(tree.body, list) else [tree.body]  # type: ignore[attr-defined]
    return any((file, line) in ran for one in body for line in range(one.lineno, (one.end_lineno or one.lineno) + 1))


def _writes(function: types.FunctionType, scope: Scope) -> Iterator[_Use]:
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
                place = Place(file=file, line=target.lineno)
                yield _Use(key=(0, "trainable"), place=place, text=ast.unparse(target), value=None, owner=None)
    outer = declared_outside(tree)
    for node in ast.walk(tree):
        for target in _targets(node):
            if isinstance(target, ast.Name) and target.id not in outer:
                continue
            found = list(_keys(target, scope))[:1]
            for key, owner in found:
                place = Place(file=file, line=target.lineno)
                yield _Use(key=key, place=place, text=ast.unparse(target), value=scope.value(target), owner=owner)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _CHANGES:
            value = scope.value(node.func.value)
            if known(value) and not isinstance(value, (types.ModuleType, type)):
                place = Place(file=file, line=node.lineno)
                yield _Use(
                    key=(id(value), None), place=place, text=ast.unparse(node.func.value), value=value, owner=value
                )


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


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) < 40 else type(value).__name__
