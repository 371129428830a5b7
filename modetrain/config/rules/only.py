"""Keys that only count under some value of another key: elsewhere they would be silently ignored."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from modetrain.config.compose import Composition
from modetrain.config.key import text
from modetrain.settings import CompareSettings, DataSettings, OptimizerSettings, Settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Only:
    """One key has an effect only where another has one of some values."""

    key: str
    other: str
    values: Sequence[str]
    override: str  # the key of the override that changes `other`


def _optimizer(key: str, *names: str) -> Only:
    return Only(key=f"optimizer.{key}", other="optimizer.name", values=names, override="optimizer")


_COMPARE = tuple(field.name for field in dataclasses.fields(CompareSettings))
COUNTS_ONLY_WITH = (
    _optimizer("momentum", "sgd"),
    _optimizer("nesterov", "sgd"),
    _optimizer("beta_1", "adam", "adamw"),
    _optimizer("beta_2", "adam", "adamw"),
    _optimizer("epsilon", "adam", "adamw"),
    Only(
        key="optimizer.final_fraction",
        other="optimizer.schedule",
        values=("cosine", "linear"),
        override="optimizer.schedule",
    ),
    *(Only(key=f"compare.{key}", other="do", values=("compare",), override="do") for key in _COMPARE),
    Only(key="data.dir", other="data.source", values=("auto", "tfds"), override="data.source"),
)
_NEUTRAL = {
    f"{section}.{field.name}": field.default
    for section, cls in (("compare", CompareSettings), ("data", DataSettings), ("optimizer", OptimizerSettings))
    for field in dataclasses.fields(cls)
}


def ignored(settings: Settings, composition: Composition) -> Iterator[str]:
    """What was given, in a file or on the command line, and does not count."""
    for only in COUNTS_ONLY_WITH:
        value, other = _get(settings, only.key), _get(settings, only.other)
        if value != _NEUTRAL[only.key] and other not in only.values:
            uses = " and ".join(only.values) + (" use it" if len(only.values) > 1 else " uses it")
            yield (
                f"{composition.given(only.key, value)} with {only.override}={other}: only {uses}, so it would be "
                f"ignored. Type {only.override}={only.values[0]}, or {only.key}={text(_NEUTRAL[only.key])}."
            )


def waiting(settings: Settings, composition: Composition) -> Iterator[str]:
    """What is a mistake only where it is typed alone; in a file it is a default that waits for another key."""
    length, at = "callbacks.profile.steps", "callbacks.profile.at"
    typed = composition.typed.get(length)
    if typed is not None and _get(settings, at) is None:
        yield f"{typed}: without {at} no trace is taken, so it would be ignored. Type {at}=50 too."


def _get(settings: Settings, key: str) -> Any:
    value: Any = settings
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else getattr(value, part, None)
    return value
