"""The sections of the configuration: whose their keys are, what they default to, and in which order they come."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from modetrain.config.schema import KEYS
from modetrain.mode import Mode
from modetrain.settings import (
    CompareSettings,
    DataSettings,
    InitFromSettings,
    InspectSettings,
    NonfiniteSettings,
    OptimizerSettings,
    WatchdogSettings,
)

# Defaults for what a user's own short file of a group leaves out: those of the dataclass it becomes.
DATACLASSES: Mapping[str, type] = {
    "nonfinite": NonfiniteSettings,
    "init_from": InitFromSettings,
    "watchdog": WatchdogSettings,
    "compare": CompareSettings,
    "data": DataSettings,
    "optimizer": OptimizerSettings,
    "mode": Mode,
    "inspect": InspectSettings,
}
FREE = ("recipe", "model")  # sections whose keys are the arguments of their `_target_`
SECTIONS = tuple(dict.fromkeys([*(key.split(".")[0] for key in KEYS), *FREE, "debug"]))
CALLBACKS = tuple(dict.fromkeys(key.split(".")[1] for key in KEYS if key.startswith("callbacks.")))


def defaults() -> dict[str, Any]:
    """What a config that leaves keys out gets, nested as the configuration is."""
    found: dict[str, Any] = {
        "run_dir": None,
        "resume": None,
        "stop_after": None,
        "check_numerics": False,
        "callbacks": {},
        "replay": {"from": None, "step": None, "replica": None, "check": False},
    }
    for section, cls in DATACLASSES.items():
        fields = dataclasses.fields(cls)
        given = {f.name: f.default for f in fields if f.default is not dataclasses.MISSING}
        found[section] = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
    return found


def in_order(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The same with its keys in the order of the table; keys that it does not have come last."""
    order = {part: n for n, part in enumerate(_parts(prefix))}
    names = sorted(config, key=lambda name: order.get(name, len(order)))
    return {
        name: in_order(config[name], f"{prefix}{name}.") if isinstance(config[name], Mapping) else config[name]
        for name in names
    }


def _parts(prefix: str) -> list[str]:
    rest = (key.removeprefix(prefix) for key in KEYS if key.startswith(prefix))
    return list(dict.fromkeys(["recipe", "model"] * (not prefix) + [key.partition(".")[0] for key in rest]))


def leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every (dotted key, value) of a nested mapping; empty mappings count as values."""
    for name, value in config.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{key}.")
        else:
            yield key, value


def is_free(key: str) -> bool:
    """Whether a key belongs to a section whose keys the user decides: recipe, model, a callback of their own."""
    section, _, rest = key.partition(".")
    return section in FREE or (section == "callbacks" and rest.split(".")[0] not in CALLBACKS)
