"""What cannot work, or would be silently ignored, although every value by itself is good: rules over several keys.

A rule is a function of the settings that returns one sentence, or None where all is well. To add one, write it and put
it into RULES; where a key only counts under some value of another, a line in COUNTS_ONLY_WITH is enough.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from modetrain import run_folder, sources
from modetrain.config.compose import Composition
from modetrain.config.key import text
from modetrain.errors import ConfigError
from modetrain.lock import held
from modetrain.paths import shown
from modetrain.settings import CompareSettings, DataSettings, OptimizerSettings, Settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Only:
    """One key has an effect only where another has one of some values."""

    key: str
    other: str
    values: Sequence[str]
    override: str  # the key of the override that changes `other`


def _optimizer(key: str, *names: str) -> Only:
    return Only(key=f"optimizer.{key}", other="optimizer.name", values=names, override="optimizer")


_COMPARE = tuple(field.name for field in dataclasses.fields(CompareSettings))
COUNTS_ONLY_WITH = (
    _optimizer("momentum", "sgd"),
    _optimizer("nesterov", "sgd"),
    _optimizer("beta_1", "adam", "adamw"),
    _optimizer("beta_2", "adam", "adamw"),
    _optimizer("epsilon", "adam", "adamw"),
    Only(
        key="optimizer.final_fraction",
        other="optimizer.schedule",
        values=("cosine", "linear"),
        override="optimizer.schedule",
    ),
    *(Only(key=f"compare.{key}", other="do", values=("compare",), override="do") for key in _COMPARE),
    Only(key="data.dir", other="data.source", values=("auto", "tfds"), override="data.source"),
)
_NEUTRAL = {
    f"{section}.{field.name}": field.default
    for section, cls in (("compare", CompareSettings), ("data", DataSettings), ("optimizer", OptimizerSettings))
    for field in dataclasses.fields(cls)
}


def problems(settings: Settings, composition: Composition) -> Iterator[str]:
    """Yields what is wrong with the keys together, one sentence each.

    Args:
      settings: every value of which is good by itself.
      composition: what they were made from, which knows where a value comes from.
    """
    for only in COUNTS_ONLY_WITH:
        value, other = _get(settings, only.key), _get(settings, only.other)
        if value != _NEUTRAL[only.key] and other not in only.values:
            uses = " and ".join(only.values) + (" use it" if len(only.values) > 1 else " uses it")
            yield (
                f"{composition.given(only.key, value)} with {only.override}={other}: only {uses}, so it would be "
                f"ignored. Type {only.override}={only.values[0]}, or {only.key}={text(_NEUTRAL[only.key])}."
            )
    for rule in RULES:
        problem = rule(settings)
        if problem:
            yield problem
    # Typed alone it is a mistake; in a file it is a default that waits for `at`.
    length, at = "callbacks.profile.steps", "callbacks.profile.at"
    typed = composition.typed.get(length)
    if typed is not None and _get(settings, at) is None:
        yield f"{typed}: without {at} no trace is taken, so it would be ignored. Type {at}=50 too."


def _get(settings: Settings, key: str) -> Any:
    value: Any = settings
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else getattr(value, part, None)
    return value


def _path(path: Path | str) -> str:
    return shown(Path(path), Path.cwd())


def _refusal(check: Callable[[], None]) -> str | None:
    """What a part of the library itself refuses, whoever uses it."""
    try:
        check()
    except ConfigError as error:
        return str(error)
    return None


# --- mode ------------------------------------------------------------------------------------------------------------


def mode(settings: Settings) -> str | None:
    return _refusal(settings.mode.check)


def numerics(settings: Settings) -> str | None:
    if not settings.check_numerics or settings.mode.compile != "xla":
        return None
    asked = f"debug={settings.debug_name}" if settings.debug_name else "check_numerics=true"
    key = "mode" if settings.mode.name == "xla" else "mode.compile"
    return (
        f"{asked} with {key}=xla: TensorFlow's numeric checks do not compile under XLA. Type {asked} {key}=graph, or "
        f"{key}=eager."
    )


def tpu(settings: Settings) -> str | None:
    mode = settings.mode
    if mode.strategy != "tpu" or mode.tpu is not None or os.environ.get("TPU_NAME"):
        return None
    if settings.do == "inspect":  # is done on this machine
        return None
    key = "mode" if mode.name == "tpu" else "mode.strategy"
    return (
        f"{key}=tpu: neither mode.tpu= nor TPU_NAME in the environment says which. Type mode.tpu=local on a machine that has "
        "TPUs, mode.tpu= with a name or address, or mode=xla to run without one."
    )


def shares(settings: Settings) -> str | None:
    """As far as the number of replicas is known here; GPUs are counted later."""
    mode, parts = settings.mode, settings.optimizer.accumulate
    key = {"mirrored": "replicas", "multiworker": "workers"}.get(mode.strategy)
    if key is None:
        return None
    counts = {f"mode.{key}": getattr(mode, key)}
    if mode.strategy == "multiworker":
        counts["mode.restart_workers"] = mode.restart_workers
    for name, count in counts.items():
        whole = parts * count if isinstance(count, int) else 1
        if settings.data.batch_size % whole:
            cut = f" and optimizer.accumulate={parts}" if parts > 1 else ""
            nearest = max(1, round(settings.data.batch_size / whole)) * whole
            return (
                f"data.batch_size={settings.data.batch_size} with {name}={count}{cut}: every replica gets an equal share of "
                f"a batch, and {whole} does not divide {settings.data.batch_size}. Type data.batch_size={nearest}."
            )
    return None


# --- optimizer -------------------------------------------------------------------------------------------------------


def accumulate(settings: Settings) -> str | None:
    size, parts = settings.data.batch_size, settings.optimizer.accumulate
    if size % parts == 0:
        return None
    nearest = max(parts, round(size / parts) * parts)
    return (
        f"optimizer.accumulate={parts} with data.batch_size={size}: a batch is cut into {parts} equal micro-batches, "
        f"and {parts} does not divide {size}. Type data.batch_size={nearest}, or optimizer.accumulate=1."
    )


def warmup(settings: Settings) -> str | None:
    if settings.optimizer.warmup < settings.steps:
        return None
    rise, steps = settings.optimizer.warmup, settings.steps
    return (
        f"optimizer.warmup={rise} with steps={steps}: the run would end before the learning rate has risen. Type "
        f"optimizer.warmup={steps // 10}, or steps={rise * 10}."
    )


def nesterov(settings: Settings) -> str | None:
    if not settings.optimizer.nesterov or settings.optimizer.momentum or settings.optimizer.name != "sgd":
        return None
    return (
        "optimizer.nesterov=true with optimizer.momentum=0: Nesterov is a way to apply momentum. Type "
        "optimizer.momentum=0.9, or optimizer.nesterov=false."
    )


# --- data ------------------------------------------------------------------------------------------------------------


def data(settings: Settings) -> str | None:
    if settings.do == "replay":  # which may need none: a capsule has its batch
        return None
    return _refusal(lambda: sources.check(settings.data))


# --- callbacks -------------------------------------------------------------------------------------------------------


def profile(settings: Settings) -> str | None:
    callback = settings.callbacks.get("profile")
    if not isinstance(callback, Mapping) or callback.get("at") is None:
        return None
    at, length, steps = callback["at"], callback["steps"], settings.steps
    if at + length <= steps:
        return None
    fix = f"callbacks.profile.at={steps - length}" if length <= steps else f"steps={at + length}"
    return (
        f"callbacks.profile.at={at} callbacks.profile.steps={length} with steps={steps}: the trace would end at step "
        f"{at + length}, after the run. Type {fix}, or steps={at + length}."
    )


# --- run folders -----------------------------------------------------------------------------------------------------


def run_dir(settings: Settings) -> str | None:
    if settings.run_dir is None and settings.resume is not None:
        return None
    target = settings.run_dir or Path.cwd() / run_folder.RUNS
    named = _path(target)
    there = next(path for path in (target, *target.parents) if path.exists())
    if not there.is_dir():
        file = _path(there)
        return f"run_dir={named}: {file} is a file, no run folder can be made there. Type run_dir= with another path."
    # Of several workers one has the lock already while the others begin.
    if settings.do == "train" and settings.mode.strategy != "multiworker" and (problem := held(target)):
        return problem
    try:  # tried for real: of a file system that is read-only or no place for files, rights tell nothing
        os.rmdir(tempfile.mkdtemp(prefix=".modetrain-", dir=there))
    except OSError as error:
        return (
            f"run_dir={named}: nothing can be made in {_path(there)} ({error.strerror}). Type run_dir= with a folder you "
            "may write to."
        )
    if settings.resume is None and run_folder.holds_run(target):
        return (
            f"run_dir={named}: it already holds a run, which would be overwritten. Type resume=latest to continue it, "
            f"or run_dir={named}-2 for a new one."
        )
    other = Path(settings.resume) if settings.resume not in (None, "latest") else None
    if other is not None and run_folder.holds_run(target) and target != run_folder.owner(other):
        return (
            f"run_dir={named} resume={_path(other)}: {named} already holds another run, which would be "
            f"overwritten. Type run_dir={named} resume=latest to continue that one, or run_dir={named}-2 for a new one."
        )
    return None


def rollback(settings: Settings) -> str | None:
    if settings.nonfinite.policy != "rollback" or settings.callbacks.get("checkpoint") is not None:
        return None
    return (
        "nonfinite.policy=rollback without callbacks.checkpoint: there would be nothing to go back to. Type "
        "nonfinite.policy=skip, or leave callbacks.checkpoint as it is."
    )


def init_from(settings: Settings) -> str | None:
    first = settings.init_from
    if first.path is None:
        given = "include" if first.include is not None else "exclude" if first.exclude is not None else None
        return given and (
            f"init_from.{given}= without init_from.path=: there is nothing to take values from. Type init_from.path= with a run "
            "folder or a checkpoint."
        )
    path, named = Path(first.path), _path(first.path)
    if not path.exists():
        return f"init_from.path={named}: there is no such file or folder. Type init_from.path= with a run folder."
    if path.is_file() and path.suffix != ".npz":
        return f"init_from.path={named}: a checkpoint is a file step-NUMBER.npz. Type init_from.path= with one."
    if path.is_dir() and not run_folder.steps(path):
        return (
            f"init_from.path={named}: there is no checkpoint in {named}/{run_folder.CHECKPOINTS}. Type the folder of a run "
            "that has one."
        )
    return None


def resume(settings: Settings) -> str | None:
    given = settings.resume
    if given is None:
        return None
    if given == "latest":
        if settings.run_dir is None:
            parent = f"runs/{settings.recipe_name}/{settings.mode.name}"
            return (
                f"resume=latest: there is no run in {parent} to continue. Leave resume out to start one, or type "
                "resume=PATH of a run folder."
            )
        if settings.do == "train":
            return _lost(settings.run_dir)
        if not settings.run_dir.is_dir():
            return (
                f"do={settings.do} resume=latest with run_dir={_path(settings.run_dir)}: there is no such folder. Type "
                "run_dir= with the folder of a run."
            )
        return None
    path, given = Path(given), _path(given)
    if not path.exists():
        return f"resume={given}: there is no such file or folder. Type resume=latest, or the path of a run folder."
    if path.is_file() and path.suffix != ".npz":
        return f"resume={given}: a checkpoint is a file step-NUMBER.npz. Type resume= with one, or with a run folder."
    if path.is_dir() and path.name == run_folder.CHECKPOINTS and not run_folder.steps(path):
        return f"resume={given}: name the run folder or one checkpoint in it. Type resume={_path(path.parent)}."
    if path.is_dir() and not run_folder.steps(path):
        return (
            f"resume={given}: there is no checkpoint in {given}/{run_folder.CHECKPOINTS}. Type resume= with the folder of a run "
            "that has one, or leave resume out."
        )
    return None


def _lost(folder: Path) -> str | None:
    """A run that has made steps is not begun again in its own folder, over its record, because its checkpoints are gone."""
    made, best = max(run_folder.steps_told(folder), default=0), run_folder.best(folder)
    if run_folder.steps(folder) or not made:
        return None
    on = f"resume={_path(best)} to go on from the best one, which is left, " if best.exists() else ""
    return (
        f"resume=latest: {_path(folder)} held a run that has made {made} steps, and none of its checkpoints is in "
        f"{_path(folder / run_folder.CHECKPOINTS)} any more: the run would begin again at step 0, over its record and its "
        f"curves. Type {on}run_dir={_path(folder)}-2 without resume= for a new run, or delete {_path(folder)}."
    )


def further(settings: Settings) -> str | None:
    if settings.do != "train" or settings.resume is None:
        return None
    given = settings.run_dir if settings.resume == "latest" else Path(settings.resume)
    file = given if given is None or given.suffix == ".npz" else run_folder.newest(given)
    made = run_folder.step_of(file) if file is not None and file.exists() else None
    if made is None or made <= settings.steps:
        return None
    resume = settings.resume if settings.resume == "latest" else _path(settings.resume)
    return (
        f"steps={settings.steps} with resume={resume}: that run has made {made} steps already. Type steps= with more than "
        f"{made}, or resume= with an earlier checkpoint."
    )


def evaluate(settings: Settings) -> str | None:
    if settings.do != "evaluate":
        return None
    folder = settings.run_dir if settings.resume == "latest" else None
    if folder is not None and folder.is_dir() and not run_folder.steps(folder):
        return (
            f"do=evaluate resume=latest: {_path(folder)} has no checkpoint yet. Type run_dir= with the folder "
            "of a run that has one."
        )
    if settings.resume is not None:
        return None
    return (
        "do=evaluate without resume=: there are no weights to evaluate. Type do=evaluate resume=latest, or "
        "resume=PATH of a run folder or a checkpoint."
    )


def compare(settings: Settings) -> str | None:
    if settings.do != "compare":
        return None
    modes, count = settings.compare.modes, settings.compare.replicas
    if len(modes) == 1:
        first = "graph" if modes[0] == "eager" else "eager"
        return (
            f"compare.modes={text(modes)}: there is nothing to compare one mode with. Type "
            f"compare.modes={text([*sorted({first, modes[0]})])}."
        )
    twice = next((mode for mode in modes if modes.count(mode) > 1), None)
    if twice is not None:
        return (
            f"compare.modes={text(modes)}: {twice} is in it twice; every mode runs once. Type "
            f"compare.modes={text(list(dict.fromkeys(modes)))}."
        )
    if settings.check_numerics:
        return (
            "check_numerics=true with do=compare: NaNs and infinities are compared as they come, and the check does not "
            "compile under XLA. Type check_numerics=false."
        )
    if settings.mode.name not in ("graph", *modes):
        return (
            f"mode={settings.mode.name} with do=compare: the modes are those of compare.modes={text(modes)}, so it would be "
            f"ignored. Type compare.modes={text(['eager', settings.mode.name])}."
        )
    several = [mode for mode in modes if mode in ("mirrored", "multiworker")]
    shares = count * settings.optimizer.accumulate
    if several and settings.data.batch_size % shares:
        nearest = max(1, round(settings.data.batch_size / shares)) * shares
        return (
            f"compare.replicas={count} with data.batch_size={settings.data.batch_size}: every replica of {several[0]} gets an "
            f"equal share of the batch, and {shares} does not divide it. Type data.batch_size={nearest}."
        )
    return None


def replay(settings: Settings) -> str | None:
    asked = {
        "from": settings.replay.path,
        "step": settings.replay.step,
        "replica": settings.replay.replica,
        "check": settings.replay.check or None,
    }
    if settings.do != "replay":
        given = next((name for name, value in asked.items() if value is not None), None)
        return given and f"replay.{given}= with do={settings.do}: only replay uses it. Type do=replay replay.from=."
    mode = settings.mode
    if mode.strategy != "one_device":
        return (
            f"mode={mode.name} with do=replay: a step is made again on one device, which gives what all replicas gave "
            "together. Type mode=eager, mode=graph or mode=xla."
        )
    if settings.resume is not None:
        return "resume= with do=replay: replay.from= says what to begin from. Leave resume out."
    return None


Rule = Callable[[Settings], str | None]
RULES: tuple[Rule, ...] = (
    mode,
    tpu,
    numerics,
    accumulate,
    shares,
    warmup,
    nesterov,
    data,
    profile,
    run_dir,
    rollback,
    init_from,
    resume,
    further,
    evaluate,
    compare,
    replay,
)
