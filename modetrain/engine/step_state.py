"""State that a step must not make or keep: what would be lost, or count wrongly, is refused by name.

* A layer of the recipe that makes its weights in a step: its optimizer does not know them.
* A layer that is made again in each step: its weights are random each time.
* A Keras metric that a step updates: its state depends on how the examples are divided.
* A variable that `train_step` assigns and no checkpoint holds.

    with in_step(recipe, "train_step"):
        ...                              # one call of the step, eager or traced
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

import keras
import tensorflow as tf

from modetrain.diagnostics import stack
from modetrain.diagnostics.location import Location
from modetrain.engine import object_walk
from modetrain.engine.optimizer import Optimizer
from modetrain.engine.tf_internals import metrics, observe_compiled_metrics, observe_metrics, observe_weights
from modetrain.engine.variables import Snapshot, find_assigned, ids_of
from modetrain.errors import ConfigError


@dataclasses.dataclass
class _Known:
    """What is known of a recipe since it was made.

    Attributes:
      layers: its layers, wherever they are kept.
      weights: how many variables the layers had that are part of its state.
      checked: whether its first training step is checked.
      made: by line of the user's, the step that has made weights there.
    """

    layers: weakref.WeakSet[keras.Layer]
    weights: int
    checked: bool = False
    made: dict[Location, object] = dataclasses.field(default_factory=dict)


class _Step(NamedTuple):
    """The recipe and the method of a step; each call has a mark of its own."""

    recipe: Any
    method: str
    mark: object


class _Thread(threading.local):
    """The step that a thread runs; each of several replicas has a thread."""

    step: _Step | None = None
    refusal: ConfigError | None = None


_known: weakref.WeakKeyDictionary[Any, _Known] = weakref.WeakKeyDictionary()
_thread = _Thread()


def check(recipe: Any) -> None:
    """Refuses a recipe with a layer that keeps a variable to be trained where Keras does not see it.

    Raises:
      ConfigError: it has one.
    """
    layers = _check_layers(recipe)
    _known[recipe] = _Known(layers=weakref.WeakSet(layers), weights=_count_weights(recipe))


@contextlib.contextmanager
def in_step(recipe: Any, method: str) -> Iterator[None]:
    """Within this a step of the recipe runs, or is traced.

    Raises:
      ConfigError: the step makes weights, updates a metric, or assigns what no checkpoint holds.
    """
    before, _thread.step = _thread.step, _Step(recipe, method, object())
    try:
        with _check_first(recipe) if method == "train_step" else contextlib.nullcontext():
            yield
    except ConfigError as error:
        refusal, _thread.refusal = _thread.refusal, None
        if refusal is not None:  # Keras puts text of its own around an error of a layer
            raise ConfigError(str(refusal)) from error
        raise
    finally:
        _thread.step = before


def may_update_metrics() -> bool:
    """Whether there is a Keras metric that a step could update."""
    return len(metrics) > 0


# --- private ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _check_first(recipe: Any) -> Iterator[None]:
    """Checks what the first training step, eager or traced, has made and assigned."""
    known = _known.get(recipe)
    if known is None or known.checked:
        yield
        return
    unsaved = _unsaved(recipe)
    if tf.executing_eagerly():
        before = Snapshot(unsaved.values())
        yield
        assigned = before.changed()
    else:
        yield
        assigned = find_assigned(tf.compat.v1.get_default_graph(), unsaved.values())
    known.checked = True
    if _count_weights(recipe) != known.weights:
        raise ConfigError(_late_message(recipe, "train_step", "a layer"))
    _check_layers(recipe)
    places = [place for place, variable in unsaved.items() if any(variable is one for one in assigned)]
    if places:
        cls, more = type(recipe).__name__, f" and {len(places) - 1} more" if places[1:] else ""
        raise ConfigError(
            f"{cls}: train_step assigns {places[0]}{more}, which no checkpoint holds: only variables of the recipe's models and "
            f"optimizers are saved, and those that are attributes, or in lists and dicts that are attributes. A resumed run would "
            f"start from fresh values. Keep it as an attribute of {cls}; in a layer, make it with self.add_weight(..., "
            "trainable=False)."
        )


def _unsaved(recipe: Any) -> dict[str, Any]:
    """The variables within reach that are not in the recipe's state, except those that are checked elsewhere."""
    checked_elsewhere = (keras.metrics.Metric, tf.random.Generator, Optimizer)
    found = object_walk.unsaved_variables(recipe, except_in=checked_elsewhere)
    return {place: v for place, v in found.items() if v.name != "seed_generator_state"}


def _check_layers(recipe: Any) -> list[keras.Layer]:
    """Refuses a layer that keeps a variable where Keras does not see it; returns every layer within reach."""
    reached = list(object_walk.walk(recipe))
    models = [thing for _, thing, layer in reached if isinstance(thing, keras.Layer) and layer is None]
    saved = ids_of([*recipe.state().values(), *(variable for model in models for variable in model.variables)])
    for place, thing, layer in reached:
        if layer is None:
            continue
        for variable in object_walk.variables_in(thing) if not isinstance(thing, keras.metrics.Metric) else ():
            trained = variable.trainable and tf.as_dtype(variable.dtype).is_floating
            if trained and id(variable) not in saved:
                hidden = isinstance(thing, (keras.Layer, keras.Variable))
                what = type(thing).__name__ if hidden else "tf.Variable"
                raise ConfigError(
                    f"{type(recipe).__name__}: layer {layer.name} ({type(layer).__name__}) keeps a {what} that Keras does not see, "
                    f"{place}: it would be neither trained nor saved. "
                    + (
                        "Keep it as an attribute of the layer, or in a list or dict that is one."
                        if hidden
                        else "Make it with self.add_weight(shape=..., initializer=..., name=...) in the layer; a constant with "
                        "tf.Variable(..., trainable=False)."
                    )
                )
    return [thing for _, thing, _ in reached if isinstance(thing, keras.Layer)]


def _count_weights(recipe: Any) -> int:
    return sum(len(layer.variables) for layer in recipe._keras_layers())


def _made_weight(layer: keras.Layer) -> None:
    if _thread.step is None:
        return
    recipe, method, mark = _thread.step
    known = _known.get(recipe)
    if known is None:
        return
    if layer in known.layers:
        place = object_walk.find_path(recipe, lambda thing: thing is layer)
        _refuse(_late_message(recipe, method, f"{place} ({type(layer).__name__} {layer.name})"))
    line = stack.here() if tf.executing_eagerly() else None  # a traced one is refused by TensorFlow
    if line is not None and known.made.setdefault(line, mark) is not mark:
        _refuse(
            f"{type(recipe).__name__}: {line.shown} makes the weights of a layer ({type(layer).__name__} {layer.name}) again in "
            f"each {method}: they are random each time, and never trained or saved. Make the layer in __init__, and call it "
            "in the step."
        )


def _late_message(recipe: Any, method: str, layer: str) -> str:
    cls = type(recipe).__name__
    return (
        f"{cls}: {layer} makes its weights in {method}. The optimizer was made before and would never train them, and a resumed "
        "run could not read them. Build the model before its optimizer: call it once where it is made, "
        "model(tf.zeros((1, *image_shape))), or call model.build((None, *image_shape))."
    )


def _updates_metric(metric: keras.metrics.Metric) -> None:
    if _thread.step is not None:
        place = object_walk.find_path(_thread.step.recipe, lambda thing: thing is metric) or metric.name
        _refuse_metric(f"updates the Keras metric {place} ({type(metric).__name__}). Its state goes on")


def _computes_metrics(model: keras.Model) -> None:
    if _thread.step is not None:
        place = object_walk.find_path(_thread.step.recipe, lambda thing: thing is model) or model.name
        _refuse_metric(
            f"calls {place}.compute_metrics, which updates the Keras metrics of compile. Their state goes on"
        )


def _refuse_metric(what: str) -> NoReturn:
    assert _thread.step is not None
    recipe, method, _ = _thread.step
    _refuse(
        f"{type(recipe).__name__}: {method} {what} from batch to batch, so "
        "the number would depend on how the examples are divided over batches and replicas. Return one value per example "
        'instead, such as {"accuracy": keras.metrics.sparse_categorical_accuracy(labels, outputs)}: its mean is exact. Return what '
        'is no mean over examples (AUC, F1) as {"auc": modetrain.metrics.keras(self.auc, labels, outputs)}, which updates nothing.'
    )


def _refuse(text: str) -> NoReturn:
    _thread.refusal = ConfigError(text)
    raise _thread.refusal


observe_weights(_made_weight)
observe_metrics(lambda: _thread.step and _thread.step.mark, _updates_metric)
observe_compiled_metrics(_computes_metrics)
