"""The user's functions that a step may run, found on the live objects: methods, helpers, layers, closures, wrappers.

Names are followed generously: a function that shares its name with one that the step calls is included. A report rests
on what was seen to happen; this says where to look.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import types
from collections.abc import Iterable, Mapping
from typing import Any

import keras

from modetrain.diagnostics.location import is_users
from modetrain.engine.object_walk import attributes_of, closure_of, defaults_of

_MOST_ITEMS = 100
_OF_KERAS = (keras.optimizers.Optimizer, keras.losses.Loss, keras.metrics.Metric, keras.regularizers.Regularizer)


@dataclasses.dataclass(kw_only=True)
class Reachable:
    """What a step can reach.

    Attributes:
      functions: the user's functions, those of the recipe first.
      names: every name that their code mentions, as a variable or an attribute.
      objects: the user's own objects, classes and modules on the way, by the expression that leads there.
      caches: the `lru_cache`s on the way, by expression.
      owners: per code object the object whose method it is, where that is known.
    """

    functions: list[types.FunctionType] = dataclasses.field(default_factory=list)
    names: set[str] = dataclasses.field(default_factory=set)
    objects: dict[str, Any] = dataclasses.field(default_factory=dict)
    caches: dict[str, Any] = dataclasses.field(default_factory=dict)
    owners: dict[types.CodeType, Any] = dataclasses.field(default_factory=dict)


def find_reachable(root: Any, methods: Iterable[str]) -> Reachable:
    """Follows the step methods of a recipe.

    Args:
      root: the recipe.
      methods: names of its methods to begin with.
    """
    search = _Search()
    search.add_object("self", root)
    for name in methods:
        search.consider(name, getattr(type(root), name, None), root)
    search.run()
    return search.found


class _Search:
    def __init__(self) -> None:
        self.found = Reachable()
        self._known: set[int] = set()
        self._kept: list[Any] = []  # the objects whose ids are in `_known`

    def run(self) -> None:
        """Follows names until no new function turns up."""
        sizes = (-1, -1)
        while sizes != (sizes := (len(self.found.functions), len(self.found.objects))):
            for expression, thing in list(self.found.objects.items()):
                self._follow_members(expression, thing)

    def add_object(self, expression: str, thing: Any) -> None:
        """Adds an object, and what its attributes lead to."""
        if self._is_new(thing):
            self.found.objects[expression] = thing
            for name, value in list(attributes_of(thing).items()):
                self.consider(f"{expression}.{name}", value)

    def consider(self, expression: str, value: Any, owner: Any = None) -> None:
        """Adds what a step may call in a value."""
        if isinstance(value, types.MethodType):
            self.consider(expression, value.__func__, value.__self__)
            self._add_if_users(expression, value.__self__)
        elif isinstance(value, (staticmethod, classmethod)):
            self.consider(expression, value.__func__, owner)
        elif isinstance(value, property):
            self.consider(expression, value.fget, owner)
        elif isinstance(value, functools.cached_property):
            self.consider(expression, value.func, owner)
        elif isinstance(value, functools.partial):
            for part in (value.func, *value.args, *value.keywords.values()):
                self.consider(expression, part)
        elif isinstance(value, types.FunctionType):
            self._add_function(value, owner)
        elif (inner := _wrapped(value)) is not None:
            if isinstance(value, functools._lru_cache_wrapper):
                self.found.caches[f"{expression} (a cache)"] = value
            self.consider(expression, inner, owner)
        elif isinstance(value, keras.Layer):
            self._add_layer(expression, value)
        elif isinstance(value, _OF_KERAS) and not is_users_object(value):
            self._add_held(expression, value)
        elif isinstance(value, Mapping):
            for key, item in list(value.items())[:_MOST_ITEMS]:
                self.consider(f"{expression}[{key!r}]", item)
        elif isinstance(value, (list, tuple)):
            for index, item in enumerate(value[:_MOST_ITEMS]):
                self.consider(f"{expression}[{index}]", item)
        else:
            self._add_if_users(expression, value)

    def _add_if_users(self, expression: str, value: Any) -> None:
        if is_users_object(value):
            self.add_object(expression, value)
            if not isinstance(value, (type, types.ModuleType)) and "__call__" in vars(type(value)):
                self.consider(expression, type(value).__call__, value)

    def _add_function(self, function: types.FunctionType, owner: Any) -> None:
        code = function.__code__
        if owner is not None:
            self.found.owners.setdefault(code, owner)
        if not self._is_new(function):
            return
        if is_users(code.co_filename):
            self.found.functions.append(function)
            names = names_in(code)
            self.found.names |= names
            module = function.__globals__
            for name in names:
                if name in module:
                    self.consider(name, module[name])
        if (inner := getattr(function, "__wrapped__", None)) is not None:
            self.consider(function.__qualname__, inner, owner)
        for name, value in closure_of(function).items():
            self.consider(name, value)
        for default in defaults_of(function):
            self.consider(f"{function.__qualname__}()", default)

    def _add_layer(self, expression: str, layer: keras.Layer) -> None:
        for inner in layer._flatten_layers(include_self=True, recursive=True):
            if not is_users_object(inner):
                self._add_held(expression, inner)
            elif self._is_new(inner):
                self.found.objects[expression if inner is layer else f"{expression}/{inner.name}"] = inner
                self.consider(expression, type(inner).call, inner)
                for name, value in list(attributes_of(inner).items()):
                    if not name.startswith("_"):
                        self.consider(f"{expression}.{name}", value)

    def _add_held(self, expression: str, thing: Any) -> None:
        """Adds what an object of Keras's calls: a learning-rate schedule, a regularizer, an activation, a Lambda's function."""
        for name, value in list(vars(thing).items()):
            if isinstance(value, (types.FunctionType, types.MethodType, functools.partial)) or is_users_object(value):
                self.consider(f"{expression}.{name}", value)

    def _follow_members(self, expression: str, thing: Any) -> None:
        for name in list(self.found.names):
            if isinstance(thing, types.ModuleType):
                if name in vars(thing):
                    self.consider(f"{expression}.{name}", vars(thing)[name])
                continue
            # Of every class that has it: `super()` leads from one to the next.
            for cls in thing.__mro__ if isinstance(thing, type) else type(thing).__mro__:
                if name in vars(cls) and is_users_object(cls):
                    self.consider(f"{expression}.{name}", vars(cls)[name], None if thing is cls else thing)
        if isinstance(thing, type) and "__init__" in vars(thing):
            self.consider(expression, vars(thing)["__init__"])

    def _is_new(self, thing: Any) -> bool:
        if id(thing) in self._known:
            return False
        self._known.add(id(thing))
        self._kept.append(thing)
        return True


def is_users_object(value: Any) -> bool:
    """Whether a value is a module or a class of the user's, or an object of such a class."""
    if isinstance(value, types.ModuleType):
        return is_users(getattr(value, "__file__", None) or "<none>")
    return is_users(_file_of(value if isinstance(value, type) else type(value)))


@functools.lru_cache(maxsize=4096)
def _file_of(cls: type) -> str:
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return file or ("__main__" if file is None and cls.__module__ == "__main__" else "<none>")


# --- the parts of functions and classes -------------------------------------------------------------------------------


def names_in(code: types.CodeType) -> set[str]:
    """Every name that a function's code mentions, that of the functions inside it included."""
    found = set(code.co_names) | set(code.co_freevars)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= names_in(constant)
    return found


def class_attributes_of(cls: type) -> dict[str, Any]:
    """The attributes of a class that hold values: no methods, no properties."""
    return {
        name: value
        for name, value in vars(cls).items()
        if not name.startswith("__")
        and not callable(value)
        and not isinstance(value, (property, classmethod, staticmethod))
    }


def _wrapped(value: Any) -> Any:
    """The Python function inside a `tf.function` or an `lru_cache`."""
    if isinstance(value, (type, types.ModuleType)):
        return None
    for name in ("python_function", "__wrapped__"):
        try:
            inner = getattr(value, name, None)
        except Exception:  # an attribute of the user's own may do anything
            continue
        if isinstance(inner, (types.FunctionType, types.MethodType)):
            return inner
    return None
