"""XLA programs inside a traced step: each of several replicas computes its gradients, or its whole step, in one.

    with programs:           # trace the step: each `Loss.compute` is an XLA program of its own
        ...
    programs.run(function)   # the results of `function`, from such a program
    programs.guards          # the guards of each program

Such a program has no output but its results, so it also returns the number of the guard that failed.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from modetrain.diagnostics import stack
from modetrain.engine.guards.step_guards import GUARDED, Guards
from modetrain.engine.loss import separate_programs
from modetrain.engine.replaced import replaced
from modetrain.errors import ConfigError


class XlaPrograms:
    """The XLA programs inside one trace of a step; within a `with` block each loss and its gradients are one.

    Args:
      guarded: whether they return which guard failed.
      collectives: whether XLA can exchange values between the replicas, as on GPUs.

    Attributes:
      guards: the guards of each program, in the order of the calls; `failed` is a tensor of the step's graph.
    """

    def __init__(self, *, guarded: bool, collectives: bool = True):
        self._guarded = guarded
        self._collectives = collectives
        self.guards: list[Guards] = []
        self.step: tf.Graph | None = None  # the graph that the step is traced into

    def __enter__(self) -> XlaPrograms:
        separate_programs.append(self.run)
        return self

    def __exit__(self, *error: object) -> None:
        separate_programs.pop()

    def run(self, function: Callable[[], Any]) -> Any:
        """The function's results, computed by a program of its own.

        Raises:
          ConfigError: it exchanges values between the replicas, and XLA cannot.
        """
        # A branch or a loop of the step does not pass the number on.
        guarded = self._guarded and tf.compat.v1.get_default_graph() is self.step
        found: list[Guards] = []

        def program():
            returned = function() if self._collectives else _without_collectives(function)
            found.append(Guards.find(tf.compat.v1.get_default_graph()) if guarded else Guards.none())
            return returned, found[-1].failed

        program.__name__ = GUARDED if guarded else "program"
        returned, failed = tf.function(program, jit_compile=True, autograph=False)()
        if guarded:
            self.guards.append(Guards(guards=found[-1].guards, failed=failed))
        return returned


def _without_collectives(function: Callable[[], Any]) -> Any:
    """The function's results; whatever exchanges values between replicas in it is refused by name."""
    context = tf.distribute.ReplicaContext
    refused: list[ConfigError] = []  # Keras and AutoGraph put texts of their own around an error

    def refusing(name: str) -> Callable[..., Any]:
        @tf.autograph.experimental.do_not_convert
        def refuse(*args: Any, **kwargs: Any) -> Any:
            refused.append(_refusal(name))
            raise refused[0]

        return refuse

    with replaced(context, **{name: refusing(name) for name in ("all_reduce", "all_gather", "merge_call")}):
        try:
            return function()
        except Exception:
            if refused:
                raise refused[0] from None
            raise


def _refusal(name: str) -> ConfigError:
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.layers.BatchNormalization):
            return ConfigError(
                f"mode.compile=xla with batch normalisation over several replicas (layer {caller.name}): it takes means over the "
                "replicas inside the gradients, where XLA on CPUs cannot. Type mode.compile=graph, which computes what one "
                "device does. mode.sync_batch_norm=false compiles too, but changes the results: each replica normalises by its "
                "own share of the batch, and N replicas no longer equal one device."
            )
        frame = frame.f_back
    place = stack.here()
    return ConfigError(
        f"mode.compile=xla over several replicas: {'the step' if place is None else place.shown} exchanges values between the "
        f"replicas ({name}) inside the gradients, where XLA on CPUs cannot. Type mode.compile=graph, which computes the same."
    )
