"""What a recipe holds: models, optimizers and variables, by names that stay the same from run to run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

# Keras's name of a variable that was given none, which counts all such of the process.
_COUNTED = re.compile(r"variable_\d+")


def things(holder: object) -> Iterator[tuple[str, Any]]:
    """Everything that is an attribute, or in a list or dict that is one: `<attribute>`, `<attribute>/<index or key>`."""

    def walk(name: str, thing: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(thing, Mapping):
            for key, value in thing.items():
                yield from walk(f"{name}/{key}", value)
        elif isinstance(thing, (list, tuple)):
            for index, value in enumerate(thing):
                yield from walk(f"{name}/{index}", value)
        else:
            yield name, thing

    for attribute, value in vars(holder).items():
        yield from walk(attribute, value)


def variables(holder: object) -> dict[str, Any]:
    """Every variable, once, those of models and optimizers too: `<thing>/<index>/<name>`. The order is that of the attributes."""
    found: dict[str, Any] = {}
    known: set[int] = set()

    def add(name: str, variable: Any) -> None:
        if id(variable) not in known:
            known.add(id(variable))
            found[name] = variable

    for name, thing in things(holder):
        if isinstance(thing, (keras.Variable, tf.Variable)):
            add(name, thing)
        elif isinstance(thing, keras.random.SeedGenerator):
            add(f"{name}/state", thing.state)
        elif isinstance(held := getattr(thing, "variables", None), (list, tuple)):
            for index, variable in enumerate(held):
                own = "variable" if _COUNTED.fullmatch(variable.name) else variable.name
                add(f"{name}/{index}/{own}", variable)
    return found
