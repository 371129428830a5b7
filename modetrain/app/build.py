"""Builds the parts of a run from its settings: devices, the recipe with its model and optimizers, and its batches."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Mapping
from typing import Any

from modetrain.checkpoints import file
from modetrain.cluster import environment, rendezvous
from modetrain.config.targets import find, instantiate, parameters
from modetrain.data.dataset import Data
from modetrain.data.selection import choose
from modetrain.data.source import Source
from modetrain.data.sources import load as sources
from modetrain.engine import batch_norm, untracked
from modetrain.engine.batching import BatchSharding
from modetrain.engine.devices import Replicas
from modetrain.engine.optimizer import Optimizer
from modetrain.errors import ConfigError
from modetrain.keys import KEYS
from modetrain.mode import Mode
from modetrain.recipe import Info, Recipe
from modetrain.settings import Settings


def connect_devices(mode: Mode) -> Replicas:
    """Makes the replicas of a mode; with several workers, after all of them have joined.

    Raises:
      ConfigError: the devices do not exist, or the environment describes a cluster wrongly.
      NotJoinedError: other workers do not join.
    """
    notes = _notes_on_cluster(mode)
    waiting = (
        rendezvous.join_workers(os.environ, within=mode.startup_timeout) if mode.strategy == "multiworker" else None
    )
    replicas = Replicas.for_mode(mode, waiting=waiting)
    replicas.notes = (*replicas.notes, *notes)
    return replicas


def load_source(settings: Settings) -> Source:
    """Loads the examples, or calls the function that makes them.

    Raises:
      ConfigError: there are none, or they cannot be used.
    """
    if settings.data.function:
        target = str(settings.data.function["_target_"])
        takes, _ = parameters(find(target))
        asked = {name: getattr(settings.data, name) for name in takes if f"data.{name}" in KEYS}
        source = choose(instantiate(settings.data.function, **asked), settings.data, where=target)
    else:
        source = sources.load(settings.data, seed=settings.seed, evaluates=settings.evaluates)
    if settings.data.class_weight is None:
        return source
    from modetrain.data.class_weights import balance

    return balance(source)


def make_info(settings: Settings, source: Source) -> Info:
    """What a recipe may know about its data and its run."""
    facts = {name: _plain(name, value) for name, value in source.facts.items()}
    return Info(
        image_shape=facts.pop("image_shape", ()),
        classes=facts.pop("classes", 0),
        train_examples=source.train.examples,
        eval_examples=sum(split.examples for split in source.evals.values()),
        batch_size=settings.data.batch_size,
        steps=settings.steps,
        seed=settings.seed,
        facts=facts,
    )


def _plain(name: str, fact: Any) -> Any:
    """A fact as a capsule can hold it: numbers, texts, tuples and dicts of them."""
    if isinstance(fact, Mapping):
        return {str(key): _plain(name, value) for key, value in fact.items()}
    if hasattr(fact, "tolist"):  # of NumPy
        fact = fact.tolist()
    if isinstance(fact, list | tuple):
        return tuple(_plain(name, one) for one in fact)
    if fact is None or isinstance(fact, bool | int | float | str):
        return fact
    raise ConfigError(
        f"the data set says of itself that {name} is a {type(fact).__name__}: what models and recipes are given are numbers, "
        "texts, lists and dicts."
    )


def make_recipe(settings: Settings, info: Info, *, replicas: Replicas | None = None) -> Recipe:
    """Makes the recipe on the replicas.

    Args:
      settings: the run's settings.
      info: see `make_info`.
      replicas: hold its variables; one device by default.

    Raises:
      ConfigError: the class is no recipe, a checkpoint would not hold all that it
        trains, or it cannot run over these replicas.
    """

    def optimizer(variables, **changes) -> Optimizer:
        changed = dataclasses.replace(settings.optimizer, **changes)
        scaling = settings.mode.precision == "mixed_float16"
        policy = settings.nonfinite.policy
        return Optimizer(variables, changed, steps=settings.steps, loss_scaling=scaling, nonfinite=policy)

    def build_model(*positional: Any, **given: Any):
        pairs = zip(("image_shape", "classes"), positional, strict=False)
        given |= {name: value for name, value in pairs if value}  # a data set without images has no shape of them
        return instantiate(settings.model, **_asked_for("model", settings.model, info, given))

    replicas = replicas or Replicas()
    with replicas.scope():
        given = {"model": build_model, "optimizer": optimizer, "info": info}
        recipe = instantiate(settings.recipe, **_asked_for("recipe", settings.recipe, info, given))
    if not isinstance(recipe, Recipe):
        raise ConfigError(
            f"recipe._target_={settings.recipe.get('_target_')}: it makes a {type(recipe).__name__}, not a recipe. Derive "
            "the class from modetrain.Recipe."
        )
    if "info" not in vars(recipe):
        recipe.info = info
    file.check(recipe.state(), owner=type(recipe).__name__)
    untracked.check(recipe)
    batch_norm.synchronise(recipe.models(), settings.mode, replicas)
    return recipe


def make_data(settings: Settings, source: Source, recipe: Recipe, *, replicas: Replicas | None = None) -> Data:
    """Makes the batches that a recipe trains on.

    Args:
      settings: of the run.
      source: the examples.
      recipe: prepares the batches.
      replicas: a batch is sharded over them and into the recipe's micro-batches; by default it stays whole.
    """
    prepare = recipe.prepare if recipe.prepares else None
    sharding = BatchSharding() if replicas is None else BatchSharding.over(replicas, recipe.micro_batches)
    return Data(
        source, settings.data, seed=settings.seed, prepare=prepare, sharding=sharding, debug=settings.mode.debug_data
    )


def _asked_for(section: str, node: Mapping[str, Any], info: Info, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a model or a recipe that the run gives: what it asks for by the names of its parameters.

    Args:
      section: `model` or `recipe`.
      node: its configuration, which goes before what is known of the data.
      info: what is known of the data and the run.
      given: arguments by name that a caller gives.

    Raises:
      ConfigError: a parameter has no value.
    """
    target = node.get("_target_")
    if target is None:
        return dict(given)
    call = find(target)
    takes, is_open = parameters(call)
    known = info.known()
    found = {name: value for name, value in {**known, **given}.items() if (name in takes and name not in node)}
    if is_open:
        found = {**given, **found}
    signature = inspect.signature(call).parameters if takes and "_args_" not in node else {}
    required = [name for name, one in signature.items() if name in takes and one.default is one.empty]
    missing = [name for name in required if name not in node and name not in found]
    if missing:
        has = ", ".join(sorted(known))
        raise ConfigError(
            f"{section}.{missing[0]} is missing: {target} needs it, and the data set has nothing of that name; it has {has}. "
            f"Type +{section}.{missing[0]}=VALUE."
        )
    return found


def _notes_on_cluster(mode: Mode) -> list[str]:
    """Notes for a mode that runs in one process while the environment describes other workers."""
    if mode.name == "multiworker" or mode.strategy in ("multiworker", "tpu"):  # by name: do=inspect, in one process
        return []
    try:
        found = environment.from_environment(os.environ)
    except ConfigError as error:
        if mode.strategy == "mirrored" and "TF_CONFIG" in os.environ:  # TensorFlow reads it anyway
            raise
        return [f"mode={mode.name} ignores the cluster that the environment describes, which is wrong: {error}"]
    if found is None or len(found.workers) == 1 or found.origin == "local":
        return []
    return [
        f"WARNING: {environment.ORIGIN_TEXTS[found.origin]} that this is worker {found.index} of {len(found.workers)}, "
        f"but mode={mode.name} runs only in this process. Type mode=multiworker to run in all of them"
    ]
