"""Variables that an optimizer updates and the recipe's state does not hold: no checkpoint would save them.

`check` checks a recipe once it is made. `check_in_use` checks an optimizer at its first update, before the update takes
effect: a step may use an optimizer that the recipe does not hold.
"""

from __future__ import annotations

import collections
import dataclasses
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from modetrain.engine.optimizer import Optimizer
from modetrain.engine.variables import attribute
from modetrain.errors import ConfigError

_MOST_VISITED = 10_000
_KEPT = "only attributes of the recipe are, and what is in lists and dicts that are attributes"
_LOST = "A resumed run would start from fresh values."


def check(recipe: Any) -> None:
    """Refuses a recipe with an optimizer that updates variables outside the recipe's state.

    Raises:
      ConfigError: it has one.
    """
    kept = {id(v) for v in recipe.state().values()}
    for name, optimizer in recipe.optimizers().items():
        # A recipe may keep the tf.Variable inside one of Keras's.
        lost = [v for v in optimizer.trainable if id(v) not in kept and id(v.value) not in kept]
        if lost:
            raise ConfigError(_variables_message(recipe, name, lost))
        optimizer.kept = True


def check_in_use(recipe: Any, optimizer: Optimizer) -> None:
    """Refuses an optimizer that the recipe does not hold, or whose variables it does not hold; checks it once.

    Raises:
      ConfigError: the recipe does not hold them.
    """
    if optimizer.kept:
        return
    check(recipe)
    if not optimizer.kept:
        raise ConfigError(_optimizer_message(recipe, optimizer))


# --- private ---------------------------------------------------------------------------------------------------------


def _variables_message(recipe: Any, optimizer: str, lost: list[keras.Variable]) -> str:
    cls = type(recipe).__name__
    variables = f"{lost[0].path}" + (f" and {len(lost) - 1} more" if lost[1:] else "")
    place = _find_path(recipe, lambda thing: _has(thing, lost[0]))
    where = "" if place is None else f"It is in {place}. "
    return (
        f"{cls}: the optimizer {optimizer} updates {variables}, which the recipe does not keep: {_KEPT}. {where}{_LOST} Keep the "
        f"model as an attribute: write {_line(recipe, 'model', place)} in {cls}.__init__."
    )


def _optimizer_message(recipe: Any, optimizer: Optimizer) -> str:
    cls = type(recipe).__name__
    place = _find_path(recipe, lambda thing: thing is optimizer)
    where = "" if place is None else f"It is {place}. "
    return (
        f"{cls}: the optimizer of {optimizer.trainable[0].path} is not kept by the recipe: {_KEPT}. {where}{_LOST} Keep the "
        f"optimizer as an attribute: write {_line(recipe, 'optimizer', place)} in {cls}.__init__."
    )


def _line(recipe: Any, name: str, place: str | None) -> str:
    """The line to write, like `self.net = self.nets.net`, with an unused name."""
    dotted = place is not None and all(part.isidentifier() for part in place.split(".")) and place.count(".") > 1
    if place is not None and dotted:
        name = place.rpartition(".")[2]
    while name in vars(recipe) or hasattr(type(recipe), name):
        name += "_"
    return f"self.{name} = {place if dotted else '...'}"


def _has(thing: Any, variable: keras.Variable) -> bool:
    held = getattr(thing, "variables", None) if isinstance(thing, (keras.Layer, tf.Module)) else None
    return thing is variable or any(one is variable for one in held or ())


def _find_path(recipe: Any, found: Callable[[Any], bool]) -> str | None:
    """The shortest Python expression, from `self` on, for an object that satisfies `found`."""
    visited: set[int] = {id(recipe)}
    queue = collections.deque((attribute("self", name), thing) for name, thing in vars(recipe).items())
    while queue and len(visited) < _MOST_VISITED:
        place, thing = queue.popleft()
        if id(thing) in visited:
            continue
        visited.add(id(thing))
        if found(thing):
            return place
        queue.extend(_iter_children(place, thing))
    return None


def _iter_children(place: str, thing: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(thing, (type, types.ModuleType, Optimizer, keras.Layer, tf.Tensor, tf.Variable, keras.Variable)):
        return
    if isinstance(thing, Mapping):
        yield from ((f"{place}[{key!r}]", value) for key, value in thing.items())
    elif isinstance(thing, (list, tuple, collections.deque)):
        yield from ((f"{place}[{index}]", value) for index, value in enumerate(thing))
    elif isinstance(thing, (set, frozenset)):
        yield from ((f"{place}, a set", value) for value in thing)
    elif isinstance(thing, types.FunctionType):
        cells = zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=False)
        yield from ((f"the closure of {place}", cell.cell_contents) for _, cell in cells if _is_full(cell))
    elif isinstance(thing, types.MethodType):
        yield f"{place}.__self__", thing.__self__
    else:
        own = dict(getattr(thing, "__dict__", {}))
        if dataclasses.is_dataclass(thing):  # its attributes may be slots
            own |= {f.name: getattr(thing, f.name) for f in dataclasses.fields(thing) if hasattr(thing, f.name)}
        yield from ((attribute(place, name), value) for name, value in own.items())


def _is_full(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
