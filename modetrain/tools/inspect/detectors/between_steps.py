"""Python values that a step reads and other code changes between steps: a compiled step goes on with the old ones.

What the step reads is found in the lines that tracing ran; who changes it, in the source of the recipe's other methods, of
callbacks and of functions beside them. Both are resolved on the live objects, so that names alone raise no alarm.
"""

from __future__ import annotations

import ast
import inspect as python_inspect
import sys
import types
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from modetrain.callback import Callback
from modetrain.diagnostics.location import Location, is_users
from modetrain.engine.optimizer import Optimizer
from modetrain.tools.inspect.detectors.traces import Traces
from modetrain.tools.inspect.finding import Finding, finding
from modetrain.tools.inspect.python_state import accesses
from modetrain.tools.inspect.python_state.name_lookup import Scope
from modetrain.tools.inspect.python_state.reachable import Reached, is_users_object, tree_of, tree_of_file

_EVIDENCE = "source"
_AT_START = {"__init__", "__new__", "__post_init__", "__setstate__", "build", "__init_subclass__", "setUp", "setup"}


def look(recipe: Any, reached: Reached, seen: Traces) -> Iterator[Finding]:
    """Finds what the step reads and something else changes.

    Args:
      recipe: the recipe.
      reached: from its step.
      seen: what tracing the step showed.
    """
    ran = {(place.file, place.line) for place in seen.ran}
    inside = [function for function in reached.functions if _has_run(function, ran)]
    reads: dict[tuple[int, Any], accesses.Use] = {}
    for function in inside:
        scope = Scope.of(function, reached.owners.get(function.__code__), recipe)
        for use in accesses.reads(function, scope, ran):
            known_use = reads.setdefault(use.key, use)
            if use.decides and not known_use.decides:
                reads[use.key] = use
        for key, use in accesses.of_optimizer(function, scope, recipe, ran):
            reads.setdefault(key, use)
    told: set[tuple[Location, str]] = set()
    for function, owner in _outside(recipe, reached, ran):
        scope = Scope.of(function, owner, recipe)
        for change in accesses.writes(function, scope):
            for one in _told(change, reads):
                if (one.place, one.code) not in told:
                    told.add((one.place, one.code))
                    yield one


def _told(change: accesses.Use, reads: dict[tuple[int, Any], accesses.Use]) -> Iterator[Finding]:
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
        read = reads.get((change.key[0], accesses.SOME_ITEM))
    if read is None:
        return
    swapped = isinstance(read.value, accesses.SWAPPED)
    code = "MT404" if swapped else "MT402" if read.decides else "MT401"
    where = f"line {change.place.line}" + ("" if change.place.file == read.place.file else f" of {change.place.file}")
    yield finding(
        code, read.place, f"{read.text} is {_short(read.value)} now, and {where} changes it", evidence=_EVIDENCE
    )
    what = f"{change.text}: the step reads it at line {read.place.line}"
    yield finding("MT405", change.place, what, evidence=_EVIDENCE)


def _is_setting_of_optimizer(change: accesses.Use) -> bool:
    """Whether a plain attribute of an optimizer is set; a Keras optimizer's learning rate is a variable."""
    if isinstance(change.value, (tf.Variable, keras.Variable)):
        return False
    if isinstance(change.owner, keras.optimizers.Optimizer):
        return change.key[1] not in ("learning_rate", "iterations")
    return isinstance(change.owner, Optimizer)


def _is_setting_of_keras(change: accesses.Use) -> bool:
    """Whether a number of a Keras layer, loss or regularizer is set, which its own code reads: a rate, a momentum."""
    return (
        isinstance(change.owner, (keras.Layer, keras.losses.Loss, keras.regularizers.Regularizer))
        and not isinstance(change.owner, keras.Model)
        and not is_users_object(change.owner)
        and isinstance(change.value, (int, float, np.number))
    )


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
    at_import = _called_at_import(files)
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
                    or function.__name__ in _AT_START | at_import
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
    return found - accesses.CHANGING


def _called_at_import(files: Iterable[str]) -> set[str]:
    """Names of functions that run as modules are imported and by no other function of these files: what registers, say."""
    at_import: set[str] = set()
    by_others: set[str] = set()
    for file in files:
        tree = tree_of_file(file) if file else None
        if not isinstance(tree, ast.Module):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                at_import.update(_called(decorator) for decorator in node.decorator_list)
            if isinstance(node, ast.FunctionDef):
                by_others.update(
                    _called(one) for part in node.body for one in ast.walk(part) if isinstance(one, ast.Call)
                )
        for statement in tree.body:
            if not isinstance(statement, ast.FunctionDef | ast.ClassDef):
                at_import.update(_called(one) for one in ast.walk(statement) if isinstance(one, ast.Call))
    return at_import - by_others


def _called(node: ast.AST) -> str:
    """The name of what is called, or of a decorator."""
    function = node.func if isinstance(node, ast.Call) else node
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _has_run(function: types.FunctionType, ran: set[tuple[str, int]]) -> bool:
    tree = tree_of(function)
    file = function.__code__.co_filename
    if tree is None:
        return False
    body = tree.body if isinstance(tree.body, list) else [tree.body]  # type: ignore[attr-defined]
    return any((file, line) in ran for one in body for line in range(one.lineno, (one.end_lineno or one.lineno) + 1))


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) < 40 else type(value).__name__
