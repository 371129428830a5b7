"""Shared parts of messages about data sets: overrides to type, and paths as people write them."""

from __future__ import annotations

import os
from pathlib import Path

from modetrain.files import paths, quoting

BUNDLED = "mnist"  # the data set of the bundled sample


def data_override(key: str, value: str) -> str:
    """The override `data.key=value` as the user types it in a shell: Hydra and the shell both need quotes for brackets."""
    return quoting.shell_override(f"data.{key}", value)


def format_path(path: str | os.PathLike[str]) -> str:
    """A path as people write it: relative to the working folder, or with `~` for the home folder."""
    text, home = paths.format_path(Path(path), Path.cwd()), str(Path.home())
    return "~" + text[len(home) :] if text.startswith(home + os.sep) else text
