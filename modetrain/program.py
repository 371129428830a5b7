"""A program is a step wrapped for a mode: a call runs any number of steps over a block of batches.

    program = Program(step, mode)
    rows = program(block, first, lo, hi)      # float [hi - lo, metrics, 2]; runs steps lo .. hi-1 of the block

A block stacks the batches of up to K successive steps. `lo` and `hi` are data, so one compiled program serves every
number of steps: no callback needs to divide K, and nothing is traced again when somebody asks to look in between.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from modetrain import draws
from modetrain.mode import Mode
from modetrain.tracing import autograph_on

Block = Mapping[str, tf.Tensor]
Step = Callable[[dict[str, tf.Tensor], tf.Tensor, tf.Tensor], tuple[list[str], tf.Tensor]]


class Program:
    """Runs a step the way a mode says.

    Args:
      step: `step(batch, number, watch) -> (names, row)`; `number` is an int64 scalar, `watch` a bool scalar (see
        `__call__`), `row` a float [metrics, 2] tensor.
      mode: how to run it.
      state: tells the variables that the step may write, by name.
      portable: under XLA, draw the same random numbers as eager and graph mode.

    Attributes:
      names: the metrics, in the order of the rows; known after the first call or `prepare`.
      traces: how often the step was traced; 0 in eager mode.
    """

    def __init__(self, step: Step, mode: Mode, *, state: Callable[[], Mapping[str, Any]] = dict, portable: bool = True):
        self._step = tf.autograph.experimental.do_not_convert(step)
        self._mode = mode
        self._state = state
        self._portable = portable
        self._built: dict[tuple, _Built] = {}
        # Which step is under way: the one thing that tells where inside a call a step has failed.
        self._reached = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.names: list[str] = []
        self.traces = 0

    def has(self, block: Block) -> bool:
        """Whether blocks of this shape need nothing more to be built."""
        return self._mode.compile == "eager" or _shapes(block) in self._built

    def prepare(self, block: Block, first: int) -> None:
        """Traces and compiles for blocks of this shape; no state changes. Nothing happens in eager mode."""
        if self.has(block):
            return
        built = self._build(dict(block))
        self._built[_shapes(block)] = built
        if built.unit == "step":  # a call of no steps would not compile it: run one and take it back
            # What a step only writes (an optimizer's slots, say) is not among the variables it was seen to read.
            kept = [(v, tf.identity(v)) for v in [*self._state().values(), *built.step.variables]]
            self(block, first, 0, 1)
            for variable, value in kept:
                variable.assign(value)
        else:
            self(block, first, 0, 0)

    def __call__(self, block: Block, first: int, lo: int, hi: int, watch_every: int = 0) -> np.ndarray:
        """Runs the steps of batches lo .. hi-1 of `block`, whose batch 0 belongs to step `first`; waits for the end.

        Args:
          block: per feature a tensor [K, examples, ...].
          first, lo, hi: which steps.
          watch_every: a step is watched when it completes a multiple of this number of updates; 0 for never.

        Returns:
          float [hi - lo, metrics, 2]: per step and metric (total, count).
        """
        if self._mode.compile == "eager":
            return self._run_eagerly(block, first, lo, hi, watch_every)
        if not self.has(block):
            self.prepare(block, first)
        bounds = tf.constant([first, lo, hi, watch_every or 2**62], tf.int64)
        return self._built[_shapes(block)].loop(dict(block), bounds).numpy()[: hi - lo]

    @property
    def compiled(self) -> bool | None:
        """Whether XLA compiles what is called, read from the traced functions themselves; None before a trace."""
        found = [b.compiled.function_def.attr["_XlaMustCompile"].b for b in self._built.values()]
        return all(found) if found else None

    @property
    def unit(self) -> str | None:
        """What XLA compiles as one program, `call` or `step`; None in other modes and before a trace."""
        return next((built.unit for built in self._built.values()), None)

    @property
    def reached(self) -> int:
        """The step that was under way last (updates completed before it)."""
        return int(self._reached.numpy())

    # --- private ----------------------------------------------------------------------------------------------------

    def _run_eagerly(self, block: Block, first: int, lo: int, hi: int, watch_every: int) -> np.ndarray:
        rows = []
        for i in range(lo, hi):
            self._reached.assign(first + i)
            batch = {key: value[i] for key, value in block.items()}
            watch = watch_every > 0 and (first + i + 1) % watch_every == 0
            self.names, row = self._step(batch, tf.constant(first + i, tf.int64), tf.constant(watch))
            rows.append(row.numpy())
        return np.stack(rows)

    def _build(self, block: dict[str, tf.Tensor]) -> _Built:
        step = self._trace(block)
        row = step.structured_outputs
        length = next(iter(block.values())).shape[0]
        xla = self._mode.compile == "xla"
        unit = None if not xla else "step" if _slow_in_a_loop(step) else "call"
        run_step = step
        if unit == "step":
            run_step = tf.function(lambda *args: step(*args), jit_compile=True, autograph=False).get_concrete_function(
                *step.structured_input_signature[0]
            )

        def loop(block, bounds):
            first, lo, hi, watch_every = tf.unstack(bounds)

            def body(i, rows):
                number = first + i
                if not xla:  # an XLA program fails as it is compiled, not in one of its steps
                    self._reached.assign(number)
                watch = tf.equal((number + 1) % watch_every, 0)
                result = run_step({key: value[i] for key, value in block.items()}, number, watch)
                return i + 1, rows.write(tf.cast(i - lo, tf.int32), result)

            rows = tf.TensorArray(row.dtype, size=length, element_shape=row.shape)
            _, rows = tf.while_loop(lambda i, _: i < hi, body, (lo, rows), parallel_iterations=1)
            return rows.stack()

        looping = tf.function(loop, jit_compile=unit == "call", autograph=False)
        loop_of_block = looping.get_concrete_function(block, tf.TensorSpec([4], tf.int64))
        return _Built(loop=loop_of_block, step=step, compiled=run_step if unit == "step" else loop_of_block, unit=unit)

    def _trace(self, block: dict[str, tf.Tensor]) -> tf.types.experimental.ConcreteFunction:
        @tf.function(autograph=True)
        def step(batch, number, watch):
            with autograph_on(tf.__internal__.autograph.control_status_ctx()):
                self.names, row = self._step(batch, number, watch)
            return row

        self.traces += 1
        portable = draws.portable() if self._mode.compile == "xla" and self._portable else contextlib.nullcontext()
        with portable:
            batch = {key: tf.TensorSpec(value.shape[1:], value.dtype, name=key) for key, value in block.items()}
            return step.get_concrete_function(batch, tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.bool))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Built:
    """The functions built for one shape of block.

    Attributes:
      loop: what is called.
      step: the traced step.
      compiled: what XLA compiles, where it compiles anything.
      unit: `call` or `step`: see `Program.unit`.
    """

    loop: tf.types.experimental.ConcreteFunction
    step: tf.types.experimental.ConcreteFunction
    compiled: tf.types.experimental.ConcreteFunction
    unit: str | None


def _slow_in_a_loop(step: tf.types.experimental.ConcreteFunction) -> bool:
    """Whether XLA would run this step many times slower inside a loop than outside.

    On a CPU, gradients of convolutions are: then each step is an XLA program of its own, in a loop of the graph.
    """
    if tf.config.list_logical_devices("GPU"):
        return False
    definition = step.graph.as_graph_def()
    nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
    return any("Conv" in node.op and "Backprop" in node.op for node in nodes)


def _shapes(block: Block) -> tuple:
    return tuple((name, value.dtype, value.shape) for name, value in block.items())
