"""The YAML files a run is composed from: which one sets a key, and what is wrong with one that Hydra cannot compose."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from modetrain.config.overrides import groups
from modetrain.errors import ConfigError, closest, did_you_mean
from modetrain.files.paths import find_options, format_path
from modetrain.keys import leaves

PACKAGE_LINE = "# @package _global_"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConfigFile:
    """One YAML file.

    Attributes:
      name: its path as a person would write it.
      group: the config group it is an option of; empty for the root.
      content: what it holds.
      is_global: whether it speaks of the whole configuration and not of its group alone.
    """

    name: str
    group: str
    content: Mapping[str, Any]
    is_global: bool

    def keys(self) -> Iterator[str]:
        """The dotted keys that it sets."""
        prefix = "" if self.is_global or not self.group else f"{self.group.replace('/', '.')}."
        yield from (key for key, _ in leaves(self.content, prefix) if not key.startswith(f"{prefix}defaults"))

    def defaults(self) -> Iterator[tuple[bool, str, str | None]]:
        """Each entry of its defaults list: whether it overrides, the group, and the option."""
        entries = self.content.get("defaults")
        for entry in entries if isinstance(entries, list) else ():
            key, option = next(iter(entry.items())) if isinstance(entry, Mapping) else (self.group, entry)
            overrides = str(key).startswith("override ")
            group = str(key).removeprefix("override ").removeprefix("optional ").strip().partition("@")[0]
            if option != "_self_" and not group.lstrip("/").startswith("hydra/"):
                yield overrides, group.lstrip("/"), None if option is None else str(option)


def read(path: Path, group: str, cwd: Path) -> ConfigFile:
    """Reads one file.

    Raises:
      ConfigError: it is no UTF-8, no YAML, or not of `key: value` lines.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    name = format_path(path, cwd)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except UnicodeDecodeError:
        raise ConfigError(f"{name}: not UTF-8 text. Save it as UTF-8.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        column = f" in column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise ConfigError(f"{name}{where}: not YAML: {problem}{column}. Fix that line.") from None
    except (OmegaConfBaseException, OSError, ValueError) as error:
        raise ConfigError(f"{name}: {str(error).splitlines()[0]}. Fix that file.") from None
    if isinstance(content, list):
        raise ConfigError(f"{name}: a config file holds `key: value` lines, and this is a list.")
    found: dict[Any, Any] = content if isinstance(content, dict) else {}
    _check_names(found, name)
    return ConfigFile(name=name, group=group, content=found, is_global=PACKAGE_LINE in map(str.strip, lines))


def _check_names(content: Mapping[Any, Any], file: str) -> None:
    for key, value in content.items():
        if not isinstance(key, str):
            raise ConfigError(f"{file}: the key {key!r} is not a text, which YAML makes of {key}. Put it in quotes.")
        if isinstance(value, Mapping):
            _check_names(value, file)


def find(group: str, option: str, folders: Sequence[Path]) -> Path | None:
    """The file of an option, in the first folder that has it."""
    files = (folder / group / f"{option}.yaml" for folder in folders)
    return next((file for file in files if file.is_file()), None)


def used(root: str, chosen: Mapping[str, str | None], folders: Sequence[Path], cwd: Path) -> Iterator[ConfigFile]:
    """The root and the files that are chosen, or asked for by one of these, each once.

    Args:
      root: name of the root.
      chosen: an option of each group, where it is not the root's.
      folders, cwd: as everywhere.

    Raises:
      ConfigError: a file cannot be read.
    """
    waiting: list[tuple[str, str | None]] = [("", root)]
    seen = set()
    while waiting:
        group, option = waiting.pop(0)
        path = find(group, option, folders) if option is not None and (group, option) not in seen else None
        seen.add((group, option))
        if path is not None:
            file = read(path, group, cwd)
            yield file
            waiting += [(group, chosen.get(group, option)) for _, group, option in file.defaults()]
        if group == "":
            waiting += list(chosen.items())


def explain(
    error: Exception, root: str, chosen: Mapping[str, str | None], folders: Sequence[Path], cwd: Path
) -> ConfigError:
    """What is wrong with the files that Hydra could not compose."""
    try:
        files = list(used(root, chosen, folders, cwd))
        problem = next((problem for file in files for problem in _problems(file, files[0], folders)), None)
    except ConfigError as broken:
        return broken
    in_root = {group for _, group, _ in files[0].defaults()} if files else set()
    for group in chosen:
        if problem is None and group not in in_root:
            problem = f"{group}=: {files[0].name} has no {group} among its defaults. Type +{group}= to add it."
    cause = error.__cause__ if isinstance(error.__cause__, Exception) and not str(error).strip() else error
    said = (str(cause).strip().splitlines() or [type(cause).__name__])[0].rstrip(".")
    return ConfigError(problem or f"the configs do not compose: {said}.")


def _problems(file: ConfigFile, root: ConfigFile, folders: Sequence[Path]) -> Iterator[str]:
    if not isinstance(file.content.get("defaults", []), list):
        yield f"{file.name}: its defaults must be a list: a line `- group: option` for each."
        return
    if isinstance(file.content.get(file.group), Mapping) and not file.is_global:
        yield no_package_line(file.name, file.group)
    in_root = {group for _, group, _ in root.defaults()}
    for overrides, group, option in file.defaults():
        if option is None or option == "???":
            continue
        asks = f"{file.name}: its defaults list asks for"
        if group and group not in groups(folders):
            near = near_group(group, option, folders)
            yield f"{asks} {group}, and there is no such group." + (f" Did you mean {near!r}?" if near else "")
        elif overrides and group not in in_root:
            yield f"{file.name}: it overrides {group}, which {root.name} lacks. Write `- {group}: null` among its defaults."
        elif not overrides and group != file.group and group in in_root and file is not root:
            yield (
                f"{asks} {group}: {option}, and {group} is chosen already. Write `- override /{group}: {option}` in it "
                "instead."
            )
        elif find(group, option, folders) is None and (group, option) != ("callbacks", "standard"):
            names = find_options(group, folders)
            listed = f" {group} is one of {', '.join(names)}.{did_you_mean(option, names)}" if names else ""
            yield f"{asks} {f'{group}/{option}'.lstrip('/')}, which no config folder has.{listed}"


def near_group(name: str, option: str, folders: Sequence[Path]) -> str | None:
    """The group that was probably meant, of those that have the option if there are any: `modle=mlp` is no mode."""
    having = [group for group in groups(folders) if option in find_options(group, folders)]
    return closest(name, having) or closest(name, groups(folders))


def no_package_line(file: str, group: str) -> str:
    """What is said of a file that means the whole configuration and does not say so."""
    return (
        f"{file}: the line {PACKAGE_LINE!r} is missing: without it all that the file says is put below {group}. Write it "
        "as the first line."
    )
