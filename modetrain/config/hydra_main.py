"""Hydra's own command line over modetrain's configuration: for its flags, and for several runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from modetrain.config import arguments
from modetrain.config.compose import PRIMARY, register
from modetrain.files import paths


def run(words: Sequence[str], cwd: Path, config_dirs: Sequence[str] = (), task: Callable[[Any], Any] = print) -> int:
    """Has Hydra answer a command line; returns the exit code.

    Args:
      words: what follows the program's name.
      cwd, config_dirs: as in `load`.
      task: what is done with the configuration of each run.
    """
    import hydra

    root = next((word.partition("=")[2] for word in words if word.startswith(f"{arguments.ROOT}=")), "config")
    folders = paths.conf_dirs(cwd, config_dirs)
    register(folders, root)
    rest = [word for word in words if not word.startswith(f"{arguments.ROOT}=")]
    before, sys.argv = sys.argv, ["modetrain", *rest]
    try:
        hydra.main(config_path=str(folders[0]), config_name=PRIMARY, version_base="1.3")(task)()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    finally:
        sys.argv = before
    return 0


def plugins(kind: str) -> list[str]:
    """The launchers or sweepers that are installed, by the names of their options."""
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    Plugins.instance()  # finds them
    return sorted(name.removesuffix(".yaml") for name in ConfigStore.instance().list(f"hydra/{kind}"))
