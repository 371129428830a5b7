"""A process that makes one step of a capsule in one mode, and leaves what it found in a file.

python -m modetrain.tools.replay.step_process ANSWER.json do=replay replay.from=CAPSULE mode=xla
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from pathlib import Path

from modetrain.config import arguments
from modetrain.settings import Settings
from modetrain.tools.replay import source


def main(answer: str, *words: str) -> int:
    """Returns 0 wherever there is an answer, also that the step fails."""
    line = arguments.parse(words)
    settings = source.load(line.overrides, Path.cwd(), line.config_dirs)
    settings.mode.set_environment()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    found = _found(settings)
    partial = Path(f"{answer}.partial")
    partial.write_text(json.dumps(dataclasses.asdict(found)))
    os.replace(partial, answer)
    return 0


def _found(settings: Settings):
    from modetrain.checkpoints import capsule
    from modetrain.engine.guards.guard import GuardError
    from modetrain.tools.compare.variant import described
    from modetrain.tools.replay import replay_command
    from modetrain.tools.replay.check_modes import Found
    from modetrain.tools.replay.one_step import Cause, Step, is_bad

    mode = settings.mode.name

    def failed(said: str, cause: Cause | None, metrics=None) -> Found:
        where = cause.place if cause is not None else None
        return Found(
            mode=mode,
            failed=True,
            said=said,
            first=cause.what if cause is not None else None,
            place=where.shown if where is not None else None,
            text=where.text if where is not None else None,
            metrics=metrics or {},
        )

    replay_command.start(settings)
    step = Step(capsule.load(Path(str(settings.replay.path))), settings)
    try:
        metrics = step.make()
    except Exception as error:
        found = described(error)
        where = found.place
        if isinstance(error, GuardError) and error.place is not None:
            where = error.place
        return failed("raises", Cause(what=str(found), place=where))
    finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
    if is_bad(metrics):
        return failed(replay_command.shown(metrics), step.cause(), finite)
    return Found(mode=mode, failed=False, said=replay_command.shown(metrics), metrics=finite)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
