"""Builds the parts of a run from its settings: devices, the recipe with its model and optimizers, and its batches."""

from __future__ import annotations

import dataclasses
import functools
import os

from modetrain.checkpoints import file
from modetrain.cluster import environment, rendezvous
from modetrain.config.targets import instantiate
from modetrain.data.dataset import Data
from modetrain.data.sources.source import Source
from modetrain.engine import batch_norm, untracked
from modetrain.engine.batching import BatchSharding
from modetrain.engine.devices import Replicas
from modetrain.engine.optimizer import Optimizer
from modetrain.errors import ConfigError
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


def make_info(settings: Settings, source: Source) -> Info:
    """What a recipe may know about its data and its run."""
    return Info(
        image_shape=tuple(source.train["image"].shape[1:]),
        classes=source.classes,
        train_examples=len(source.train["label"]),
        eval_examples=len(source.eval.get("label", ())),
        batch_size=settings.data.batch_size,
        steps=settings.steps,
        seed=settings.seed,
    )


def make_recipe(settings: Settings, info: Info, *, replicas: Replicas | None = None) -> Recipe:
    """Makes the recipe on the replicas.

    Args:
      settings: the run's settings.
      info: see `make_info`.
      replicas: hold its variables; one device by default.

    Raises:
      ConfigError: the class is no recipe, it lacks what `Recipe.__init__` sets, a checkpoint would not hold all that it
        trains, or it cannot run over these replicas.
    """

    def optimizer(variables, **changes) -> Optimizer:
        changed = dataclasses.replace(settings.optimizer, **changes)
        scaling = settings.mode.precision == "mixed_float16"
        policy = settings.nonfinite.policy
        return Optimizer(variables, changed, steps=settings.steps, loss_scaling=scaling, nonfinite=policy)

    model = functools.partial(instantiate, settings.model)

    def build_model(image_shape, classes):
        return model(image_shape=image_shape, classes=classes)

    replicas = replicas or Replicas()
    with replicas.scope():
        recipe = instantiate(settings.recipe, model=build_model, optimizer=optimizer, info=info)
    if not isinstance(recipe, Recipe):
        raise ConfigError(
            f"recipe._target_={settings.recipe.get('_target_')}: it makes a {type(recipe).__name__}, not a recipe. Derive "
            "the class from modetrain.Recipe."
        )
    if not isinstance(getattr(recipe, "info", None), Info):  # otherwise a step would fail much later
        name = type(recipe).__name__
        raise ConfigError(
            f"recipe._target_={settings.recipe.get('_target_')}: {name}.__init__ sets no self.info, which has the seed of every "
            f"draw. {name}.__init__ must call super().__init__(model=model, optimizer=optimizer, info=info); an __init__ that "
            "makes its models and optimizers itself must set self.info = info."
        )
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
