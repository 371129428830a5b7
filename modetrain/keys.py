"""Every key of the configuration by its dotted name, read from the fields of `Settings`."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from modetrain.schema import REQUIRED, Value
from modetrain.settings import CALLBACKS, Settings

MISSING = "???"  # how a YAML file says that a value has to be given
FREE = ("recipe", "model")  # sections whose keys are the arguments of their `_target_`


def _keys(cls: type, prefix: str = "") -> Iterator[tuple[str, Value]]:
    types = typing.get_type_hints(cls)
    section = {"affects": getattr(cls, "AFFECTS", ("numbers",)), "only": getattr(cls, "ONLY", None)}
    for field in dataclasses.fields(cls):
        key = field.metadata.get("key")
        if key is not None:
            own = {name: value for name, value in section.items() if getattr(key, name) is None}
            kind = str | None if key.path else types[field.name]
            name = f"{prefix}{key.name or field.name}"
            yield name, Value(type=kind, key=dataclasses.replace(key, **own), default=field.default)
        elif dataclasses.is_dataclass(types[field.name]):
            yield from _keys(types[field.name], f"{prefix}{field.name}.")  # type: ignore[arg-type]
        elif field.name == "callbacks":
            for name, settings in CALLBACKS.items():
                yield from _keys(settings, f"callbacks.{name}.")


KEYS: Mapping[str, Value] = dict(_keys(Settings))
SECTIONS = tuple(dict.fromkeys([*(key.partition(".")[0] for key in KEYS), *FREE, "debug"]))


def defaults(prefix: str = "") -> dict[str, Any]:
    """What keys are where nothing is given, nested as the configuration is; `???` where something has to be."""
    found: dict[str, Any] = {}
    for key, value in KEYS.items():
        if key.startswith(prefix):
            *sections, name = key.removeprefix(prefix).split(".")
            node = found
            for section in sections:
                node = node.setdefault(section, {})
            default = MISSING if value.default is REQUIRED else value.default
            node[name] = list(default) if isinstance(default, tuple) else default
    return found


def affects(key: str) -> frozenset[str]:
    """What changes with a key or, of a section, with any of its keys (see `Key.affects`)."""
    if key in KEYS:
        return frozenset(KEYS[key].key.affects or ())
    section = key.partition(".")[0]
    if section == "callbacks":
        return frozenset({"run"})
    if section in ("debug", "notes"):
        return frozenset()
    within = [value.key.affects or () for name, value in KEYS.items() if name.startswith(f"{key}.")]
    return frozenset().union(*within) if within else frozenset({"numbers"})


def leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every (dotted key, value) of a nested mapping; empty mappings count as values."""
    for name, value in config.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value and key not in KEYS:
            yield from leaves(value, f"{key}.")
        else:
            yield key, value


def is_free(key: str) -> bool:
    """Whether a key belongs to what the user decides: recipe, model, a callback of their own, a data function's argument."""
    section, _, rest = key.partition(".")
    of_data = section == "data" and key not in KEYS and rest != ""
    return section in FREE or of_data or (section == "callbacks" and rest.split(".")[0] not in CALLBACKS)
