"""Loads the examples: from TFDS, the bundled sample of MNIST, the user's own folder, or none.

    check(settings.data)                  # light: before TensorFlow is imported
    source = load(settings.data, seed=0)
    source.train, source.evals

TFDS, the sample and arrays of a folder are decoded into host arrays.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from modetrain.data.sources.messages import BUNDLED, data_override, format_path
from modetrain.data.sources.splits import UnknownSplit, wanted
from modetrain.errors import ConfigError, closest, did_you_mean
from modetrain.files.paths import visible
from modetrain.settings import SOURCES, DataSettings

if TYPE_CHECKING:
    from modetrain.data.source import Source
    from modetrain.data.split import Split

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
    if settings.function or settings.source == "none":
        return read(settings)
    if evaluates and settings.eval_split is None and not settings.eval_splits:
        raise ConfigError(
            "data.eval_split=null: the run evaluates, and there would be nothing to evaluate on. Type callbacks.evaluate=null, or "
            "data.eval_split=test."
        )
    try:
        return read(settings)
    except UnknownSplit as error:
        if evaluates or settings.eval_splits or error.key != "eval_split":
            raise
        return read(dataclasses.replace(settings, eval_split=None))


def _check(settings: DataSettings) -> None:
    if settings.function:
        return
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

    if settings.source == "none":
        return
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


def load(settings: DataSettings, *, seed: int = 0, evaluates: bool = True) -> Source:
    """Reads the examples that the settings ask for; logs a download before it starts.

    Args:
      settings: the `data` group of the config.
      seed: the run's seed, for `data=none`.
      evaluates: whether the run needs an evaluation split; if not, it is loaded where it exists.

    Raises:
      ConfigError: the data does not exist, is not available, or is not what its source reads; no partial data is left.
    """
    source = _without_missing(functools.partial(_load, seed=seed), settings, evaluates)
    for name, split in source.evals.items():
        _warn_of_unknown_labels(source.train, split, f"eval_splits.{name}" if name else "eval_split", settings)
    return source


def _warn_of_unknown_labels(train: Split, evaluation: Split, key: str, settings: DataSettings) -> None:
    from modetrain.data.split import ArraySplit

    arrays = [one.get("label") for one in (train, evaluation) if isinstance(one, ArraySplit)]
    if len(arrays) < 2 or any(array is None or array.dtype.kind not in "iu" or array.ndim != 1 for array in arrays):
        return
    known, labels = ({*array.tolist()} for array in arrays)  # type: ignore[union-attr]
    if unknown := sorted(labels - known):
        some = ", ".join(map(str, unknown[:8])) + (", ..." if len(unknown) > 8 else "")
        expression = settings.eval_split if key == "eval_split" else (settings.eval_splits or {})[key.partition(".")[2]]
        log.warning(
            f"data.{key}={expression} has labels that no example of data.train_split={settings.train_split} "
            f"has ({some}): training cannot teach them. Files that are sorted by class look like this when they are sliced"
        )


def _load(settings: DataSettings, *, seed: int) -> Source:
    _check(settings)
    if settings.source == "none":
        from modetrain.data.seeds import Seeds
        from modetrain.data.source import Source  # with TensorFlow

        examples = (settings.eval_batches or 1) * settings.eval_batch_size
        return Source(
            kind="none",
            description="none: a batch holds nothing but seeds",
            train=Seeds(seed, "train"),
            evals={"": Seeds(seed, "eval", examples=examples)},
        )
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

        return bundled.load(dataclasses.replace(settings, image_size=None), because="").train.examples
    import numpy as np

    from modetrain.data.sources import names

    name = settings.train_split
    folder = Path(os.path.expanduser(settings.path or ""))
    infos = [folder / "dataset_info.json"] if settings.source == "folder" else names.find_infos(settings)
    for file in infos:
        if file.is_file():
            found = json.loads(file.read_text(encoding="utf-8"))["splits"]
            return next((sum(map(int, split["shardLengths"])) for split in found if split["name"] == name), None)
    if settings.source != "folder":
        return None
    if (folder / f"{name}.npz").is_file():
        with np.load(folder / f"{name}.npz") as archive:
            return len(archive["label" if "label" in archive else archive.files[0]])
    files = visible(folder / name, "*.npy")
    return len(np.load(files[0], mmap_mode="r")) if files else None
