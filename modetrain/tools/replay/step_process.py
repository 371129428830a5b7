"""A process that runs one step of a capsule in one mode, and writes what it found to a file.

python -m modetrain.tools.replay.step_process ANSWER.json do=replay replay.from=CAPSULE mode=xla
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path

from modetrain.config import arguments
from modetrain.files import atomic
from modetrain.settings import Settings
from modetrain.tools.child_process import set_environment
from modetrain.tools.replay import source
from modetrain.tools.replay.check_modes import ModeCheck


def main(answer: str, *words: str) -> int:
    """Writes the answer; returns 0 also where the step fails."""
    line = arguments.parse(words)
    settings = source.load(line.overrides, Path.cwd(), line.config_dirs)
    set_environment(settings.mode)
    atomic.write_text(Path(answer), json.dumps(dataclasses.asdict(_check(settings))))
    return 0


def _check(settings: Settings) -> ModeCheck:
    from modetrain.checkpoints import capsule
    from modetrain.engine.guards.guard import GuardError
    from modetrain.tools.compare.variant import describe_error
    from modetrain.tools.replay import replay_command
    from modetrain.tools.replay.one_step import Cause, ReplayedStep, is_nonfinite

    replay_command.set_up(settings)
    mode = settings.mode.name
    step = ReplayedStep(capsule.load(Path(str(settings.replay.path))), settings)
    finite: dict[str, float | None] = {}
    cause: Cause | None
    try:
        metrics = step.run()
    except Exception as error:
        found = describe_error(error)
        guarded = error.place if isinstance(error, GuardError) else None
        cause, said = Cause(what=str(found), place=guarded or found.place), "raises"
    else:
        said = replay_command.format_metrics(metrics)
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        if not is_nonfinite(metrics):
            return ModeCheck(mode=mode, failed=False, said=said, metrics=finite)
        cause = step.find_cause()
    place = cause.place if cause is not None else None
    return ModeCheck(
        mode=mode,
        failed=True,
        said=said,
        first=cause.what if cause is not None else None,
        place=place.shown if place is not None else None,
        text=place.text if place is not None else None,
        metrics=finite,
    )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
