"""`modetrain.inspect(...)` and `modetrain.build(...)`: the tools as functions, for tests of your own recipes.

build_recipe, batches = modetrain.build("recipe=mnist", "data.batch_size=8")
assert not modetrain.inspect(build_recipe, batches, modes=["graph", "xla"])
assert modetrain.compare(build_recipe, batches).agrees
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import keras
import numpy as np

from modetrain.app.build import load_source, make_data, make_info, make_recipe
from modetrain.config import load
from modetrain.engine.devices import Replicas
from modetrain.errors import ConfigError, did_you_mean
from modetrain.files.quoting import key_of
from modetrain.mode import Mode
from modetrain.recipe import Recipe
from modetrain.tools.differing_line import find_differing_line
from modetrain.tools.inspect.finding import Finding, first_per_line
from modetrain.tools.inspect.inspected_step import Batch
from modetrain.tools.inspect.inspector import Inspector

_DEFAULT_MODES = ("graph", "xla")
_KNOWN_MODES = ("graph", "xla", "tpu", "mirrored")


def inspect(
    recipe: Recipe | Callable[[], Recipe],
    batches: Iterable[Batch],
    modes: Sequence[str] | None = None,
    *,
    notes: bool = False,
) -> list[Finding]:
    """Inspects a recipe as `do=inspect` does; restores variables and Python state at the end.

    Args:
      recipe: a recipe, or a function that builds one, as `modetrain.build` returns it.
      batches: training batches as a step gets them: per feature an array or a tensor [examples, ...]. Two are enough; more
        show more of what depends on data.
      modes: the modes it is to run in: `graph`, `xla`, `tpu`, `mirrored`. By default graph and XLA, without tf.print, which
        XLA cannot compile and graph can: name `xla` to have it reported.
      notes: whether to return notes (`Finding.note`) as well: what is worth knowing and no mistake.

    Returns:
      The findings, in the order of files and lines. Empty for a step that every one of these modes runs as written.

    Raises:
      ValueError: a mode has another name, or there are no batches.
      TypeError: the function builds no recipe.
    """
    if not isinstance(recipe, Recipe):
        recipe = recipe()
    if not isinstance(recipe, Recipe):
        raise TypeError(f"inspect was given what builds a {type(recipe).__name__}, not a modetrain.Recipe.")
    batches = list(batches)
    if not batches:
        raise ValueError("inspect was given no batches: there is no step to trace. Pass a list of dicts of arrays.")
    if isinstance(modes, str):
        modes = [modes]
    found: list[Finding] = []
    for name in modes or _DEFAULT_MODES:
        if name not in _KNOWN_MODES:
            raise ValueError(
                f"modes={list(modes or ())}: {name!r} is not {', '.join(_KNOWN_MODES)}.{did_you_mean(name, _KNOWN_MODES)}"
            )
        compile_ = "xla" if name in ("xla", "tpu") else "graph"
        inspector = Inspector(
            recipe,
            batches,
            mode=Mode(name=compile_, compile=compile_, guards=False),
            replicas=Replicas(),
            target=compile_ if name == "mirrored" else name,
            several=name == "mirrored",
            notes={"train_step": "averaged over micro-batches"} if recipe.micro_batches > 1 else {},
            prints=modes is not None,
            find_differing_line=find_differing_line,
        )
        found.extend(one for one in inspector.find() if notes or not one.note)
    return first_per_line(found)


def build(*words: str, batches: int = 2) -> tuple[Callable[[], Recipe], list[dict[str, np.ndarray]]]:
    """Builds what `python -m modetrain WORDS` would train, and its first batches, without a run.

    `conf/` and `recipes/` are those of the current folder and the shipped ones, as on the command line.

    Args:
      words: `key=value`, such as `recipe=mnist`; not `mode=` and `do=`: `inspect` and `compare` take their modes as an argument.
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
    source = load_source(settings)
    info = make_info(settings, source)

    def build_recipe() -> Recipe:
        keras.utils.set_random_seed(settings.seed)
        return make_recipe(settings, info)

    recipe = build_recipe()
    data = make_data(settings, source, recipe)
    kept = [
        {name: value.numpy() for name, value in data.with_one_length().batch(step).items()} for step in range(batches)
    ]
    return build_recipe, kept
