"""One run from its settings to its end: build mode, recipe, data, callbacks and trainer, then do what `do=` says."""

from __future__ import annotations

import bdb
import contextlib
import dataclasses
import functools
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from rich.console import Console

from modetrain import batch_norm, checkpoint, draws, paths, record, report, resume, run_folder, sources, worker
from modetrain.callbacks import Callback
from modetrain.callbacks.checkpoint import Checkpoint
from modetrain.callbacks.evaluate import Evaluate
from modetrain.callbacks.log import Log
from modetrain.callbacks.profile import Profile
from modetrain.callbacks.progress import ProgressBar
from modetrain.clock import Clock
from modetrain.config import instantiate
from modetrain.data import Cut, Data
from modetrain.errors import ConfigError
from modetrain.mode import Mode
from modetrain.optimizer import Optimizer
from modetrain.recipe import Info, Recipe
from modetrain.replicas import Replicas
from modetrain.settings import Settings
from modetrain.trainer import Trainer

EXIT_DONE, EXIT_FAILED = 0, 1


def run(settings: Settings, *, debugger: bool = False, started: float | None = None) -> int:
    """Does what the settings say; returns the exit code.

    Args:
      settings: what to do.
      started: when the process began, by `time.perf_counter`: what came before is booked as `import`.
      debugger: stop in the debugger, at the user's own line, where a step or a callback fails.

    Raises:
      ConfigError: for what only shows once data and recipe are there.
    """
    clock = Clock(start=started)
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)  # a log file has no width of its own
    say = functools.partial(console.print, markup=False, highlight=False, soft_wrap=True)

    where = resume.place(settings, say)
    folder = paths.shown(where.folder, Path.cwd())
    what = f"steps={settings.steps}" if settings.do == "train" else f"do={settings.do}"
    say(f"modetrain: recipe={settings.recipe_name} mode={settings.mode.name} {what} -> {folder}")
    for note in settings.notes:
        say(f"  {note}")
    if settings.do == "train" and where.step == settings.steps:
        say(f"nothing to do: that run has made its {settings.steps} steps. Type steps= with more of them to go on")
        return EXIT_DONE
    with clock.book("setup"):
        replicas = Replicas.of(settings.mode)
    worker.announce_ready(os.environ)
    run_record = record.Record(where.folder, settings, chief=replicas.chief)
    run_record.write()
    writer = tf.summary.create_file_writer(str(where.folder)) if replicas.chief else tf.summary.create_noop_writer()
    try:
        with clock.book("setup"):
            trainer, source = build(settings, where, replicas, clock, console, writer, say)
            run_record.follow(trainer, source)
        run_record.write()
        if settings.do == "evaluate":
            trainer.steps = trainer.step
            trainer.evaluate()
            trainer.status = "completed"
        else:
            with _stoppable(trainer, say):
                trainer.train()
    except BaseException as error:
        told = worker.announce_failure(error, os.environ)
        if told is not None and told.lost_a_peer:
            worker.leave()  # the launcher names the cause, which this would hide
        run_record.write(error)
        if isinstance(error, bdb.BdbQuit):
            say("stopped in the debugger")
            return EXIT_FAILED
        if isinstance(error, ConfigError) or not isinstance(error, Exception):
            raise
        report.failure(error, where.folder)
        if debugger:
            report.post_mortem(error)
        return EXIT_FAILED
    finally:
        writer.close()
    run_record.write()
    console.print(report.summary(trainer, settings, folder))
    return 128 + trainer.stopped_by if trainer.status == "stopped" and trainer.stopped_by else EXIT_DONE


def build(
    settings: Settings,
    where: resume.Place,
    replicas: Replicas,
    clock: Clock,
    console: Console,
    writer: tf.summary.SummaryWriter,
    say: Callable[[str], None],
) -> tuple[Trainer, sources.Source]:
    """Makes everything a run is made of, in the order that TensorFlow's global settings ask for."""
    portable = apply_mode(settings.mode, say)
    if settings.check_numerics:
        tf.debugging.enable_check_numerics()
    keras.utils.set_random_seed(settings.seed)
    source = sources.load(settings.data, say=say)
    say(f"data: {source.description}")
    with replicas.scope():
        recipe = build_recipe(settings, source)
    batch_norm.synchronise(recipe.models(), settings.mode, replicas, say)
    prepare = recipe.prepare if recipe.prepares else None
    cut = Cut.over(replicas, recipe.micro_batches)
    debug = settings.mode.debug_data
    data = Data(source, settings.data, seed=settings.seed, prepare=prepare, cut=cut, debug=debug)
    facts = {"data.source": source.kind, "training examples": len(source.train["label"])}
    restored = resume.restore(where, recipe, settings, say, facts=facts)
    step = restored.step if restored else 0
    steps = replicas.of_each_worker([step])[:, 0]
    if any(steps != step):
        raise ConfigError(
            f"run_dir={where.folder}: the workers would go on from steps {', '.join(f'{one:.0f}' for one in steps)}: they do "
            "not see the same checkpoints. Type run_dir= with a folder that is the same on all machines."
        )
    trainer = Trainer(
        recipe=recipe,
        mode=settings.mode,
        replicas=replicas,
        data=data,
        steps=settings.steps,
        callbacks=_callbacks(settings, where.folder, facts, restored, writer, console, say, replicas.chief),
        folder=where.folder,
        step=step,
        watch_every=min((settings.callbacks.get("log") or {}).get("every") or 0, settings.steps),
        clock=clock,
        say=say,
        command=settings.command,
        portable_draws=portable,
    )
    say(
        f"mode: compile={settings.mode.compile} precision={settings.mode.precision} "
        f"steps_per_call={trainer.steps_per_call} strategy={settings.mode.strategy} replicas={replicas.count} "
        f"on {', '.join(replicas.devices)}"
    )
    return trainer, source


def apply_mode(mode: Mode, say) -> bool:
    """Sets what is global in TensorFlow and Keras; returns whether XLA draws eager's random numbers.

    Must come before any dataset, model or variable is made.
    """
    if mode.precision == "float64":
        keras.config.set_floatx("float64")
    keras.config.set_dtype_policy(mode.precision)
    if mode.debug_data:
        tf.data.experimental.enable_debug_mode()
    if mode.strict:
        # Sufficient for graph == eager, found by bisection; remapping, which fuses operations, as a precaution.
        passes = {"arithmetic_optimization": False, "constant_folding": False, "remapping": False}
        tf.config.optimizer.set_experimental_options(passes)
    if mode.deterministic:
        if mode.compile == "xla" and not tf.config.list_physical_devices("GPU"):
            say("mode.deterministic=true: XLA on a CPU is deterministic as it is, so TensorFlow's switch stays off")
        else:
            tf.config.experimental.enable_op_determinism()
    if mode.compile != "xla":
        return True
    portable = draws.portable_works()
    if not portable:
        say(
            f"WARNING: with TensorFlow {tf.__version__} XLA cannot be made to draw eager's random numbers: dropout "
            "masks and other float draws differ from mode=eager's and mode=graph's (run.json: portable_draws)"
        )
    return portable


def build_recipe(settings: Settings, source: sources.Source) -> Recipe:
    """Makes the recipe with its model and optimizers."""
    info = Info(
        image_shape=tuple(source.train["image"].shape[1:]),
        classes=source.classes,
        train_examples=len(source.train["label"]),
        eval_examples=len(source.eval["label"]),
        batch_size=settings.data.batch_size,
        steps=settings.steps,
        seed=settings.seed,
    )

    def optimizer(variables, **changes) -> Optimizer:
        changed = dataclasses.replace(settings.optimizer, **changes)
        scaling = settings.mode.precision == "mixed_float16"
        return Optimizer(variables, changed, steps=settings.steps, loss_scaling=scaling)

    model = functools.partial(instantiate, settings.model)

    def build_model(image_shape, classes):
        return model(image_shape=image_shape, classes=classes)

    recipe = instantiate(settings.recipe, model=build_model, optimizer=optimizer, info=info)
    if not isinstance(recipe, Recipe):
        raise ConfigError(
            f"recipe._target_={settings.recipe.get('_target_')}: it makes a {type(recipe).__name__}, not a recipe. Derive "
            "the class from modetrain.Recipe."
        )
    return recipe


def _callbacks(
    settings: Settings,
    folder: Path,
    facts: Mapping[str, Any],
    restored: checkpoint.Checkpoint | None,
    writer: tf.summary.SummaryWriter,
    console: Console,
    say: Callable[[str], None],
    chief: bool,
) -> list[Callback]:
    found: list[Callback] = []
    chosen = dict(settings.callbacks)
    bar = chief and console.is_terminal and settings.mode.compile != "eager"
    evaluate, log, save, profile = (chosen.pop(name, None) for name in ("evaluate", "log", "checkpoint", "profile"))
    if log and log["every"]:
        found.append(Log(every=log["every"], writer=writer, lines=not bar))
    if evaluate is not None:
        found.append(Evaluate(every=evaluate["every"], writer=writer))
    if save is not None:
        meta = {"config": dict(settings.resolved), "facts": dict(facts)}
        kept = restored is not None and run_folder.best(folder).exists()
        found.append(
            Checkpoint(
                every=save["every"],
                keep=save["keep"],
                best=save["best"] if evaluate is not None else None,
                evaluate_every=evaluate["every"] if evaluate is not None else None,
                meta=meta,
                best_value=restored.meta.get("best_value") if restored and kept else None,
            )
        )
        if evaluate is None and save["best"] not in (None, "auto"):
            say(f"callbacks.checkpoint.best={save['best']}: nothing is evaluated, so no best checkpoint is kept")
    if profile and profile["at"] is not None:
        found.append(Profile(at=profile["at"], steps=profile["steps"]))
    if bar:
        found.append(ProgressBar(console=console))
    for name, node in chosen.items():
        callback = instantiate(node)
        if not isinstance(callback, Callback):
            raise ConfigError(
                f"callbacks.{name}._target_={node.get('_target_')}: it makes a {type(callback).__name__}, not a callback. "
                "Derive the class from modetrain.Callback."
            )
        found.append(callback)
    return found


@contextlib.contextmanager
def _stoppable(trainer: Trainer, say) -> Iterator[None]:
    """SIGINT and SIGTERM end the run after the call under way, with a checkpoint; a second one ends it at once."""

    def stop(signum, frame):
        signal.signal(signum, old[signum])
        say(f"{signal.Signals(signum).name}: stopping after this call; once more to stop at once")
        trainer.stop(signum)

    old = {}
    for signum in (signal.SIGTERM, signal.SIGINT):
        old[signum] = signal.signal(signum, stop)
    try:
        yield
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)
