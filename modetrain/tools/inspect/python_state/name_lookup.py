"""Expressions in the user's source, resolved on the live objects: `self.config.beta` is that object's attribute."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import types
from collections.abc import Mapping
from typing import Any

import keras

from modetrain.engine.object_walk import closure_of
from modetrain.tools.inspect.python_state.reachable import is_users_object
from modetrain.tools.inspect.python_state.source import nodes_of

_UNKNOWN = object()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scope:
    """Where an expression stands.

    Attributes:
      names: what its names mean: `self`, closure variables, globals.
      recipe: what `<anything>.recipe` means.
    """

    names: Mapping[str, Any]
    recipe: Any

    @classmethod
    def of_function(cls, function: types.FunctionType, owner: Any, recipe: Any) -> Scope:
        """The scope of a function: its globals, its closure, and its first argument where it is a method of `owner`."""
        names = dict(function.__globals__) | closure_of(function)
        arguments = function.__code__.co_varnames[: function.__code__.co_argcount]
        for argument in arguments:
            names.pop(argument, None)
        if "recipe" in arguments:
            names["recipe"] = recipe
        if owner is not None and arguments:
            names[arguments[0]] = owner
        scope = cls(names=names, recipe=recipe)
        outer = names_declared_outside(function)
        for node in nodes_of(function):  # `recipe = run.recipe`
            if (
                isinstance(node, ast.Assign)
                and len(node.targets) == 1
                and isinstance(node.targets[0], ast.Name)
                and node.targets[0].id not in outer
            ):
                value = scope.value(node.value)
                if is_known(value):
                    names[node.targets[0].id] = value
                elif not isinstance(node.value, ast.Constant):
                    names.pop(node.targets[0].id, None)
        return scope

    def value(self, node: ast.AST) -> Any:
        """What an expression is now, found without a call of anything but `get_layer`; see `is_known`."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id, _UNKNOWN)
        if isinstance(node, ast.Attribute):
            owner = self.value(node.value)
            is_recipe = node.attr == "recipe" and isinstance(node.value, (ast.Name, ast.Attribute))
            if is_recipe and (owner is _UNKNOWN or not hasattr(owner, "recipe")):
                return self.recipe
            return _UNKNOWN if owner is _UNKNOWN else _attribute(owner, node.attr)
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            owner, key = self.value(node.value), node.slice.value
            try:
                return owner[key] if isinstance(owner, (dict, list, tuple)) else _UNKNOWN  # type: ignore[index]
            except (KeyError, IndexError, TypeError):
                return _UNKNOWN
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get_layer":
            owner = self.value(node.func.value)
            arguments = [one.value for one in node.args if isinstance(one, ast.Constant)]
            if isinstance(owner, keras.Model) and len(arguments) == len(node.args):
                with contextlib.suppress(ValueError):
                    return owner.get_layer(*arguments)
        return _UNKNOWN

    def misses_attribute(self, node: ast.AST) -> bool:
        """Whether an expression leads through an object that has no such attribute: it is about another recipe."""
        while isinstance(node, (ast.Attribute, ast.Subscript)):
            if isinstance(node, ast.Attribute) and is_known(owner := self.value(node.value)):
                return not hasattr(type(owner), node.attr) and not is_known(_attribute(owner, node.attr))
            node = node.value
        return False


def names_declared_outside(function: types.FunctionType) -> set[str]:
    """Names that a function declares `global` or `nonlocal`: what it assigns to them outlasts it."""
    return {name for node in nodes_of(function) if isinstance(node, (ast.Global, ast.Nonlocal)) for name in node.names}


def is_known(value: Any) -> bool:
    """Whether `Scope.value` has found a value."""
    return value is not _UNKNOWN


def _attribute(owner: Any, name: str) -> Any:
    """An attribute, without running a property of the user's."""
    for cls in type(owner).__mro__:
        if isinstance(vars(cls).get(name), property) and is_users_object(cls):
            return _UNKNOWN
    try:
        return getattr(owner, name, _UNKNOWN)
    except Exception:  # what the user's own __getattr__ raises
        return _UNKNOWN
