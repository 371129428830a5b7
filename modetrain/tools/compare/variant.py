"""A variant: one recipe in one mode, each step observed from a state that is set before.

variant = Variant(recipe, mode, batches, first=0)
variant.load(state)
observation = variant.observe(3)
"""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from modetrain.diagnostics import error_origin, location, tf_errors
from modetrain.diagnostics.lost_peer import lost_a_peer
from modetrain.engine.batching import StackedBatches
from modetrain.engine.devices import Replicas
from modetrain.engine.metrics import NONFINITE
from modetrain.engine.optimizer import Optimizer
from modetrain.mode import Mode
from modetrain.recipe import Recipe
from modetrain.tools.compare.observation import Observation, State, StateEntry, StepError
from modetrain.tools.step_runner import Batches, StepRunner

_SLOTS = ("mean", "square", "momentum", "average", "accumulator")


class Variant(StepRunner):
    """One recipe in one mode; see `StepRunner` for the arguments."""

    def __init__(
        self, recipe: Recipe, mode: Mode, batches: Batches, *, first: int = 0, replicas: Replicas | None = None
    ):
        if mode.guards == "auto":  # guards would hide what XLA drops, which is a difference to find here
            mode = dataclasses.replace(mode, guards=False)
        super().__init__(recipe, mode, batches, first=first, replicas=replicas)

    def observe(self, number: int, block: StackedBatches | None = None) -> Observation:
        """Runs one step from the state there is; see `StepRunner.run`."""
        try:
            metrics = self.run(number, block)
        except Exception as error:
            if self.replicas.workers > 1 and lost_a_peer(error):
                raise  # the step is not the cause, and no further step can run
            return Observation(error=describe_error(error))
        metrics = {name: mean for name, mean in metrics.items() if name.split("/")[0] != NONFINITE}
        return Observation(metrics=metrics, state=self.read())

    def load(self, state: State) -> None:
        """Sets the variables that a state has; those that a step has made since stay as they are."""
        made = self.variables().keys() - state.keys()
        kept = {name: value for name, value in self.read().items() if name in made} if made else {}
        super().load({**state, **kept})

    def compute_dtype(self) -> str:
        """The narrowest dtype that the models compute in, or a variable is stored in."""
        used = {layer.compute_dtype for model in self.recipe.models() for layer in model._flatten_layers()}
        used |= {tf.as_dtype(variable.dtype).name for variable in self.recipe.state().values()}
        narrow = [name for name in ("bfloat16", "float16", "float32", "float64") if name in used]
        return narrow[0] if narrow else keras.config.floatx()

    def layout(self) -> dict[str, StateEntry]:
        """What each entry of the state is."""
        slots: dict[int, StateEntry] = {}
        trained: set[int] = set()
        for optimizer in self.recipe.optimizers().values():
            trained.update(id(variable) for variable in optimizer.trainable)
            slots.update(_slots(optimizer))
        entries = {}
        for name, variable in self.variables().items():
            slot = slots.get(id(variable))
            label = slot.label if slot else getattr(variable, "path", None) or name
            kind = "variable" if id(variable) in trained else slot.kind if slot else "state"
            entries[name] = StateEntry(label=label, kind=kind, gradient=slot.gradient if slot else None)
        labels = [entry.label for entry in entries.values()]
        for name, entry in entries.items():
            # Two optimizers of one variable, or two models with layers of one name: the state's own names differ.
            if labels.count(entry.label) > 1:
                entries[name] = StateEntry(label=f"{entry.label} ({name})", kind=entry.kind)
        return entries

    def describe_mode(self) -> dict[str, Any]:
        """What took effect, read from what was built."""
        return {
            "compile": {None: self.mode.compile, True: "xla", False: "graph"}[self.program.compiled],
            "strategy": self.mode.strategy,
            "replicas": self.replicas.count,
            "workers": self.replicas.workers,
            "devices": self.replicas.devices,
            "precision": keras.config.dtype_policy().name,
            "xla_program": self.program.unit,
            "strict": self.mode.strict,
        }


def _slots(optimizer: Optimizer) -> dict[int, StateEntry]:
    """Entries of an optimizer's variables, by id: each slot belongs to one trained variable, in the same order."""
    found: dict[int, StateEntry] = {}
    counts: dict[str, int] = {}
    for variable in optimizer.variables:
        if variable.name not in _SLOTS:
            found[id(variable)] = StateEntry(label=f"optimizer {variable.name}", kind="state")
            continue
        index = counts.get(variable.name, 0)
        counts[variable.name] = index + 1
        owner = optimizer.trainable[index].path
        gradient = None
        if variable.name == "mean":  # mean' = beta * mean + (1 - beta) * gradient
            beta = optimizer.settings.beta_1
            gradient = (f"gradient of {owner}", -beta / (1.0 - beta), 1.0 / (1.0 - beta))
        elif variable.name == "momentum":  # momentum' = factor * momentum - rate * gradient
            gradient = (f"gradient of {owner}, times the learning rate", optimizer.settings.momentum, -1.0)
        found[id(variable)] = StateEntry(label=f"{variable.name} of {owner}", kind="slot", gradient=gradient)
    return found


def describe_error(error: BaseException) -> StepError:
    """What a step raised, with the user's line that it comes from."""
    message = tf_errors.read(error)
    stacks = [*(message.stacks if message is not None else ()), traceback.extract_tb(error.__traceback__)]
    frames = ([(frame.filename, frame.lineno or 0, frame.name) for frame in stack] for stack in stacks)
    return StepError(
        type=type(error).__name__,
        message=message.text if message is not None else str(error),
        place=error_origin.find_origin(error)
        or next((place for stack in frames if (place := location.innermost(stack)) is not None), None),
        advice=tf_errors.plain_sentence(error),
    )


def stack_batches(batches: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Batches of successive steps as one array a feature."""
    return {name: np.stack([np.asarray(batch[name]) for batch in batches]) for name in batches[0]}
