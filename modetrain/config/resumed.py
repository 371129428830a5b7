"""`resume=runs/a` alone: the words of that run, and what is typed over them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from modetrain.config import arguments as command_line
from modetrain.config.arguments import CommandLine
from modetrain.config.overrides import resolved_value_of
from modetrain.errors import ConfigError
from modetrain.files import paths, run_folder, run_json
from modetrain.files.quoting import key_of

_OF_THE_COMMAND = ("resume", "run_dir", "do")  # they say what is done now


def expand(line: CommandLine, cwd: Path) -> CommandLine:
    """The whole command line where only a run to resume was named, else the same.

    A run is named by `resume=PATH`, or by `run_dir=PATH resume=latest`, without a recipe.

    Raises:
      ConfigError: there is no such run.
    """
    typed = {key_of(word): word for word in line.overrides}
    if "resume" not in typed or "recipe" in typed or "do=replay" in line.overrides:
        return line
    if line.multirun and {",", "("} & {*typed["resume"]}:  # a run for each: they are no one run
        return line
    found = resolved_value_of(typed["resume"])
    if found == "latest" and "run_dir" in typed:
        found = resolved_value_of(typed["run_dir"])
    if found in (None, "", "latest") or not isinstance(found, str):
        return line
    path = paths.expand(found, cwd)
    if not path.exists() and resolved_value_of(typed["resume"]) != "latest":  # that may be a first start
        raise ConfigError(
            f"resume={found}: there is no such file or folder. Type resume= with a run folder or a checkpoint in one."
        )
    command = run_json.read(run_folder.owner(path)).get("command")
    if not command:
        return line
    before = command_line.read(command)
    kept = [word for word in before.overrides if _is_kept(key_of(word), {*typed})]
    return dataclasses.replace(
        line, overrides=(*kept, *line.overrides), config_dirs=(*before.config_dirs, *line.config_dirs)
    )


def _is_kept(key: str, typed: set[str]) -> bool:
    # Keys of a group go with its option: those of model=mlp mean nothing to model=cnn.
    parts = key.split(".")
    return key not in _OF_THE_COMMAND and not typed & {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
