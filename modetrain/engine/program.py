"""A program is a step wrapped for a mode: a call runs any number of steps over stacked batches.

    program = Program(step, mode, replicas=replicas)
    rows = program(block, lo, hi)      # float [hi - lo, replicas, slots, 2]; runs steps lo .. hi-1 of the block

A block is a `StackedBatches` of up to K successive steps. `lo` and `hi` are data, so one compiled program serves every number
of steps: a callback may run after any step, and that traces nothing again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from modetrain.diagnostics import pairs
from modetrain.diagnostics.location import Location
from modetrain.engine import replica_random
from modetrain.engine.batching import StackedBatches, micro_batches
from modetrain.engine.context import StepContext
from modetrain.engine.devices import Replicas
from modetrain.engine.loop import Concrete, Loop, is_slow_in_loop, merge_rows
from modetrain.engine.metrics import Layout
from modetrain.engine.summaries import warn_of_dropped
from modetrain.engine.variables import Snapshot, find_assigned
from modetrain.mode import Mode

if TYPE_CHECKING:
    from modetrain.engine.guards.step_guards import Guards
    from modetrain.engine.xla import XlaPrograms

Batch = dict[str, tf.Tensor]
Step = Callable[[Batch, StepContext], tuple[Layout, tf.Tensor]]
# XLA's message for counting into bins: inside a loop it does not see that the number of bins is constant. It has the same message
# for other operations whose shape depends on the step; those would be compiled again at every step outside a loop.
_NOT_IN_A_LOOP = "with op DenseBincount must be a compile-time constant"
Observe = Callable[[Callable[[], Concrete]], Concrete]


class Program:
    """Runs a step the way a mode says.

    Args:
      step: `step(batch, context) -> (layout, row)`; `row` is a float [slots, 2] tensor.
      mode: how to run it.
      replicas: where to run it.
      state: returns the variables that the step may write, by name.

    Attributes:
      observe: calls a function that traces the step, and returns its result; `inspect` replaces it.
      layout: what the rows hold; known after the first call or `prepare`.
      traces: how often the step was traced; 0 in eager mode.
    """

    def __init__(
        self,
        step: Step,
        mode: Mode,
        *,
        replicas: Replicas | None = None,
        state: Callable[[], Mapping[str, Any]] = dict,
    ):
        self.observe: Observe = lambda trace: trace()
        self._step = tf.autograph.experimental.do_not_convert(step)
        self._mode = mode
        self._replicas = replicas or Replicas()
        self._state = state
        self._built: dict[tuple, Loop] = {}
        self._assigned: dict[tuple, list[Any]] = {}
        self._guards: dict[int, Guards] = {}  # by id of the traced step
        # The running step: nothing else shows which step of a call has failed.
        self._reached = tf.Variable(0, dtype=tf.int64, trainable=False)
        # The number of a failed guard inside branches and loops.
        self._failed = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._warned_summaries: set[Location] = set()
        self._alone = False  # whether each step has to be an XLA program of its own
        self._square: list[str] = []  # see `StepContext.square`
        self._judged = False
        self.layout = Layout()
        self.traces = 0

    def has(self, block: StackedBatches) -> bool:
        """Whether the program is built for blocks of this shape."""
        return self._mode.compile == "eager" or _shapes(block) in self._built

    def prepare(self, block: StackedBatches) -> None:
        """Traces and compiles for blocks of this shape; changes no state. Does nothing in eager mode."""
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
        else:  # a call without steps would not compile it: run one step and undo it
            # The traced step lists only variables that it reads; it may write others, like an optimizer's slots.
            written = [*self._state().values(), *(v for step in built.steps for v in step.variables)]
            with Snapshot(written):
                self(block, 0, 1)

    def __call__(self, block: StackedBatches, lo: int, hi: int, watch_every: int = 0) -> np.ndarray:
        """Runs the steps of batches lo .. hi-1 of `block`; waits for the end.

        Args:
          block: stacked batches.
          lo, hi: which steps.
          watch_every: a step is watched when it completes a multiple of this number of updates; 0 for never.

        Returns:
          float [hi - lo, replicas of this process, slots, 2], over each replica's examples; see `layout`.
        """
        if self._mode.compile == "eager":
            return self._run_eagerly(block, lo, hi, watch_every)
        self.prepare(block)
        return self._built[_shapes(block)](block, lo, hi, watch_every)

    def assigned(self, block: StackedBatches, variables: Callable[[], Iterable[Any]]) -> list[Any]:
        """The variables that a call may assign, after `prepare`: in eager mode all that are given.

        Args:
          block: stacked batches.
          variables: returns variables it may assign without reading them.
        """
        if self._mode.compile == "eager":
            return list(variables())
        shapes = _shapes(block)
        if shapes not in self._assigned:
            built = self._built[shapes]
            read = [variable for step in built.steps for variable in step.graph.variables]
            self._assigned[shapes] = find_assigned(built.function.graph, [*variables(), *read])
        return self._assigned[shapes]

    def trace(self, block: StackedBatches, last_part: bool) -> Concrete:
        """Traces the step again for batches of this shape.

        Args:
          block: stacked batches.
          last_part: whether it is for the last micro-batch of a step, or for an earlier one.
        """
        from modetrain.engine.tracing import trace_step  # mode=eager loads no compiler

        def run(batches, numbers, watch, part, programs):
            return self._on_replicas(batches, numbers, watch, part, last_part, programs)

        self.traces += 1
        traced, guards = trace_step(
            run, block, self._mode, self._replicas, observe=self.observe, failed=self._failed, whole=self._whole
        )
        if guards is not None and guards.guards:
            self._guards[id(traced)] = guards
        return traced

    @property
    def names(self) -> list[str]:
        """Names of the metrics that are pairs, in the order of the rows."""
        return list(self.layout.names)

    @property
    def compiled(self) -> bool | None:
        """Whether XLA compiles the program, read from the traced functions themselves; None before a trace."""
        found = [built.compiled for built in self._built.values()]
        return all(found) if found else None

    @property
    def unit(self) -> str | None:
        """What XLA compiles as one program; None in other modes and before a trace. See `loop.py`."""
        return next((built.unit for built in self._built.values()), None)

    @property
    def reached(self) -> int:
        """The step that ran last (updates completed before it)."""
        return int(self._reached.numpy())

    # --- private ----------------------------------------------------------------------------------------------------

    @property
    def _whole(self) -> bool:
        """Whether each replica's whole step is an XLA program, with the synchronisation inside."""
        return self._mode.compile == "xla" and self._mode.xla_unit == "step" and self._replicas.count > 1

    def _on_replicas(
        self,
        batches: Sequence[Batch],
        numbers: tf.Tensor,
        watch,
        part,
        last_part: bool,
        programs: XlaPrograms | None = None,
    ) -> tf.Tensor:
        """Runs the step on each replica of this process; returns their rows, [replicas, metrics, 2].

        With `programs` each replica's step is an XLA program.
        """

        def run_step(given: tuple[Batch, tf.Tensor, tf.Tensor, tf.Tensor]) -> tf.Tensor:
            batch, number, watch, part = given

            def one_step() -> tf.Tensor:
                context = StepContext(number=number, watch=watch, part=part, last_part=last_part)
                self.layout, row = self._step(batch, context)
                self._square = context.square
                return row

            return one_step() if programs is None else programs.run(one_step)

        given = [(batch, numbers[index], watch, part) for index, batch in enumerate(batches)]
        with warn_of_dropped(self._warned_summaries):
            return tf.stack(self._replicas.run(run_step, given))

    def _run_eagerly(self, block: StackedBatches, lo: int, hi: int, watch_every: int) -> np.ndarray:
        rows = []
        for i in range(lo, hi):
            numbers = block.numbers[i]
            self._reached.assign(numbers[0])
            watch = tf.constant(watch_every > 0 and (int(numbers[0]) + 1) % watch_every == 0)
            with replica_random.draws_on(self._replicas.count):
                parts = [
                    self._on_replicas(
                        micro_batches(block.arrays, i, part), numbers, watch, tf.constant(part), part == block.parts - 1
                    )
                    for part in range(block.parts)
                ]
            rows.append(merge_rows(parts[:-1], parts[-1]).numpy())
            if self._square and not self._judged:  # only a graph tells a mistake from what is square by chance
                self._judged, traces = True, self.traces
                pairs.refuse(self.trace(block, last_part=True).graph, self._square[0])
                self.traces = traces
        return np.stack(rows)

    def _build(self, block: StackedBatches) -> Loop:
        steps = [self.trace(block, last_part) for last_part in ([True] if block.parts == 1 else [False, True])]
        if self._square:
            pairs.refuse(steps[-1].graph, self._square[0])
        unit, xla = None, self._mode.compile == "xla"
        if xla:
            alone = self._alone or self._mode.xla_unit == "step" or any(map(is_slow_in_loop, steps))
            of_replicas = "replica" if self._whole else "gradients"
            unit = of_replicas if self._replicas.count > 1 else "step" if alone else "call"
        # An XLA program fails while it is compiled, not in one of its steps.
        reached = None if xla else self._reached
        return Loop.build(steps, block, unit=unit, reached=reached, guards=self._guards.get(id(steps[-1])))


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepPrograms:
    """The training step and the evaluation step of a recipe, wrapped for a mode."""

    train: Program
    eval: Program

    @classmethod
    def for_recipe(cls, recipe: Any, mode: Mode, replicas: Replicas) -> StepPrograms:
        """Wraps `recipe.run_train_step` and `recipe.run_eval_step`."""
        return cls(
            train=Program(recipe.run_train_step, mode, replicas=replicas, state=recipe.state),
            eval=Program(recipe.run_eval_step, mode, replicas=replicas, state=recipe.state),
        )


def _shapes(block: StackedBatches) -> tuple:
    return tuple((name, value.dtype, value.shape) for name, value in block.arrays.items())
