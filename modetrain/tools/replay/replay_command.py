"""`do=replay` on the command line: one step of a run, made again in the debugger, or checked in every mode."""

from __future__ import annotations

import bdb
import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from modetrain import console as terminal
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
from modetrain.tools.replay import source as origins
from modetrain.tools.replay.one_step import Cause, Step, is_bad
from modetrain.tools.replay.source import Origin
from modetrain.training.nonfinite import is_loss

FINE, FAILS = 0, 1
Say = Callable[[str], None]


def replay(settings: Settings, line: CommandLine, cwd: Path) -> int:
    """Makes one step again; returns the exit code: 0 the step is fine, 1 it fails.

    Args:
      settings: of `do=replay`, checked.
      line: what was typed.
      cwd: the folder to run in.

    Raises:
      ConfigError: there is nothing to make the step from.
    """
    console = terminal.stdout()
    say = terminal.plain(console)
    origin = origins.find(Path(str(settings.replay.path)))
    origin, number = origins.chosen(origin, settings, say)
    what = (
        named(origin.capsule) if origin.capsule is not None and origin.capsule.step == number else f"step {number + 1}"
    )
    how = f"in {', '.join(check_modes.MODES)}" if settings.replay.check else f"in mode={settings.mode.name}"
    say(f"modetrain: do=replay of {what} from {paths.shown(origin.path, cwd)} {how}")
    changes = resume.differences(origin.config, settings.resolved)
    for changed in (
        one for one in changes if not one.startswith(("mode.compile", "mode.strict", "mode.guards", "mode.xla_unit"))
    ):
        say(f"  differs from the run it is from: {changed}")
    made = origin.capsule
    if made is not None and made.said:
        say(f"  the run: {made.said.splitlines()[0]}")
    try:
        if made is not None and made.batch is None and made.method == "eval_step":
            return _evaluate_again(origin, settings, say)
        recipe = None
        if made is None or made.step != number or not made.complete:
            trainer = catch_up.trainer_at(origin, settings, number, say)
            if made is not None and made.method == "prepare":
                say(f"  preparing the batch of step {number + 1}")
            made = catch_up.capsule_at(trainer, origin)
            recipe = trainer.recipe
        else:
            _say_differences(made, say)
        if settings.replay.check:
            return _check(made, origin, settings, line, say, console)
        return _one_step(made, settings, recipe, say)
    except bdb.BdbQuit:
        say("stopped in the debugger")
        return FAILS
    except ConfigError:
        raise
    except Exception as error:
        sys.stderr.write("".join(report.lines(error)))
        if settings.mode.compile == "eager":
            debugger.post_mortem(error)
        return FAILS


def _one_step(made: Capsule, settings: Settings, recipe: Recipe | None, say: Say) -> int:
    if recipe is None:
        start(settings)
    eager = settings.mode.compile == "eager"
    step = Step(made, settings, recipe=recipe)
    metrics = step.make(wrap=debugger.stopping_at_once if eager else None)
    say(f"{named(made)}: {shown(metrics)}")
    if not is_bad(metrics):
        say("  all of it is finite")
        return FINE
    cause = step.cause()
    say_cause(cause, say)
    if eager and cause is not None and cause.place is not None:
        step.make(wrap=functools.partial(debugger.stopping_at, cause.place.file, cause.place.line))
    return FAILS


def start(settings: Settings) -> None:
    """Sets what is global, as for a run."""
    Replicas.for_mode(settings.mode)
    tf_setup.set_for(settings.mode, settings.seed)


def named(made: Capsule) -> str:
    """What the step is called."""
    if made.method == "eval_step":
        return f"evaluation batch {made.number + 1} after step {made.step}"
    return f"step {made.step + 1}"


def shown(metrics: Mapping[str, float]) -> str:
    """Metrics as a person reads them."""
    said = [f"{name} {value:.6g}" for name, value in metrics.items() if name.split("/")[0] != NONFINITE]
    flagged = any(value != 0 for name, value in metrics.items() if name.split("/")[0] == NONFINITE)
    if flagged and all(math.isfinite(value) for name, value in metrics.items() if is_loss(name)):
        said.append("a gradient is not finite")
    return ", ".join(said)


def say_cause(cause: Cause | None, say: Say) -> None:
    """Prints what first went wrong."""
    if cause is None:
        say("  which operation made it first could not be told")
        return
    say(f"  first: {cause.what}")
    if cause.place is not None:
        say(f'  File "{cause.place.file}", line {cause.place.line}, in {cause.place.function}')
        say(f"    {cause.place.text}")


def _evaluate_again(origin: Origin, settings: Settings, say: Say) -> int:
    """A whole evaluation, whose data failed: batches are prepared in this thread, so that the debugger sees them."""
    made = origin.capsule
    assert made is not None
    mode = dataclasses.replace(settings.mode, debug_data=True)
    trainer = catch_up.trainer_at(origin, settings, made.step, say, mode=mode)
    metrics = trainer.evaluate()
    say(f"evaluation after step {made.step}: {shown(metrics)}")
    return FINE


def _say_differences(made: Capsule, say: Say) -> None:
    here: dict[str, Any] = record.made_on(Replicas())
    for name, was in made.made_on.items():
        now = here.get(name)
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            for key, value in was.items():
                if now.get(key) != value:
                    say(f"  made with {key} {value}, here {now.get(key)}: the last bits may differ")
        elif now != was:
            say(f"  made with {name} {was}, here {now}: the last bits may differ")


def _check(made: Capsule, origin: Origin, settings: Settings, line: CommandLine, say: Say, console: Console) -> int:
    folder = settings.run_dir
    if folder is None:
        folder = run_folder.new(origin.folder or run_folder.RUNS / settings.recipe_name, "replay", settings.mode.name)
    folder.mkdir(parents=True, exist_ok=True)
    path = origin.path if made is origin.capsule else capsule.path_of(folder, made)
    if made is not origin.capsule:
        made.save(path)
    found = check_modes.run(path, settings, line, folder)
    console.print(check_modes.table(found))
    say(check_modes.verdict(found, made))
    check_modes.write(folder, found, made, settings)
    say(f"replay.json: {paths.shown(folder, Path.cwd())}")
    return FAILS if any(one.failed for one in found) else FINE
