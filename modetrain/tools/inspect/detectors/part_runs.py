"""Runs a step eagerly on parts of a batch, each from the same state; notes gradients, metrics, and on request each operation.

No update is made, and batch normalisation uses its moving averages. A part draws its rows of the whole batch's numbers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.util import tf_stack

from modetrain.diagnostics import stack
from modetrain.diagnostics.location import Location, is_users
from modetrain.engine import metrics, replica_random
from modetrain.engine.loss import Loss
from modetrain.engine.optimizer import Optimizer
from modetrain.engine.replaced import replaced
from modetrain.engine.values import Sum, Weighted
from modetrain.tools.inspect.detectors.recorded_calls import observe_eager_operations
from modetrain.tools.inspect.detectors.side_effects import CallRecorder
from modetrain.tools.inspect.inspected_step import Batch, InspectedStep
from modetrain.tools.inspect.python_state.snapshot import restore_python_state

REPLICAS = 2
_EXCHANGES = ("all_reduce", "all_gather", "merge_call")
_FOLD = 2**16
_LAYER = sys.modules[keras.Layer.__module__].__file__


@dataclasses.dataclass(frozen=True, kw_only=True)
class Output:
    """What an operation of an eager run returned.

    Attributes:
      op: its type.
      place: the user's line.
      in_layer: whether a Keras layer is being called.
      value: its first output.
    """

    op: str
    place: Location | None
    in_layer: bool
    value: np.ndarray


@dataclasses.dataclass(kw_only=True)
class PartRun:
    """An eager run of a step on a part of a batch.

    Attributes:
      values: (total, count) of each metric.
      scalars: the metrics that are one number for all examples, and `loss` where what is minimized is.
      gradients: those of each update; a large one is folded into a sum of its pieces, which is linear too.
      exchanged: whether the step exchanges values between replicas.
      ops: types of the operations that ran, if they were recorded.
      outputs: what they returned.
    """

    values: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    scalars: set[str] = dataclasses.field(default_factory=set)
    gradients: list[np.ndarray] = dataclasses.field(default_factory=list)
    exchanged: bool = False
    ops: set[str] = dataclasses.field(default_factory=set)
    outputs: list[Output] = dataclasses.field(default_factory=list)


class NotRunError(Exception):
    """A step fails on a part of a batch."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartRunner:
    """Runs a step on parts of a batch."""

    step: InspectedStep
    batch: Batch
    size: int
    several: bool
    perturbed: bool

    def run(self, begin: int, end: int, *, record: bool = False) -> PartRun:
        """Runs it on the rows from `begin` to `end`, from the same state each time."""
        whole = end - begin == self.size
        found = PartRun()
        with (
            self.step.restore_variables(perturbed=self.perturbed, updated=False),
            restore_python_state(self.step.recipe),
            _quietly(),
            _as_replica(0 if begin == 0 else 1, REPLICAS) if self.several and not whole else contextlib.nullcontext(),
            replica_random.part_of_batch(begin, self.size),
            replica_random.replica_share(end - begin),
            _noting(found),
            _recording(found) if record else contextlib.nullcontext(),
        ):
            try:
                layout, rows = self.step.run_eagerly({name: value[begin:end] for name, value in self.batch.items()})
            except Exception as error:
                raise NotRunError from error
        pairs, _ = layout.split(rows[0].sum(axis=0).astype(np.float64))
        found.values = dict(zip(layout.names, pairs, strict=True))
        return found


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keeps what a step prints, warns of, logs or writes as a summary from the user."""
    with CallRecorder(silent=True), warnings.catch_warnings(), tf.summary.record_if(False):
        warnings.simplefilter("ignore")
        with replaced(tf, print=lambda *given, **named: None):
            yield


@contextlib.contextmanager
def _noting(found: PartRun) -> Iterator[None]:
    """Notes gradients, scalars and exchanges; makes no update, and runs batch normalisation as in evaluation."""
    call, compute, pack = keras.layers.BatchNormalization.call, Loss.compute, metrics.pack_row

    def in_evaluation(layer: Any, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        return call(layer, inputs, training=False, mask=mask)

    def apply(optimizer: Any, gradients: Sequence, variables: Any, *, objective: Any = None, **named: Any) -> dict:
        if objective is None:  # of a tape of the user's own, which has made one number of the loss
            found.scalars.add("loss")
        found.gradients += [_fold(gradient) for gradient in gradients if gradient is not None]
        return {}

    def computed(*given: Any) -> Loss:
        loss = compute(*given)
        if not isinstance(loss.loss, Weighted) and loss.loss.shape.rank == 0:
            found.scalars.add("loss")
        return loss

    def packed(values: Any, size: int) -> tf.Tensor:
        row = pack(values, size)
        means = {name: value for name, value in values.items() if not isinstance(value, Sum | Weighted)}
        found.scalars |= {name for name, value in means.items() if not np.ndim(value)}
        return row

    def exchanging(method: Any) -> Any:
        def exchange(*given: Any, **named: Any) -> Any:
            found.exchanged = True
            return method(*given, **named)

        return tf.autograph.experimental.do_not_convert(exchange)

    context = tf.distribute.ReplicaContext
    with (
        replaced(keras.layers.BatchNormalization, call=in_evaluation),
        replaced(Optimizer, apply=apply),
        replaced(Loss, compute=computed),
        replaced(metrics, pack_row=packed),
        replaced(context, **{name: exchanging(getattr(context, name)) for name in _EXCHANGES}),
    ):
        yield


@contextlib.contextmanager
def _recording(found: PartRun) -> Iterator[None]:
    def record(op_type: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        found.ops.add(op_type)
        if outputs and outputs[0].dtype.is_floating:
            frames = list(tf_stack.extract_stack())
            in_layer = any(frame.filename == _LAYER and frame.name == "__call__" for frame in frames)
            place = stack.of_stack(frames)
            found.outputs.append(Output(op=op_type, place=place, in_layer=in_layer, value=outputs[0].numpy()))

    with observe_eager_operations(record):
        yield


@contextlib.contextmanager
def _as_replica(replica: int, replicas: int) -> Iterator[None]:
    """Tells the user's code, and no other, that it runs on this replica of this many."""
    with contextlib.ExitStack() as undo:
        for cls, name, answer in (
            (type(tf.distribute.get_strategy()), "num_replicas_in_sync", replicas),
            (type(tf.distribute.get_replica_context()), "num_replicas_in_sync", replicas),
            (type(tf.distribute.get_replica_context()), "replica_id_in_sync_group", replica),
        ):
            holder = next(one for one in cls.__mro__ if name in vars(one))
            undo.enter_context(replaced(holder, **{name: _answering_users(vars(holder)[name], answer)}))
        yield


def _answering_users(original: property, answer: int) -> property:
    def get(thing: Any) -> Any:
        return answer if is_users(sys._getframe(1).f_code.co_filename) else original.__get__(thing)

    return property(get)


def _fold(gradient: Any) -> np.ndarray:
    dense = tf.convert_to_tensor(gradient)
    flat = np.ravel(dense.numpy() if dense.dtype.size >= 4 else tf.cast(dense, tf.float32).numpy())
    if flat.size <= _FOLD:
        return flat
    pieces = np.append(flat, np.zeros(-flat.size % _FOLD, flat.dtype)).reshape(-1, _FOLD)
    return pieces.sum(axis=0, dtype=np.float64)
