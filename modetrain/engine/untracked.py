"""Variables that an optimizer updates and the recipe's state does not hold: no checkpoint would save them.

`check` checks a recipe once it is made. `check_in_use` checks an optimizer at its first update, before the update takes
effect: a step may use an optimizer that the recipe does not hold.
"""

from __future__ import annotations

from typing import Any

import keras

from modetrain.engine import object_walk, step_state
from modetrain.engine.optimizer import Optimizer
from modetrain.errors import ConfigError

_KEPT = "only attributes of the recipe are, and what is in lists and dicts that are attributes"
_LOST = "A resumed run would start from fresh values."


def check(recipe: Any) -> None:
    """Refuses a recipe that trains variables outside its state, by an optimizer or in a layer.

    Raises:
      ConfigError: it does.
    """
    step_state.check(recipe)
    _check_optimizers(recipe)


def _check_optimizers(recipe: Any) -> None:
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
    _check_optimizers(recipe)
    if not optimizer.kept:
        raise ConfigError(_optimizer_message(recipe, optimizer))


# --- private ---------------------------------------------------------------------------------------------------------


def _variables_message(recipe: Any, optimizer: str, lost: list[keras.Variable]) -> str:
    cls = type(recipe).__name__
    variables = f"{lost[0].path}" + (f" and {len(lost) - 1} more" if lost[1:] else "")
    place = object_walk.find_path(recipe, lambda thing: any(one is lost[0] for one in object_walk.variables_in(thing)))
    where = "" if place is None else f"It is in {place}. "
    return (
        f"{cls}: the optimizer {optimizer} updates {variables}, which the recipe does not keep: {_KEPT}. {where}{_LOST} Keep the "
        f"model as an attribute: write {_line(recipe, 'model', place)} in {cls}.__init__."
    )


def _optimizer_message(recipe: Any, optimizer: Optimizer) -> str:
    cls = type(recipe).__name__
    place = object_walk.find_path(recipe, lambda thing: thing is optimizer)
    where = "" if place is None else f"It is {place}. "
    return (
        f"{cls}: the optimizer of {optimizer.trainable[0].path} is not kept by the recipe: {_KEPT}. {where}{_LOST} Keep the "
        f"optimizer as an attribute: write {_line(recipe, 'optimizer', place)} in {cls}.__init__."
    )


def _line(recipe: Any, name: str, place: str | None) -> str:
    """The line to write, like `self.net = self.nets.net`, with an unused name."""
    parts = place.split(".") if place is not None else []
    dotted = len(parts) > 2 and all(part.isidentifier() and not part.startswith("__") for part in parts)
    if dotted:
        name = parts[-1]
    while name in vars(recipe) or hasattr(type(recipe), name):
        name += "_"
    return f"self.{name} = {place if dotted else '...'}"
