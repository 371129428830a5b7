"""Loads the examples: from TFDS, the bundled sample of MNIST, or the user's own folder.

    check(settings.data)                  # light: before TensorFlow is imported
    source = load(settings.data)
    source.train["image"], source.train["label"]

All examples are decoded into host arrays, because the trainer gathers batches by index. The examples of step 1,000 then
depend on (seed, step) only, and on nothing that was read before.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from modetrain.data.sources.messages import BUNDLED, data_override, format_path
from modetrain.data.sources.source import Source
from modetrain.data.sources.splits import UnknownSplit, wanted
from modetrain.errors import ConfigError, closest, did_you_mean
from modetrain.settings import SOURCES, DataSettings

log = logging.getLogger(__name__)

T = TypeVar("T")
# What TFDS accepts; `bundled` and `folder` accept the same without shards.
_SPLIT = re.compile(r"[\w-]+(\[[\w%:.-]+\])?(\s*\+\s*[\w-]+(\[[\w%:.-]+\])?)*")


def check(settings: DataSettings, *, evaluates: bool = True) -> None:
    """Raises ConfigError for settings that are wrong, as far as it shows without TensorFlow, TFDS and the network.

    Args:
      settings: the `data` group of the config.
      evaluates: whether the run needs the evaluation split.
    """
    _without_missing(_check, settings, evaluates)


def _without_missing(read: Callable[[DataSettings], T], settings: DataSettings, evaluates: bool) -> T:
    """`read(settings)`, without an evaluation split that is missing and that nothing needs."""
    if evaluates and settings.eval_split is None:
        raise ConfigError(
            "data.eval_split=null: the run evaluates, and there would be nothing to evaluate on. Type callbacks.evaluate=null, or "
            "data.eval_split=test."
        )
    try:
        return read(settings)
    except UnknownSplit as error:
        if evaluates or error.key != "eval_split":
            raise
        return read(dataclasses.replace(settings, eval_split=None))


def _check(settings: DataSettings) -> None:
    if settings.source not in SOURCES:
        raise ConfigError(
            f"data.source={settings.source}: not one of {', '.join(SOURCES)}.{did_you_mean(settings.source, SOURCES)} "
            f"Type data.source={closest(settings.source, SOURCES) or 'auto'}."
        )
    for key, expression in wanted(settings).items():
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
            f"data.path={format_path(settings.path)} with data.source={settings.source}: only data.source=folder uses it. "
            f"Type data=folder {data_override('path', format_path(settings.path))}, or data.path=null."
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


def load(settings: DataSettings, *, evaluates: bool = True) -> Source:
    """Decodes the examples that the settings ask for; logs a download before it starts.

    Args:
      settings: the `data` group of the config.
      evaluates: whether the run needs the evaluation split; if not, it is loaded where it exists.

    Raises:
      ConfigError: the data does not exist, is not available, or is not image classification; no partial data is left.
    """
    source = _without_missing(_load, settings, evaluates)
    if source.eval:
        unknown = sorted({*source.eval["label"].tolist()} - {*source.train["label"].tolist()})
        if unknown:
            some = ", ".join(map(str, unknown[:8])) + (", ..." if len(unknown) > 8 else "")
            log.warning(
                f"data.eval_split={settings.eval_split} has labels that no example of data.train_split={settings.train_split} "
                f"has ({some}): training cannot teach them. Files that are sorted by class look like this when they are sliced"
            )
    return source


def _load(settings: DataSettings) -> Source:
    _check(settings)
    if settings.source == "folder":
        from modetrain.data.sources import folder

        return folder.load(settings)
    if settings.source == "bundled":
        from modetrain.data.sources import bundled

        return bundled.load(settings, because="data.source=bundled")
    from modetrain.data.sources import tfds

    return tfds.load(settings)


def count_training(settings: DataSettings) -> int | None:
    """How many examples are trained on, read from files without decoding them; None if it is not in them."""
    if settings.source == "bundled":
        from modetrain.data.sources import bundled

        return len(bundled.load(dataclasses.replace(settings, image_size=None), because="").train["label"])
    import numpy as np

    from modetrain.data.sources import names

    name = settings.train_split
    folder = Path(os.path.expanduser(settings.path or ""))
    infos = [folder / "dataset_info.json"] if settings.source == "folder" else names.find_infos(settings)
    for file in infos:
        if file.is_file():
            found = json.loads(file.read_text(encoding="utf-8"))["splits"]
            return next((sum(map(int, split["shardLengths"])) for split in found if split["name"] == name), None)
    if settings.source == "folder" and (folder / f"{name}.npz").is_file():
        return len(np.load(folder / f"{name}.npz")["label"])
    label = folder / name / "label.npy"
    return len(np.load(label, mmap_mode="r")) if settings.source == "folder" and label.is_file() else None
