"""What cannot work, or would be silently ignored, although every value by itself is good: rules over several keys.

A rule is a function of the settings that returns one sentence, or None where all is well. To add one, write it in the file
of its subject and put it into RULES; where a key only counts under some value of another, `only=` of its field is enough.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from modetrain.config.compose import Composition
from modetrain.config.rules import do, folders, steps
from modetrain.errors import ConfigError
from modetrain.keys import KEYS, leaves
from modetrain.schema import text
from modetrain.settings import Settings

RULES: tuple[Callable[[Settings], str | None], ...] = (
    *(steps.tpu, steps.numerics, steps.accumulate, steps.shares, steps.warmup, steps.nesterov),
    *(steps.profile, steps.best, steps.padding),
    *(folders.run_dir, folders.rollback, folders.init_from, folders.resume, folders.further),
    *(do.evaluate, do.compare, do.replay),
)


def problems(settings: Settings, composition: Composition) -> Iterator[str]:
    """Yields what is wrong with the keys together, one sentence each.

    Args:
      settings: the settings; each value is good by itself.
      composition: the source of the settings; it knows where each value comes from.
    """
    yield from _ignored(composition)
    try:
        settings.mode.check()
    except ConfigError as error:
        yield _clash(str(error), settings, composition) or str(error)
    yield from filter(None, (rule(settings) for rule in RULES))
    length, at = "callbacks.profile.steps", "callbacks.profile.at"  # in a file it is a default that waits for the other
    if length in composition.typed and (settings.callbacks.get("profile") or {}).get("at") is None:
        yield f"{composition.typed[length]}: without {at} no trace is taken, so it would be ignored. Type {at}=50 too."


def _ignored(composition: Composition) -> Iterator[str]:
    """What was given, in a file or on the command line, and does not count (`Key.only`)."""
    config = dict(leaves(composition.config))
    for key, entry in KEYS.items():
        name, *values = entry.key.only or ("",)
        value, other = config.get(key, entry.default), config.get(name)
        neutral = list(entry.default) if isinstance(entry.default, tuple) else entry.default
        if values and value != neutral and other not in values:
            uses, override = " and ".join(values), name.removesuffix(".name")
            yield (
                f"{composition.given(key, value)} with {override}={other}: only {uses} use{'s' * (len(values) == 1)} it, so it "
                f"would be ignored. Type {override}={values[0]}, or {key}={text(neutral)}."
            )


def _clash(refused: str, settings: Settings, composition: Composition) -> str | None:
    """What a mode refuses because of a key that a debug preset set, in terms of the two that were chosen."""
    given, why = re.match(r"(mode\.\w+)=", refused), re.search(r": (.*?)\. Type", refused)
    key, preset = given[1] if given is not None else "", composition.choices.get("debug")
    file = composition.file_of(key)
    if preset is None or composition.override_of(key) or file is None or file.group != "debug":
        return None
    chosen = composition.override_of("mode.strategy") or f"mode={composition.choices['mode']}"
    value = text(getattr(settings.mode, key.removeprefix("mode.")))
    return (
        f"debug={preset} with {chosen}: the preset sets {key}={value}" + (f", and {why[1]}" if why else "") + ". "
        f"Leave debug={preset} or {chosen} out."
    )
