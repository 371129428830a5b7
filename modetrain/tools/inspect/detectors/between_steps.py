"""Python values that a step reads and other code changes between steps: a compiled step goes on with the old ones.

What the step reads is found in the lines that tracing ran. What changes it is found in the source of the recipe's other methods,
of callbacks and of functions beside them. Both are resolved on the live objects, so that equal names alone report nothing.
"""

from __future__ import annotations

import ast
import inspect as python_inspect
import sys
import types
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from modetrain.callback import Callback
from modetrain.diagnostics.location import Location, is_users
from modetrain.engine.optimizer import Optimizer
from modetrain.tools.inspect.finding import Finding, make_finding
from modetrain.tools.inspect.python_state import accesses
from modetrain.tools.inspect.python_state.accesses import Access
from modetrain.tools.inspect.python_state.name_lookup import Scope
from modetrain.tools.inspect.python_state.reachable import Reachable, is_users_object
from modetrain.tools.inspect.python_state.source import called_name, nodes_of, tree_of, tree_of_file

_EVIDENCE = "source"
# Plain values that TensorFlow and Keras keep for the whole process: what sets one, and what reads it.
_SETTINGS = (
    (
        (tf.summary.experimental.set_step,),
        (
            *(tf.summary.experimental.get_step, tf.summary.scalar, tf.summary.histogram, tf.summary.image),
            *(tf.summary.text, tf.summary.write),
        ),
    ),
    ((keras.config.set_epsilon, keras.backend.set_epsilon), (keras.config.epsilon, keras.backend.epsilon)),
    ((keras.config.set_floatx, keras.backend.set_floatx), (keras.config.floatx, keras.backend.floatx)),
    ((keras.config.set_dtype_policy,), (keras.config.dtype_policy,)),
    (
        (keras.config.set_image_data_format, keras.backend.set_image_data_format),
        (keras.config.image_data_format, keras.backend.image_data_format),
    ),
)
_AT_START = {"__init__", "__new__", "__post_init__", "__setstate__", "build", "__init_subclass__", "setUp", "setup"}


def find(recipe: Any, reachable: Reachable, ran: Set[Location]) -> Iterator[Finding]:
    """Finds what the step reads and other code changes.

    Args:
      recipe: the recipe.
      reachable: from its step.
      ran: the lines that tracing the step ran.
    """
    reads: dict[accesses.Key, Access] = {}
    for function in reachable.functions:
        if not _has_run(function, ran):
            continue
        scope = Scope.of_function(function, reachable.owners.get(function.__code__), recipe)
        for read in accesses.find_reads(function, scope, ran):
            known = reads.setdefault(read.key, read)
            if read.in_condition and not known.in_condition:
                reads[read.key] = read
        for read in accesses.find_optimizer_reads(function, scope, recipe, ran):
            reads.setdefault(read.key, read)
    settings = dict(_find_settings(recipe, reachable, ran))
    found: dict[tuple[Location, str], Finding] = {}
    outside = list(_functions_outside(recipe, reachable, ran))
    called = _names_called_between_steps(outside)
    for function, owner in outside:
        scope = Scope.of_function(function, owner, recipe)
        if settings and not (_is_free(function) and function.__name__ not in called):
            for one in _find_set(function, scope, settings):
                found.setdefault((one.place, one.code), one)
        for write in accesses.find_writes(function, scope):
            # A function that nothing calls between steps may well make the model, and freezes parts of it for good.
            if write.owner is None and _is_free(function) and function.__name__ not in called:
                continue
            for one in _findings(write, reads):
                found.setdefault((one.place, one.code), one)
    yield from found.values()


def _findings(write: Access, reads: Mapping[accesses.Key, Access]) -> Iterator[Finding]:
    owner, name = write.key
    if name == "trainable" and (write.owner is None or isinstance(write.owner, keras.Layer)):
        yield make_finding("MT403", write.place, f"{write.text} is set outside the step", evidence=_EVIDENCE)
        return
    if _is_optimizer_setting(write) or _is_keras_setting(write):
        what = f"{write.text} is set outside the step, which has its old value in the graph"
        yield make_finding("MT401", write.place, what, evidence=_EVIDENCE)
        return
    read = reads.get(write.key) or reads.get((owner, None))
    if read is None and name is None:
        read = reads.get((owner, accesses.SOME_ITEM))
    if read is None:
        return
    is_swapped = isinstance(read.value, accesses.SWAPPABLE)
    code = "MT404" if is_swapped else "MT402" if read.in_condition else "MT401"
    where = f"line {write.place.line}" + ("" if write.place.file == read.place.file else f" of {write.place.file}")
    what = f"{read.text} is {_short(read.value)} now, and {where} changes it"
    yield make_finding(code, read.place, what, evidence=_EVIDENCE)
    what = f"{write.text}: the step reads it at line {read.place.line}"
    yield make_finding("MT405", write.place, what, evidence=_EVIDENCE)


def _is_optimizer_setting(write: Access) -> bool:
    """Whether a plain attribute of an optimizer is set; a Keras optimizer's learning rate is a variable."""
    if isinstance(write.value, (tf.Variable, keras.Variable)):
        return False
    if isinstance(write.owner, keras.optimizers.Optimizer):
        return write.key[1] not in ("learning_rate", "iterations")
    return isinstance(write.owner, Optimizer)


def _is_keras_setting(write: Access) -> bool:
    """Whether a number of a Keras layer, loss or regularizer is set, which its own code reads: a rate, a momentum."""
    return (
        isinstance(write.owner, (keras.Layer, keras.losses.Loss, keras.regularizers.Regularizer))
        and not isinstance(write.owner, keras.Model)
        and not is_users_object(write.owner)
        and isinstance(write.value, (int, float, np.number))
    )


# --- settings of TensorFlow and Keras ---------------------------------------------------------------------------------


def _find_settings(recipe: Any, reachable: Reachable, ran: Set[Location]) -> Iterator[tuple[int, Location]]:
    """By the index in `_SETTINGS` the first line of the step that reads a setting."""
    for function in reachable.functions:
        scope = Scope.of_function(function, reachable.owners.get(function.__code__), recipe)
        for node in nodes_of(function):
            place = Location(file=function.__code__.co_filename, line=getattr(node, "lineno", 0))
            if isinstance(node, ast.Call) and place in ran:
                called, has_step = scope.value(node.func), any(given.arg == "step" for given in node.keywords)
                for index, (_, readers) in enumerate(_SETTINGS):
                    if any(called is one for one in readers) and not has_step:
                        yield index, place


def _find_set(function: types.FunctionType, scope: Scope, settings: Mapping[int, Location]) -> Iterator[Finding]:
    """Where a function sets what the step reads to something else than a variable."""
    for node in nodes_of(function):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        called, value = scope.value(node.func), scope.value(node.args[0])
        for index, (setters, _) in enumerate(_SETTINGS):
            is_set = any(called is one for one in setters) and not isinstance(value, (tf.Variable, keras.Variable))
            if is_set and index in settings:
                read, place = settings[index], Location(file=function.__code__.co_filename, line=node.lineno)
                text = ast.unparse(node)
                yield make_finding(
                    "MT401", read, f"{text} at line {place.line} changes what is read", evidence=_EVIDENCE
                )
                yield make_finding("MT405", place, f"{text}: the step reads it at line {read.line}", evidence=_EVIDENCE)


# --- functions that run between steps ---------------------------------------------------------------------------------


def _functions_outside(
    recipe: Any, reachable: Reachable, ran: Set[Location]
) -> Iterator[tuple[types.FunctionType, Any]]:
    """Functions of the user's that run between steps, if ever, each with the object whose method it is."""
    objects = [recipe, *(one for one in reachable.objects.values() if not isinstance(one, (type, types.ModuleType)))]
    files = {function.__code__.co_filename for function in reachable.functions}
    for cls in type(recipe).__mro__:  # callbacks stand beside a recipe, also one that inherits its steps
        if is_users_object(cls):
            files.add(getattr(sys.modules.get(cls.__module__), "__file__", None) or "")
    done: set[types.CodeType] = set()
    for thing in objects:
        at_start = _names_called_at_start(type(thing))
        for cls in type(thing).__mro__:
            for name, value in vars(cls).items():
                function = value.fset if isinstance(value, property) else getattr(value, "__func__", value)
                if isinstance(function, types.FunctionType) and is_users(function.__code__.co_filename):
                    files.add(function.__code__.co_filename)
                    is_new = function.__code__ not in done
                    done.add(function.__code__)
                    if is_new and name not in at_start and not _has_run(function, ran):
                        yield function, thing
    left_out = _AT_START | _names_called_at_import(files)
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) not in files:
            continue
        for function in _functions_of(module):
            if function.__code__ not in done and function.__name__ not in left_out:
                done.add(function.__code__)
                if is_users(function.__code__.co_filename) and not _has_run(function, ran):
                    yield function, None


def _functions_of(module: types.ModuleType) -> Iterator[types.FunctionType]:
    """The functions of a module, and the methods of the callbacks that it defines."""
    for value in list(vars(module).values()):
        if isinstance(value, types.FunctionType):
            yield value
        elif isinstance(value, type) and issubclass(value, Callback) and value.__module__ == module.__name__:
            yield from (member for _, member in python_inspect.getmembers(value, python_inspect.isfunction))


def _is_free(function: types.FunctionType) -> bool:
    """Whether it is a function of a module, and no method."""
    return function.__qualname__ == function.__name__


def _names_called_between_steps(functions: Iterable[tuple[types.FunctionType, Any]]) -> set[str]:
    """Names of what methods call, and the functions of modules that these call."""
    found: set[str] = set()
    pending = [function for function, _ in functions if not _is_free(function)]
    while pending:
        names = {called_name(node) for node in nodes_of(pending.pop()) if isinstance(node, ast.Call)}
        pending += [function for function, _ in functions if _is_free(function) and function.__name__ in names - found]
        found |= names
    return found


def _names_called_at_start(cls: type) -> set[str]:
    """Names of the methods that run as an object is made: constructors, and what they call on `self`."""
    found, pending = set(_AT_START), list(_AT_START)
    while pending:
        function = getattr(cls, pending.pop(), None)
        if isinstance(function, types.FunctionType) and is_users(function.__code__.co_filename):
            for node in nodes_of(function):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr not in found:
                    found.add(node.func.attr)
                    pending.append(node.func.attr)
    return found - accesses.MUTATING_METHODS


def _names_called_at_import(files: Iterable[str]) -> set[str]:
    """Names of functions that modules call as they are imported and no function of these files calls."""
    at_import: set[str] = set()
    by_functions: set[str] = set()
    for file in files:
        tree = tree_of_file(file) if file else None
        for node in ast.walk(tree) if tree is not None else ():
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                at_import.update(map(called_name, node.decorator_list))
            if isinstance(node, ast.FunctionDef):
                by_functions.update(name for part in node.body for name in _called_names(part))
        for statement in tree.body if tree is not None else ():
            if not isinstance(statement, ast.FunctionDef | ast.ClassDef):
                at_import.update(_called_names(statement))
    return at_import - by_functions


def _called_names(tree: ast.AST) -> Iterator[str]:
    return (called_name(node) for node in ast.walk(tree) if isinstance(node, ast.Call))


def _has_run(function: types.FunctionType, ran: Set[Location]) -> bool:
    """Whether a line of a function's body has run."""
    tree, file = tree_of(function), function.__code__.co_filename
    if tree is None:
        return False
    body = tree.body if isinstance(tree.body, list) else [tree.body]
    lines = range(body[0].lineno, body[-1].end_lineno + 1)
    return any(one.file == file and one.line in lines for one in ran)


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) < 40 else type(value).__name__
