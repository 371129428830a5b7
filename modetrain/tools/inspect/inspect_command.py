"""`do=inspect`: looks at the recipe of a run that is built, prints what was found and keeps it in the run folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from modetrain.settings import Settings
from modetrain.tools.inspect import findings_report
from modetrain.tools.inspect.detectors import first_operation
from modetrain.tools.inspect.detectors.split_batch import REPLICAS
from modetrain.tools.inspect.finding import Finding
from modetrain.tools.inspect.inspector import Inspector
from modetrain.tools.inspect.traced_step import mode_for
from modetrain.trainer import Trainer

_BATCHES = 2


def run(trainer: Trainer, settings: Settings, folder: Path, say: Callable[[str], None]) -> list[Finding]:
    """Looks, tells, and writes `inspect.json`.

    Args:
      trainer: of the run, which has not trained.
      settings: what was asked for.
      folder: the run folder.
      say: prints a line.

    Returns:
      What was found.
    """
    target, several = (
        target_of(settings),
        settings.mode.strategy != "one_device",
    )  # replicas or cores, none of which is here
    inspector = Inspector(
        trainer.recipe,
        [trainer.data.batch(step) for step in range(_BATCHES)],
        mode=mode_for(target, settings.mode),
        replicas=trainer.replicas,
        target=target,
        several=several,
        first=first_operation.place,
    )
    findings = inspector.findings()
    findings_report.write(folder, findings, target)
    for line in findings_report.lines(findings):
        say(line)
    if several:
        say(
            f"inspect: judged for {REPLICAS} replicas, each of which gets its share of a batch, on one device: what goes wrong "
            f"on {REPLICAS} goes wrong on more"
        )
    say(findings_report.summary(findings, target))
    return findings


def target_of(settings: Settings) -> str:
    """What to judge by: `inspect.target`, or what the mode compiles with."""
    if settings.inspect.target is not None:
        return settings.inspect.target
    if settings.mode.strategy == "tpu":
        return "tpu"
    return "xla" if settings.mode.compile == "xla" else "graph"
