"""The splits that a data set has, and those that an expression such as `train[:90%]+test` reads.

For prepared and bundled data they are known without importing TFDS or TensorFlow; for other data, when it is loaded.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TypeVar

from modetrain.data.sources import names
from modetrain.data.sources.messages import BUNDLED, data_override, format_path
from modetrain.errors import ConfigError, closest, did_you_mean
from modetrain.settings import DataSettings

T = TypeVar("T")
OF_SAMPLE = ("train", "test")  # the splits of the bundled sample, and of TFDS's MNIST


class UnknownSplit(ConfigError):
    """A data set has no such split.

    Attributes:
      key: `train_split` or `eval_split`.
    """

    def __init__(self, message: str, key: str = ""):
        super().__init__(message)
        self.key = key


def wanted(settings: DataSettings) -> dict[str, str]:
    """The split expressions by key: `train_split`, and `eval_split` or each `eval_splits.NAME`, where there is one."""
    named = {f"eval_splits.{name}": expression for name, expression in (settings.eval_splits or {}).items()}
    found: dict[str, str | None] = {
        "train_split": settings.train_split,
        **(named or {"eval_split": settings.eval_split}),
    }
    return {key: expression for key, expression in found.items() if expression is not None}


def evals(found: Mapping[str, T]) -> dict[str, T]:
    """Evaluation splits by name, from what was found by the keys of `wanted`; `eval_split` has no name."""
    return {key.partition(".")[2]: one for key, one in found.items() if key != "train_split"}


def split_names(expression: str) -> list[str]:
    """The splits that an expression reads: `train[:90%]+test` reads `train` and `test`."""
    return [part.split("[")[0].strip() for part in expression.split("+")]


def check(settings: DataSettings) -> None:
    """Raises ConfigError for a split that the data set certainly does not have."""
    if settings.source == "bundled":
        _check(settings, OF_SAMPLE, "the bundled sample of MNIST")
    elif settings.source == "folder":
        folder = Path(os.path.expanduser(settings.path or ""))
        _check(settings, _prepared_splits([folder / "dataset_info.json"]), format_path(folder), also=("all",))
    else:
        known = _prepared_splits(names.find_infos(settings)) or (OF_SAMPLE if settings.name == BUNDLED else ())
        _check(settings, known, f"TFDS {settings.name}", also=("all",))


def _check(settings: DataSettings, known: Collection[str], where: str, *, also: Collection[str] = ()) -> None:
    for key, expression in wanted(settings).items():
        for name in split_names(expression) if known else ():
            if name not in known and name not in also:
                raise unknown_split(key, expression, name, known, where)


def _prepared_splits(infos: Collection[Path]) -> set[str]:
    """All splits in TFDS's descriptions of prepared data; empty if one cannot be read."""
    found: set[str] = set()
    for file in infos:
        try:
            found.update(split["name"] for split in json.loads(file.read_text(encoding="utf-8"))["splits"])
        except (OSError, ValueError, KeyError, TypeError):  # loading it reports the error
            return set()
    return found


def unknown_split(key: str, expression: str, name: str, known: Collection[str], where: str) -> UnknownSplit:
    """The error for a split that does not exist, with an override for one that does."""
    known = sorted(known)
    if known == ["train"]:
        advice = f"Type {data_override('train_split', 'train[:90%]')} {data_override('eval_split', 'train[90%:]')}."
    else:
        usual = ("train",) if key == "train_split" else ("validation", "valid", "val", "test", "train")
        order = [split for split in usual if split in known] + known
        advice = f"Type {data_override(key, closest(name, known) or order[0])}."
    if key == "eval_split":
        advice += " A run without evaluation needs none: callbacks.evaluate=null."
    return UnknownSplit(
        f"data.{key}={expression}: {where} has no split {name!r}; it has {', '.join(known)}."
        f"{did_you_mean(name, known)} {advice}",
        key,
    )
