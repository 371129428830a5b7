"""One run from its settings to its end: builds mode, recipe, data, callbacks and trainer, then does what `do=` says."""

from __future__ import annotations

import bdb
import contextlib
import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from rich.console import Console

from modetrain import console as terminal
from modetrain.app import config_consensus, record, report, signals
from modetrain.app.build import connect_devices, load_source, make_data, make_info, make_recipe
from modetrain.app.build_callbacks import build_callbacks
from modetrain.callback import Callback
from modetrain.checkpoints import fingerprint, resume, warm_start
from modetrain.checkpoints.file import NotFiniteError
from modetrain.cluster import protocol
from modetrain.data.source import Source
from modetrain.engine import tf_setup
from modetrain.engine.devices import Replicas, format_devices
from modetrain.errors import ConfigError
from modetrain.files import paths
from modetrain.files.lock import Lock
from modetrain.files.tensorboard import TensorBoardWriter
from modetrain.mode import Mode
from modetrain.settings import Settings
from modetrain.trainer import Trainer
from modetrain.training.step_errors import NonFiniteError
from modetrain.training.timer import Timer

EXIT_DONE, EXIT_FAILED, EXIT_NOT_FINITE = 0, 1, 3

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tools:
    """What the tools above a run add to it; the command line passes them, so that a run imports no tool.

    Attributes:
      callbacks: more callbacks of a training.
      watch: called with the trainer before its steps are traced.
      inspected_replicas: number of replicas that `do=inspect` assumes on one device.
      inspect: does `do=inspect` with a trainer that has not trained; returns whether it has findings.
    """

    callbacks: Callable[[Settings], Sequence[Callback]] = lambda settings: ()
    watch: Callable[[Trainer, Settings], None] = lambda trainer, settings: None
    inspected_replicas: int = 2
    inspect: Callable[[Trainer, Settings, Path], bool] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended.

    Attributes:
      code: exit code of the process.
      folder: the run folder.
      trainer: the trainer; None if there was nothing to do.
      error: the run's error, or None. It is in `error.txt` too. `SystemExit` and `KeyboardInterrupt` are errors if the
        user's own code raises them.
      text: the error for the user.
    """

    code: int
    folder: Path
    trainer: Trainer | None = None
    error: BaseException | None = None
    text: str = ""


def run(
    settings: Settings,
    *,
    started: float | None = None,
    tools: Tools = Tools(),
    check: Callable[[], None] = lambda: None,
) -> Outcome:
    """Does what the settings say.

    Args:
      settings: what to do.
      tools: additions of the tools.
      check: imports and checks the user's own code, once TensorFlow's devices are set: that code may use them at once.
      started: when the process began, by `time.perf_counter`: the time since then counts as `import`.

    Raises:
      ConfigError: the data or the recipe do not fit the settings.
    """
    timer = Timer(start=started)
    terminal.show_log()
    where = resume.find_folder(settings)
    folder = paths.format_path(where.folder, Path.cwd())
    what = f"steps={settings.steps}" if settings.do == "train" else f"do={settings.do}"
    log.info(f"modetrain: recipe={settings.recipe_name} mode={settings.mode.name} {what} -> {folder}")
    for note in settings.notes:
        log.info(f"  {note}")
    # A run that was killed between its last checkpoint and run.json must still end; that makes no step.
    if settings.do == "train" and (ended := where.ended(settings)):
        log.info(f"already finished ({ended}); pass a larger steps= to continue")
        return Outcome(code=EXIT_DONE, folder=where.folder)
    with timer.measure("setup"):
        replicas = connect_devices(mode_here(settings))
        try:
            check()
        except BaseException:
            with contextlib.suppress(OSError):
                where.folder.rmdir()  # made just now, and empty
            raise
        config_consensus.check(replicas, config_consensus.shared_settings(settings.resolved))
    protocol.announce_ready(os.environ)
    with _owned(where.folder, replicas), tf_setup.restored(check_numerics=settings.check_numerics):
        return _run(settings, where, replicas, timer, tools)


def mode_here(settings: Settings) -> Mode:
    """The mode of the devices that are used: `do=inspect` uses one device for several replicas or a TPU."""
    mode = settings.mode
    if settings.do != "inspect" or mode.strategy == "one_device":
        return mode
    devices = "cpu" if mode.strategy == "tpu" else mode.devices[:1] if isinstance(mode.devices, tuple) else mode.devices
    return dataclasses.replace(
        mode, strategy="one_device", devices=devices, tpu=None, replicas="auto", workers="auto", restart_workers="auto"
    )


@contextlib.contextmanager
def _owned(folder: Path, replicas: Replicas) -> Iterator[None]:
    """Within this only this process writes to the run folder; of several workers only the chief writes."""
    if not replicas.chief:
        yield
        return
    with _writable(folder):
        lock = Lock.take(folder)
    if lock.stale is not None and not protocol.restarted(os.environ):
        log.info(f"{lock.stale} left this run folder without an end; this run continues there")
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"run_dir={paths.format_path(folder, Path.cwd())}: {error.strerror}: nothing can be written there. Type run_dir= "
            "with a folder that has room and that you may write to."
        ) from error


def _run(settings: Settings, where: resume.ResumePoint, replicas: Replicas, timer: Timer, tools: Tools) -> Outcome:
    outcome = functools.partial(Outcome, folder=where.folder)
    console = terminal.stdout()
    with _writable(where.folder):
        run_record = record.Record(where.folder, settings, worker=replicas.worker)
        run_record.write()
    events = TensorBoardWriter(where.folder if replicas.chief else None)
    handles_signals = False
    try:
        with timer.measure("setup"):
            trainer, source = build(settings, where, replicas, timer, console, events, tools)
            run_record.follow(trainer, source)
        run_record.write()
        if settings.do == "inspect":
            assert tools.inspect is not None
            findings = tools.inspect(trainer, settings, where.folder)
            trainer.status, trainer.steps = "completed", trainer.step
            run_record.write()
            return outcome(code=EXIT_FAILED if findings else EXIT_DONE, trainer=trainer)
        if settings.do == "evaluate":
            trainer.steps = trainer.step
            trainer.evaluate()
            trainer.status = "completed"
        else:

            def leave() -> None:
                trainer.status = "stopped"
                run_record.write()

            with signals.signals_to(trainer, leave) as handles_signals:
                trainer.train()
    except BaseException as error:
        left = report.note_exit(error, interrupted=handles_signals)
        text = str(error) if isinstance(error, ConfigError) else report.format_error(error, run_record.error, settings)
        code = EXIT_NOT_FINITE if isinstance(error, (NonFiniteError, NotFiniteError)) else None
        announced = protocol.announce_failure(
            error, os.environ, code=code, headline=report.format_headline(error), text=text
        )
        if announced is not None and announced.lost_a_peer:
            protocol.leave()  # the launcher reports the cause, which this error would hide
        run_record.write(error)
        if isinstance(error, bdb.BdbQuit):
            log.info("stopped in the debugger")
            return outcome(code=EXIT_FAILED)
        if isinstance(error, ConfigError) or (left is None and not isinstance(error, Exception)):
            raise
        return outcome(code=code or left or EXIT_FAILED, error=error, text=text)
    finally:
        events.close()
    folder = paths.format_path(where.folder, Path.cwd())
    try:
        run_record.write()
    except OSError as error:
        log.warning(f"{folder}/run.json could not be written: {error.strerror}")
        return outcome(code=EXIT_FAILED, trainer=trainer)
    console.print(report.summary(trainer, settings, folder))
    for line in report.commands(trainer, settings):
        log.info(line)
    stopped = trainer.stop_signal if trainer.status == "stopped" else None
    return outcome(code=128 + stopped if stopped else EXIT_DONE, trainer=trainer)


def build(
    settings: Settings,
    where: resume.ResumePoint,
    replicas: Replicas,
    timer: Timer,
    console: Console,
    events: TensorBoardWriter,
    tools: Tools = Tools(),
) -> tuple[Trainer, Source]:
    """Builds all parts of a run, in the order that TensorFlow's global settings need."""
    mode = mode_here(settings)
    tf_setup.apply(mode, settings.seed)
    if settings.check_numerics:
        tf.debugging.enable_check_numerics()
    source = load_source(settings)
    log.info(f"data: {source.description}")
    recipe = make_recipe(settings, make_info(settings, source), replicas=replicas)
    data = make_data(settings, source, recipe, replicas=replicas)
    data.log_notes()
    facts = data_facts(source)
    made_of = fingerprint.compute(recipe, source, replicas)
    config_consensus.check(replicas, made_of)
    restored = resume.restore(where, recipe, settings, facts=facts, made_of=made_of)
    if restored is None:
        warm_start.start(recipe, settings.init_from)
    elif settings.init_from.path is not None:
        log.info(
            f"init_from.path={settings.init_from.path}: this run resumes its own checkpoint, so the path is not read"
        )
    step = restored.step if restored else 0
    steps = replicas.gather_from_workers([step])[:, 0]
    if any(steps != step):
        raise ConfigError(
            f"run_dir={where.folder}: the workers would resume from steps {', '.join(f'{one:.0f}' for one in steps)}: they do "
            "not see the same checkpoints. Type run_dir= with a folder that is the same on all machines."
        )
    extra = tools.callbacks(settings) if settings.do == "train" else ()
    trainer = Trainer(
        recipe,
        data,
        mode=mode,
        replicas=replicas,
        steps=settings.steps,
        callbacks=build_callbacks(
            settings, facts, made_of, events, console, replicas, extra, evaluates=bool(data.evaluations)
        ),
        folder=where.folder,
        nonfinite=settings.nonfinite,
        timer=timer,
    )
    tools.watch(trainer, settings)
    if restored is not None:
        trainer.load_state(restored.meta.get("carry", {}), step=restored.step)
    if settings.do == "train" and settings.resume is not None:
        events.rewind(step)
    if mode.strategy != settings.mode.strategy and settings.mode.strategy == "tpu":
        log.info("no TPU is used: the step is checked by its shapes, and by what XLA can compile on this machine")
    where_run = f"strategy={mode.strategy} replicas={replicas.count}"
    if mode.strategy != settings.mode.strategy:  # do=inspect
        where_run = f"strategy={settings.mode.strategy}, checked for {tools.inspected_replicas} replicas,"
    log.info(
        f"mode: compile={mode.compile} precision={mode.precision} "
        f"steps_per_call={trainer.steps_per_call} {where_run} on {format_devices(replicas.devices)}"
    )
    for note in replicas.notes:
        log.info(f"  {note}")
    return trainer, source


def data_facts(source: Source) -> dict[str, Any]:
    """What must not change when a run resumes: with other examples, step 1,000 is another step."""
    return {"data.source": source.kind, "training examples": source.train.examples}
