"""`data=mixture`: the training splits of several data functions, mixed by weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from modetrain.errors import ConfigError
from modetrain.schema import Length

if TYPE_CHECKING:
    from modetrain.data.source import Splits


def mixture(
    *, sources: Annotated[Mapping[str, Any], Length(at_least=1)], weights: Mapping[str, float] | None = None
) -> Splits:
    """Mixes the split `train` of each source; its other splits are called `NAME_SPLIT`, such as `news_validation`.

    Args:
      sources: by name what a data function returns: `{news: {_target_: my_module.news}, code: {_target_: ...}}`.
      weights: by name how often a source is drawn, relative to the others; null draws each as often as it has examples.

    Raises:
      ConfigError: a source is none, or has no split `train`.
    """
    from modetrain.data import mixture as mixing  # with TensorFlow
    from modetrain.data.source import Splits

    train: dict[str, Any] = {}
    others: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    for name, given in sources.items():
        found = given if isinstance(given, Splits) else Splits(given) if isinstance(given, Mapping) else None
        if found is None or "train" not in found.splits:
            has = "" if found is None else f" with {', '.join(found.splits)}"
            raise ConfigError(
                f"data.sources.{name}: a {type(given).__name__}{has}; expected is a data function whose splits have `train`. "
                f"Type data.sources.{name}._target_=MODULE.FUNCTION."
            )
        train[name] = found.splits["train"]
        others |= {f"{name}_{split}": one for split, one in found.splits.items() if split != "train"}
        facts |= found.facts
    return Splits({"train": mixing.mixture(train, weights=weights), **others}, **facts)
