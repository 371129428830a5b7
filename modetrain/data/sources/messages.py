"""What messages about data sets share: overrides to type, and paths as people write them."""

from __future__ import annotations

import os
from pathlib import Path

from modetrain.files import paths, quoting

BUNDLED = "mnist"  # the data set that the bundled sample is of


def data_override(key: str, value: str) -> str:
    """The override `data.key=value` as it is typed in a shell: Hydra and the shell both want quotes for brackets."""
    return quoting.shell_override(f"data.{key}", value)


def format_path(path: str | os.PathLike[str]) -> str:
    """A path as people write it: from the folder they are in, or with `~` for their home folder."""
    text, home = paths.format_path(Path(path), Path.cwd()), str(Path.home())
    return "~" + text[len(home) :] if text.startswith(home + os.sep) else text
