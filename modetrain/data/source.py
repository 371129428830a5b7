"""Where the examples of a run come from: its splits, and what is known of the data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from modetrain.data.split import ArraySplit, Split
from modetrain.errors import ConfigError

ACCEPTED = (
    "a dict of arrays, an object with len() and [i] -> {feature: value}, a tf.data.Dataset of such dicts, or a generator "
    "function that yields them"
)


class Splits:
    """What a data function returns: splits by name, and what is known of the data set.

        return modetrain.Splits({"train": train, "validation": validation}, vocabulary=words)

    Args:
      splits: by name what `as_split` takes.
      description: one line for the start of a run.
      facts: what a model or a recipe gets by the names of its parameters.
    """

    def __init__(self, splits: Mapping[str, Any], *, description: str = "", **facts: Any):
        self.splits = splits
        self.description = description
        self.facts = facts


class Source:
    """The splits of a data set, and what is known of it.

    Args:
      train: the examples to train on: a `Split`, or whatever `as_split` takes.
      evals: the evaluation splits by name; the name is empty where there is one.
      kind: where they come from: `tfds`, `bundled`, `folder`, `arrays`, ...
      description: one line: which source is used and why.
      facts: what a model or a recipe gets by the names of its parameters, such as `classes`. `image_shape` and
        `feature_shapes` are added.
      shared: the arrays do not change any more, so that tensors may share their memory.

    Attributes:
      train, evals: as splits.
      kind, description, facts: as given.

    Raises:
      ConfigError: something given is no split.
    """

    def __init__(
        self,
        *,
        train: Any,
        evals: Mapping[str, Any] | None = None,
        kind: str,
        description: str = "",
        facts: Mapping[str, Any] | None = None,
        shared: bool = True,
    ):
        self.train = as_split(train, name="the training split", shared=shared)
        self.evals = {
            name: as_split(split, name=f"the evaluation split {name}".rstrip(), shared=shared)
            for name, split in (evals or {}).items()
        }
        self.kind = kind
        self.description = description
        image = self.train.shapes.get("image", ())
        known = {"image_shape": tuple(image)} if len(image) == 3 and None not in image else {}
        self.facts = {**known, "feature_shapes": dict(self.train.shapes), **(facts or {})}

    @property
    def eval(self) -> Any:
        """The first evaluation split, or an empty dict."""
        return next(iter(self.evals.values()), {})

    def skipped(self) -> list[str]:
        """A line for each example that could not be read and that another took the place of."""
        lines = [line for split in (self.train, *self.evals.values()) for line in split.skipped()]
        return list(dict.fromkeys(lines))

    @property
    def classes(self) -> int:
        """Number of classes; 0 without classes."""
        return self.facts.get("classes", 0)


def as_split(given: Any, *, name: str = "the split", shared: bool = True, on_error: str = "stop") -> Split:
    """A split of what a user hands over.

    Args:
      given: see `ACCEPTED`.
      name: what it is called in messages.
      shared: see `ArraySplit`.
      on_error: see `RandomAccess`.

    Raises:
      ConfigError: it is nothing that has examples.
    """
    if isinstance(given, Split):
        return given
    if isinstance(given, Mapping):
        return ArraySplit(given, shared=shared)
    from modetrain.data.stream import Stream  # a run on arrays does not load it

    if isinstance(given, tf.data.Dataset):
        return Stream(given, name=name)
    if hasattr(given, "__getitem__") and hasattr(given, "__len__") and not isinstance(given, (str, bytes, np.ndarray)):
        from modetrain.data.random_access import RandomAccess

        return RandomAccess(given, name=name, on_error=on_error)
    if callable(given):
        return Stream.from_generator(given, name=name)
    raise ConfigError(f"{name} is a {type(given).__name__}; expected is {ACCEPTED}.")
