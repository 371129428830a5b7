"""One evaluation: means over every evaluation example, exact for any division into batches. It changes no variable."""

from __future__ import annotations

import bdb
import functools
import logging
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

from modetrain.callback import TrainerProtocol
from modetrain.data.loader import refusals
from modetrain.engine import object_walk, step_state
from modetrain.engine.batching import StackedBatches
from modetrain.engine.metrics import RunningMeans
from modetrain.engine.values import Figure
from modetrain.engine.variables import Snapshot
from modetrain.errors import ConfigError
from modetrain.training import figures
from modetrain.training.step_errors import explain, failing_step, without_stack

log = logging.getLogger(__name__)
_reported: weakref.WeakSet[Any] = weakref.WeakSet()  # the recipes whose assignments are logged


def evaluate(trainer: TrainerProtocol, *, steps_per_call: int) -> tuple[dict[str, float], dict[str, Figure]]:
    """Evaluates, with the averaged weights if an optimizer has them; all workers must call this.

    What `eval_step` assigns has its value back afterwards. With several splits a metric is called `SPLIT/NAME`.

    Args:
      trainer: has the recipe, the data and the mode.
      steps_per_call: maximum number of batches in one call of the program.

    Returns:
      Numbers by name, and the images and texts that sums were made into.
    """
    found: dict[str, float] = {}
    shown: dict[str, Figure] = {}
    with trainer.timer.measure("eval"), trainer.recipe.averaged(), Snapshot() as before:
        for split, batches in trainer.data.evaluations.items():
            before.restore()  # each split begins with the same values
            merged = _evaluate_split(trainer, batches.blocks(steps_per_call), before)
            made = figures.summarize(trainer.recipe, trainer.programs.eval.layout, merged.sums)
            numbers = {**merged.means(), **figures.numbers(made)}
            prefix = f"{split}/" if split else ""
            found |= {f"{prefix}{name}": value for name, value in numbers.items()}
            shown |= {f"{prefix}{name}": figure for name, figure in made.items() if name not in numbers}
        if trainer.recipe not in _reported:
            _reported.add(trainer.recipe)
            _log_assigned(trainer.recipe, before.changed())
    return found, shown


def _evaluate_split(trainer: TrainerProtocol, blocks: Iterator[StackedBatches], before: Snapshot) -> RunningMeans:
    """The metrics of all workers over the examples of one split; `before` gets the variables that the step assigns."""
    program, means, begun = trainer.programs.eval, RunningMeans(), 0
    while True:
        with explain(trainer, "prepare", None, functools.partial(int, begun), evaluating=True), refusals():
            block = next(blocks, None)
        if block is None:
            break
        begun = int(block.numbers[block.length - 1].numpy().max()) + 1
        with explain(trainer, "eval_step", block, failing_step(trainer.mode, program, block.first)):
            if not program.has(block):
                with trainer.timer.measure("compile"):
                    program.prepare(block)
            before.add(program.assigned(block, lambda: object_walk.reachable_variables(trainer.recipe).values()))
            rows = program(block, 0, block.length)
        means += RunningMeans.from_rows(program.names, *program.layout.split(rows[block.counted[: block.length]]))
    everywhere = RunningMeans.from_rows(program.names, trainer.replicas.sum_over_workers(means.array()))
    sums = {name: trainer.replicas.sum_over_workers(value) for name, value in means.sums.items()}
    return RunningMeans(pairs=everywhere.pairs, sums=sums)


def check(trainer: TrainerProtocol) -> None:
    """Refuses, before the first step, an `eval_step` that updates a Keras metric: tries it on the first batch.

    Does nothing where there is no Keras metric. Any other error is left to the evaluation. All workers must call this.

    Raises:
      ConfigError: it updates one.
    """
    if not step_state.may_update_metrics() or not trainer.data.evaluations:
        return
    program = trainer.programs.eval
    try:
        with trainer.timer.measure("eval"), Snapshot(object_walk.reachable_variables(trainer.recipe).values()):
            block = next(next(iter(trainer.data.evaluations.values())).blocks(trainer.loader.length))
            if trainer.mode.compile == "eager":
                program(block, 0, 1)
            else:
                program.prepare(block)
    except ConfigError as error:
        raise without_stack(error) from error
    except bdb.BdbQuit:
        raise
    except Exception:
        return


def _log_assigned(recipe: Any, assigned: Iterable[Any]) -> None:
    """Logs the variables that `eval_step` assigns, except the seeds of draws, which the library sets for each batch."""
    ids = {id(variable) for variable in assigned if variable.name != "seed_generator_state"}
    reached = object_walk.reachable_variables(recipe) if ids else {}
    names = [name for name, variable in reached.items() if id(variable) in ids]
    if names:
        listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")
        log.info(
            f"eval_step assigns {listed}: an evaluation gives each its value back, so it does not change training. A number that "
            "eval_step accumulates over batches depends on how they are divided: return one value per example"
        )
