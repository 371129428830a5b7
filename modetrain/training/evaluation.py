"""One evaluation: means over every evaluation example, exact for any division into batches."""

from __future__ import annotations

import functools

from modetrain.callback import TrainerProtocol
from modetrain.engine.metrics import RunningMeans
from modetrain.training.step_errors import explain, failing_step


def evaluate(trainer: TrainerProtocol, *, steps_per_call: int) -> dict[str, float]:
    """Evaluates, with the averaged weights if an optimizer has them; all workers must call this.

    Args:
      trainer: has the recipe, the data and the mode.
      steps_per_call: maximum number of batches in one call of the program.
    """
    program = trainer.programs.eval
    means = RunningMeans()
    blocks, begun = trainer.data.eval_blocks(steps_per_call), 0
    with trainer.timer.measure("eval"), trainer.recipe.averaged():
        while True:
            with explain(trainer, "prepare", None, functools.partial(int, begun), evaluating=True):
                block = next(blocks, None)
            if block is None:
                break
            begun = int(block.numbers[block.length - 1].numpy().max()) + 1
            with explain(trainer, "eval_step", block, failing_step(trainer.mode, program, block.first)):
                if not program.has(block):
                    with trainer.timer.measure("compile"):
                        program.prepare(block)
                rows = program(block, 0, block.length)
            means += RunningMeans.from_rows(program.names, rows[block.counted[: block.length]])
        everywhere = trainer.replicas.sum_over_workers(means.array())
    return RunningMeans.from_rows(program.names, everywhere).means()
