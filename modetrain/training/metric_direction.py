"""Which end of a metric is the better one: stated with its name or by the recipe, or a word that everyone reads one way.

    monitored = Monitored.parse("-perplexity")                    # smaller is better
    monitored = Monitored.parse("wer", stated={"wer": "min"})     # `best_is` of a recipe

A direction is never guessed from a part of a name: `lossless_share` and `error_free` are no losses. Imports no TensorFlow.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from modetrain.errors import ConfigError
from modetrain.files.quoting import proposal

KEY = "callbacks.checkpoint.best"
_SIGNS = {"-": "min", "+": "max"}
_PREFIX = re.compile(r"(val|valid|validation|eval|test|dev)[_/]")
_SMALLER = """
    loss error err cost mae mse rmse mape msle rmsle mean_absolute_error mean_squared_error root_mean_squared_error
    mean_absolute_percentage_error mean_squared_logarithmic_error huber log_loss logloss nll cross_entropy crossentropy
    binary_crossentropy categorical_crossentropy sparse_categorical_crossentropy error_rate top1_error top5_error
    perplexity ppl wer cer ter fid kid kl kl_divergence bpd bits_per_dim bits_per_byte bits_per_char brier brier_score ece eer
"""
_LARGER = """
    accuracy acc binary_accuracy categorical_accuracy sparse_categorical_accuracy top_k_categorical_accuracy
    sparse_top_k_categorical_accuracy balanced_accuracy top1 top5 top1_accuracy top5_accuracy top1_acc top5_acc auc roc_auc
    auroc pr_auc average_precision map f1 f1_score precision recall sensitivity specificity iou miou mean_iou dice
    dice_coefficient r2 r2_score bleu rouge psnr ssim mcc
"""
_KNOWN = {**dict.fromkeys(_SMALLER.split(), "min"), **dict.fromkeys(_LARGER.split(), "max")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Monitored:
    """A metric whose best value is looked for.

    Attributes:
      name: as the evaluation returns it.
      best_is: `min` or `max`.
    """

    name: str
    best_is: str

    @classmethod
    def parse(cls, given: str, best_is: str | None = None, stated: Any = None, owner: str = "the recipe") -> Monitored:
        """Reads `callbacks.checkpoint.best`.

        Args:
          given: the metric, with a sign before it where smaller (`-`) or larger (`+`) is better.
          best_is: `callbacks.checkpoint.best_is`.
          stated: `best_is` of the recipe: `min` or `max` by metric.
          owner: class of the recipe, for the message.

        Raises:
          ConfigError: nothing says which end is the better one.
        """
        name = name_of(given)
        found = _SIGNS.get(given[:1]) or best_is
        bare = name.rpartition("/")[2]  # without the evaluation split
        if found is None and isinstance(stated, Mapping) and (name in stated or bare in stated):
            found = stated.get(name, stated.get(bare))
            if found not in _SIGNS.values():
                raise ConfigError(f"best_is of {owner}: {name!r} is {found!r}. Write 'min' or 'max' there.")
        found = found or _KNOWN.get(_PREFIX.sub("", re.sub(r"[ -]", "_", bare.lower())))
        if found is None:
            raise ConfigError(
                f"{KEY}={name}: nothing says whether a smaller or a larger {name} is better. Type {proposal(KEY, f'-{name}')} "
                f"where smaller is, {proposal(KEY, f'+{name}')} where larger is, or write best_is = {{{name!r}: 'min'}} in "
                f"{owner}."
            )
        return cls(name=name, best_is=found)

    def is_better(self, value: float, than: float | None) -> bool:
        """Whether a value is better than another one, or the first that is a number."""
        if math.isnan(value):
            return False
        return than is None or (value < than if self.best_is == "min" else value > than)


def name_of(given: str) -> str:
    """The metric of `callbacks.checkpoint.best`, without its sign."""
    return given[1:] if given[:1] in _SIGNS else given
