"""The file run.json of a run folder: read, and replaced whole. What stands in it is for `record.py` to say."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modetrain.files import atomic, run_folder


def read(folder: Path) -> dict[str, Any]:
    """What a run folder's file says; empty where there is none that can be read."""
    try:
        found = json.loads((folder / run_folder.RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write(folder: Path, described: Mapping[str, Any]) -> None:
    """Replaces the file at once, so that a reader never sees half of it."""
    folder.mkdir(parents=True, exist_ok=True)  # somebody may have removed it while the run went on
    text = json.dumps(_finite(dict(described)), indent=2, default=str, allow_nan=False) + "\n"
    atomic.write_text(folder / run_folder.RECORD, text)


def update(folder: Path, changes: Mapping[str, Any]) -> None:
    """Adds to what the file says, or replaces parts of it; without a file nothing is done."""
    found = read(folder)
    if found:
        write(folder, {**found, **changes})


def _finite(value: Any) -> Any:
    """The value with null for NaN and infinities, which JSON has no words for."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
