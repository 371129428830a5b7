"""From what is typed to the `Settings` of a run: composed, checked, and only then handed on.

    settings = config.load(["recipe=mnist", "mode=xla", "steps=50"], Path.cwd())

Everything is checked before TensorFlow is imported, in this order: the words typed (`overrides.py`), the files
(`compose.py`), every value by itself (`values.py`), the code that is named (`targets.py`), the values together
(`rules/`). The first of these that finds fault reports all that it found.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from modetrain.config import arguments as command_line
from modetrain.config import members, overrides, schema, sections, targets, values
from modetrain.config.compose import Composition, compose, no_package_line
from modetrain.config.key import seconds, text
from modetrain.config.rules import check as rules
from modetrain.config.signatures import SourceText
from modetrain.config.targets import instantiate
from modetrain.errors import ConfigError
from modetrain.files import paths, quoting, run_folder
from modetrain.mode import Mode
from modetrain.settings import (
    CompareSettings,
    DataSettings,
    InitFromSettings,
    InspectSettings,
    NonfiniteSettings,
    OptimizerSettings,
    ReplaySettings,
    Settings,
    WatchdogSettings,
)
from modetrain.tools.replay import source

__all__ = ["instantiate", "load"]


def load(arguments: Sequence[str], cwd: Path, config_dirs: Sequence[str] = ()) -> Settings:
    """Composes and checks the settings of one run, and makes `recipes` importable for it.

    Args:
      arguments: overrides, `key=value`.
      cwd: the folder the run starts in: its `conf/` and `recipes/` are the user's own, and paths are relative to it.
      config_dirs: more folders with configs (`--config-dir`).

    Raises:
      ConfigError: the configuration cannot run; the message has a line for each reason.
    """
    typed = arguments
    if source.DO in arguments:
        arguments, dirs, _ = source.words(arguments, cwd)
        config_dirs = [*dirs, *config_dirs]
    folders = paths.conf_dirs(cwd, config_dirs)
    parsed = overrides.parse(arguments, folders)
    composition = compose(parsed, folders, cwd)
    _raise(values.problems(composition))
    paths.install_recipes(cwd)
    _raise(_own_problems(composition, SourceText(cwd), folders))
    notes = _notes(composition, arguments, folders, cwd)
    run_dir = composition.config["run_dir"]
    if run_dir is not None and run_folder.failed_at_once(_absolute(run_dir, cwd)):
        notes = (*notes, f"run_dir={run_dir}: the run in it failed before its first step, and is written over")
    settings = _settings(composition, command_line.written(typed, config_dirs), notes, cwd)
    _raise(rules.problems(settings, composition))
    if settings.do == "replay":
        source.choose_step(source.find_source(Path(str(settings.replay.path))), settings)
    return settings


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
    return quoting.escaped(value) if isinstance(value, str) else value


def _raise(problems: Iterable[str]) -> None:
    found = list(dict.fromkeys(problems))
    if found:
        raise ConfigError("\n".join(found))


def _own_problems(composition: Composition, code: SourceText, folders: Sequence[Path]) -> Iterator[str]:
    """What is wrong in the sections that belong to the user, and with the code that they name."""
    config = composition.config
    recipe = config.get("recipe") or {}
    if "_target_" not in recipe and isinstance(recipe.get("recipe"), Mapping):
        key = next((key for key in composition.origin if key.startswith("recipe.recipe.")), "")
        yield no_package_line(composition.origin.get(key, "the recipe's file"), "recipe")
        return
    if "_target_" not in recipe:
        yield (
            f"recipe={composition.choices['recipe']}: its file names no class. Write recipe: with a line "
            "_target_: recipes.<file>.<Class> below it, or type +recipe._target_=recipes.<file>.<Class>."
        )
    own = {section: config.get(section) for section in sections.FREE}
    callbacks = config.get("callbacks") or {}
    own |= {f"callbacks.{name}": node for name, node in callbacks.items() if name not in sections.CALLBACKS}
    declared: set[str] = set()
    for section, node in own.items():
        yield from targets.check(section, node, code, given=composition.given)
        declared |= targets.declared(section, node, code)
    yield from _class_problems(composition, own, code)
    yield from values.free_problems(composition, declared)
    if own["recipe"]:
        choice = f"model={text(composition.choices.get('model'))}"
        yield from targets.check_model(own["recipe"], own["model"], choice, _models(folders), code)


def _models(folders: Sequence[Path]) -> dict[str, str]:
    """Per model that can be chosen the target its file names."""
    # Read as text: a file that was not chosen need not even be YAML.
    texts = {n: file.read_text("utf-8", errors="replace") for n, file in paths.options("model", folders).items()}
    found = {name: re.search(r"^_target_:\s*([\w.]+)", text, re.MULTILINE) for name, text in texts.items()}
    return {name: match[1] for name, match in found.items() if match}


def _settings(composition: Composition, command: str, notes: tuple[str, ...], cwd: Path) -> Settings:
    config, choices = composition.config, composition.choices
    data = dict(config["data"])
    data["image_size"] = tuple(data["image_size"]) if data["image_size"] is not None else None
    for key in ("dir", "path"):
        data[key] = str(_absolute(data[key], cwd)) if data[key] is not None else None
    devices = config["mode"]["devices"]
    mode = Mode(**{**config["mode"], "devices": tuple(devices) if isinstance(devices, list) else devices})
    recipe_name = str(choices["recipe"])
    run_dir = _absolute(config["run_dir"], cwd) if config["run_dir"] is not None else None
    resume = config["resume"]
    if resume == "latest" and run_dir is None:
        run_dir = run_folder.latest(cwd / run_folder.RUNS, recipe_name, mode.name)
    elif resume is not None and resume != "latest":
        resume = str(_absolute(resume, cwd))
    first = config["init_from"]
    init_from = InitFromSettings(
        path=str(_absolute(first["path"], cwd)) if first["path"] is not None else None,
        include=tuple(first["include"]) if first["include"] is not None else None,
        exclude=tuple(first["exclude"]) if first["exclude"] is not None else None,
    )
    callbacks = {name: callback for name, callback in (config.get("callbacks") or {}).items() if callback is not None}
    replay = config["replay"]
    compare = {**config["compare"], "modes": tuple(config["compare"]["modes"])}
    return Settings(
        recipe_name=recipe_name,
        model_name=str(choices.get("model") or ""),
        debug_name=choices.get("debug"),
        recipe=config["recipe"],
        model=config.get("model") or {},
        data=DataSettings(**data),
        optimizer=OptimizerSettings(**config["optimizer"]),
        mode=mode,
        callbacks=callbacks,
        do=config["do"]["name"],
        steps=config["steps"],
        seed=config["seed"],
        run_dir=run_dir,
        resume=resume,
        command=command,
        check_numerics=config["check_numerics"],
        nonfinite=NonfiniteSettings(**config["nonfinite"]),
        init_from=init_from,
        watchdog=WatchdogSettings(**{key: seconds(value) or 0.0 for key, value in config["watchdog"].items()}),
        stop_after=seconds(config["stop_after"]),
        compare=CompareSettings(**compare),
        replay=ReplaySettings(
            path=str(_absolute(replay["from"], cwd)) if replay["from"] is not None else None,
            step=replay["step"],
            replica=replay["replica"],
            check=replay["check"],
        ),
        inspect=InspectSettings(**config["inspect"]),
        notes=notes,
        resolved=config,
    )


def _class_problems(composition: Composition, own: Mapping[str, Any], code: SourceText) -> Iterator[str]:
    """What is wrong with the classes that are named: the recipe's, those of callbacks, the metrics they return."""
    config, callbacks = composition.config, composition.config.get("callbacks") or {}
    targets_of = {
        section: node["_target_"]
        for section, node in own.items()
        if isinstance(node, Mapping) and isinstance(node.get("_target_"), str) and not node.get("_partial_")
    }
    evaluates = callbacks.get("evaluate") is not None
    needed = [
        *(["train_step"] if config["do"]["name"] != "evaluate" else []),
        *(["eval_step"] if evaluates or config["do"]["name"] == "evaluate" else []),
    ]
    for section, target in targets_of.items():
        given = composition.given(f"{section}._target_", target)
        if section == "recipe":
            yield from members.check_recipe(target, given, needed, code)
        elif section.startswith("callbacks."):
            yield from members.check_callback(target, given, code)
    key = "callbacks.checkpoint.best"
    metric = (callbacks.get("checkpoint") or {}).get("best")
    if metric not in (None, schema.AUTO) and evaluates and config["do"]["name"] == "train" and "recipe" in targets_of:
        yield from members.check_metric(targets_of["recipe"], metric, composition.given(key, metric), key, code)


def _absolute(path: str, cwd: Path) -> Path:
    return paths.expanded(path, cwd)


def _notes(composition: Composition, arguments: Sequence[str], folders: Sequence[Path], cwd: Path) -> tuple[str, ...]:
    """What a debug preset changed, seen by composing without it, so that no note claims what did not happen."""
    preset = composition.choices.get("debug")
    if preset is None:
        return ()
    without = [argument for argument in arguments if overrides.key_of(argument) != "debug"]
    plain = compose(overrides.parse([*without, "debug=null"], folders), folders, cwd)
    before, after = dict(sections.leaves(plain.config)), dict(sections.leaves(composition.config))
    changed, kept = [], []
    for key in [*(k for k in schema.KEYS if k in after), *(k for k in after if k not in schema.KEYS)]:
        value = text(after[key])
        if key not in before or before[key] != after[key]:
            was = f", not {text(before[key])}" if key in before else ""
            about = f" ({schema.KEYS[key].help})" if key in schema.KEYS else ""
            changed.append(f"  {key}={value}{was}{about}")
        elif composition.override_of(key) and composition.origin.get(key, "").endswith(f"debug/{preset}.yaml"):
            kept.append(f"  {key}={value} stays, as typed")
    title = f"debug={preset} changes" if changed else f"debug={preset} changes nothing here"
    return (f"{title}:" if changed or kept else title, *changed, *kept)
