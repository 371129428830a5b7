"""Which splits a run takes of those that a data function returned, and split expressions such as `train[:90%]+extra`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from modetrain.data.source import Source, Splits, as_split
from modetrain.data.split import Split
from modetrain.data.stream import Stream
from modetrain.errors import ConfigError, closest, did_you_mean
from modetrain.files.quoting import shell_override
from modetrain.settings import AUTO_SPLIT, DataSettings

_USUAL = ("validation", "val", "valid", "eval", "dev", "test")
_PART = re.compile(r"(?P<name>[\w-]+)(\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")


class Rows(Split):
    """A part of one or several splits: ranges of their rows, one after the other.

    Args:
      parts: (split, first row, end) for each range; the splits have the same features.
    """

    def __init__(self, parts: Sequence[tuple[Split, int, int]]):
        first = parts[0][0]
        super().__init__(sum(stop - start for _, start, stop in parts), first.shapes, first.dtypes)
        self._parts = parts
        longest = [split.longest for split, *_ in parts]
        self.longest = None if None in longest else max(longest)  # type: ignore[type-var]
        self.in_memory = len(parts) == 1 and first.in_memory
        self.fingerprinted = first.fingerprinted

    def load(self) -> None:
        for split, *_ in self._parts:
            split.load()

    def column(self, name: str) -> np.ndarray | None:
        found = [split.column(name) for split, *_ in self._parts]
        there = [one for one in found if one is not None]
        if len(there) < len(found):
            return None
        return np.concatenate([one[start:stop] for one, (_, start, stop) in zip(there, self._parts, strict=True)])

    def skipped(self) -> list[str]:
        return [line for split, *_ in self._parts for line in split.skipped()]

    def gather(self, rows: tf.Tensor) -> dict[str, tf.Tensor]:
        if len(self._parts) == 1:
            split, start, _ = self._parts[0]
            return split.gather(rows + start)
        parts, begin = [], 0
        for split, start, stop in self._parts:
            here = tf.where((rows >= begin) & (rows < begin + stop - start))[:, 0]
            parts.append((here, split.gather(tf.gather(rows, here) - begin + start)))
            begin += stop - start
        return join(parts, {name: (rows.shape[0], *shape) for name, shape in self.shapes.items()})


def join(
    parts: Sequence[tuple[tf.Tensor, Mapping[str, tf.Tensor]]], shapes: Mapping[str, tuple[int | None, ...]]
) -> dict[str, tf.Tensor]:
    """One batch of parts of it.

    Args:
      parts: where the examples of a part belong in the batch, and the examples.
      shapes: by feature the shape of the batch.
    """
    order = tf.argsort(tf.concat([places for places, _ in parts], 0))
    found = {}
    for name, shape in shapes.items():
        values = [batch[name] for _, batch in parts]
        if None in shape[1:]:  # each part is padded to a length of its own
            sizes = [tf.concat([[0], tf.shape(value)[1:]], 0) for value in values]
            whole = tf.reduce_max(tf.stack(sizes), 0)
            ends = [whole - size for size in sizes]
            values = [tf.pad(v, tf.stack([tf.zeros_like(end), end], 1)) for v, end in zip(values, ends, strict=True)]
        found[name] = tf.ensure_shape(tf.gather(tf.concat(values, 0), order), shape)
    return found


def choose(given: Any, settings: DataSettings, *, where: str) -> Source:
    """The splits that the settings name, of what a data function returned.

    Without `eval_split` and `eval_splits` the evaluation split is the first there is of validation, val, valid, eval, dev
    and test.

    Args:
      given: `Splits`, or splits by name.
      settings: the `data` group of the config.
      where: the function's name, for messages.

    Raises:
      ConfigError: it is neither, or has no such split.
    """
    found = given if isinstance(given, Splits) else Splits(given) if isinstance(given, Mapping) else None
    if found is None:
        raise ConfigError(
            f'{where} returned a {type(given).__name__}; expected are splits by name. Return for example {{"train": train, '
            '"test": test}}, or modetrain.Splits({...}, vocabulary=words).'
        )
    splits = {
        name: as_split(one, name=f"the split {name} of {where}", on_error=settings.on_error)
        for name, one in found.splits.items()
        if one is not None
    }
    wanted = dict(settings.eval_splits or {})
    if not wanted and settings.eval_split is not None:
        usual = next((name for name in _USUAL if name in splits), None)
        chosen = usual if settings.eval_split == AUTO_SPLIT else settings.eval_split
        wanted = {} if chosen is None else {"": chosen}
    evals = {
        name: select(splits, f"eval_splits.{name}" if name else "eval_split", expression, where)
        for name, expression in wanted.items()
    }
    train = select(splits, "train_split", settings.train_split, where)
    counts = [("train", train), *((name or "evaluation", split) for name, split in evals.items())]
    described = ", ".join(
        f"{split.examples:,} {name}" if split.examples else f"{name}: a stream" for name, split in counts
    )
    return Source(
        train=train,
        evals=evals,
        kind=settings.name if where.startswith("modetrain.") else "function",
        description=f"{found.description or where} ({described})",
        facts=found.facts,
    )


def select(splits: Mapping[str, Split], key: str, expression: str, where: str) -> Split:
    """The examples that an expression names.

    Args:
      splits: by name.
      key: whose value the expression is, such as `train_split`, for messages.
      expression: names joined by `+`, each with a slice if it is not the whole split; percentages are rounded to the closest
        example.
      where: the data set's name in messages.

    Raises:
      ConfigError: there is no such split, it holds no example there, or a part of a stream is asked for.
    """
    parts = []
    for text in expression.split("+"):
        match = _PART.fullmatch(text.strip())
        if match is None:
            raise ConfigError(
                f"data.{key}={expression}: {text.strip()!r} cannot be read. Type {_override(key, 'train')} or "
                f"{_override(key, 'train[:90%]')}."
            )
        name = match["name"]
        if name not in splits:
            known = sorted(splits)
            near = closest(name, known) or next(iter(known), "train")
            raise ConfigError(
                f"data.{key}={expression}: {where} has no split {name!r}; it has {', '.join(known)}.{did_you_mean(name, known)} "
                f"Type {_override(key, near)}."
            )
        split = splits[name]
        if isinstance(split, Stream):
            if match[0] != name or "+" in expression:
                raise ConfigError(
                    f"data.{key}={expression}: {name} of {where} is a stream, of which no part can be taken. Type "
                    f"{_override(key, name)}."
                )
            return split
        start, stop = (
            _boundary(match["start"], split.examples, 0),
            _boundary(match["stop"], split.examples, split.examples),
        )
        if start < stop:
            parts.append((split.within(range(start, stop)), start, stop))
    if not parts:
        raise ConfigError(f"data.{key}={expression}: no example is left of {where}. Type {_override(key, 'train')}.")
    for split, *_ in parts[1:]:
        if dict(split.dtypes) != dict(parts[0][0].dtypes):
            raise ConfigError(f"data.{key}={expression}: splits with different features cannot be joined.")
    if len(parts) == 1 and parts[0][1:] == (0, parts[0][0].examples):
        return parts[0][0]
    return Rows(parts)


def _boundary(text: str | None, count: int, default: int) -> int:
    if text is None:
        return default
    value = round(int(text[:-1]) * count / 100) if text.endswith("%") else int(text)
    return min(max(value + count if value < 0 else value, 0), count)


def _override(key: str, value: str) -> str:
    return shell_override(f"data.{key}", value)
