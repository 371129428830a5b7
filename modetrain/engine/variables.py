"""The models, optimizers and variables that a recipe holds, by names that stay the same from run to run.

with Snapshot(variables):
    ...                        # may assign them: they have their values back afterwards
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from modetrain.errors import ConfigError

# The name that Keras gives a variable without one; it counts all of them in the process.
_COUNTED = re.compile(r"variable_\d+")
_READS = frozenset({"ReadVariableOp", "VariableShape", "ResourceGather", "ResourceGatherNd"})
_READ_ONLY = "_read_only_resource_inputs"  # TensorFlow notes it at every call, branch and loop of a graph


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


def find_added_states(holder: object) -> frozenset[str]:
    """The names of those of `find_variables` that version 0.1 did not save, and that begin as zeros.

    They are the states of stateful recurrent layers, and the weight that an optimizer accumulates.
    """
    held = [thing for _, thing in iter_attributes(holder)]
    states = {id(state) for layer in held if isinstance(layer, keras.Layer) for state in _recurrent_states(layer)}
    states |= {id(optimizer.weight) for optimizer in held if hasattr(optimizer, "accumulators")}
    return frozenset(name for name, variable in find_variables(holder).items() if id(variable) in states)


def attribute(holder: str, name: str) -> str:
    """The Python expression for an attribute of any name."""
    return f"{holder}.{name}" if name.isidentifier() else f"getattr({holder}, {name!r})"


class Snapshot:
    """Copies of variables, of each replica's own value; leaving its `with` block assigns them, also after an error.

    A copy shares the variable's memory until the variable is assigned, so it costs next to nothing in time and memory.
    """

    def __init__(self, variables: Iterable[Any] = ()) -> None:
        self._kept: dict[int, tuple[Any, tf.Variable, tf.Tensor]] = {}  # by id of the replica's variable
        self.add(variables)

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *error: object) -> None:
        self.restore()

    def restore(self) -> None:
        """Assigns the values that were copied."""
        for _, one, value in self._kept.values():
            one.assign(value)

    def add(self, variables: Iterable[Any]) -> None:
        """Copies variables, of Keras or TensorFlow; those that are copied already stay as they are."""
        for variable in variables:
            for one in replica_variables(variable):
                if id(one) not in self._kept:
                    self._kept[id(one)] = variable, one, one.read_value()

    def changed(self) -> list[Any]:
        """The variables whose value is now another one. Reads all of them."""
        return list({id(v): v for v, one, value in self._kept.values() if not _same(one.read_value(), value)}.values())


def replica_variables(variable: Any) -> tuple[tf.Variable, ...]:
    """The TensorFlow variables of a variable: one, or one on each replica of this process."""
    plain = getattr(variable, "value", variable) if not isinstance(variable, tf.Variable) else variable
    return tuple(getattr(plain, "values", (plain,)))


def ids_of(variables: Iterable[Any]) -> set[int]:
    """The ids of variables, and of TensorFlow's inside those of Keras."""
    return {id(one) for v in variables for one in (v, v.value if isinstance(v, keras.Variable) else v)}


def find_assigned(graph: tf.Graph, variables: Iterable[Any]) -> list[Any]:
    """Those of some variables that a traced function may assign, itself or in what it calls."""
    handles: dict[int, Any] = {}
    for variable in variables:
        for one in replica_variables(variable):
            handles.setdefault(id(one.handle), variable)
    found = {}
    for handle, inside in graph.captures:
        variable = handles.get(id(handle))
        if variable is not None and any(_writes(op, inside) for op in inside.consumers()):
            found[id(variable)] = variable
    return list(found.values())


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
            states = _recurrent_states(thing) if isinstance(thing, keras.Layer) else []
            for index, variable in enumerate([*held, *states]):
                own = "variable" if _COUNTED.fullmatch(variable.name) else variable.name
                yield f"{name}/{index}/{own}", place, variable


def _recurrent_states(model: keras.Layer) -> list[keras.Variable]:
    """The states of stateful recurrent layers, which Keras does not list among a model's variables."""
    layers = [one for one in model._flatten_layers() if isinstance(one, keras.layers.RNN) and one.stateful]
    return [state for layer in layers for state in keras.tree.flatten(layer.states) if state is not None]


def _writes(op: tf.Operation, handle: tf.Tensor) -> bool:
    if op.type in _READS:
        return False
    try:
        read_only = op.get_attr(_READ_ONLY)
    except ValueError:
        return True
    return any(one is handle and index not in read_only for index, one in enumerate(op.inputs))


def _same(one: tf.Tensor, other: tf.Tensor) -> bool:
    equal = tf.equal(one, other)
    if one.dtype.is_floating or one.dtype.is_complex:
        equal = tf.logical_or(equal, tf.logical_and(tf.not_equal(one, one), tf.not_equal(other, other)))
    return bool(tf.reduce_all(equal))
