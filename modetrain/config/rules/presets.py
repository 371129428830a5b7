"""A `debug=` preset and a mode that do not go together: neither the key that the preset set nor its value was typed."""

from __future__ import annotations

import re

from modetrain.config.compose import Composition
from modetrain.config.key import text
from modetrain.errors import ConfigError
from modetrain.settings import Settings


def clash(settings: Settings, composition: Composition) -> str | None:
    """What a mode refuses because of a key that a preset set, in terms of the two that were chosen."""
    preset = composition.choices.get("debug")
    try:
        settings.mode.check()
        return None
    except ConfigError as error:
        refused = str(error)
    given = re.match(r"(mode\.\w+)=", refused)
    key = given[1] if given is not None else ""
    if (
        preset is None
        or composition.override_of(key)
        or not composition.origin.get(key, "").endswith(f"debug/{preset}.yaml")
    ):
        return None
    why = re.search(r": (.*?)\. Type", refused)
    chosen = composition.override_of("mode.strategy") or f"mode={composition.choices['mode']}"
    value = text(getattr(settings.mode, key.removeprefix("mode.")))
    return (
        f"debug={preset} with {chosen}: the preset sets {key}={value}" + (f", and {why[1]}" if why else "") + ". "
        f"Leave debug={preset} or {chosen} out."
    )
