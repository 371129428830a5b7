"""Evaluates at fixed intervals and at the end, and writes the recipe's images."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from typing import Any

from modetrain.callback import Callback, TrainerProtocol
from modetrain.engine import object_walk
from modetrain.engine.batching import Batch
from modetrain.engine.variables import Snapshot
from modetrain.files.tensorboard import TensorBoardWriter
from modetrain.recipe import scale_images
from modetrain.training import evaluation
from modetrain.training.step_errors import explain

_SHOWN = 16  # examples

log = logging.getLogger(__name__)


class Evaluate(Callback):
    """Exact means over all evaluation examples, at each multiple of `every` and once at the end.

    Args:
      every: steps between evaluations; 0 or None for only the end.
      events: writes the scalars and images.
    """

    def __init__(self, *, every: int | None, events: TensorBoardWriter):
        super().__init__(every=every)
        self._events = events
        self._refused: set[object] = set()

    def on_train_begin(self, trainer):
        with explain(trainer, "prepare", None, lambda: 0, evaluating=True):
            trainer.data.check_evaluation()
        evaluation.check(trainer)

    def on_step(self, trainer):
        results = trainer.evaluate()
        log.info(f"step {trainer.step}: eval " + ", ".join(f"{name} {value:.4f}" for name, value in results.items()))
        self._events.scalars({f"eval/{name}": value for name, value in results.items()}, trainer.step)
        for name, figure in trainer.history.figures.items():
            if isinstance(figure, str):
                self._events.text(f"eval/{name}", figure, trainer.step)
                continue
            images = figure[None] if figure.ndim == 3 else figure[None, ..., None]
            if problem := self._events.images(f"eval/{name}", images, trainer.step):
                self._refuse(name, f"summarize returned `{name}`, {problem}")
        with (
            trainer.timer.measure("eval"),
            trainer.recipe.averaged(),
            Snapshot(object_walk.reachable_variables(trainer.recipe).values()),
        ):
            found = _show(trainer)
        where = f"{type(trainer.recipe).__name__}.show"
        if not isinstance(found, Mapping):
            self._refuse("", f"{where} returned a {type(found).__name__}: expected is a dict of images, {{}} for none")
            return
        for name, images in found.items():
            if isinstance(images, str):
                self._events.text(str(name), images, trainer.step)
                continue
            if problem := self._events.images(str(name), images, trainer.step):
                self._refuse(name, f"{where} returned `{name}`, {problem}")

    def on_train_end(self, trainer):
        if trainer.status == "completed" and trainer.history.evaluated != trainer.step:
            self.on_step(trainer)

    def _refuse(self, name, what: str) -> None:
        """Says once what is wrong with an image."""
        if name not in self._refused:
            self._refused.add(name)
            log.warning(what)

    def state(self, trainer):
        self._events.flush()  # the points before a checkpoint's step must be on the disk
        return {}


def _show(trainer: TrainerProtocol) -> Any:
    """What the recipe shows; a `show` with a parameter gets the first examples of the first evaluation split."""
    show, evaluations = trainer.recipe.show, trainer.data.evaluations
    if not any(one.default is one.empty for one in inspect.signature(show).parameters.values()):
        return show()
    if not evaluations:
        return {}
    return show(Batch(scale_images(next(iter(evaluations.values())).first(_SHOWN))))
