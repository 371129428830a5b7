"""`replay.check=true`: the step in every mode, each in a process of its own, and what follows from the modes that fail.

A step that fails in eager too fails by the model or the data; one that fails in compiled modes alone, by the compilation.
"""

from __future__ import annotations

import dataclasses
import json
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
from modetrain.tools.child_process import describe_exit, run_module

MODES = ("eager", "graph", "xla")
JSON = "replay.json"
_REPLACED = ("replay.from", "replay.step", "replay.check", "do", "mode", "mode.compile", "mode.strict", "run_dir")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModeCheck:
    """What a step did in one mode; replay.json has these fields.

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


def run_in_every_mode(path: Path, settings: Settings, line: CommandLine, folder: Path) -> list[ModeCheck]:
    """Runs the step of a complete capsule in every mode.

    Args:
      path: of the capsule.
      settings: of the replay.
      line: what was typed; what is about the step itself is kept.
      folder: for logs.
    """
    kept = [word for word in line.overrides if key_of(word) not in _REPLACED]
    words = [*kept, "do=replay", quoting.override("replay.from", str(path)), *arguments.folder_flags(line.config_dirs)]
    return [_run(mode, [*words, f"mode={mode}"], folder) for mode in MODES]


def _run(mode: str, words: Sequence[str], folder: Path) -> ModeCheck:
    answer, log = folder / f"{mode}.json", folder / f"{mode}.log"
    code = run_module("modetrain.tools.replay.step_process", str(answer), *words, log=log)
    if code == 0 and answer.exists():
        found = ModeCheck(**json.loads(answer.read_text(encoding="utf-8")))
        answer.unlink()
        log.unlink()
        return found
    lines = [text for text in log.read_text(encoding="utf-8", errors="replace").splitlines() if text.strip()]
    died = f"the process died: {describe_exit(code)}"
    return ModeCheck(mode=mode, failed=True, said=died, first=lines[-1] if lines else None)


def conclude(checks: Sequence[ModeCheck], made: Capsule) -> str:
    """What follows, in a sentence or two."""
    failing = [check.mode for check in checks if check.failed]
    fine = [check.mode for check in checks if not check.failed]
    if not failing:
        chance = ", though the run failed there: its devices, versions or threads differ, or chance was in it"
        return f"fine in {_join(fine)}{chance if made.said else ''}"
    if not fine:
        return f"fails in {_join(failing)}: the model or its data makes it, not the compilation"
    failed = f"fails in {_join(failing)} and not in {_join(fine)}"
    if "eager" in fine:
        return f"{failed}: the compilation makes it. do=compare shows which operation differs."
    return f"{failed}: compilation masks it"


def render_table(checks: Sequence[ModeCheck]) -> Table:
    """The checks for the terminal."""
    table = Table(box=None, pad_edge=False)
    for name in ("mode", "step", "first", "line"):
        table.add_column(name, overflow="fold")
    for check in checks:
        where = f"{check.place}\n{check.text}" if check.place else ""
        table.add_row(check.mode, check.said, check.first or "", where)
    return table


def write_json(folder: Path, checks: Sequence[ModeCheck], made: Capsule, settings: Settings) -> None:
    """Writes replay.json."""
    described: dict[str, Any] = {
        "schema": 1,
        "recipe": settings.recipe_name,
        "command": settings.command,
        "step": made.step + 1,
        "method": made.method,
        "run_said": made.said or None,
        "modes": {check.mode: dataclasses.asdict(check) for check in checks},
        "verdict": conclude(checks, made),
        "made_on": dict(made.made_on),
    }
    (folder / JSON).write_text(json.dumps(described, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _join(modes: Sequence[str]) -> str:
    return modes[0] if len(modes) == 1 else f"{', '.join(modes[:-1])} and {modes[-1]}"
