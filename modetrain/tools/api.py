"""`modetrain.build(...)`: recipe and batches from the words of the command line, for tests of one's own.

build_recipe, batches = modetrain.build("recipe=mnist", "data.batch_size=8")
assert modetrain.compare(build_recipe, batches).agrees
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from modetrain.app.build import info_of, make_data, make_recipe
from modetrain.config import load
from modetrain.data.sources import load as sources
from modetrain.errors import ConfigError
from modetrain.files.quoting import key_of
from modetrain.recipe import Recipe


def build(*words: str, batches: int = 2) -> tuple[Callable[[], Recipe], list[dict[str, np.ndarray]]]:
    """Makes what `python -m modetrain WORDS` would train, and its first batches, without a run.

    `conf/` and `recipes/` are those of the current folder and the shipped ones, as on the command line.

    Args:
      words: `key=value`, such as `recipe=mnist`; not `mode=` and `do=`: `inspect` and `compare` are told their modes.
      batches: how many training batches, as the steps from 0 on get them, `prepare` included.

    Returns:
      A function that builds the recipe, the same one at each call: it sets Keras's, NumPy's and Python's seed to `seed=`; and
      the batches. Both are what `modetrain.inspect` and `modetrain.compare` take. The recipe computes in Keras's precision.

    Raises:
      ConfigError: the words cannot run.
    """
    for word in words:
        key = key_of(word).partition(".")[0]
        if key in ("mode", "do", "run_dir", "resume"):
            raise ConfigError(
                f"{word}: build makes no run, and modes are named to modetrain.inspect and modetrain.compare. Leave it out."
            )
    settings = load.load(words, Path.cwd())
    source = sources.load(settings.data, say=lambda line: None)
    info = info_of(settings, source)

    def build_recipe() -> Recipe:
        keras.utils.set_random_seed(settings.seed)
        return make_recipe(settings, info)

    recipe = build_recipe()
    data = make_data(settings, source, recipe)
    kept = [{name: value.numpy() for name, value in data.batch(step).items()} for step in range(batches)]
    return build_recipe, kept
