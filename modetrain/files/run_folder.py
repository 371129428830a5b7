"""Run folders: what lies where in one, and which is the newest.

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
CONFIG = "config.yaml"  # everything that was configured
RECORD = "run.json"  # what took effect and what came of it
ERROR = "error.txt"  # what a failed run said, complete
CHECKPOINTS = "checkpoints"
WORKERS = "workers"  # what each of several workers printed
INDEX = "index.json"  # among them: the SHA-256 of each


def worker_file(folder: Path, name: str, worker: int) -> Path:
    """A file that each worker has of its own: `error.txt` of the first, `error-worker-1.txt` of the next."""
    stem, dot, suffix = name.partition(".")
    return folder / (f"{stem}-worker-{worker}{dot}{suffix}" if worker else name)


def create(root: Path, recipe: str, mode: str) -> Path:
    """Creates and returns `<root>/<recipe>/<mode>/<time>`, with `-2`, `-3`, ... where that is taken.

    `mkdir` decides who gets a name, so two runs started in the same second never share a folder.
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
    """The newest run of this recipe and mode with a checkpoint, else the newest folder of one, else None."""
    pattern = re.compile(r"(\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d)(?:-(\d+))?")
    found = []
    for folder in (root / recipe / mode).glob("*"):
        match = pattern.fullmatch(folder.name)
        if match and folder.is_dir():
            found.append((bool(steps(folder)), (match[1], int(match[2] or 1)), folder))
    return max(found)[2] if found else None


def holds_run(folder: Path) -> bool:
    """Whether a folder already is the folder of a run; one that failed before its first step left nothing to keep."""
    return bool(steps(folder)) or ((folder / RECORD).exists() and not failed_at_once(folder))


def failed_at_once(folder: Path) -> bool:
    """Whether a folder holds only what a run leaves that failed before its first step: no step made, no checkpoint."""
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
    """Steps that a run folder has a checkpoint of, ascending."""
    found = (step_of(file) for file in (folder / CHECKPOINTS).glob("step-*.npz"))
    return sorted(step for step in found if step is not None)


def recorded_steps(folder: Path) -> list[int]:
    """Steps that a run is known to have made by its record and by its index of checkpoints, whatever files there are.

    A run that failed before its first checkpoint lost them: none of that counts.
    """
    record, index = _json(folder / RECORD), _json(folder / CHECKPOINTS / INDEX)
    told = [record.get("resumed_at"), *(step_of(Path(name)) for name in index)]
    written = record.get("checkpoints")
    if record.get("status") != "failed" or not isinstance(written, dict) or written.get("written"):
        told.append(record.get("steps"))
    return sorted(step for step in told if isinstance(step, int) and step > 0)


def newest(folder: Path, at_most: int | None = None) -> Path | None:
    """The newest checkpoint in a run folder, of a step up to `at_most`; None where there is none."""
    there = [step for step in steps(folder) if at_most is None or step <= at_most]
    return checkpoint(folder, there[-1]) if there else None


def owner(path: Path) -> Path:
    """The run folder of what `resume=` names: itself, or that of a checkpoint."""
    return path.parent.parent if path.suffix == ".npz" else path


def _json(file: Path) -> dict[str, Any]:
    """What a file says; empty where there is none that can be read."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
