"""What a class that a config names must have, read from its source text: the right base, its methods, its metrics.

Nothing is imported. Where a base class is out of sight, or a decorator may add what is missing, all is taken to be right.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator, Sequence

from modetrain.config.signatures import KEEPS_SIGNATURE, SourceText, assigned, last_name
from modetrain.errors import closest
from modetrain.files.paths import shown

_RECIPE, _CALLBACK = ("modetrain.recipe", "Recipe"), ("modetrain.callback", "Callback")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lineage:
    """A class and its bases, itself first.

    Attributes:
      classes: (module, class) each.
      whole: whether every base was found, and no decorator or metaclass may add to it.
    """

    classes: Sequence[tuple[str, ast.ClassDef]]
    whole: bool

    def derives_from(self, base: tuple[str, str]) -> bool:
        """Whether a class of this (module, name) is among them."""
        return any((module, one.name) == base for module, one in self.classes)

    def own(self, base: tuple[str, str]) -> dict[str, ast.stmt]:
        """What they define by name, but for the base that all share; of several the one that Python takes."""
        found: dict[str, ast.stmt] = {}
        for module, one in self.classes:
            if (module, one.name) != base:
                for statement in one.body:
                    named = {statement.name} if isinstance(statement, ast.FunctionDef) else assigned(statement)
                    for name in named:
                        found.setdefault(name, statement)
        return found


def lineage(target: str, sources: SourceText) -> Lineage | None:
    """The class that a target names, with its bases; None if it is no class, or cannot be found."""
    module, _, name = target.rpartition(".")
    try:
        found = sources.definition(module, name) if sources.file(module) is not None else None
    except KeyError:
        return None
    if found is None or not isinstance(found[1], ast.ClassDef):
        return None
    classes: list[tuple[str, ast.ClassDef]] = []
    whole = True
    waiting = [(found[0], found[1])]
    while waiting:
        where, one = waiting.pop(0)
        classes.append((where, one))
        whole = whole and not one.keywords
        whole = whole and all(last_name(d) in (*KEEPS_SIGNATURE, "dataclass") for d in one.decorator_list)
        for base in one.bases:
            if isinstance(base, ast.Name) and base.id == "object":
                continue
            parent = sources.base(where, base)
            if parent is None or not isinstance(parent[1], ast.ClassDef) or len(classes) > 50:
                whole = False
            else:
                waiting.append((parent[0], parent[1]))
    return Lineage(classes=classes, whole=whole)


def check_recipe(target: str, given: str, needed: Sequence[str], sources: SourceText) -> Iterator[str]:
    """Yields what is wrong with the class of a recipe: not derived from `Recipe`, or without a step.

    Args:
      target: its `_target_`.
      given: how that was given.
      needed: the methods that the run will call.
      sources: where code is looked up.
    """
    found = lineage(target, sources)
    if found is None or not found.whole:
        return
    if not found.derives_from(_RECIPE):
        yield _underived(found, given, "recipe", "Recipe", sources)
        return
    there = found.own(_RECIPE)
    for method in needed:
        if method not in there:
            near = closest(method, [name for name in there if name not in needed])
            fix = (
                f"Did you mean {method}, where it says {near}?" if near else f"Write def {method}(self, batch): in it."
            )
            yield f"{given}: {_where(found, sources)} has no {method}, which the run calls. {fix}"


def check_callback(target: str, given: str, sources: SourceText) -> Iterator[str]:
    """Yields what is wrong with the class of a callback: that it does not derive from `Callback`."""
    found = lineage(target, sources)
    if found is not None and found.whole and not found.derives_from(_CALLBACK):
        yield _underived(found, given, "callback", "Callback", sources)


def check_metric(target: str, metric: str, given: str, key: str, sources: SourceText) -> Iterator[str]:
    """Yields what is wrong with a metric that `eval_step` does not return, as far as its text settles what it returns.

    Args:
      target: the recipe's `_target_`.
      metric: the metric.
      given: how it was given.
      key: its key.
      sources: where code is looked up.
    """
    found = lineage(target, sources)
    if found is None or not found.whole:
        return
    names = returned(found.own(_RECIPE).get("eval_step"))
    if names and metric not in names:
        near = closest(metric, names)
        fix = f"Did you mean {key}={near}?" if near else f"Type {key}={names[0]}, or {key}=null for none."
        yield f"{given}: eval_step of {target} returns {', '.join(names)}, and no {metric!r}. {fix}"


def returned(method: ast.stmt | None) -> list[str]:
    """The keys of the dict literals that a method returns; empty if it returns anything else too."""
    if not isinstance(method, ast.FunctionDef) or method.decorator_list:
        return []
    names: list[str] = []
    for value in _returns(method.body):
        if not isinstance(value, ast.Dict):
            return []
        for key in value.keys:
            if not isinstance(key, ast.Constant) or not isinstance(key.value, str):
                return []
            names.append(key.value)
    return list(dict.fromkeys(names))


def _returns(body: Sequence[ast.AST]) -> Iterator[ast.expr | None]:
    for node in body:
        if isinstance(node, ast.Return):
            yield node.value
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            yield from _returns(list(ast.iter_child_nodes(node)))


def _where(found: Lineage, sources: SourceText) -> str:
    module, one = found.classes[0]
    file = sources.file(module)
    return f"class {one.name} in {shown(file, sources.cwd) if file else module}:{one.lineno}"


def _underived(found: Lineage, given: str, what: str, base: str, sources: SourceText) -> str:
    name = found.classes[0][1].name
    return (
        f"{given}: {_where(found, sources)} is no {what}, it does not derive from modetrain.{base}. Write "
        f"class {name}(modetrain.{base}): there."
    )
