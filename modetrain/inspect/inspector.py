"""Puts all the evidence on a recipe together: `Inspector(recipe, batches, ...).findings()`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from modetrain.inspect import traces
from modetrain.inspect.finding import Finding, merged, waived
from modetrain.inspect.reach import reached
from modetrain.inspect.steps import Batch, Steps
from modetrain.mode import Mode
from modetrain.recipe import Recipe
from modetrain.replicas import Replicas

METHODS = ("train_step", "eval_step")


class Inspector:
    """Looks at a recipe.

    Args:
      recipe: whose steps are looked at.
      batches: global batches to trace and run them on.
      mode: how the steps would run.
      replicas: where.
      target: `graph`, `xla` or `tpu`.
    """

    def __init__(self, recipe: Recipe, batches: Sequence[Batch], *, mode: Mode, replicas: Replicas, target: str):
        self._recipe = recipe
        self._batches = list(batches)
        self._mode = mode
        self._replicas = replicas
        self._target = target

    def findings(self) -> list[Finding]:
        """Everything that is found, in the order of files and lines."""
        return [one for one in merged(self._all()) if not waived(one)]

    def _all(self) -> Iterator[Finding]:
        for method in METHODS:
            if getattr(type(self._recipe), method) is getattr(Recipe, method):
                continue
            steps = Steps(
                recipe=self._recipe, method=method, mode=self._mode, replicas=self._replicas, batches=self._batches
            )
            with steps.state_kept():
                yield from self._of_step(steps)

    def _of_step(self, steps: Steps) -> Iterator[Finding]:
        reach = reached(self._recipe, [steps.method])
        yield from traces.look(steps, reach).findings
