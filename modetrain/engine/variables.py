"""The models, optimizers and variables that a recipe holds, by names that stay the same from run to run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from modetrain.errors import ConfigError

# The name that Keras gives a variable without one; it counts all of them in the process.
_COUNTED = re.compile(r"variable_\d+")


def iter_attributes(holder: object) -> Iterator[tuple[str, Any]]:
    """Every attribute, and what is in attributes that are lists or dicts: `<attribute>`, `<attribute>/<index or key>`."""
    for name, _, thing in _walk(holder):
        yield name, thing


def find_variables(holder: object) -> dict[str, Any]:
    """Every variable once, with those of models and optimizers: `<thing>/<index>/<name>`, in the order of the attributes.

    Raises:
      ConfigError: two variables have one name.
    """
    found: dict[str, Any] = {}
    places: dict[str, str] = {}
    known: set[int] = set()
    for name, place, variable in _named_variables(holder):
        if id(variable) in known:
            continue
        if name in found:
            raise ConfigError(
                f"two variables of {type(holder).__name__} would have one name in a checkpoint, {name}: that of {places[name]} and "
                f"that of {place}. One of them would be lost. Rename an attribute, or a key of its dict."
            )
        known.add(id(variable))
        found[name], places[name] = variable, place
    return found


def attribute(holder: str, name: str) -> str:
    """The Python expression for an attribute of any name."""
    return f"{holder}.{name}" if name.isidentifier() else f"getattr({holder}, {name!r})"


def _walk(holder: object) -> Iterator[tuple[str, str, Any]]:
    """What `iter_attributes` yields, each with its Python expression in the middle."""

    def walk(name: str, place: str, thing: Any) -> Iterator[tuple[str, str, Any]]:
        if isinstance(thing, Mapping):
            for key, value in thing.items():
                yield from walk(f"{name}/{key}", f"{place}[{key!r}]", value)
        elif isinstance(thing, (list, tuple)):
            for index, value in enumerate(thing):
                yield from walk(f"{name}/{index}", f"{place}[{index}]", value)
        else:
            yield name, place, thing

    for name, value in vars(holder).items():
        yield from walk(name, attribute("self", name), value)


def _named_variables(holder: object) -> Iterator[tuple[str, str, Any]]:
    for name, place, thing in _walk(holder):
        if isinstance(thing, (keras.Variable, tf.Variable)):
            yield name, place, thing
        elif isinstance(thing, keras.random.SeedGenerator):
            yield f"{name}/state", place, thing.state
        elif isinstance(held := getattr(thing, "variables", None), (list, tuple)):
            for index, variable in enumerate(held):
                own = "variable" if _COUNTED.fullmatch(variable.name) else variable.name
                yield f"{name}/{index}/{own}", place, variable
