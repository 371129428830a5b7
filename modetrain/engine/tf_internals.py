"""What the library changes inside Keras: inside a step Keras leaves replicas to the library.

with keras_scales_nothing():
    ...                         # a Keras loss is the mean over its inputs, whatever the number of replicas

Keras divides losses by the number of replicas and sums gradients over them, as `Model.fit` needs it. The library takes means
over replicas itself; both together would divide twice. Two functions of Keras divide or multiply, and two methods sum. Each
checks here whether its thread is inside a step. Everywhere else (`Model.fit`, the user's own strategy) they do as before.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.tensorflow.optimizer import TFOptimizer
from keras.src.losses import loss as keras_loss


class _Thread(threading.local):
    """How many steps a thread is inside; over several replicas each has a thread of its own."""

    depth: int = 0


_thread = _Thread()


@contextlib.contextmanager
def keras_scales_nothing() -> Iterator[None]:
    """Within this, on this thread, Keras scales no loss by the number of replicas, and its optimizers take means over them."""
    _thread.depth += 1
    try:
        yield
    finally:
        _thread.depth -= 1


def observe_regularizer(variable: keras.Variable, observer: Callable[[Any, Any], Any]) -> None:
    """From now on calls of the variable's regularizer return `observer(given, returned)`.

    The regularizer's class is changed, so that it does not matter who calls it: Keras for `model.losses`, or the user.
    """
    if not isinstance(variable.regularizer, (keras.regularizers.Regularizer, _Function)):
        variable.regularizer = _Function(variable.regularizer)
    kind = type(variable.regularizer)
    original = kind.__call__
    if getattr(original, "observer", None) is observer:
        return

    @functools.wraps(original)
    @tf.autograph.experimental.do_not_convert
    def observed(regularizer: Any, given: Any) -> Any:
        return observer(given, original(regularizer, given))

    observed.observer = observer  # type: ignore[attr-defined]
    kind.__call__ = observed  # type: ignore[method-assign]


class _Function:
    """A regularizer that is a function."""

    def __init__(self, function: Callable[[Any], Any]):
        self._function = function

    def __call__(self, given: Any) -> Any:
        return self._function(given)


def observe_added_losses(observer: Callable[[keras.Layer, tf.Tensor], tf.Tensor]) -> None:
    """From now on `layer.add_loss(term)` adds `observer(layer, term)`."""
    original = keras.Layer.add_loss

    @functools.wraps(original)
    @tf.autograph.experimental.do_not_convert
    def add_loss(layer: keras.Layer, loss: Any) -> None:
        original(layer, tf.nest.map_structure(lambda one: observer(layer, one) if tf.is_tensor(one) else one, loss))

    keras.Layer.add_loss = add_loss  # type: ignore[method-assign]


def observe_metrics(running: Callable[[], Any], observer: Callable[[keras.metrics.Metric], None]) -> None:
    """From now on `observer(metric)` is called before a variable of a Keras metric is assigned.

    Args:
      running: returns what runs now, or None: a metric that it makes may be assigned while it runs.
      observer: see above.
    """
    make, add = keras.metrics.Metric.__init__, keras.metrics.Metric.add_variable
    assign = keras.Variable._direct_assign

    @functools.wraps(make)
    def init(metric: keras.metrics.Metric, *args: Any, **kwargs: Any) -> None:
        now = running()
        if now is None:
            metrics.add(metric)
        else:
            _made_in[metric] = now
        make(metric, *args, **kwargs)

    @functools.wraps(add)
    def add_variable(metric: keras.metrics.Metric, *args: Any, **kwargs: Any) -> keras.Variable:
        variable = add(metric, *args, **kwargs)  # such as F1Score makes its variables at its first update
        variable.of_metric = metric
        return variable

    @functools.wraps(assign)
    @tf.autograph.experimental.do_not_convert
    def direct_assign(variable: keras.Variable, value: Any) -> Any:  # with Keras's stateless interface not called
        metric = getattr(variable, "of_metric", None)
        if metric is not None and _made_in.get(metric, _OUTSIDE) is not running():
            observer(metric)
        return assign(variable, value)

    keras.metrics.Metric.__init__ = init  # type: ignore[method-assign]
    keras.metrics.Metric.add_variable = add_variable  # type: ignore[method-assign]
    keras.Variable._direct_assign = direct_assign


def observe_compiled_metrics(observer: Callable[[keras.Model], None]) -> None:
    """From now on `observer(model)` is called before `model.compute_metrics`, whose metrics are made when it is first called."""
    original = keras.Model.compute_metrics

    @functools.wraps(original)
    @tf.autograph.experimental.do_not_convert
    def compute_metrics(model: keras.Model, *args: Any, **kwargs: Any) -> Any:
        observer(model)
        return original(model, *args, **kwargs)

    keras.Model.compute_metrics = compute_metrics  # type: ignore[method-assign]


_OUTSIDE = object()
_made_in: weakref.WeakKeyDictionary[keras.metrics.Metric, Any] = weakref.WeakKeyDictionary()
metrics: weakref.WeakSet[keras.metrics.Metric] = weakref.WeakSet()  # those that no step has made


def observe_weights(observer: Callable[[keras.Layer], None]) -> None:
    """From now on `observer(layer)` is called before a Keras layer makes a weight."""
    original = keras.Layer.add_weight

    @functools.wraps(original)
    @tf.autograph.experimental.do_not_convert
    def add_weight(layer: keras.Layer, *args: Any, **kwargs: Any) -> keras.Variable:
        observer(layer)
        return original(layer, *args, **kwargs)

    keras.Layer.add_weight = add_weight  # type: ignore[method-assign]


def _only_outside(scale: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Wraps a function that scales a loss by the number of replicas: inside a step it returns the loss unchanged."""

    @functools.wraps(scale)
    @tf.autograph.experimental.do_not_convert
    def scaled(value: Any) -> Any:
        return value if _thread.depth else scale(value)

    return scaled


def _mean_inside(reduce_sum: Callable[..., list]) -> Callable[..., list]:
    """Wraps the method of Keras's optimizers that sums gradients over replicas: inside a step it takes their mean."""

    @functools.wraps(reduce_sum)
    @tf.autograph.experimental.do_not_convert
    def reduced(optimizer: Any, grads_and_vars: Any) -> list:
        count = _replicas_inside()
        if count > 1:
            grads_and_vars = [(_divide(gradient, count), variable) for gradient, variable in grads_and_vars]
        return reduce_sum(optimizer, grads_and_vars)

    return reduced


def _mean_of_finite(apply: Callable[..., None]) -> Callable[..., None]:
    """Wraps the method of Keras's loss scaling whose optimizer sums gradients: inside a step the result is their mean."""

    @functools.wraps(apply)
    @tf.autograph.experimental.do_not_convert
    def applied(optimizer: Any, grads: Any, trainable_variables: Any = None) -> None:
        # Where replicas synchronise to write, Keras continues in other threads, which are not inside the step.
        count = _replicas_inside()
        if count > 1 and not tf.__internal__.distribute.strategy_supports_no_merge_call():
            grads = [_divide(gradient, count) for gradient in grads]
        apply(optimizer, grads, trainable_variables)

    return applied


def _replicas_inside() -> int:
    """How many replicas run the step that this thread is inside; 1 outside a step."""
    context = tf.distribute.get_replica_context() if _thread.depth else None
    return 1 if context is None else context.num_replicas_in_sync


def _divide(gradient: Any, count: int) -> Any:
    if gradient is None:
        return None
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(gradient.values / count, gradient.indices, gradient.dense_shape)
    return gradient / count


keras_loss.scale_loss_for_distribution = _only_outside(keras_loss.scale_loss_for_distribution)
keras_loss.unscale_loss_for_distribution = _only_outside(keras_loss.unscale_loss_for_distribution)
TFOptimizer._all_reduce_sum_gradients = _mean_inside(TFOptimizer._all_reduce_sum_gradients)
_LossScaling = keras.optimizers.LossScaleOptimizer
_LossScaling._tf_apply = _mean_of_finite(_LossScaling._tf_apply)
