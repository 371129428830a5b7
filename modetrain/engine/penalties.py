"""Penalties of a loss: what Keras adds to it besides the user's own loss, each exactly once.

A penalty is the regularizer of a weight, the activity regularizer of a layer, or a term of `add_loss`. A user may add
them (`tf.add_n(self.model.losses)`) or leave them to `minimize`. Which of them a loss holds is read from its gradient.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from modetrain.diagnostics import stack
from modetrain.engine.tf_internals import observe_added_losses, observe_regularizer
from modetrain.errors import ConfigError


class _Thread(threading.local):
    """The loss that a thread computes; each of several replicas has a thread."""

    penalties: Penalties | None = None


_thread = _Thread()


class Penalties:
    """Those of one call of a loss function.

    Args:
      tape: records the loss, to differentiate it by the variables.
      variables: what to differentiate by.
      layers: returns the layers and models of the recipe.
    """

    def __init__(
        self, tape: tf.GradientTape, variables: Sequence[keras.Variable], layers: Callable[[], Sequence[keras.Layer]]
    ):
        self._outer = tape
        self._variables = variables
        self._layers = layers
        self._regularized: dict[int, keras.Variable] = {}  # by id of the variable, and of TensorFlow's in it
        self._tape = tf.GradientTape(persistent=True, watch_accessed_variables=False)
        self._of_weights: dict[int, list[tf.Tensor]] = {}  # by id of the variable
        self._added: list[tuple[keras.Layer, tf.Tensor]] = []
        for variable in variables:
            if variable.regularizer is not None:
                observe_regularizer(variable, _regularized)
                self._regularized |= {id(variable): variable, id(variable.value): variable}

    @contextlib.contextmanager
    def observed(self) -> Iterator[None]:
        """Within this the loss function runs."""
        before, _thread.penalties = _thread.penalties, self
        try:
            with self._tape:
                yield
        finally:
            _thread.penalties = before

    def missing(self, objective: tf.Tensor) -> list[tf.Tensor]:
        """The penalties that the objective does not depend on yet, as scalars.

        Raises:
          ConfigError: one of them is a tensor of a branch or a loop.
        """
        found = [
            variable.regularizer(variable)
            for variable in self._variables
            if variable.regularizer is not None and not self._is_in(objective, self._of_weights.get(id(variable), []))
        ]
        graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        for layer, term in self._added:
            if not self._is_trained(layer) or not _is_held(layer, term):
                continue
            if graph is not None and term.graph is not graph:
                raise ConfigError(_inside_message(layer, term))
            if not self._is_in(objective, [term]):
                found.append(tf.reduce_sum(term))
        return found

    def saw_weight(self, given: Any, term: Any) -> Any:
        """Watches what a regularizer returned for `given`."""
        variable = self._regularized.get(id(given))
        if variable is None:
            return term
        term = self._watch(term)
        self._of_weights.setdefault(id(variable), []).append(term)
        return term

    def saw_added(self, layer: keras.Layer, term: tf.Tensor) -> tf.Tensor:
        """Watches a term of `add_loss`."""
        term = self._watch(term)
        self._added.append((layer, term))
        return term

    def _watch(self, term: Any) -> tf.Tensor:
        term = tf.identity(term)
        self._tape.watch(term)
        return term

    def _is_in(self, objective: tf.Tensor, terms: Sequence[tf.Tensor]) -> bool:
        if not terms:
            return False
        with self._outer.stop_recording():
            return any(gradient is not None for gradient in self._tape.gradient(objective, list(terms)))

    def _is_trained(self, layer: keras.Layer) -> bool:
        """Whether a model with this layer, or the layer alone, holds a variable of the optimizer."""
        ids = {id(variable) for variable in self._variables}
        within = [one for one in self._layers() if any(inner is layer for inner in one._flatten_layers())] or [layer]
        return any(id(variable) in ids for one in within for variable in one.trainable_variables)


def _is_held(layer: keras.Layer, term: tf.Tensor) -> bool:
    """Whether a layer still lists a term: Keras forgets it when the model is called again."""
    return any(one is term for one in layer.losses)


def _inside_message(layer: keras.Layer, term: tf.Tensor) -> str:
    place = stack.of_op(term.op)
    return (
        f"layer {layer.name} ({type(layer).__name__}) adds a loss inside a branch, a loop or a tf.function"
        f"{'' if place is None else f', {place.shown}'}: a traced step cannot use it outside, so mode=eager would count it and "
        "this mode would not. Let the branch or loop return the term, and call add_loss with it outside; or type mode=eager."
    )


def _regularized(given: Any, term: Any) -> Any:
    return term if _thread.penalties is None else _thread.penalties.saw_weight(given, term)


def _added(layer: keras.Layer, term: tf.Tensor) -> tf.Tensor:
    return term if _thread.penalties is None else _thread.penalties.saw_added(layer, term)


observe_added_losses(_added)
