"""One run's configuration out of its files and overrides, composed by Hydra.

All that is used of Hydra's insides is here, in `compose`. The public `hydra.compose` gives neither the configuration
before the command line's values (against which their types are checked) nor where a value comes from (which an error
should name), and takes 130 ms a composition where this takes 30: Hydra's own settings are left out.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modetrain.config import schema, sections, suggest
from modetrain.config.key import text
from modetrain.config.overrides import groups
from modetrain.errors import ConfigError, closest, did_you_mean
from modetrain.files.paths import options, shown

_PACKAGE_LINE = "# @package _global_"

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override


@dataclasses.dataclass(frozen=True, kw_only=True)
class Composition:
    """A configuration as plain containers.

    Attributes:
      config: the resolved configuration.
      base: the same before the values of the command line; interpolations are unresolved.
      choices: the chosen option of each group.
      origin: per dotted key the file that set it.
      typed: per dotted key the override that set it; choices of a group's option are not among them.
    """

    config: dict[str, Any]
    base: dict[str, Any]
    choices: Mapping[str, str | None]
    origin: Mapping[str, str]
    typed: Mapping[str, str]

    def given(self, key: str, value: Any) -> str:
        """How a key's value was given: the override as typed, or the key, value and file."""
        override = self.override_of(key)
        if override is not None:
            return override
        file = next((self.origin[k] for k in _upwards(key) if k in self.origin), None)
        return f"{key}={text(value)}" + (f" (from {file})" if file else "")

    def override_of(self, key: str) -> str | None:
        """The override that set a key, or a section it lies in, as typed; None where a file or a default set it."""
        return next((self.typed[k] for k in _upwards(key) if k in self.typed), None)


def _upwards(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[:n]) for n in range(len(parts), 0, -1)]


def compose(overrides: Sequence[Override], folders: Sequence[Path], cwd: Path) -> Composition:
    """Composes `config.yaml` with the chosen options and the overrides.

    Args:
      overrides: what `overrides.parse` returned.
      folders: where configs are looked up; the first that has a file wins.
      cwd: paths in messages are relative to it.

    Raises:
      ConfigError: a file cannot be read, an option or key does not exist, or no recipe was chosen.
    """
    import yaml
    from hydra import version
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.config_repository import CachingConfigRepository
    from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
    from hydra._internal.defaults_list import create_defaults_list
    from hydra.core.plugins import Plugins
    from hydra.core.utils import setup_globals
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    version.setbase("1.3")
    setup_globals()
    Plugins.instance()  # registers the kinds of config source
    search_path = ConfigSearchPathImpl()
    for folder in folders:
        search_path.append("modetrain", str(folder))
    search_path.append("schema", "structured://")
    loader = ConfigLoaderImpl(search_path)
    files = CachingConfigRepository(loader.repository)
    origin: dict[str, str] = {}
    typed: dict[str, str] = {}
    try:
        defaults = create_defaults_list(
            repo=files, config_name="config", overrides_list=list(overrides), prepend_hydra=False, skip_missing=True
        )
        typed.update((o.key_or_group, o.input_line or o.key_or_group) for o in defaults.config_overrides)
        choices = dict(defaults.overrides.known_choices)
        if choices.get("recipe") in (None, schema.MISSING):
            names = options("recipe", folders)
            raise ConfigError(
                f"recipe= is missing: there is nothing to train. Type one of {', '.join(f'recipe={n}' for n in names)}."
            )
        config = OmegaConf.create(sections.defaults())
        for default in defaults.defaults:
            alone = files.load_config(default.config_path or "")
            loaded = loader._load_single_config(default, files)
            file = Path(loaded.path.removeprefix("file://")) / f"{default.config_path}.yaml"
            if alone is not None and not OmegaConf.is_dict(alone.config):
                raise ConfigError(f"{shown(file, cwd)}: a config file holds `key: value` lines, and this is a list.")
            plain: Any = OmegaConf.to_container(loaded.config, resolve=False)
            _check_names(plain, shown(file, cwd))
            origin.update((key, shown(file, cwd)) for key, _ in sections.leaves(plain))
            config.merge_with(loaded.config)
        base: Any = OmegaConf.to_container(config, resolve=False)
        values = defaults.config_overrides
        _check_keys(values, base, folders)
        OmegaConf.set_struct(config, True)
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
        resolved: Any = OmegaConf.to_container(config, resolve=True)
        resolved = sections.in_order(resolved)
    except yaml.YAMLError as error:
        raise _broken_yaml(error, cwd) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{_undecodable(folders, cwd)}: not UTF-8 text. Save it as UTF-8.") from None
    except (HydraException, OmegaConfBaseException, ValueError, OSError, AssertionError) as error:
        raise _explained(error, folders, cwd, typed) from None
    return Composition(config=resolved, base=base, choices=choices, origin=origin, typed=typed)


def _check_names(config: Mapping[Any, Any], file: str) -> None:
    for key, value in config.items():
        if not isinstance(key, str):
            raise ConfigError(f"{file}: the key {key!r} is not a text, which YAML makes of {key}. Put it in quotes.")
        if isinstance(value, Mapping):
            _check_names(value, file)


def _lookup(config: Any, key: str) -> tuple[bool, Any]:
    for part in key.split("."):
        if isinstance(config, Mapping) and part in config:
            config = config[part]
        elif isinstance(config, list) and part.isdigit() and int(part) < len(config):
            config = config[int(part)]
        else:
            return False, None
    return True, config


def _check_keys(overrides: Sequence[Override], base: Mapping[str, Any], folders: Sequence[Path]) -> None:
    """Refuses overrides of keys that no file has, before Hydra proposes to append them."""
    for override in overrides:
        key, line, value = override.key_or_group, override.input_line or override.key_or_group, override.value()
        if override.is_delete() and key in schema.KEYS:
            raise ConfigError(
                f"{line}: {key} cannot be left out. Type for example {key}={text(schema.KEYS[key].example)}."
            )
        adds = override.is_add() or override.is_force_add()
        section = _lookup(base, key)[1]
        if isinstance(section, Mapping) and not (override.is_delete() or value is None or isinstance(value, Mapping)):
            keys = ", ".join(f"{key}.{name}" for name in section)
            raise ConfigError(f"{line}: {key} is a section with keys of its own. Type one of them: {keys}.")
        given = [(key, line.partition("=")[2])]
        if isinstance(value, Mapping) and value:
            given = [(name, text(one)) for name, one in sections.leaves(value, f"{key}.")]
        for name, one in given:
            _check_key(name, one, line, adds, base, folders)


def _check_key(key: str, value: str, line: str, adds: bool, base: Mapping[str, Any], folders: Sequence[Path]) -> None:
    parent, _, leaf = key.rpartition(".")
    section_there, section = _lookup(base, parent) if parent else (True, base)
    # Whether code takes what is added is for `targets.py` to say.
    if _lookup(base, key)[0] or (adds and (key in schema.KEYS or sections.is_free(key))):
        return
    if key in schema.KEYS and section_there and section is None:
        raise ConfigError(f"{line}: {parent} is switched off (null). Type +{parent}={{{leaf}:{value}}}.")
    known = [name for name, _ in sections.leaves(base)]
    if sections.is_free(key) and section_there and isinstance(section, Mapping):
        has = sorted(f"{parent}.{name}" for name in section if name != "_target_")
        mine = [name for name in suggest.keys(key, known) if name in has]
        raise ConfigError(
            f"{line}: there is no {key} here; {parent} has {', '.join(has) or 'no keys'}. "
            + (f"Did you mean {mine[0]}={value}? " if mine else "")
            + f"If its code takes it, type +{line.lstrip('+')}."
        )
    near_group = _near_group(key, value, folders) if not {".", "/"} & set(key) else None
    hint = f"Did you mean {near_group}={value}?" if near_group else suggest.sentence(key, known, value)
    raise ConfigError(f"{line}: there is no key {key!r}. {hint}")


def _near_group(name: str, option: str, folders: Sequence[Path]) -> str | None:
    """The group that was probably meant, of those that have the option if there are any: `modle=mlp` is no mode."""
    having = [group for group in groups(folders) if option in options(group, folders)]
    return closest(name, having) or closest(name, groups(folders))


def no_package_line(file: str, group: str) -> str:
    """What is said of a file that means the whole configuration and does not say so."""
    return (
        f"{file}: the line {_PACKAGE_LINE!r} is missing: without it all that the file says is put below {group}. Write it "
        "as the first line."
    )


def _broken_yaml(error: Exception, cwd: Path) -> ConfigError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    if mark is None:
        return ConfigError(f"a config file is not YAML: {problem}.")
    file = shown(Path(mark.name), cwd)
    return ConfigError(f"{file}:{mark.line + 1}: not YAML: {problem} in column {mark.column + 1}. Mend that line.")


def _explained(error: Exception, folders: Sequence[Path], cwd: Path, typed: Mapping[str, str]) -> ConfigError:
    """What Hydra or OmegaConf says, with the file it is about and what is there instead."""
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else None
    said = str(error).strip() or str(cause or type(error).__name__)
    missing = getattr(error, "missing_cfg_file", None)
    if missing:
        group, _, name = missing.rpartition("/")
        names = options(group, folders)
        listed = f" {group} is one of {', '.join(names)}.{did_you_mean(name, names)}" if names else ""
        return ConfigError(f"{_asks_for(group, name, folders, cwd)} {missing}, which no config folder has.{listed}")
    about = getattr(error, "full_key", None) or getattr(cause, "full_key", None)
    first = said.splitlines()[0].rstrip(".")
    inside = re.match(r"In '([^']*)': (.*)", first)
    file = _file_of(inside[1], folders, cwd) if inside else ""
    several = re.match(r"Multiple values for (\w+)\. To override a value use 'override (\S+): ([^']*)'", said)
    if several:
        group, name = several[1], several[3]
        asks = _asks_for(group, name, folders, cwd, overriding="")
        line = f"- override /{group}: {name}"
        return ConfigError(f"{asks} {group}: {name}, and {group} is chosen already. Write `{line}` in it instead.")
    elsewhere = re.search(r"Could not override '(\w+)@(\w+)\.\w+'", first)
    if inside and elsewhere and elsewhere[1] in groups(folders):
        return ConfigError(no_package_line(file, elsewhere[2]))
    unused = re.search(r"Could not override '([^'@]*)'", first)
    if unused and unused[1] in groups(folders):
        group, root = unused[1], _file_of("config", folders, cwd)
        if inside:
            fix = f"Write `- {group}: null` among its defaults."
            return ConfigError(f"{file}: it overrides {group}, which {root} lacks. {fix}")
        return ConfigError(f"{group}=: {root} has no {group} among its defaults. Type +{group}= to add it.")
    if inside:
        near = _near_group(unused[1], _overridden(inside[1], unused[1], folders), folders) if unused else None
        return ConfigError(f"{file}: {inside[2]}." + (f" Did you mean {near!r}?" if near else ""))
    if about:
        fix = f"Type {about}=VALUE." if "." not in about or about in schema.KEYS else "Mend it in its file."
        return ConfigError(f"{typed.get(about, about)}: {first}. {fix}")
    return ConfigError(f"the configs do not compose: {first}.")


def _asks_for(group: str, name: str, folders: Sequence[Path], cwd: Path, overriding: str = r"(override\s+)?") -> str:
    """The file whose defaults list names an option; of one that does not exist Hydra names the file it overrides."""
    line = re.compile(rf"^\s*-\s+{overriding}/?({re.escape(group)}(@\S+)?:\s*)?{re.escape(name)}\b", re.M)
    inner = [file for folder in folders for file in sorted(folder.rglob("*.yaml"))]
    roots = [folder / "config.yaml" for folder in folders]  # last: what they ask for, another file may ask for again
    for file in sorted(inner, key=lambda file: file in roots):
        if line.search(file.read_text(encoding="utf-8", errors="replace")):
            return f"{shown(file, cwd)}: its defaults list asks for"
    return "a defaults list asks for"


def _overridden(config_path: str, group: str, folders: Sequence[Path]) -> str:
    """The option that a file wants for a group; empty if that does not show."""
    for file in (folder / f"{config_path}.yaml" for folder in folders):
        if file.is_file():
            line = re.search(rf"^\s*-\s+override\s+/?{re.escape(group)}:\s*(\S+)", file.read_text("utf-8"), re.M)
            return line[1] if line else ""
    return ""


def _file_of(config_path: str, folders: Sequence[Path], cwd: Path) -> str:
    for folder in folders:
        file = folder / f"{config_path}.yaml"
        if file.is_file():
            return shown(file, cwd)
    return f"{config_path}.yaml"


def _undecodable(folders: Sequence[Path], cwd: Path) -> str:
    for file in (file for folder in folders for file in sorted(folder.rglob("*.yaml"))):
        try:
            file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            return shown(file, cwd)
    return "a config file"
