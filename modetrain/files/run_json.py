"""Reads and replaces the file run.json of a run folder. `app/record.py` decides on its contents."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modetrain.files import atomic, run_folder


def read(folder: Path) -> dict[str, Any]:
    """The contents of a run folder's file; empty if it cannot be read."""
    try:
        found = json.loads((folder / run_folder.RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write(folder: Path, described: Mapping[str, Any]) -> None:
    """Replaces the whole file at once, so that a reader never sees half of it."""
    folder.mkdir(parents=True, exist_ok=True)  # the user may have removed it during the run
    text = json.dumps(_finite(dict(described)), indent=2, default=str, allow_nan=False) + "\n"
    atomic.write_text(folder / run_folder.RECORD, text)


def update(folder: Path, changes: Mapping[str, Any]) -> None:
    """Adds keys to the file, or replaces them; does nothing without a file."""
    found = read(folder)
    if found:
        write(folder, {**found, **changes})


def _finite(value: Any) -> Any:
    """The value with null for NaN and infinities, which JSON cannot hold."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
