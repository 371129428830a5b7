"""`do=replay` on the command line: one step of a run, run again in the debugger, or checked in every mode."""

from __future__ import annotations

import bdb
import dataclasses
import functools
import logging
import math
import sys
from collections.abc import Mapping
from pathlib import Path

from modetrain import console
from modetrain.app import record, report
from modetrain.checkpoints import capsule, resume
from modetrain.checkpoints.capsule import Capsule
from modetrain.config.arguments import CommandLine
from modetrain.diagnostics import debugger
from modetrain.engine import tf_setup
from modetrain.engine.devices import Replicas
from modetrain.engine.metrics import NONFINITE
from modetrain.errors import ConfigError
from modetrain.files import paths, run_folder
from modetrain.recipe import Recipe
from modetrain.settings import Settings
from modetrain.tools.replay import catch_up, check_modes
from modetrain.tools.replay import source as sources
from modetrain.tools.replay.one_step import Cause, ReplayedStep, is_nonfinite
from modetrain.tools.replay.source import ReplaySource
from modetrain.training.nonfinite import is_loss

log = logging.getLogger(__name__)

FINE, FAILS = 0, 1
# What a replay in another mode differs in, as it is asked to.
_HOW = ("mode.compile", "mode.strict", "mode.guards", "mode.xla_unit")


@tf_setup.restored()
def replay(settings: Settings, line: CommandLine, cwd: Path) -> int:
    """Runs one step again; returns the exit code: 0 the step is fine, 1 it fails.

    Args:
      settings: of `do=replay`, checked.
      line: what was typed.
      cwd: the folder to run in.

    Raises:
      ConfigError: there is nothing to run the step from.
    """
    console.show_log()
    source = sources.find_source(Path(str(settings.replay.path)))
    source, number = sources.choose_step(source, settings, warn=True)
    made = source.capsule
    what = describe_step(made) if made is not None and made.step == number else f"step {number + 1}"
    how = f"in {', '.join(check_modes.MODES)}" if settings.replay.check else f"in mode={settings.mode.name}"
    log.info(f"modetrain: do=replay of {what} from {paths.format_path(source.path, cwd)} {how}")
    for difference in resume.find_differences(source.config, settings.resolved):
        if not difference.startswith(_HOW):
            log.info(f"  differs from the run it is from: {difference}")
    if made is not None and made.said:
        log.info(f"  the run: {made.said.splitlines()[0]}")
    try:
        if made is not None and made.batch is None and made.method == "eval_step":
            return _evaluate(source, made, settings)
        recipe = None
        if made is None or made.step != number or not made.complete:
            trainer = catch_up.train_up_to(source, settings, number)
            if made is not None and made.method == "prepare":
                log.info(f"  preparing the batch of step {number + 1}")
            made = catch_up.make_capsule(trainer, source)
            recipe = trainer.recipe
        else:
            _log_machine_differences(made)
        if settings.replay.check:
            return _check(made, source, settings, line)
        return _run(made, settings, recipe)
    except bdb.BdbQuit:
        log.info("stopped in the debugger")
        return FAILS
    except ConfigError:
        raise
    except Exception as error:
        sys.stderr.write("".join(report.format_lines(error)))
        if settings.mode.compile == "eager":
            debugger.post_mortem(error)
        return FAILS


def set_up(settings: Settings) -> None:
    """Sets what is global in TensorFlow, as for a run."""
    Replicas.for_mode(settings.mode)
    tf_setup.apply(settings.mode, settings.seed)


def describe_step(made: Capsule) -> str:
    """The step of a capsule, in words."""
    if made.method == "eval_step":
        return f"evaluation batch {made.number + 1} after step {made.step}"
    return f"step {made.step + 1}"


def format_metrics(metrics: Mapping[str, float]) -> str:
    """Metrics in one line."""
    parts = [f"{name} {value:.6g}" for name, value in metrics.items() if name.split("/")[0] != NONFINITE]
    flagged = any(value != 0 for name, value in metrics.items() if name.split("/")[0] == NONFINITE)
    if flagged and all(math.isfinite(value) for name, value in metrics.items() if is_loss(name)):
        parts.append("a gradient is not finite")
    return ", ".join(parts)


def _run(made: Capsule, settings: Settings, recipe: Recipe | None) -> int:
    if recipe is None:
        set_up(settings)
    eager = settings.mode.compile == "eager"
    step = ReplayedStep(made, settings, recipe=recipe)
    metrics = step.run(wrap=debugger.stopping_at_once if eager else None)
    log.info(f"{describe_step(made)}: {format_metrics(metrics)}")
    if not is_nonfinite(metrics):
        log.info("  all of it is finite")
        return FINE
    cause = step.find_cause()
    _log_cause(cause)
    if eager and cause is not None and cause.place is not None:
        step.run(wrap=functools.partial(debugger.stopping_at, cause.place.file, cause.place.line))
    return FAILS


def _log_cause(cause: Cause | None) -> None:
    if cause is None:
        log.info("  which operation made it first is not known")
        return
    log.info(f"  first: {cause.what}")
    if cause.place is not None:
        log.info(f'  File "{cause.place.file}", line {cause.place.line}, in {cause.place.function}')
        log.info(f"    {cause.place.text}")


def _evaluate(source: ReplaySource, made: Capsule, settings: Settings) -> int:
    """A whole evaluation, whose data failed: batches are prepared in this thread, where the debugger sees them."""
    mode = dataclasses.replace(settings.mode, debug_data=True)
    trainer = catch_up.train_up_to(source, settings, made.step, mode=mode)
    log.info(f"evaluation after step {made.step}: {format_metrics(trainer.evaluate())}")
    return FINE


def _log_machine_differences(made: Capsule) -> None:
    here = record.made_on(Replicas())
    for name, was in made.made_on.items():
        now = here.get(name)
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            pairs = [(key, value, now.get(key)) for key, value in was.items()]
        else:
            pairs = [(name, was, now)]
        for key, before, after in pairs:
            if before != after:
                log.info(f"  made with {key} {before}, here {after}: the last bits may differ")


def _check(made: Capsule, source: ReplaySource, settings: Settings, line: CommandLine) -> int:
    folder = settings.run_dir
    if folder is None:
        folder = run_folder.create(
            source.folder or run_folder.RUNS / settings.recipe_name, "replay", settings.mode.name
        )
    folder.mkdir(parents=True, exist_ok=True)
    path = source.path
    if made is not source.capsule:
        path = capsule.choose_path(folder, made)
        made.save(path)
    checks = check_modes.run_in_every_mode(path, settings, line, folder)
    console.stdout().print(check_modes.render_table(checks))
    log.info(check_modes.conclude(checks, made))
    check_modes.write_json(folder, checks, made, settings)
    log.info(f"replay.json: {paths.format_path(folder, Path.cwd())}")
    return FAILS if any(check.failed for check in checks) else FINE
