"""`do=inspect`: inspects the recipe of a run that is built, prints the findings and writes them into the run folder.

`TOOLS` is what inspect adds to every run: a check as the steps are traced, and a callback for Python that changes afterwards.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from modetrain.app.session import Tools
from modetrain.callback import Callback
from modetrain.settings import Settings
from modetrain.tools.differing_line import find_differing_line
from modetrain.tools.inspect import findings_report
from modetrain.tools.inspect.detectors.part_runs import REPLICAS
from modetrain.tools.inspect.detectors.stale_state import StaleStateCallback
from modetrain.tools.inspect.finding import Finding
from modetrain.tools.inspect.inspected_step import mode_for
from modetrain.tools.inspect.inspector import Inspector
from modetrain.tools.inspect.startup_check import StartupCheck, notes_on_parts
from modetrain.trainer import Trainer

_BATCHES = 2

log = logging.getLogger(__name__)


def run(trainer: Trainer, settings: Settings, folder: Path) -> list[Finding]:
    """Inspects, prints, and writes `inspect.json`.

    Args:
      trainer: of the run, which has not trained.
      settings: what was asked for.
      folder: the run folder.

    Returns:
      The findings, and the notes.
    """
    target = target_of(settings)
    several = settings.mode.strategy != "one_device"  # replicas or cores, all inspected on one device
    inspector = Inspector(
        trainer.recipe,
        [trainer.data.with_one_length().batch(step) for step in range(_BATCHES)],
        mode=mode_for(target, settings.mode),
        replicas=trainer.replicas,
        target=target,
        several=several,
        notes=notes_on_parts(trainer),
        find_differing_line=find_differing_line,
    )
    findings = inspector.find()
    findings_report.write_json(folder, findings, target)
    for line in findings_report.format_findings(findings):
        log.info(line)
    if several:
        log.info(
            f"inspect: judged for {REPLICAS} replicas on one device; each gets its share of a batch. What goes wrong "
            f"on {REPLICAS} goes wrong on more"
        )
    log.info(findings_report.format_summary(findings, target))
    return findings


def target_of(settings: Settings) -> str:
    """The mode that counts: `inspect.target`, or what the mode compiles with."""
    if settings.inspect.target is not None:
        return settings.inspect.target
    if settings.mode.strategy == "tpu":
        return "tpu"
    return "xla" if settings.mode.compile == "xla" else "graph"


def has_findings(found: Sequence[Finding]) -> bool:
    """Whether there is more than notes."""
    return any(not one.note for one in found)


def _callbacks(settings: Settings) -> list[Callback]:
    if not settings.inspect.at_start or settings.mode.compile == "eager":
        return []
    # On every worker: all of them plan the same steps.
    return [StaleStateCallback(every=(settings.callbacks.get("log") or {}).get("every") or 100)]


def _watch(trainer: Trainer, settings: Settings) -> None:
    if not settings.inspect.at_start or settings.do not in ("train", "evaluate") or not trainer.replicas.chief:
        return
    check = StartupCheck(trainer.recipe, settings.mode, settings.command, trainer.replicas)
    if not settings.mode.debug_data:  # the pipeline is traced in mode=eager too
        check.check_pipeline(trainer.data.examples())
    if settings.mode.compile != "eager":
        trainer.programs.train.observe = check.observer("train_step")
        trainer.programs.eval.observe = check.observer("eval_step")
    # A debugger is to stop at the run's own steps, and variables of a TPU cannot be read by an eager step here.
    if sys.gettrace() is None and not settings.mode.debug_data and settings.mode.strategy != "tpu":
        evaluates = settings.do == "evaluate" or bool((settings.callbacks.get("evaluate") or {}).get("every"))
        check.check_means(trainer, evaluates=evaluates)


TOOLS = Tools(
    callbacks=_callbacks, watch=_watch, inspected_replicas=REPLICAS, inspect=lambda *given: has_findings(run(*given))
)
