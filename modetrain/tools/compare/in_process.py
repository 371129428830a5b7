"""Comparison as a library: all modes in this process, for tests of your own recipes.

assert modetrain.compare(build_recipe, batches, modes=["graph", "xla"]).agrees
"""

from __future__ import annotations

import contextlib
import gc
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from modetrain.engine import tf_setup
from modetrain.errors import did_you_mean
from modetrain.mode import COMPILE, Mode
from modetrain.recipe import Recipe
from modetrain.tools.compare import tasks
from modetrain.tools.compare.comparison import Comparison
from modetrain.tools.compare.run_comparison import run_comparison
from modetrain.tools.compare.runner import Runner, Task
from modetrain.tools.compare.store import ResultStore
from modetrain.tools.compare.variant import Variant, stack_batches
from modetrain.tools.step_runner import Batches


def compare(
    recipe: Recipe | Callable[[], Recipe],
    batches: Iterable[Mapping[str, Any]],
    modes: Sequence[str] = ("graph", "xla"),
    *,
    steps: int | None = None,
    draws: int = 3,
    reference: str = "eager",
    timed: bool = False,
) -> Comparison:
    """Runs the same training steps in several modes and says where they differ and why.

    Every step of every mode begins from the state that the reference had there. All of it happens in this process: a crash of
    XLA ends it, several replicas cannot be compared, and memory is not measured. `do=compare` has none of these limits. The
    progress is logged.

    Args:
      recipe: builds a recipe, the same one at each call (set the seed in it). A recipe that exists already serves too, but
        then its Python attributes go from mode to mode, and float64 cannot be tried.
      batches: of successive steps; each a dict of arrays or tensors, as `train_step` gets them.
      modes: of `eager`, `graph` and `xla`, those to compare with the reference.
      steps: how many of the batches to use; all of them by default.
      draws: repetitions of each step that measure its rounding noise.
      reference: the mode to compare with.
      timed: whether to measure how fast each mode is, too, which takes a second each.

    Returns:
      What was found; `.agrees` where nothing was.

    Raises:
      ValueError: no batches, or a mode that this process cannot run.
    """
    if isinstance(modes, str):
        modes = [modes]
    for mode in (reference, *modes):
        if mode not in COMPILE:
            raise ValueError(
                f"modes={list(modes)}: {mode!r} cannot be compared in one process, {', '.join(COMPILE)} can."
                f"{did_you_mean(mode, COMPILE)} For several replicas: python -m modetrain do=compare."
            )
    kept = list(itertools.islice(batches, steps))
    if not kept:
        raise ValueError("compare was given no batches: there is no step to run. Pass a list of dicts of arrays.")
    arrays = stack_batches([{name: np.asarray(value) for name, value in batch.items()} for batch in kept])
    names = list(dict.fromkeys([reference, *modes]))
    in_process = _InProcess(recipe, arrays, reference, timed)
    return run_comparison(in_process, names, steps=len(kept), first_step=0, draws=draws)


class _InProcess(Runner):
    """Runs variants here, one at a time."""

    def __init__(self, recipe: Recipe | Callable[[], Recipe], batches: Batches, reference: str, timed: bool):
        super().__init__(ResultStore(), reference)
        self._recipe = recipe
        self._batches = batches
        self._timed = timed
        self._start: dict[str, np.ndarray] | None = None

    def perform(self, task: Task) -> Any:
        if task.change == "onednn" or (task.change in ("float64", "fresh") and isinstance(self._recipe, Recipe)):
            return None
        with _CHANGES[task.change]():
            try:
                variant = self._build("graph" if task.change == "strict" else task.mode)
            except Exception:
                if task.change is None:
                    raise
                return None  # the user's recipe was not made for this precision
            return tasks.perform(
                task,
                variant,
                self.store,
                reference=self.reference,
                reference_compile=self.reference,
                timed=self._timed,
            )

    def _build(self, mode: str) -> Variant:
        gc.collect()  # frees the graphs of the variant before
        recipe = self._recipe if isinstance(self._recipe, Recipe) else self._recipe()
        if not isinstance(recipe, Recipe):
            raise TypeError(f"compare was given what builds a {type(recipe).__name__}, not a modetrain.Recipe.")
        variant = Variant(recipe, Mode(name=mode, compile=mode), self._batches)
        if isinstance(self._recipe, Recipe):
            if self._start is None:
                self._start = variant.read()
            variant.load(self._start)
        return variant


@contextlib.contextmanager
def _float64() -> Iterator[None]:
    """Within this, what is built computes in float64."""
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)


_CHANGES: Mapping[str | None, Callable[[], contextlib.AbstractContextManager[None]]] = {
    "float64": _float64,
    "strict": tf_setup.without_graph_optimizations,
    "fresh": contextlib.nullcontext,
    None: contextlib.nullcontext,
}
