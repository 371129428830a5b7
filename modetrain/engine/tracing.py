"""Traces a step for graph and XLA modes: the same draws as in eager mode, guards for what XLA drops, programs of replicas."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import tensorflow as tf

from modetrain.engine import replica_random, xla_random
from modetrain.engine.autograph import autograph_on, in_xla
from modetrain.engine.batching import StackedBatches
from modetrain.engine.devices import Replicas
from modetrain.engine.guards.bodies import Bodies
from modetrain.engine.guards.step_guards import Guards
from modetrain.engine.loop import Concrete
from modetrain.engine.xla import XlaPrograms
from modetrain.mode import Mode


def trace_step(
    run: Callable[..., tf.Tensor],
    block: StackedBatches,
    mode: Mode,
    replicas: Replicas,
    *,
    observe: Callable[[Callable[[], Concrete]], Concrete],
    failed: tf.Variable,
    whole: bool,
) -> tuple[Concrete, Guards | None]:
    """Traces a step for batches of the shapes of a block.

    Args:
      run: `run(batches, numbers, watch, part, programs)` runs the step on each replica; returns rows [replicas, metrics, 2].
      block: stacked batches.
      mode: how to run the step.
      replicas: where to run it.
      observe: calls a function that traces, and returns its result.
      failed: gets the number of a failed guard inside branches and loops.
      whole: whether each replica's whole step is an XLA program.

    Returns:
      The traced step, and its guards where the mode has them.
    """
    found: list[Guards] = []
    bodies = Bodies(failed)
    xla = mode.compile == "xla"
    programs = XlaPrograms(guarded=mode.guarded, collectives=whole or replicas.on_gpus)

    @tf.function(autograph=True)
    def step(batches, numbers, watch, part):
        programs.step = tf.compat.v1.get_default_graph()
        with (
            autograph_on(tf.__internal__.autograph.control_status_ctx()),
            in_xla(xla and replicas.count == 1),
        ):
            rows = run(batches, numbers, watch, part, programs if whole else None)
        if not mode.guarded:
            return rows, tf.constant(0)
        return rows, find_guards()

    @tf.autograph.experimental.do_not_convert
    def find_guards():
        ours = Guards.find(tf.compat.v1.get_default_graph(), bodies)
        found.append(Guards.join([ours, *programs.guards]))
        return found[-1].failed

    with contextlib.ExitStack() as while_tracing:
        if xla and xla_random.is_portable():
            while_tracing.enter_context(xla_random.portable())
        while_tracing.enter_context(replica_random.draws_on(replicas.count))
        if replicas.count > 1 and xla:
            if not whole:
                while_tracing.enter_context(programs)
        elif mode.guarded:
            while_tracing.enter_context(bodies)
        batch = {name: tf.TensorSpec(v.shape[3:], v.dtype, name=name) for name, v in block.arrays.items()}
        signature = (
            [batch] * replicas.local,
            tf.TensorSpec([replicas.local], tf.int64),
            tf.TensorSpec([], tf.bool),
            tf.TensorSpec([], tf.int32),
        )
        traced = observe(lambda: step.get_concrete_function(*signature))
    return traced, found[-1] if found else None
