"""Where the examples of a run come from: its splits, and what is known of the data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modetrain.data.as_split import as_split
from modetrain.data.selection import select
from modetrain.errors import ConfigError
from modetrain.settings import AUTO_SPLIT, DataSettings

_USUAL = ("validation", "val", "valid", "eval", "dev", "test")


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

    @classmethod
    def select(cls, given: Any, settings: DataSettings, *, where: str) -> Source:
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
            name: as_split(one, name=f"the split {name} of {where}")
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
        return cls(
            train=train,
            evals=evals,
            kind="function",
            description=f"{found.description or where} ({described})",
            facts=found.facts,
        )

    @property
    def eval(self) -> Any:
        """The first evaluation split, or an empty dict."""
        return next(iter(self.evals.values()), {})

    @property
    def classes(self) -> int:
        """Number of classes; 0 without classes."""
        return self.facts.get("classes", 0)
