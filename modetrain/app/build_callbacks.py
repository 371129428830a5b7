"""Builds the callbacks of a run: the library's, as its settings ask, and the user's own."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from modetrain.app import record
from modetrain.callback import Callback
from modetrain.callbacks.checkpoint import Checkpoint
from modetrain.callbacks.deadline import Deadline
from modetrain.callbacks.evaluate import Evaluate
from modetrain.callbacks.flight_recorder import FlightRecorder
from modetrain.callbacks.log import Log
from modetrain.callbacks.memory import MemoryMonitor
from modetrain.callbacks.profile import Profile
from modetrain.callbacks.progress import ProgressBar
from modetrain.callbacks.watchdog import Watchdog
from modetrain.config.targets import instantiate
from modetrain.engine.devices import Replicas
from modetrain.errors import ConfigError
from modetrain.files.tensorboard import TensorBoardWriter
from modetrain.settings import Settings

logger = logging.getLogger(__name__)  # `log` is a callback here


def build_callbacks(
    settings: Settings,
    facts: Mapping[str, Any],
    fingerprint: Mapping[str, Any],
    events: TensorBoardWriter,
    console: Console,
    replicas: Replicas,
    extra: Sequence[Callback] = (),
    *,
    evaluates: bool = True,
) -> list[Callback]:
    """The callbacks of a run in their order; the checkpoint comes last, so that it holds the state of the others.

    Args:
      settings: the run's settings.
      facts, fingerprint: a resumed run compares itself with them.
      events: writes points for TensorBoard.
      console: may show a progress bar.
      replicas: the run's replicas; only the chief shows a progress bar.
      extra: callbacks of the tools; they run after the user's callbacks.
      evaluates: whether there are evaluation examples; without them nothing is evaluated.

    Raises:
      ConfigError: a class named by `_target_` makes no callback.
    """
    found: list[Callback] = []
    wanted = dict(settings.callbacks)
    bar = replicas.chief and console.is_terminal and settings.mode.compile != "eager"
    evaluate, log, save, profile, recorder = (
        wanted.pop(name, None) for name in ("evaluate", "log", "checkpoint", "profile", "recorder")
    )
    if evaluate is not None and not evaluates:
        logger.info("the data has no evaluation split, so nothing is evaluated")
        evaluate = None
    if log and log["every"]:
        found.append(Log(every=log["every"], events=events, lines=not bar))
    if evaluate is not None:
        found.append(Evaluate(every=evaluate["every"], events=events))
    if log and log["every"]:
        found.append(MemoryMonitor(every=log["every"], events=events))
    if settings.watchdog.after or settings.watchdog.heartbeat:
        found.append(Watchdog(after=settings.watchdog.after, heartbeat=settings.watchdog.heartbeat))
    if settings.stop_after is not None:
        found.append(Deadline(after=settings.stop_after))
    if profile and profile["at"] is not None:
        found.append(Profile(at=profile["at"], steps=profile["steps"]))
    if bar:
        found.append(ProgressBar(console=console))
    for name, node in wanted.items():
        callback = instantiate(node)
        if not isinstance(callback, Callback):
            raise ConfigError(
                f"callbacks.{name}._target_={node.get('_target_')}: it makes a {type(callback).__name__}, not a callback. "
                "Derive the class from modetrain.Callback."
            )
        found.append(callback)
    found.extend(extra)
    found.append(
        FlightRecorder(
            keep=recorder["keep"] if recorder is not None else 0,
            config=dict(settings.resolved),
            made_on=record.made_on(replicas),
            command=settings.command,
        )
    )
    if save is not None:
        found.append(
            Checkpoint(
                every=save["every"],
                keep=save["keep"],
                keep_every=save["keep_every"],
                best=save["best"] if evaluate is not None else None,
                best_is=save["best_is"],
                evaluate_every=evaluate["every"] if evaluate is not None else None,
                meta={"config": dict(settings.resolved), "facts": dict(facts), "fingerprint": dict(fingerprint)},
                background=save["background"],
                first=settings.nonfinite.policy == "rollback",
            )
        )
        if evaluate is None and save["best"] not in (None, "auto"):
            logger.info(
                f"callbacks.checkpoint.best={save['best']}: nothing is evaluated, so no best checkpoint is kept"
            )
    return found
