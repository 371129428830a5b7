"""Expressions in the user's source, resolved on the live objects: `self.config.beta` is that object's attribute."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import types
from collections.abc import Mapping
from typing import Any

import keras

from modetrain.tools.inspect.python_state.reachable import is_users_object, tree_of

_MISSING = object()


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
    def of(cls, function: types.FunctionType, owner: Any, recipe: Any) -> Scope:
        """The scope of a function: its globals, its closure, and its first argument where it is a method of `owner`."""
        names = dict(function.__globals__)
        code = function.__code__
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
            try:
                names[name] = cell.cell_contents
            except ValueError:
                continue
        for argument in code.co_varnames[: code.co_argcount]:
            names.pop(argument, None)
        if "recipe" in code.co_varnames[: code.co_argcount]:
            names["recipe"] = recipe
        if owner is not None and code.co_argcount:
            names[code.co_varnames[0]] = owner
        scope = cls(names=names, recipe=recipe)
        tree = tree_of(function)
        outer = declared_outside(tree) if tree is not None else set()
        for node in ast.walk(tree) if tree is not None else ():  # `recipe = run.recipe`
            if (
                isinstance(node, ast.Assign)
                and len(node.targets) == 1
                and isinstance(node.targets[0], ast.Name)
                and node.targets[0].id not in outer
            ):
                value = scope.value(node.value)
                if known(value):
                    names[node.targets[0].id] = value
                elif not isinstance(node.value, ast.Constant):
                    names.pop(node.targets[0].id, None)
        return scope

    def value(self, node: ast.AST) -> Any:
        """What an expression is now, calling nothing but `get_layer`; `_MISSING` (see `known`) where that cannot be told."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id, _MISSING)
        if isinstance(node, ast.Attribute):
            if node.attr == "recipe" and isinstance(node.value, (ast.Name, ast.Attribute)):
                owner = self.value(node.value)
                return self.recipe if owner is _MISSING or not hasattr(owner, "recipe") else _attribute(owner, "recipe")
            owner = self.value(node.value)
            return _MISSING if owner is _MISSING else _attribute(owner, node.attr)
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            owner = self.value(node.value)
            try:
                key: Any = node.slice.value
                return owner[key] if isinstance(owner, (dict, list, tuple)) else _MISSING
            except (KeyError, IndexError, TypeError):
                return _MISSING
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get_layer":
            owner = self.value(node.func.value)
            if isinstance(owner, keras.Model) and all(isinstance(one, ast.Constant) for one in node.args):
                with contextlib.suppress(ValueError):
                    return owner.get_layer(*(one.value for one in node.args))  # type: ignore[attr-defined]
        return _MISSING

    def lacks(self, node: ast.AST) -> bool:
        """Whether an expression leads through an object that has no such attribute: it is about another recipe."""
        while isinstance(node, (ast.Attribute, ast.Subscript)):
            if isinstance(node, ast.Attribute) and known(owner := self.value(node.value)):
                return not hasattr(type(owner), node.attr) and not known(_attribute(owner, node.attr))
            node = node.value
        return False


def declared_outside(tree: ast.AST) -> set[str]:
    """Names that a function declares `global` or `nonlocal`: what it assigns to them outlasts it."""
    return {name for node in ast.walk(tree) if isinstance(node, (ast.Global, ast.Nonlocal)) for name in node.names}


def known(value: Any) -> bool:
    """Whether `Scope.value` could tell."""
    return value is not _MISSING


def _attribute(owner: Any, name: str) -> Any:
    """An attribute, without running a property of the user's."""
    for cls in type(owner).__mro__:
        if isinstance(vars(cls).get(name), property) and is_users_object(cls):
            return _MISSING
    try:
        return getattr(owner, name, _MISSING)
    except Exception:  # what the user's own __getattr__ raises
        return _MISSING
