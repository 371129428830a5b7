"""Whether the values of a composed configuration can be what their keys take: one key at a time.

What only shows with several keys together is in `rules/`.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Any

from modetrain.config import sections, suggest
from modetrain.config.compose import Composition
from modetrain.config.key import text
from modetrain.config.schema import KEYS, MISSING

GROUPED = ("do", *sections.DATACLASSES)


def problems(composition: Composition) -> Iterator[str]:
    """Yields what is wrong with single keys, in words: unknown, missing, of a wrong type or out of bounds."""
    config = composition.config
    wrong_shape = set()
    for section in (*GROUPED, *sections.FREE, "callbacks"):
        value = config.get(section)
        if value is None and section in (*sections.FREE, "callbacks"):
            continue
        if not isinstance(value, Mapping):
            wrong_shape.add(section)
            given = composition.given(section, value)
            yield f"{given}: {section} is a section with keys of its own. Type {_option(section)}."
    found = {
        key: value for key, value in sections.leaves(config) if key.split(".")[0] not in wrong_shape and value != {}
    }
    yield from _unknown(found, composition)
    for key, entry in KEYS.items():
        section = key.rpartition(".")[0]
        if section.split(".")[0] in wrong_shape or (section.startswith("callbacks.") and not _on(section, config)):
            continue
        if key not in found:
            yield f"{key} is missing ({entry.help}). Type for example {key}={text(entry.example)}."
        elif found[key] == MISSING:
            given = composition.given(key, MISSING)
            yield f"{given}: {key} has to be given ({entry.help}). Type {key}={text(entry.example)}."
        elif not entry.accepts(found[key]):
            yield f"{composition.given(key, found[key])}: {entry.wrong(key, found[key])}"


def _option(section: str) -> str:
    return f"{section}=OPTION, one that --help lists"


def _on(section: str, config: Mapping[str, Any]) -> bool:
    """Whether a callback is switched on: there, and not null."""
    callback = (config.get("callbacks") or {}).get(section.split(".")[1])
    return isinstance(callback, Mapping)


def _unknown(found: Mapping[str, Any], composition: Composition) -> Iterator[str]:
    for key, value in found.items():
        parts = key.split(".")
        if key in KEYS or parts[0] in sections.FREE:
            continue
        if parts[0] == "callbacks" and len(parts) > 1:
            if value is None and len(parts) == 2:
                continue  # switched off
            own = (composition.config["callbacks"] or {}).get(parts[1])
            if parts[1] not in sections.CALLBACKS and isinstance(own, Mapping) and "_target_" in own:
                continue
        hint = suggest.sentence(key)
        if parts[0] == "callbacks" and len(parts) > 1 and parts[1] not in sections.CALLBACKS:
            hint += f" A callback of your own needs callbacks.{parts[1]}._target_."
        yield f"{composition.given(key, value)}: there is no key {key!r}. {hint}"


def free_problems(composition: Composition, declared: Container[str]) -> Iterator[str]:
    """Yields what is wrong in the user's own sections, where no table says what a key takes.

    Args:
      composition: the configuration.
      declared: keys whose code says what they take: that is checked elsewhere (`targets.py`).
    """
    config = composition.config
    for section in sections.FREE:
        yield from _free(section, composition.base.get(section), config.get(section), composition, declared)
    for name, callback in (config.get("callbacks") or {}).items():
        if name not in sections.CALLBACKS:
            before = (composition.base.get("callbacks") or {}).get(name)
            yield from _free(f"callbacks.{name}", before, callback, composition, declared)


def _free(key: str, before: Any, value: Any, composition: Composition, declared: Container[str]) -> Iterator[str]:
    """In the user's own sections the type of what was there before the command line tells what a key takes."""
    if isinstance(value, Mapping) and (before is None or isinstance(before, Mapping)):
        for name, inner in value.items():
            yield from _free(f"{key}.{name}", (before or {}).get(name), inner, composition, declared)
    elif value == MISSING:
        yield f"{composition.given(key, MISSING)}: {key} has to be given. Type {key}=VALUE."
    elif key not in declared and not _alike(before, value):
        default, given = text(before), composition.given(key, value)
        yield f"{given}: {key} takes a value like {default}, not {value!r}. Type for example {key}={default}."


def _alike(before: Any, value: Any) -> bool:
    if before is None or value is None or (isinstance(before, str) and ("${" in before or before == MISSING)):
        return True
    if isinstance(before, bool) or isinstance(value, bool):
        return isinstance(before, bool) and isinstance(value, bool)
    if isinstance(before, list):
        return isinstance(value, list) and (not before or all(_alike(before[0], one) for one in value))
    if isinstance(before, int | float):  # a default of 0 may well stand for a rate
        return isinstance(value, int | float)
    return isinstance(value, type(before))
