"""One run's configuration out of its files and overrides.

Hydra composes the files of the chosen options over the defaults of `Settings`. The values of the command line are put
in afterwards, so that a wrong key is answered by `load.py` and not with Hydra's advice, and what was there before is known.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import datetime
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from modetrain.config import suggest
from modetrain.config.files import ConfigFile, explain, find, read, used
from modetrain.config.overrides import MAY_BE_LEFT_OUT, for_hydra, groups, line
from modetrain.errors import ConfigError
from modetrain.files import quoting
from modetrain.files.paths import find_options, visible
from modetrain.keys import KEYS, MISSING, defaults, leaves
from modetrain.schema import text

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

PRIMARY = "modetrain"  # the config that joins the defaults of `Settings` and the root file


@dataclasses.dataclass(frozen=True, kw_only=True)
class Composition:
    """A configuration as plain containers.

    Attributes:
      config: the resolved configuration.
      base: the same before the values of the command line; interpolations are unresolved.
      choices: the chosen option of each group.
      typed: per dotted key the override that set it; choices of a group's option are not among them.
      files: those it was composed from, where a later one wins.
    """

    config: dict[str, Any]
    base: dict[str, Any]
    choices: Mapping[str, str | None]
    typed: Mapping[str, str]
    files: Sequence[ConfigFile]

    def given(self, key: str, value: Any) -> str:
        """How a key's value was given: the override as typed, or the key, value and file."""
        override = self.override_of(key)
        if override is not None:
            return override
        file = self.file_of(key)
        return f"{key}={text(value)}" + (f" (from {file.name})" if file else "")

    def override_of(self, key: str) -> str | None:
        """The override that set a key, or a section it lies in, as typed; None where a file or a default set it."""
        return next((self.typed[k] for k in _upwards(key) if k in self.typed), None)

    def file_of(self, key: str) -> ConfigFile | None:
        """The file that set a key, or a section it lies in."""
        return next((file for file in reversed(self.files) if {*_upwards(key)} & {*file.keys()}), None)


def _upwards(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[:n]) for n in range(len(parts), 0, -1)]


def compose(
    overrides: Sequence[Override],
    folders: Sequence[Path],
    cwd: Path,
    root: str = "config",
    now: datetime.datetime | None = None,
) -> Composition:
    """Composes the root config with the chosen options and the overrides.

    Args:
      overrides: what `overrides.parse` returned.
      folders: where configs are looked up; the first that has a file wins.
      cwd: paths in messages are relative to it.
      root: name of the root config.
      now: the time of `${now:...}`; by default when it is resolved.

    Raises:
      ConfigError: a file cannot be read, an option or key does not exist, or no recipe was chosen.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    known = groups(folders)
    chosen = [one for one in overrides if one.key_or_group in known and not isinstance(one.value(), dict)]
    values = [one for one in overrides if one not in chosen and not one.is_hydra_override()]
    typed = {one.key_or_group: line(one) for one in values}
    below = [
        file for folder in folders for pattern in ("*", "*/*", "*/*/*") for file in visible(folder, f"{pattern}.yaml")
    ]
    stamps = [(file, file.stat().st_mtime_ns) for file in sorted(below)]
    config, choices, sources = _composed(tuple(map(for_hydra, chosen)), tuple(folders), cwd, root, tuple(stamps))
    config = copy.deepcopy(config)
    base: Any = OmegaConf.to_container(config, resolve=False)
    _check_sections(values, base)
    try:
        for override in values:
            key = override.key_or_group
            if override.is_delete():
                parent, _, leaf = key.rpartition(".")
                del (OmegaConf.select(config, parent) if parent else config)[leaf]
            else:
                OmegaConf.update(config, key, override.value(), merge=True, force_add=True)
        with _at(now):
            resolved: Any = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        key, said = str(error.full_key or ""), str(error).splitlines()[0].rstrip(".")
        fix = f"Type {key}=VALUE." if "." not in key or key in KEYS else "Fix it in its file."
        raise ConfigError(f"{typed.get(key, key)}: {said}. {fix}") from None
    first = {name: resolved[name] for name in ("recipe", "model") if name in resolved}
    return Composition(config={**first, **resolved}, base=base, choices=choices, typed=typed, files=sources)


@functools.lru_cache(maxsize=8)  # the jobs of a sweep mostly differ in values
def _composed(
    chosen: tuple[str, ...], folders: tuple[Path, ...], cwd: Path, root: str, stamps: Any
) -> tuple[Any, Mapping[str, str | None], Sequence[ConfigFile]]:
    """The configuration before the values of the command line, the chosen options and the files, the root first."""
    import yaml
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    typed = {one.partition("=")[0].lstrip("+~"): one.partition("=")[2].strip("'") or None for one in chosen}
    first = next(used(root, {}, folders, cwd), None)
    wanted = {group: option for _, group, option in first.defaults()} if first is not None else {}
    if (typed.get("recipe") or wanted.get("recipe")) in (None, MISSING):
        raise _no_recipe(folders)
    register(folders, root)
    try:
        with _alone(), initialize_config_dir(str(folders[0]), version_base="1.3"):
            config = compose(PRIMARY, list(chosen), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, OSError, AssertionError) as error:
        raise explain(error, root, typed, folders, cwd) from None
    OmegaConf.set_struct(config, False)
    found = {str(group): option for group, option in config.hydra.runtime.choices.items() if "/" not in str(group)}
    choices = {group: None if option == "null" else option for group, option in found.items()}
    if choices.get("recipe") is None:
        raise _no_recipe(folders)
    del config["hydra"]
    # A callback that is on has all of its keys, whatever its file leaves out.
    callbacks = config.get("callbacks") or {}
    for name, given in defaults("callbacks.").items():
        if isinstance(callbacks, Mapping) and isinstance(callbacks.get(name), Mapping):
            config.callbacks[name] = OmegaConf.merge(given, config.callbacks[name])
    in_order = [first, *(find(g, str(o), folders) for g, o in reversed(choices.items()) if o is not None)]
    sources = [read(one, one.parent.name, cwd) if isinstance(one, Path) else one for one in in_order if one]
    return config, choices, sources


@contextlib.contextmanager
def _at(now: datetime.datetime | None) -> Iterator[None]:
    """Within this `${now:...}` is one time, where one is given."""
    from hydra.core.utils import setup_globals
    from omegaconf import OmegaConf

    if now is not None:
        OmegaConf.register_new_resolver("now", now.strftime, replace=True)
    try:
        yield
    finally:
        setup_globals()  # Hydra's own resolvers


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Within this Hydra may be initialised, also where a program of the user's own has done that for itself."""
    from hydra.core.global_hydra import GlobalHydra

    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().clear()
        if before is not None:
            GlobalHydra.instance().initialize(before)


def register(folders: Sequence[Path], root: str = "config") -> None:
    """Tells Hydra where configs are looked up, and what stands below all files: the defaults of `Settings`."""
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    store, below = ConfigStore.instance(), defaults()
    store.store(group="callbacks", name="standard", node=below.pop("callbacks"))
    store.store(name=PRIMARY, node={"defaults": ["_self_", root], **below, "callbacks": {}})
    for group in MAY_BE_LEFT_OUT:  # an option of nothing, for `-m debug=null,fast`
        store.store(group=group, name="null", node={})
    plugin = _search_path()
    plugin.folders = tuple(folders)
    Plugins.instance().register(plugin)


@functools.lru_cache
def _search_path() -> Any:
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    class Folders(SearchPathPlugin):
        """Has Hydra look in all folders but the first, which is its main one; in this process alone."""

        folders: ClassVar[tuple[Path, ...]] = ()

        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            for folder in self.folders[1:]:
                search_path.append("modetrain", f"file://{folder}")

    return Folders


def _no_recipe(folders: Sequence[Path]) -> ConfigError:
    names = ", ".join(f"recipe={name}" for name in find_options("recipe", folders))
    return ConfigError(f"recipe= is missing: there is nothing to train. Type one of {names}.")


def _lookup(config: Any, key: str) -> tuple[bool, Any]:
    for part in key.split("."):
        if isinstance(config, Mapping) and part in config:
            config = config[part]
        elif isinstance(config, list) and part.isdigit() and int(part) < len(config):
            config = config[int(part)]
        else:
            return False, None
    return True, config


def _check_sections(overrides: Sequence[Override], base: Mapping[str, Any]) -> None:
    """Refuses what would replace a section by a single value, which later checks could not see."""
    known = [name for name, _ in leaves(base)]
    for override in overrides:
        key, typed, value = override.key_or_group, line(override), override.value()
        there, section = _lookup(base, key)
        parent, _, leaf = key.rpartition(".")
        if override.is_delete():
            if key in KEYS:
                raise ConfigError(
                    f"{typed}: {key} cannot be left out. Type for example {key}={text(KEYS[key].example)}."
                )
            if not there:
                raise ConfigError(f"{typed}: there is no key {key!r}. {suggest.sentence(key, known)}")
        elif isinstance(section, Mapping) and value is not None and not isinstance(value, Mapping):
            keys = ", ".join(f"{key}.{name}" for name in section)
            raise ConfigError(f"{typed}: {key} is a section with keys of its own. Type one of them: {keys}.")
        elif key in KEYS and not there and _lookup(base, parent) == (True, None):
            given = typed.partition("=")[2]
            fix = quoting.in_sentence(f"+{parent}={{{leaf}:{given}}}")
            raise ConfigError(f"{typed}: {parent} is switched off (null). Type {fix}.")
