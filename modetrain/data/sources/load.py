"""Where the examples come from: TFDS, the bundled sample of MNIST, or a folder of the user's own.

    check(settings.data)                  # light: before TensorFlow is imported
    source = load(settings.data, say=print)
    source.train["image"], source.train["label"]

Everything ends up decoded in host arrays, because the trainer gathers batches by index: which examples make up
step 1,000 is then a function of (seed, step) and of nothing that was read before.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from modetrain.data.sources.messages import BUNDLED, data_override, format_path
from modetrain.data.sources.source import Source
from modetrain.errors import ConfigError, closest, did_you_mean
from modetrain.settings import DataSettings

SOURCES = ("auto", "tfds", "bundled", "folder")
# What TFDS accepts; the arrays of `bundled` and `folder` accept the same but for shards.
_SPLIT = re.compile(r"[\w-]+(\[[\w%:.-]+\])?(\s*\+\s*[\w-]+(\[[\w%:.-]+\])?)*")


def check(settings: DataSettings) -> None:
    """Raises ConfigError for what can be seen to be wrong without TensorFlow, TFDS or the network."""
    if settings.source not in SOURCES:
        raise ConfigError(
            f"data.source={settings.source}: not one of {', '.join(SOURCES)}.{did_you_mean(settings.source, SOURCES)} "
            f"Type data.source={closest(settings.source, SOURCES) or 'auto'}."
        )
    for key, expression in (("train_split", settings.train_split), ("eval_split", settings.eval_split)):
        if not _SPLIT.fullmatch(expression.strip()):
            raise ConfigError(
                f"data.{key}={expression}: not a split expression. "
                f"Type {data_override(key, 'train')}, {data_override(key, 'train[:90%]')} or {data_override(key, 'train+test')}."
            )
    if settings.image_size is not None and (len(settings.image_size) != 2 or min(settings.image_size) < 1):
        raise ConfigError(
            f"data.image_size={list(settings.image_size)}: a height and a width of at least one pixel are needed. "
            "Type 'data.image_size=[32,32]'."
        )
    if settings.path is not None and settings.source != "folder":
        raise ConfigError(
            f"data.path={format_path(settings.path)} with data.source={settings.source}: only folder uses it, so it would be "
            f"ignored. Type data=folder {data_override('path', format_path(settings.path))}, or data.path=null."
        )
    from modetrain.data.sources import names, splits

    if settings.source == "folder":
        from modetrain.data.sources import folder

        folder.check(settings)
    elif settings.source == "bundled":
        if settings.name != BUNDLED:
            raise ConfigError(
                f"data.source=bundled with data.name={settings.name}: the bundled sample is of {BUNDLED}. "
                f"Type data.name={BUNDLED}, or data.source=tfds."
            )
    else:
        names.check(settings)
    splits.check(settings)


def load(settings: DataSettings, *, say: Callable[[str], None]) -> Source:
    """Decodes the examples that the settings ask for.

    Args:
      settings: the `data` group of the config.
      say: told about whatever takes longer than a moment (a download), one line at a time.

    Raises:
      ConfigError: the data is not there, cannot be had, or is not image classification; nothing is left half done.
    """
    check(settings)
    if settings.source == "folder":
        from modetrain.data.sources import folder

        return folder.load(settings)
    if settings.source == "bundled":
        from modetrain.data.sources import bundled

        return bundled.load(settings, because="data.source=bundled")
    from modetrain.data.sources import tfds

    return tfds.load(settings, say=say)
