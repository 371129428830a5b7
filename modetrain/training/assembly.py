"""Builds what a `Trainer` runs from its arguments: the replicas of its mode, the recipe on them, and sharded batches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras

from modetrain.data.dataset import Data
from modetrain.data.source import Source
from modetrain.data.split import ArraySplit
from modetrain.engine import batch_norm, tf_setup, untracked
from modetrain.engine.batching import BatchSharding
from modetrain.engine.devices import Replicas
from modetrain.engine.variables import iter_attributes
from modetrain.errors import ConfigError
from modetrain.mode import Mode
from modetrain.recipe import Recipe
from modetrain.settings import DataSettings

log = logging.getLogger(__name__)


def replicas_for(mode: Mode) -> Replicas:
    """The replicas of a mode in this process.

    Raises:
      ConfigError: the mode needs processes that only the command line starts, or devices that do not exist.
    """
    if mode.strategy == "multiworker":
        raise ConfigError(
            "Trainer(mode='multiworker'): several processes train together, and the command line starts them. Type "
            "python -m modetrain recipe=... mode=multiworker."
        )
    return Replicas.for_mode(mode)


def make_recipe(
    recipe: Recipe | Callable[[], Recipe], replicas: Replicas, mode: Mode, *, steps: int, nonfinite: str
) -> Recipe:
    """Returns the recipe, or calls the function that makes it within the scope of the replicas.

    Args:
      recipe: the argument of `Trainer`.
      replicas, mode: where and how it runs.
      steps: number of steps, for optimizers without it.
      nonfinite: the policy for values that are not finite, for every optimizer.

    Raises:
      ConfigError: the recipe exists already, and its variables are not on the replicas or in the precision of the mode.
      TypeError: it is no recipe.
    """
    if not isinstance(recipe, Recipe) and callable(recipe):
        with tf_setup.precision(mode), replicas.scope():
            recipe = recipe()
        if isinstance(recipe, Recipe):
            batch_norm.synchronise(recipe.models(), mode, replicas)
    elif isinstance(recipe, Recipe):
        _check_made(recipe, replicas, mode)
    if not isinstance(recipe, Recipe):
        raise TypeError(
            f"Trainer(recipe=...): a {type(recipe).__name__} is no modetrain.Recipe, nor a function that makes one."
        )
    untracked.check(recipe)
    _log_unused(recipe)
    for optimizer in recipe.optimizers().values():
        if optimizer.steps is None:
            optimizer.steps = steps
        optimizer.nonfinite = nonfinite
    return recipe


def make_data(
    data: Any,
    recipe: Recipe,
    replicas: Replicas,
    mode: Mode,
    *,
    batch_size: int,
    bucket: Sequence[int] | None = None,
) -> Data:
    """Returns `data`, or makes it from splits.

    Raises:
      ConfigError: they are no splits, or a batch cannot be sharded equally.
    """
    if isinstance(data, Data):
        assert data.sharding.parts == recipe.micro_batches, "data is sharded for another number of micro-batches"
        return data
    source = data if isinstance(data, Source) else _make_source(data, recipe.info.seed, batch_size)
    sizes = [split.examples for split in source.evals.values() if split.examples]
    settings = DataSettings(
        name=source.kind,
        source="folder",
        batch_size=batch_size,
        eval_batch_size=min([batch_size, *sizes]),
        bucket=tuple(bucket) if bucket else None,
    )
    made = Data(
        source,
        settings,
        seed=recipe.info.seed,
        prepare=recipe.prepare if recipe.prepares else None,
        sharding=BatchSharding.over(replicas, recipe.micro_batches),
        debug=mode.debug_data,
    )
    made.log_notes()
    return made


def _make_source(given: Any, seed: int, batch_size: int) -> Source:
    """The source of the argument `data` of a trainer."""
    from modetrain.data.sources.agreement import check_agreement

    if given is None:
        from modetrain.data.seeds import Seeds

        evals = {"": Seeds(seed, "eval", examples=batch_size)}
        return Source(kind="none", train=Seeds(seed, "train"), evals=evals)
    if isinstance(given, Mapping) and "train" in given and not hasattr(given["train"], "dtype"):
        splits = {name: split for name, split in given.items() if split is not None}
    else:
        splits = {"train": given}
    train, evals = splits.pop("train"), splits
    if len(evals) == 1:
        evals = {"": next(iter(evals.values()))}
    source = Source(kind="arrays", description="given to Trainer", train=train, evals=evals, shared=False)
    for split in (source.train, *source.evals.values()):
        if isinstance(split, ArraySplit) and not split.examples:
            raise ConfigError("Trainer(data=...): the arrays of a split hold no examples.")
        if isinstance(split, ArraySplit) and isinstance(source.train, ArraySplit):
            check_agreement(source.train, split, where="Trainer(data=...)")
    return source


def steps_per_call(mode: Mode, data: Data, steps: int) -> int:
    """Resolves `mode.steps_per_call=auto`; a short run prepares no more batches than it has steps."""
    if mode.steps_per_call != "auto":
        return int(mode.steps_per_call)
    return 1 if mode.compile == "eager" else max(1, min(data.steps_that_fit(), steps))


def _check_made(recipe: Recipe, replicas: Replicas, mode: Mode) -> None:
    if not replicas.own(recipe.state().values()):
        raise ConfigError(
            f"Trainer(mode={mode.name!r}): the recipe's variables were made on one device, and this mode has {replicas.count} "
            "replicas. Pass a function that makes the recipe: Trainer(lambda: MyRecipe(...), ...)."
        )
    policy = keras.config.dtype_policy().name
    if policy != mode.precision:
        raise ConfigError(
            f"Trainer(mode=...): mode.precision={mode.precision}, and the recipe was made under Keras's policy {policy}. Pass a "
            "function that makes the recipe: Trainer(lambda: MyRecipe(...), ...)."
        )


def _log_unused(recipe: Any) -> None:
    """Logs, by name, the optimizer and the metrics of compiled models: `minimize` and `apply` do not use them."""
    for name, model in iter_attributes(recipe):
        if not isinstance(model, keras.Model) or not getattr(model, "compiled", False):
            continue
        given = model.get_compile_config() or {}
        metrics = [*_names(given.get("metrics")), *_names(given.get("weighted_metrics"))]
        optimizer = getattr(model, "optimizer", None)
        unused = [f"optimizer ({type(optimizer).__name__})"] if optimizer is not None else []
        unused += [f"metrics ({', '.join(metrics)})"] if metrics else []
        if unused:
            advice = " Type optimizer= and its keys, or pass OptimizerSettings." if optimizer is not None else ""
            advice += " Return the metrics from train_step and eval_step." if metrics else ""
            log.info(
                f"{name} is compiled: minimize and apply do not use the {' and '.join(unused)} of compile.{advice}"
            )


def _names(given: Any) -> Iterator[str]:
    """The names of metrics as Keras serializes them: texts, functions and objects, in lists and dicts."""
    if isinstance(given, str):
        yield given
    elif isinstance(given, Mapping) and "class_name" in given:
        config = given.get("config")
        yield config if isinstance(config, str) else (config or {}).get("name") or given["class_name"]
    elif isinstance(given, Mapping):
        for one in given.values():
            yield from _names(one)
    elif isinstance(given, (list, tuple)):
        for one in given:
            yield from _names(one)
