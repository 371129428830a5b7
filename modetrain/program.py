"""A program is a step wrapped for a mode: a call runs any number of steps over a block of batches.

    program = Program(step, mode, replicas=replicas)
    rows = program(block, lo, hi)      # float [hi - lo, replicas, metrics, 2]; runs steps lo .. hi-1 of the block

A block stacks the batches of up to K successive steps. `lo` and `hi` are data, so one compiled program serves every
number of steps: no callback needs to divide K, and nothing is traced again when somebody asks to look in between.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from modetrain import draws
from modetrain.block import Block
from modetrain.call import Call
from modetrain.guards.bodies import Bodies
from modetrain.guards.step import Guards
from modetrain.mode import Mode
from modetrain.replicas import Replicas
from modetrain.tracing import autograph_on, gradients_compiled, in_xla

Batch = dict[str, tf.Tensor]


Step = Callable[[Batch, Call], tuple[list[str], tf.Tensor]]
_MOST_GUARDS = 2**20  # a step's index and the number of a guard share one integer
# What XLA says of counting into bins, whose number it cannot tell inside a loop although it is a constant. Of other operations
# it says the same where a shape depends on the step: outside a loop it would compile each step anew.
_NOT_IN_A_LOOP = "with op DenseBincount must be a compile-time constant"
Concrete: TypeAlias = "tf.types.experimental.ConcreteFunction"
Observe = Callable[[Callable[[], Concrete]], Concrete]


class Program:
    """Runs a step the way a mode says.

    Args:
      step: `step(batch, call) -> (names, row)`; `row` is a float [metrics, 2] tensor.
      mode: how to run it.
      replicas: where to run it.
      state: tells the variables that the step may write, by name.
      portable: under XLA, draw the same random numbers as eager and graph mode.
      observe: calls what it is given, which traces the step, and returns what that returns: the short form of `inspect`.

    Attributes:
      names: the metrics, in the order of the rows; known after the first call or `prepare`.
      traces: how often the step was traced; 0 in eager mode.
    """

    def __init__(
        self,
        step: Step,
        mode: Mode,
        *,
        replicas: Replicas | None = None,
        state: Callable[[], Mapping[str, Any]] = dict,
        portable: bool = True,
        observe: Observe | None = None,
    ):
        self._observe = observe or (lambda trace: trace())
        self._step = tf.autograph.experimental.do_not_convert(step)
        self._mode = mode
        self._replicas = replicas or Replicas()
        self._state = state
        self._portable = portable
        self._built: dict[tuple, _Built] = {}
        self._guards: dict[int, Guards] = {}  # by id of the traced step, which is kept with them
        # Which step is under way: the one thing that tells where inside a call a step has failed.
        self._reached = tf.Variable(0, dtype=tf.int64, trainable=False)
        # Of guards inside branches and loops.
        self._failed = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._alone = False  # whether each step has to be an XLA program of its own
        self.names: list[str] = []
        self.traces = 0

    def has(self, block: Block) -> bool:
        """Whether blocks of this shape need nothing more to be built."""
        return self._mode.compile == "eager" or _shapes(block) in self._built

    def prepare(self, block: Block) -> None:
        """Traces and compiles for blocks of this shape; no state changes. Nothing happens in eager mode."""
        if self.has(block):
            return
        built = self._build(block)
        self._built[_shapes(block)] = built
        if built.unit in (None, "call"):
            try:
                self(block, 0, 0)
            except tf.errors.InvalidArgumentError as error:
                if built.unit is None or _NOT_IN_A_LOOP not in str(error):
                    raise
                self._built.pop(_shapes(block))
                self._alone = True
                self.prepare(block)
        else:  # a call of no steps would not compile it: run one and take it back
            # What a step only writes (an optimizer's slots, say) is not among the variables it was seen to read.
            written = [*self._state().values(), *(v for step in built.steps for v in step.variables)]
            kept = [(v, tf.identity(v)) for v in written]
            self(block, 0, 1)
            for variable, value in kept:
                variable.assign(value)

    def __call__(self, block: Block, lo: int, hi: int, watch_every: int = 0) -> np.ndarray:
        """Runs the steps of batches lo .. hi-1 of `block`; waits for the end.

        Args:
          block: see `block.Block`.
          lo, hi: which steps.
          watch_every: a step is watched when it completes a multiple of this number of updates; 0 for never.

        Returns:
          float [hi - lo, replicas of this process, metrics, 2]: (total, count) over each replica's examples.
        """
        if self._mode.compile == "eager":
            return self._run_eagerly(block, lo, hi, watch_every)
        self.prepare(block)
        bounds = tf.constant([lo, hi, watch_every or 2**62], tf.int64)
        built = self._built[_shapes(block)]
        rows, failed = built.loop(dict(block.arrays), block.numbers, bounds)
        if built.guards is not None and (failed := int(failed)):
            index, guard = divmod(failed, _MOST_GUARDS)
            raise built.guards.error(guard, int(block.numbers[index, 0]))
        return rows.numpy()[: hi - lo]

    @property
    def compiled(self) -> bool | None:
        """Whether XLA compiles what is called, read from the traced functions themselves; None before a trace."""
        found = [built.compiled for built in self._built.values()]
        return all(found) if found else None

    @property
    def unit(self) -> str | None:
        """What XLA compiles as one program: `call`, `step` or `gradients`; None in other modes and before a trace."""
        return next((built.unit for built in self._built.values()), None)

    @property
    def reached(self) -> int:
        """The step that was under way last (updates completed before it)."""
        return int(self._reached.numpy())

    # --- private ----------------------------------------------------------------------------------------------------

    @property
    def _by_replica(self) -> bool:
        return self._replicas.count > 1 or draws.is_alone()

    def _on_replicas(self, batches: Sequence[Batch], numbers: tf.Tensor, watch, part, last_part: bool) -> tf.Tensor:
        """Runs the step on each replica of this process; returns their rows, [replicas, metrics, 2]."""

        def run_step(given: tuple[Batch, tf.Tensor, tf.Tensor, tf.Tensor]) -> tf.Tensor:
            batch, number, watch, part = given
            self.names, row = self._step(batch, Call(number=number, watch=watch, part=part, last_part=last_part))
            return row

        given = [(batch, numbers[index], watch, part) for index, batch in enumerate(batches)]
        return tf.stack(self._replicas.run(run_step, given))

    def _run_eagerly(self, block: Block, lo: int, hi: int, watch_every: int) -> np.ndarray:
        rows = []
        for i in range(lo, hi):
            numbers = block.numbers[i]
            self._reached.assign(numbers[0])
            watch = tf.constant(watch_every > 0 and (int(numbers[0]) + 1) % watch_every == 0)
            with draws.by_replica() if self._by_replica else contextlib.nullcontext():
                parts = [
                    self._on_replicas(
                        _batches(block.arrays, i, part), numbers, watch, tf.constant(part), part == block.parts - 1
                    )
                    for part in range(block.parts)
                ]
            rows.append(_merged(parts[:-1], parts[-1]).numpy())
        return np.stack(rows)

    def _build(self, block: Block) -> _Built:
        xla = self._mode.compile == "xla"
        parts = block.parts
        steps = [self.trace(block, last_part) for last_part in ([True] if parts == 1 else [False, True])]
        unit = None
        if xla:
            several = self._replicas.count > 1
            alone = self._alone or any(map(_slow_in_a_loop, steps))
            unit = "gradients" if several else "step" if alone else "call"
        guards = self._guards.get(id(steps[-1]))
        *early, last = steps
        if unit == "step":
            *early, last = [_compiled(step) for step in steps]

        def one_step(arrays, numbers, watch, i):
            def run_part(step, part):
                return step(_batches(arrays, i, part), numbers[i], watch, part)

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
            return _merged(sums, row), _first(failed, other)

        shape, dtype = steps[-1].structured_outputs[0].shape, steps[-1].structured_outputs[0].dtype

        def loop(arrays, numbers, bounds):
            lo, hi, watch_every = tf.unstack(bounds)

            def body(i, rows, *failed):
                number = numbers[i, 0]
                if not xla:  # an XLA program fails as it is compiled, not in one of its steps
                    self._reached.assign(number)
                watch = tf.equal((number + 1) % watch_every, 0)
                row, guard = one_step(arrays, numbers, watch, i)
                rows = rows.write(tf.cast(i - lo, tf.int32), row)
                if guards is None:
                    return i + 1, rows
                found = tf.where(guard == 0, tf.constant(0, tf.int64), i * _MOST_GUARDS + tf.cast(guard, tf.int64))
                return i + 1, rows, _first(failed[0], found)

            rows = tf.TensorArray(dtype, size=block.length, element_shape=shape)
            nothing = tf.constant(0, tf.int64)
            start = (lo, rows) if guards is None else (lo, rows, nothing)
            _, rows, *failed = tf.while_loop(lambda i, *_: i < hi, body, start, parallel_iterations=1)
            return rows.stack(), failed[0] if failed else nothing

        looping = tf.function(loop, jit_compile=unit == "call", autograph=False).get_concrete_function(
            dict(block.arrays), tf.TensorSpec(block.numbers.shape, tf.int64), tf.TensorSpec([3], tf.int64)
        )
        by_xla = {"call": [looping], "step": [*early, last], "gradients": steps, None: [looping]}[unit]
        seen = _holds_xla if unit == "gradients" else _is_xla
        return _Built(loop=looping, steps=tuple(steps), compiled=all(map(seen, by_xla)), unit=unit, guards=guards)

    def trace(self, block: Block, last_part: bool) -> tf.types.experimental.ConcreteFunction:
        """Traces the step anew for batches of this shape.

        Args:
          block: of batches.
          last_part: whether for the last micro-batch of a step, or for one before.
        """

        found: list[Guards] = []
        bodies = Bodies(self._failed)
        xla = self._mode.compile == "xla"

        @tf.function(autograph=True)
        def step(batches, numbers, watch, part):
            with (
                autograph_on(tf.__internal__.autograph.control_status_ctx()),
                in_xla(xla and self._replicas.count == 1),
            ):
                rows = self._on_replicas(batches, numbers, watch, part, last_part)
            if not self._mode.guarded:
                return rows, tf.constant(0)
            return rows, guarded()

        @tf.autograph.experimental.do_not_convert
        def guarded():
            found.append(Guards.of(tf.compat.v1.get_default_graph(), bodies))
            return found[-1].failed

        self.traces += 1
        with contextlib.ExitStack() as while_tracing:
            if xla and self._portable:
                while_tracing.enter_context(draws.portable())
            if self._by_replica:
                while_tracing.enter_context(draws.by_replica())
            if self._replicas.count > 1 and xla:
                while_tracing.enter_context(gradients_compiled())
            elif self._mode.guarded:
                while_tracing.enter_context(bodies)
            batch = {k: tf.TensorSpec(v.shape[3:], v.dtype, name=k) for k, v in block.arrays.items()}
            count = self._replicas.local
            signature = (
                [batch] * count,
                tf.TensorSpec([count], tf.int64),
                tf.TensorSpec([], tf.bool),
                tf.TensorSpec([], tf.int32),
            )
            traced = self._observe(lambda: step.get_concrete_function(*signature))
        if found and found[-1].guards:
            self._guards[id(traced)] = found[-1]
        return traced


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Built:
    """The functions built for one shape of block.

    Attributes:
      loop: what is called.
      steps: the traced step; with micro-batches one for the early ones and one for the last.
      compiled: whether XLA compiles what `unit` says.
      unit: see `Program.unit`.
      guards: those of the step, where it has any.
    """

    loop: tf.types.experimental.ConcreteFunction
    steps: tuple[tf.types.experimental.ConcreteFunction, ...]
    compiled: bool
    unit: str | None
    guards: Guards | None


def _first(one: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """The first of two numbers that is not 0."""
    return tf.where(one == 0, other, one)


def _batches(arrays: Mapping[str, tf.Tensor], i, part) -> list[Batch]:
    """One micro-batch of one step for each replica of this process."""
    count = next(iter(arrays.values())).shape[2]
    i, part = tf.cast(i, tf.int32), tf.cast(part, tf.int32)
    return [{name: value[i, part, index] for name, value in arrays.items()} for index in range(count)]


def _merged(early: Sequence[tf.Tensor], last: tf.Tensor) -> tf.Tensor:
    """Adds the micro-batches' rows [replicas, metrics, 2]; what the optimizer shows is in the last one alone."""
    if not early:
        return last
    total = tf.add_n(list(early)) if len(early) > 1 else early[0]
    metrics = total.shape[1]
    return tf.concat([total + last[:, :metrics], last[:, metrics:]], axis=1)


def _compiled(step: tf.types.experimental.ConcreteFunction) -> tf.types.experimental.ConcreteFunction:
    wrapped = tf.function(lambda *args: step(*args), jit_compile=True, autograph=False)
    return wrapped.get_concrete_function(*step.structured_input_signature[0])


def _is_xla(function: tf.types.experimental.ConcreteFunction) -> bool:
    return function.function_def.attr["_XlaMustCompile"].b


def _holds_xla(function: tf.types.experimental.ConcreteFunction) -> bool:
    """Whether some function that is called within is compiled by XLA."""
    return any(inner.attr["_XlaMustCompile"].b for inner in function.graph.as_graph_def().library.function)


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
    return tuple((name, value.dtype, value.shape) for name, value in block.arrays.items())
