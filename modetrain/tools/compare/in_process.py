"""Comparison as a library: all modes in this process, for tests of one's own recipes.

assert modetrain.compare(build_recipe, batches, modes=["graph", "xla"]).agrees
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from modetrain.errors import did_you_mean
from modetrain.mode import COMPILE, Mode
from modetrain.recipe import Recipe
from modetrain.tools.compare import explain, lockstep, tasks
from modetrain.tools.compare.comparison import Comparison
from modetrain.tools.compare.diagnosis import Explanation
from modetrain.tools.compare.observation import ArmReport
from modetrain.tools.compare.run_comparison import conduct
from modetrain.tools.compare.runner import Death
from modetrain.tools.compare.store import Shelf
from modetrain.tools.compare.variant import Arm, stacked

_STRICT = {"arithmetic_optimization": False, "constant_folding": False, "remapping": False}


def compare(
    recipe: Recipe | Callable[[], Recipe],
    batches: Iterable[Mapping[str, Any]],
    modes: Sequence[str] = ("graph", "xla"),
    *,
    steps: int | None = None,
    draws: int = 3,
    reference: str = "eager",
    timed: bool = False,
    say: Callable[[str], None] = tasks.silent,
) -> Comparison:
    """Runs the same training steps in several modes and says where they differ and why.

    Every step of every mode begins from the state that the reference had there. All of it happens in this process: a
    crash of XLA ends it, several replicas cannot be had, and memory is not measured. `do=compare` has none of these limits.

    Args:
      recipe: builds a recipe, the same one whenever it is called (set the seed in it). A recipe that is there already
        serves too, but then its Python attributes go from mode to mode, and float64 cannot be tried.
      batches: of successive steps; each a dict of arrays or tensors, as `train_step` gets them.
      modes: of `eager`, `graph` and `xla`, those to compare with the reference.
      steps: the first so many batches; all of them by default.
      draws: repetitions of each step that measure its rounding noise.
      reference: the mode to compare with.
      timed: whether to measure how fast each mode is, too, which takes a second each.
      say: told what is under way.

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
    kept = [batch for _, batch in zip(range(steps if steps is not None else 2**31), batches, strict=False)]
    if not kept:
        raise ValueError("compare was given no batches: there is no step to run. Pass a list of dicts of arrays.")
    arrays = stacked([{name: np.asarray(value) for name, value in batch.items()} for batch in kept])
    runner = _InProcess(recipe, arrays, reference, draws, timed)
    names = list(dict.fromkeys([reference, *modes]))
    return conduct(runner, names, steps=len(kept), first_step=0, draws=draws, say=say)


class _InProcess:
    """Runs arms here, one at a time."""

    def __init__(
        self,
        recipe: Recipe | Callable[[], Recipe],
        batches: Mapping[str, np.ndarray],
        reference: str,
        draws: int,
        timed: bool,
    ):
        self.shelf = Shelf()
        self._recipe = recipe
        self._batches = batches
        self._reference = reference
        self._draws = draws
        self._timed = timed
        self._start: dict[str, np.ndarray] | None = None

    def lead(self, mode: str) -> ArmReport | Death:
        arm = self._arm(mode)
        self._start = arm.read()
        return self._kept(mode, tasks.lead(arm, self.shelf, mode, draws=self._draws, timed=self._timed))

    def follow(self, mode: str) -> ArmReport | Death:
        return self._kept(mode, tasks.follow(self._arm(mode), self.shelf, mode, self._reference, timed=self._timed))

    def floors(self, numbers: Sequence[int], draws: int) -> dict[int, dict[str, float]] | Death:
        arm = self._arm(self._reference)
        layout = self.shelf.get(f"{self._reference}/report").layout
        return lockstep.floors(arm, self.shelf, self._reference, numbers, layout, draws=draws, first_draw=1000)

    def variant(self, mode: str, change: str, numbers: Sequence[int]) -> ArmReport | Death | None:
        if change == "onednn" or (change != "strict" and isinstance(self._recipe, Recipe)):
            return None
        with _WITHIN[change]():
            name = "graph" if change == "strict" else mode
            try:
                arm = self._arm(name)
            except Exception:  # a recipe of the user's own, in a precision that it was not made for
                return None
            return tasks.follow(arm, self.shelf, f"{mode}@{change}", self._reference, numbers=numbers)

    def explain(self, mode: str, number: int, change: str | None = None) -> Explanation | None:
        with _WITHIN[change]() if change else contextlib.nullcontext():
            arm = self._arm(mode)
            if mode == self._reference:
                return explain.impurity(arm, self.shelf, mode, number)
            return explain.difference(arm, self.shelf, self._reference, number, self._reference)

    def tracing(self, mode: str, number: int) -> Explanation | None:
        return explain.tracing(self._arm(mode), number)

    def _arm(self, mode: str) -> Arm:
        gc.collect()  # graphs of the arm before
        recipe = self._recipe if isinstance(self._recipe, Recipe) else self._recipe()
        if not isinstance(recipe, Recipe):
            raise TypeError(f"compare was given what builds a {type(recipe).__name__}, not a modetrain.Recipe.")
        arm = Arm(recipe, Mode(name=mode, compile=mode), self._batches)
        if isinstance(self._recipe, Recipe) and self._start is not None:
            arm.load(self._start)
        return arm

    def _kept(self, mode: str, report: ArmReport) -> ArmReport:
        self.shelf.put(f"{mode}/report", report)
        return report


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


@contextlib.contextmanager
def _without_optimizations() -> Iterator[None]:
    """Within this, graphs are run as they were traced."""
    old = tf.config.optimizer.get_experimental_options()
    tf.config.optimizer.set_experimental_options(_STRICT)
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({**dict.fromkeys(_STRICT, True), **old})


_WITHIN: Mapping[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    "float64": _float64,
    "strict": _without_optimizations,
    "again": contextlib.nullcontext,
}
