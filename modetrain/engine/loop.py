"""A loop: one function that runs any number of traced steps over stacked batches.

    loop = Loop.build(steps, block, unit="call")
    rows = loop(block, lo, hi)

The unit is what XLA compiles as one program: the whole `call`, or each `step` inside a loop of the graph. Over several
replicas it is the step of each `replica`, or only its `gradients`. None compiles nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import tensorflow as tf

from modetrain.engine.batching import StackedBatches, micro_batches

if TYPE_CHECKING:
    from modetrain.engine.guards.step_guards import Guards

Concrete: TypeAlias = "tf.types.experimental.ConcreteFunction"
_MOST_GUARDS = 2**20  # a step's index and the number of a guard share one integer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loop:
    """The function for stacked batches of one shape.

    Attributes:
      function: runs the steps.
      steps: the traced step; with micro-batches one for the early ones and one for the last.
      compiled: whether XLA compiles what `unit` says.
      unit: what XLA compiles as one program.
      guards: the step's guards, if it has any.
    """

    function: Concrete
    steps: tuple[Concrete, ...]
    compiled: bool
    unit: str | None
    guards: Guards | None

    @classmethod
    def build(
        cls,
        steps: Sequence[Concrete],
        block: StackedBatches,
        *,
        unit: str | None = None,
        reached: tf.Variable | None = None,
        guards: Guards | None = None,
    ) -> Loop:
        """Traces the function.

        Args:
          steps: see the attribute.
          block: stacked batches of the function's shape.
          unit: see the attribute.
          reached: int64 variable that is set to the number of each step as the step begins.
          guards: see the attribute.
        """
        units = [_compile_step(step) for step in steps] if unit == "step" else steps
        one_step = _one_step(units, block.parts)
        shape, dtype = steps[-1].structured_outputs[0].shape, steps[-1].structured_outputs[0].dtype

        def loop(arrays, numbers, bounds):
            lo, hi, watch_every = tf.unstack(bounds)

            def body(i, rows, *failed):
                number = numbers[i, 0]
                if reached is not None:
                    reached.assign(number)
                watch = tf.equal((number + 1) % watch_every, 0)
                row, guard = one_step(arrays, numbers, watch, i)
                rows = rows.write(tf.cast(i - lo, tf.int32), row)
                if guards is None:
                    return i + 1, rows
                found = tf.where(guard == 0, tf.constant(0, tf.int64), i * _MOST_GUARDS + tf.cast(guard, tf.int64))
                return i + 1, rows, _first(failed[0], found)

            rows = tf.TensorArray(dtype, size=block.numbers.shape[0], element_shape=shape)
            nothing = tf.constant(0, tf.int64)
            start = (lo, rows) if guards is None else (lo, rows, nothing)
            _, rows, *failed = tf.while_loop(lambda i, *_: i < hi, body, start, parallel_iterations=1)
            return rows.stack(), failed[0] if failed else nothing

        function = tf.function(loop, jit_compile=unit == "call", autograph=False).get_concrete_function(
            dict(block.arrays), tf.TensorSpec(block.numbers.shape, tf.int64), tf.TensorSpec([3], tf.int64)
        )
        by_xla = {"call": [function], "step": units, "replica": steps, "gradients": steps, None: [function]}[unit]
        seen = _holds_xla if unit in ("replica", "gradients") else _is_xla
        return cls(function=function, steps=tuple(steps), compiled=all(map(seen, by_xla)), unit=unit, guards=guards)

    def __call__(self, block: StackedBatches, lo: int, hi: int, watch_every: int = 0) -> np.ndarray:
        """Runs the steps of batches lo .. hi-1; see `Program`.

        Raises:
          GuardError: XLA dropped an error in one of the steps.
        """
        bounds = tf.constant([lo, hi, watch_every or 2**62], tf.int64)
        rows, failed = self.function(dict(block.arrays), block.numbers, bounds)
        if self.guards is not None and (failed := int(failed)):
            index, guard = divmod(failed, _MOST_GUARDS)
            raise self.guards.error(guard, int(block.numbers[index, 0]))
        return rows.numpy()[: hi - lo]


def _one_step(steps: Sequence[Concrete], parts: int) -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
    """A function that runs batch `i`, micro-batch by micro-batch: returns its row, and the failed guard's number or 0."""
    *early, last = steps

    def one_step(arrays, numbers, watch, i):
        def run_part(step, part):
            return step(micro_batches(arrays, i, part), numbers[i], watch, part)

        sums, failed = [], tf.constant(0)
        if early:  # traced once, whatever the number of micro-batches

            def add_part(part, total, failed):
                row, other = run_part(early[0], part)
                return part + 1, total + row, _first(failed, other)

            _, total, failed = tf.while_loop(
                lambda part, *_: part < parts - 1,
                add_part,
                (tf.constant(1), *run_part(early[0], tf.constant(0))),
                parallel_iterations=1,
            )
            sums = [total]
        row, other = run_part(last, tf.constant(parts - 1))
        return merge_rows(sums, row), _first(failed, other)

    return one_step


def merge_rows(early: Sequence[tf.Tensor], last: tf.Tensor) -> tf.Tensor:
    """Adds the micro-batches' rows [replicas, metrics, 2]; only the last one has the optimizer's metrics."""
    if not early:
        return last
    total = tf.add_n(list(early)) if len(early) > 1 else early[0]
    metrics = total.shape[1]
    return tf.concat([total + last[:, :metrics], last[:, metrics:]], axis=1)


def is_slow_in_loop(step: Concrete) -> bool:
    """Whether XLA runs this step many times slower inside a loop than outside, as gradients of convolutions on a CPU.

    Each step is then an XLA program of its own, in a loop of the graph.
    """
    if tf.config.list_logical_devices("GPU"):
        return False
    definition = step.graph.as_graph_def()
    nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
    return any("Conv" in node.op and "Backprop" in node.op for node in nodes)


def _first(one: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """The first of two numbers that is not 0."""
    return tf.where(one == 0, other, one)


def _compile_step(step: Concrete) -> Concrete:
    wrapped = tf.function(lambda *args: step(*args), jit_compile=True, autograph=False)
    return wrapped.get_concrete_function(*step.structured_input_signature[0])


def _is_xla(function: Concrete) -> bool:
    return function.function_def.attr["_XlaMustCompile"].b


def _holds_xla(function: Concrete) -> bool:
    """Whether XLA compiles a function that this one calls."""
    return any(inner.attr["_XlaMustCompile"].b for inner in function.graph.as_graph_def().library.function)
