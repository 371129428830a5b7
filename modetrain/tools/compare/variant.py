"""An arm of a comparison: one recipe in one mode, whose state can be set before every step.

    arm = Arm(recipe, mode, batches, first=0)
    arm.load(state)
    seen = arm.step(3)         # runs the mode's own program on the fourth batch

The program is the one that training runs, nothing is added to it: what an added output could hide is seen too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from modetrain.checkpoints import file
from modetrain.diagnostics import location, tf_errors
from modetrain.diagnostics.lost_peer import lost_a_peer
from modetrain.engine.batching import BatchSharding, StackedBatches
from modetrain.engine.devices import Replicas
from modetrain.engine.metrics import NONFINITE, RunningMeans
from modetrain.engine.optimizer import Optimizer
from modetrain.engine.program import Program
from modetrain.mode import Mode
from modetrain.recipe import Recipe
from modetrain.tools.compare.observation import Entry, Seen, State, StepError

Batches = Mapping[str, np.ndarray]


class Arm:
    """One recipe in one mode.

    Args:
      recipe: what a step does; made in the scope of `replicas`.
      mode: how it is run.
      batches: per feature an array [steps, examples, ...]: those of all steps.
      first: number of the first step.
      replicas: where it is run.

    Attributes:
      recipe, mode, replicas: as given.
      program: the mode's own.
      steps: how many there are.
    """

    def __init__(
        self,
        recipe: Recipe,
        mode: Mode,
        batches: Batches,
        *,
        first: int = 0,
        replicas: Replicas | None = None,
    ):
        if mode.guards == "auto":  # what XLA drops is to be found here as a difference, which guards would take away
            mode = dataclasses.replace(mode, guards=False)
        self.recipe = recipe
        self.mode = mode
        self.replicas = replicas or Replicas()
        self.program = Program(recipe.run_train_step, mode, replicas=self.replicas, state=recipe.state)
        self.steps = len(next(iter(batches.values())))
        self._first = first
        self.batches = batches
        self.block = self.block_of(batches)

    def block_of(self, batches: Batches, first: int = 0) -> StackedBatches:
        """Batches as this arm's replicas take them; `first` counts from the comparison's first step."""
        return StackedBatches.from_batches(
            batches, self._first + first, BatchSharding.over(self.replicas, self.recipe.micro_batches)
        )

    def read(self) -> dict[str, np.ndarray]:
        """Every variable by name."""
        return file.copied(self.recipe.state())

    def load(self, state: State) -> None:
        """Sets every variable; floats are converted where an arm computes in another precision."""
        for name, variable in self.recipe.state().items():
            variable.assign(tf.cast(state[name], variable.dtype))

    def step(self, number: int, block: StackedBatches | None = None) -> Seen:
        """Runs one step from the state there is.

        Args:
          number: which, from 0.
          block: other batches than the arm's own; its first one is used.
        """
        block, index = (self.block, number) if block is None else (block, 0)
        try:
            rows = self.program(block, index, index + 1, watch_every=1)
        except Exception as error:
            if self.replicas.workers > 1 and lost_a_peer(error):
                raise  # it is not the step's doing, and no step will run any more
            return Seen(error=described(error))
        return Seen(metrics=self.means(rows)[0], state=self.read())

    def means(self, rows: np.ndarray) -> list[dict[str, float]]:
        """What a call of the program returned, as means over the global batch; a dict for each step."""
        summed = self.replicas.sum_over_workers(rows.sum(axis=1, dtype=np.float64))
        steps = [RunningMeans.from_rows(self.program.names, row).means() for row in summed]
        return [{name: mean for name, mean in one.items() if name.split("/")[0] != NONFINITE} for one in steps]

    def compute_dtype(self) -> str:
        """The narrowest dtype that the models compute in."""
        policies = [layer.compute_dtype for model in self.recipe.models() for layer in model._flatten_layers()]
        narrow = [name for name in ("bfloat16", "float16", "float32", "float64") if name in policies]
        return narrow[0] if narrow else keras.config.floatx()

    def layout(self) -> dict[str, Entry]:
        """What each entry of the state is."""
        entries: dict[int, Entry] = {}
        trained: set[int] = set()
        for optimizer in self.recipe.optimizers().values():
            trained.update(id(v) for v in optimizer.trainable)
            entries.update(_slots(optimizer))
        state = self.recipe.state()
        kinds = {
            name: "variable" if id(v) in trained else entries[id(v)].kind if id(v) in entries else "state"
            for name, v in state.items()
        }
        labels = {
            name: entries[id(v)].label if id(v) in entries else getattr(v, "path", None) or name
            for name, v in state.items()
        }
        taken = list(labels.values())
        return {
            name: Entry(
                # Two optimizers of one variable, two models with layers of one name: then the state's own names tell.
                label=labels[name] if taken.count(labels[name]) == 1 else f"{labels[name]} ({name})",
                kind=kinds[name],
                gradient=entries[id(v)].gradient if id(v) in entries and taken.count(labels[name]) == 1 else None,
            )
            for name, v in state.items()
        }


def _slots(optimizer: Optimizer) -> dict[int, Entry]:
    """Entries of an optimizer's variables: each slot belongs to one trained variable, in the same order."""
    found: dict[int, Entry] = {}
    counts: dict[str, int] = {}
    names = ("mean", "square", "momentum", "average", "accumulator")
    for variable in optimizer.variables:
        if variable.name not in names:
            found[id(variable)] = Entry(label=f"optimizer {variable.name}", kind="state")
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
        found[id(variable)] = Entry(label=f"{variable.name} of {owner}", kind="slot", gradient=gradient)
    return found


def described(error: BaseException) -> StepError:
    """What a step raised, with the user's line."""
    import traceback

    message = tf_errors.read(error)
    frames = [(f.filename, f.lineno or 0, f.name) for f in traceback.extract_tb(error.__traceback__)]
    where = None
    if message is not None:
        stacks = [[(f.filename, f.lineno or 0, f.name) for f in stack] for stack in message.stacks]
        where = next((found for stack in stacks if (found := location.innermost(stack)) is not None), None)
    text = message.text if message is not None else str(error)
    where = where or location.innermost(frames)
    return StepError(type=type(error).__name__, message=text, place=where, advice=tf_errors.plain_sentence(error))


def stacked(batches: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Batches of successive steps as one array a feature."""
    return {name: np.stack([np.asarray(batch[name]) for batch in batches]) for name in batches[0]}


def one(batches: Batches, number: int) -> dict[str, np.ndarray]:
    """The batches of one step alone."""
    return {name: array[number : number + 1] for name, array in batches.items()}


def described_mode(arm: Arm) -> dict[str, object]:
    """What took effect, read from what was built."""
    compiled = arm.program.compiled
    return {
        "compile": {None: arm.mode.compile, True: "xla", False: "graph"}[compiled],
        "strategy": arm.mode.strategy,
        "replicas": arm.replicas.count,
        "workers": arm.replicas.workers,
        "devices": arm.replicas.devices,
        "precision": keras.config.dtype_policy().name,
        "xla_program": arm.program.unit,
        "strict": arm.mode.strict,
    }
