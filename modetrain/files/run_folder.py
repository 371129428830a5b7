"""Run folders: the paths in one, and the newest one.

runs/<recipe>/<mode>/<time>/
  config.yaml   run.json   error.txt
  checkpoints/step-00000500.npz   checkpoints/best.npz
"""

from __future__ import annotations

import datetime
import json
import re
from pathlib import Path
from typing import Any

RUNS = Path("runs")
CONFIG = "config.yaml"  # the whole configuration
RECORD = "run.json"  # what took effect, and the results
ERROR = "error.txt"  # the complete error of a failed run
CHECKPOINTS = "checkpoints"
WORKERS = "workers"  # the output of each of several workers
INDEX = "index.json"  # in the folder of checkpoints: the SHA-256 of each


def worker_file(folder: Path, name: str, worker: int) -> Path:
    """Each worker's own file: `error.txt` of the first worker, `error-worker-1.txt` of the next."""
    stem, dot, suffix = name.partition(".")
    return folder / (f"{stem}-worker-{worker}{dot}{suffix}" if worker else name)


def create(root: Path, recipe: str, mode: str) -> Path:
    """Creates and returns `<root>/<recipe>/<mode>/<time>`, with `-2`, `-3`, ... if that exists.

    `mkdir` fails for an existing name, so two runs started in the same second never share a folder.
    """
    parent = root / recipe / mode
    parent.mkdir(parents=True, exist_ok=True)
    stamp = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    number = 1
    while True:
        folder = parent / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1


def find_latest(root: Path, recipe: str, mode: str) -> Path | None:
    """The newest run folder of this recipe and mode with a checkpoint, else the newest without one, else None."""
    pattern = re.compile(r"(\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d)(?:-(\d+))?")
    found = []
    for folder in (root / recipe / mode).glob("*"):
        match = pattern.fullmatch(folder.name)
        if match and folder.is_dir():
            found.append((bool(steps(folder)), (match[1], int(match[2] or 1)), folder))
    return max(found)[2] if found else None


def holds_run(folder: Path) -> bool:
    """Whether a folder holds a run that must be kept; one that failed before its first step need not be."""
    return bool(steps(folder)) or ((folder / RECORD).exists() and not failed_at_once(folder))


def failed_at_once(folder: Path) -> bool:
    """Whether a folder holds only a run that failed before its first step: no step, no checkpoint."""
    found = _json(folder / RECORD)
    made_none = found.get("status") == "failed" and found.get("steps") == 0
    return made_none and not any((folder / CHECKPOINTS).glob("*.npz"))


def checkpoint(folder: Path, step: int) -> Path:
    """The checkpoint file of a step in a run folder."""
    return folder / CHECKPOINTS / f"step-{step:08d}.npz"


def best(folder: Path) -> Path:
    """The file of the best checkpoint in a run folder."""
    return folder / CHECKPOINTS / "best.npz"


def step_of(file: Path) -> int | None:
    """The step of a checkpoint file by its name; None for another file."""
    match = re.fullmatch(r"step-(\d+)\.npz", file.name)
    return int(match[1]) if match else None


def steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in a run folder, ascending."""
    found = (step_of(file) for file in (folder / CHECKPOINTS).glob("step-*.npz"))
    return sorted(step for step in found if step is not None)


def recorded_steps(folder: Path) -> list[int]:
    """Steps that a run has made according to its record and its index of checkpoints, even if files are missing.

    A run that failed before its first checkpoint has lost its steps, so they do not count.
    """
    record, index = _json(folder / RECORD), _json(folder / CHECKPOINTS / INDEX)
    found = [record.get("resumed_at"), *(step_of(Path(name)) for name in index)]
    checkpoints = record.get("checkpoints")
    if record.get("status") != "failed" or not isinstance(checkpoints, dict) or checkpoints.get("written"):
        found.append(record.get("steps"))
    return sorted(step for step in found if isinstance(step, int) and step > 0)


def newest(folder: Path, at_most: int | None = None) -> Path | None:
    """The newest checkpoint in a run folder, of a step up to `at_most`, or None."""
    found = [step for step in steps(folder) if at_most is None or step <= at_most]
    return checkpoint(folder, found[-1]) if found else None


def owner(path: Path) -> Path:
    """The run folder for a value of `resume=`: a run folder itself, or a checkpoint in one."""
    return path.parent.parent if path.suffix == ".npz" else path


def _json(file: Path) -> dict[str, Any]:
    """The contents of a file; empty if it cannot be read."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
