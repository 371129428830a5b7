"""The words after `python -m modetrain`: a few flags, and overrides `key=value`."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from modetrain.config import suggest
from modetrain.errors import ConfigError, closest
from modetrain.files import quoting
from modetrain.files.quoting import key_of
from modetrain.keys import SECTIONS

PROGRAM = ("python", "-m", "modetrain")

# Per flag what --help says of it. The second name of each is its short form.
FLAGS = {
    ("--help", "-h"): "print this and exit",
    ("--version",): "print the versions of modetrain and of what it stands on, and exit",
    ("--multirun", "-m"): "run every combination of the values given, each in a process of its own",
    ("--pdb",): "when a step fails, stop in the debugger at your own line (best with mode=eager)",
    ("--cfg",): "with `job`: print the resolved configuration and exit",
    ("--config-dir",): "FOLDER: look up configs there too, after ./conf and before the shipped ones",
    ("--config-name",): "NAME: the root config, instead of config",
    ("--info",): "print what Hydra knows: plugins, search path, the defaults list",
    ("--shell-completion", "-sc"): "with install=bash, fish or zsh: print the shell code for completion",
}
WITH_VALUE = {"--cfg": "job", "--config-dir": "FOLDER", "--config-name": "NAME"}
# Flags of Hydra's own, which answers them.
HYDRAS = ("--info", "--hydra-help", "--shell-completion", "-sc", "--package", "-p", "--resolve")
ROOT = "hydra.job.config_name"  # --config-name as an override, so that it goes wherever overrides go


@dataclasses.dataclass(frozen=True, kw_only=True)
class CommandLine:
    """What was typed.

    Attributes:
      overrides: the words that are not flags.
      help, version, multirun, pdb, show_config: whether the flag was given.
      config_dirs: the folders given with `--config-dir`.
      for_hydra: all words but those, where Hydra is to answer; else empty.
    """

    overrides: tuple[str, ...] = ()
    help: bool = False
    version: bool = False
    multirun: bool = False
    pdb: bool = False
    show_config: bool = False
    config_dirs: tuple[str, ...] = ()
    for_hydra: tuple[str, ...] = ()


def parse(words: Sequence[str]) -> CommandLine:
    """Sorts words into flags and overrides.

    Raises:
      ConfigError: a flag is unknown, or lacks its value or has one too many.
    """
    overrides: list[str] = []
    config_dirs: list[str] = []
    given: set[str] = set()
    rest: Iterator[str] = iter(words)
    for word in rest:
        if not word.startswith("-"):
            overrides.append(word)
            continue
        name, has_value, value = word.partition("=")
        flag = next((names[0] for names in FLAGS if name in names), name if name in HYDRAS else None)
        if flag in HYDRAS:
            given.add(flag)
            continue
        if flag is None:
            raise _unknown(word, name, value or next(rest, ""))
        if flag in WITH_VALUE and not has_value:
            value = next(rest, "")
        if flag in WITH_VALUE and not value:
            raise ConfigError(f"{word}: a value is needed. Type {flag} {WITH_VALUE[flag]}.")
        if flag not in WITH_VALUE and has_value:
            raise ConfigError(f"{word}: the flag {name} takes no value. Type {name}.")
        if flag == "--cfg" and value not in ("job", "hydra", "all"):
            raise ConfigError(f"--cfg {value}: there is job, hydra and all. Type --cfg job.")
        if flag == "--cfg" and value != "job":
            given.add(value)
        if flag == "--config-dir":
            config_dirs.append(value)
        if flag == "--config-name":
            overrides.append(f"{ROOT}={value}")
        given.add(flag)
    if {"--pdb", "--multirun"} <= given:
        raise ConfigError("--pdb with --multirun: jobs of a multirun have no terminal to stop at. Type one of the two.")
    return CommandLine(
        overrides=tuple(overrides),
        help="--help" in given,
        version="--version" in given,
        multirun="--multirun" in given,
        pdb="--pdb" in given,
        show_config="--cfg" in given,
        config_dirs=tuple(config_dirs),
        for_hydra=_for_hydra(words, overrides) if {*HYDRAS, "hydra", "all"} & given else (),
    )


def _for_hydra(words: Sequence[str], overrides: Sequence[str]) -> tuple[str, ...]:
    ours = ("--config-dir", "--config-name")
    after = [before in ours for before in ("", *words)]
    kept = [word for word, is_value in zip(words, after, strict=False) if not is_value and not word.startswith(ours)]
    return (*kept, *(word for word in overrides if word.startswith(ROOT)))


def folder_flags(config_dirs: Sequence[str]) -> list[str]:
    """Folders of configs as they are typed."""
    return [word for folder in config_dirs for word in ("--config-dir", folder)]


def written(overrides: Sequence[str], config_dirs: Sequence[str] = ()) -> str:
    """A whole command line as it is typed into a shell, and as a run keeps it."""
    return shlex.join([*PROGRAM, *overrides, *folder_flags(config_dirs)])


def read(command: str) -> CommandLine:
    """What `written` has written."""
    return parse(shlex.split(command)[len(PROGRAM) :])


def printed(
    pairs: Mapping[str, Any] | None = None, *, words: Sequence[str] = (), config_dirs: Sequence[str] = ()
) -> str:
    """A command as a run prints it: one line that can be pasted into a POSIX shell.

    Print it on a line of its own, without wrapping (`console.plain`).

    Args:
      pairs: overrides by key; a path sets exactly that path.
      words: overrides as Hydra reads them, which come first.
      config_dirs: the folders of `--config-dir`.
    """
    values = {
        key: quoting.path_value(value) if isinstance(value, Path) else value for key, value in (pairs or {}).items()
    }
    overrides = [*words, *(quoting.override(key, value) for key, value in values.items())]
    return quoting.join([*PROGRAM, *overrides, *folder_flags(config_dirs)])


def resuming(command: str, run_dir: Path) -> str:
    """The command that resumes a run.

    Args:
      command: of the run, as `written` has it.
      run_dir: its folder.
    """
    line = read(command)
    words = [word for word in line.overrides if key_of(word) not in ("resume", "run_dir")]
    return printed({"resume": "latest", "run_dir": run_dir}, words=words, config_dirs=line.config_dirs)


def tensorboard(folder: Path | str) -> str:
    """The command that shows the curves below a folder."""
    return quoting.join(["tensorboard", "--logdir", quoting.path_value(folder)])


def _unknown(word: str, name: str, value: str) -> ConfigError:
    bare = name.lstrip("-").replace("-", "_")
    flag = closest(name.lstrip("-"), [one.lstrip("-") for names in FLAGS for one in names if one.startswith("--")])
    if flag is not None and "=" not in word:
        return ConfigError(f"{word}: there is no such flag. Did you mean --{flag}?")
    if bare in SECTIONS or suggest.keys(bare):
        text = value if value and not value.startswith("-") and "=" not in value else "VALUE"
        ask = (
            f"Did you mean {quoting.in_sentence(f'{bare}={text}')}?"
            if bare in SECTIONS
            else suggest.sentence(bare, value=text)
        )
        return ConfigError(f"{word}: settings are typed without dashes, as key=value. {ask}")
    return ConfigError(f"{word}: there is no such flag. --help lists the flags; settings are typed as key=value.")
