"""From what is typed to the `Settings` of a run: composed, checked, and only then handed on.

    settings = load(["recipe=mnist", "mode=xla", "steps=50"], Path.cwd())

Everything is checked before TensorFlow is imported, in this order: the words typed (`overrides.py`), the files
(`compose.py`), every value by itself, the values together (`rules/`). The first of these that finds fault reports all
that it found. What the user's own code takes is checked once that is imported (`targets.py`).
"""

from __future__ import annotations

import dataclasses
import datetime
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from modetrain.config import arguments as command_line
from modetrain.config import overrides, suggest, targets
from modetrain.config.compose import Composition, compose
from modetrain.config.files import near_group, no_package_line
from modetrain.config.rules import check as rules
from modetrain.errors import ConfigError
from modetrain.files import paths, quoting, run_folder
from modetrain.keys import FREE, KEYS, MISSING, SECTIONS, is_free, leaves
from modetrain.schema import seconds, text
from modetrain.settings import AUTO_SPLIT, CALLBACKS, Settings


def load(
    arguments: Sequence[str],
    cwd: Path,
    config_dirs: Sequence[str] = (),
    *,
    command: str | None = None,
) -> Settings:
    """Composes and checks the settings of one run, and makes `recipes` importable for it.

    Args:
      arguments: overrides, `key=value`.
      cwd: the folder the run starts in: its `conf/` and `recipes/` are the user's own, and paths are relative to it.
      config_dirs: more folders with configs (`--config-dir`).
      command: the command line that the run keeps; by default the one of these arguments.

    Raises:
      ConfigError: the configuration cannot run; the message has a line for each reason.
    """
    now = datetime.datetime.now()  # one time for all that is composed here
    composition = composed(arguments, cwd, config_dirs, now)
    _raise(_problems(composition, paths.conf_dirs(cwd, config_dirs)))
    paths.install_recipes(cwd)
    _raise(_code_problems(composition))
    command = command if command is not None else command_line.written(arguments, config_dirs)
    notes = _notes(composition, arguments, cwd, config_dirs, now)
    settings = _settings(composition, command, notes, cwd)
    _raise(rules.problems(settings, composition))
    return settings


def composed(
    arguments: Sequence[str], cwd: Path, config_dirs: Sequence[str] = (), now: datetime.datetime | None = None
) -> Composition:
    """The configuration with where its values come from, unchecked; arguments as in `load` and `compose`."""
    folders = paths.conf_dirs(cwd, [*config_dirs, *overrides.search_path(arguments)])
    root = next((word.partition("=")[2] for word in arguments if word.startswith(f"{command_line.ROOT}=")), "config")
    return compose(overrides.parse(arguments, folders), folders, cwd, root, now)


def to_yaml(settings: Settings) -> str:
    """The resolved configuration as YAML, as `--cfg job` prints it and a run folder keeps it."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(_escaped(settings.resolved)))


def _escaped(value: Any) -> Any:
    """A resolved value as it has to be written to be resolved to itself."""
    if isinstance(value, Mapping):
        return {key: _escaped(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(one) for one in value]
    return quoting.escape(value) if isinstance(value, str) else value


def _raise(problems: Iterable[str]) -> None:
    found = list(dict.fromkeys(problems))
    if found:
        raise ConfigError("\n".join(found))


# --- every value by itself -------------------------------------------------------------------------------------------


def _problems(composition: Composition, folders: Sequence[Path]) -> Iterator[str]:
    """Yields what is wrong with single keys, in words: unknown, missing, of a wrong type or out of bounds."""
    config = composition.config
    broken = []
    for section in SECTIONS:
        value = config.get(section)
        off = value is None and (section in (*FREE, "callbacks", "debug"))
        if section not in KEYS and not off and not isinstance(value, Mapping):
            broken.append(section)
            given = composition.given(section, value)
            yield f"{given}: {section} is a section with keys of its own. Type {section}=OPTION, one that --help lists."
    found = {key: value for key, value in leaves(config) if key.split(".")[0] not in broken and value != {}}
    yield from _unknown(found, composition, folders)
    for key, entry in KEYS.items():
        section = key.rpartition(".")[0]
        if section.split(".")[0] in broken or (section.startswith("callbacks.") and not _is_on(section, config)):
            continue
        value = found.get(key, MISSING)
        if value == MISSING and key == "data.name" and "_target_" in config["data"]:
            continue  # a function needs none
        if value == MISSING:
            is_set = composition.override_of(key) or composition.file_of(key)
            given = f"{composition.given(key, MISSING)}: {key} has to be given" if is_set else f"{key} is missing"
            yield f"{given} ({entry.key.help}). Type for example {key}={text(entry.example)}."
        elif not entry.accepts(value):
            yield f"{composition.given(key, value)}: {entry.wrong(key, value)}"


def _is_on(section: str, config: Mapping[str, Any]) -> bool:
    callback = (config.get("callbacks") or {}).get(section.split(".")[1])
    return isinstance(callback, Mapping)


def _unknown(found: Mapping[str, Any], composition: Composition, folders: Sequence[Path]) -> Iterator[str]:
    """Keys that nothing takes; in a section of the user's own those that were typed and stand in no file."""
    known, config_of_data = dict(leaves(composition.base)), composition.config.get("data")
    for key, value in found.items():
        parent = key.rpartition(".")[0]
        callback = key.split(".")[1] if key.startswith("callbacks.") else ""
        node = (composition.config.get("callbacks") or {}).get(callback)
        node = config_of_data if key.startswith("data.") else node
        named = callback or key.startswith("data.")  # it takes keys of the user's own only where it names code
        own = is_free(key) and (not named or (isinstance(node, Mapping) and "_target_" in node))
        given, typed = composition.given(key, value), composition.override_of(key)
        if key in KEYS or (key in known and own) or (value is None and key == f"callbacks.{callback}"):
            continue
        beside = [name for name in known if own and name.startswith(f"{parent}.")]
        parts = key.split(".")
        inside = any(".".join(parts[:end]) in known for end in range(2, len(parts)))  # of what a file has as null
        if own and (typed is None or typed.startswith("+") or inside):
            continue  # its code says whether it takes that
        if beside:
            has = sorted(name for name in beside if not name.endswith("._target_"))
            mine = [name for name in suggest.keys(key, known) if name in has]
            other = (
                f"{suggest.sentence(key, value=suggest.as_typed(key, value))} " if suggest.by_other_name(key) else ""
            )
            near = f"Did you mean {quoting.proposal(mine[0], value)}? " if mine else other
            fix = f"{near}If its code takes it, type {quoting.in_sentence(f'+{typed}')}."
            yield f"{given}: there is no {key} here; {parent} has {', '.join(has) or 'no keys'}. {fix}"
            continue
        if own:
            yield f"{given}: there is no {key} yet. Type {quoting.in_sentence(f'+{typed}')} to add it."
            continue
        is_word = not {".", "/"} & {*key} and not suggest.by_other_name(key)
        group = near_group(key, str(value), folders) if is_word else None
        hint = (
            f"Did you mean {group}={value}?"
            if group
            else suggest.sentence(key, value=suggest.as_typed(key, value) if typed else None)
        )
        needs = callback and callback not in CALLBACKS and not suggest.by_other_name(key)
        own_one = f" A callback of your own needs +callbacks.{callback}._target_=MODULE.CLASS." if needs else ""
        yield f"{given}: there is no key {key!r}. {hint}{own_one}"


def _code_problems(composition: Composition) -> Iterator[str]:
    """What is wrong with the sections that name code, as far as it shows without importing that."""
    recipe = composition.config.get("recipe") or {}
    if "_target_" not in recipe:
        file = composition.file_of("recipe.recipe") or composition.file_of("recipe.defaults")
        inner = recipe.get("recipe")
        if isinstance(inner, Mapping):
            file = next((file for file in composition.files if file.group == "recipe"), file)
            yield no_package_line(file.name if file else "the recipe's file", "recipe")
            return
        yield (
            f"recipe={composition.choices['recipe']}: its file names no class. Write recipe: with a line "
            "_target_: recipes.<file>.<Class> below it, or type +recipe._target_=recipes.<file>.<Class>."
        )
    for section, node in targets.own(composition.config).items():
        for key, value in leaves(node if isinstance(node, Mapping) else {}, f"{section}."):
            if value == MISSING:
                yield f"{composition.given(key, MISSING)}: {key} has to be given. Type {key}=VALUE."
        for key, call in targets.calls(section, node):
            problem = targets.refusal(call["_target_"])
            if problem is not None:
                yield f"{composition.given(f'{key}._target_', call['_target_'])}: {problem}"
            elif key == "data" and call["_target_"].startswith("modetrain."):  # the library's own imports no TensorFlow
                yield from targets.check(key, node, composition.base.get(key), composition.given, ())


# --- Settings --------------------------------------------------------------------------------------------------------


def _settings(composition: Composition, command: str, notes: tuple[str, ...], cwd: Path) -> Settings:
    config, choices = composition.config, composition.choices
    values = {key: _converted(KEYS[key], value, cwd) for key, value in leaves(config) if key in KEYS}
    given: dict[str, Any] = {}
    for name, cls in typing.get_type_hints(Settings).items():
        within = {key.removeprefix(f"{name}."): value for key, value in values.items() if key.startswith(f"{name}.")}
        if name in values:
            given[name] = values[name]
        elif within and name not in ("callbacks", "do"):
            given[name] = cls(**{"path" if key == "from" else key: value for key, value in within.items()})
    if (function := targets.own(config).get("data")) is not None:
        name = str(function["_target_"]).rpartition(".")[2] if given["data"].name == MISSING else given["data"].name
        typed = composition.override_of("data.eval_split") or composition.file_of("data.eval_split")
        eval_split = given["data"].eval_split if typed else AUTO_SPLIT
        given["data"] = dataclasses.replace(given["data"], function=function, name=name, eval_split=eval_split)
    if given["run_dir"] is not None:
        given["run_dir"] = Path(given["run_dir"])
        if run_folder.failed_at_once(given["run_dir"]):
            shown = config["run_dir"]
            notes = (*notes, f"run_dir={shown}: the run in it failed before its first step, and is written over")
    if given["resume"] is not None and config["resume"] == "latest":
        given["resume"] = "latest"
        if given["run_dir"] is None:
            where = (str(choices["recipe"]), given["mode"].name)
            given["run_dir"] = run_folder.find_latest(cwd / run_folder.RUNS, *where)
    callbacks = config.get("callbacks") or {}
    return Settings(
        **given,
        do=values["do.name"],
        recipe_name=str(choices["recipe"]),
        model_name=str(choices.get("model") or ""),
        debug_name=choices.get("debug"),
        recipe=config["recipe"],
        model=config.get("model") or {},
        callbacks={name: callback for name, callback in callbacks.items() if callback is not None},
        command=command,
        notes=notes,
        resolved=config,
    )


def _converted(entry: Any, value: Any, cwd: Path) -> Any:
    """A value as `Settings` holds it: seconds, absolute paths, tuples."""
    if entry.key.duration and value is not None:
        return seconds(value) or 0.0
    if entry.key.path and value is not None:
        return str(paths.expand(value, cwd))
    return tuple(value) if isinstance(value, list) else value


def _notes(
    composition: Composition, arguments: Sequence[str], cwd: Path, config_dirs: Sequence[str], now: datetime.datetime
) -> tuple[str, ...]:
    """What a debug preset changed, seen by composing without it, so that no note claims what did not happen."""
    preset = composition.choices.get("debug")
    if preset is None:
        return ()
    without = [argument for argument in arguments if quoting.key_of(argument) != "debug"]
    plain = composed([*without, "debug=null"], cwd, config_dirs, now)
    before, after = dict(leaves(plain.config)), dict(leaves(composition.config))
    changed, kept = [], []
    for key in [*(key for key in KEYS if key in after), *(key for key in after if key not in KEYS)]:
        value = text(after[key])
        file = composition.file_of(key)
        if key not in before or before[key] != after[key]:
            was = f", not {text(before[key])}" if key in before else ""
            about = f" ({KEYS[key].key.help})" if key in KEYS else ""
            changed.append(f"  {key}={value}{was}{about}")
        elif composition.override_of(key) and file is not None and file.group == "debug":
            kept.append(f"  {key}={value} stays, as typed")
    title = f"debug={preset} changes" if changed else f"debug={preset} changes nothing here"
    return (f"{title}:" if changed or kept else title, *changed, *kept)
