"""`replay.check=true`: the step in every mode, each in a process of its own, and what follows from who fails.

Whatever fails in eager too is the model's or the data's; what fails in a compiled mode alone is the compilation's.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from modetrain.checkpoints.capsule import Capsule
from modetrain.config import arguments
from modetrain.config.arguments import CommandLine
from modetrain.files import quoting
from modetrain.files.quoting import key_of
from modetrain.settings import Settings

MODES = ("eager", "graph", "xla")
JSON = "replay.json"
_OF_THE_CAPSULE = ("replay.from", "replay.step", "replay.check")
_DROPPED = ("do", "mode", "mode.compile", "mode.strict", "run_dir")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What a step did in one mode.

    Attributes:
      mode: which.
      failed: whether it raised, died, or made something that is not finite.
      said: how, or its metrics.
      first: the first operation that went wrong, in words; None where that is not known.
      place: the user's line, `file:line`.
      text: that line.
      metrics: what the step returned.
    """

    mode: str
    failed: bool
    said: str
    first: str | None = None
    place: str | None = None
    text: str | None = None
    metrics: Mapping[str, float | None] = dataclasses.field(default_factory=dict)


def run(path: Path, settings: Settings, line: CommandLine, folder: Path) -> list[Found]:
    """Makes the step of a complete capsule in every mode.

    Args:
      path: of the capsule.
      settings: of the replay.
      line: what was typed; what is about the step itself is kept.
      folder: where logs go.
    """
    kept = [word for word in line.overrides if key_of(word) not in _DROPPED and key_of(word) not in _OF_THE_CAPSULE]
    found = []
    for mode in MODES:
        answer = folder / f"{mode}.json"
        log = folder / f"{mode}.log"
        words = [
            *kept,
            "do=replay",
            quoting.override("replay.from", str(path)),
            f"mode={mode}",
            *arguments.folder_flags(line.config_dirs),
        ]
        with open(log, "wb") as output:
            command = [sys.executable, "-m", "modetrain.tools.replay.step_process", str(answer), *words]
            code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
        if code == 0 and answer.exists():
            found.append(Found(**json.loads(answer.read_text())))
            answer.unlink()
            log.unlink()
            continue
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        lines = [text for text in log.read_text(errors="replace").splitlines() if text.strip()]
        found.append(Found(mode=mode, failed=True, said=f"the process died: {how}", first=lines[-1] if lines else None))
    return found


def verdict(found: Sequence[Found], made: Capsule) -> str:
    """What follows, in a sentence or two."""
    failing = [one.mode for one in found if one.failed]
    fine = [one.mode for one in found if not one.failed]
    if not failing:
        was = (
            ", though the run failed there: its devices, versions or threads differ, or chance was in it"
            if made.said
            else ""
        )
        return f"fine in {_listed(fine)}{was}"
    if not fine:
        return f"fails in {_listed(failing)}: the model or its data makes it, not the compilation"
    if "eager" in fine:
        return (
            f"fails in {_listed(failing)} and not in {_listed(fine)}: the compilation makes it. do=compare tells which "
            "operation differs."
        )
    return f"fails in {_listed(failing)} and not in {_listed(fine)}: compiling hides it"


def table(found: Sequence[Found]) -> Table:
    """For the terminal."""
    shown = Table(box=None, pad_edge=False)
    for name in ("mode", "step", "first", "line"):
        shown.add_column(name, overflow="fold")
    for one in found:
        where = f"{one.place}\n{one.text}" if one.place else ""
        shown.add_row(one.mode, one.said, one.first or "", where)
    return shown


def write(folder: Path, found: Sequence[Found], made: Capsule, settings: Settings) -> None:
    """Writes replay.json."""
    described: dict[str, Any] = {
        "schema": 1,
        "recipe": settings.recipe_name,
        "command": settings.command,
        "step": made.step + 1,
        "method": made.method,
        "run_said": made.said or None,
        "modes": {one.mode: dataclasses.asdict(one) for one in found},
        "verdict": verdict(found, made),
        "made_on": dict(made.made_on),
    }
    (folder / JSON).write_text(json.dumps(described, indent=2, allow_nan=False) + "\n")


def _listed(modes: Sequence[str]) -> str:
    return modes[0] if len(modes) == 1 else f"{', '.join(modes[:-1])} and {modes[-1]}"
