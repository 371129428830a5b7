"""The settings of a run as frozen values: what the command line and conf/ say, checked, and nothing else.

Light on purpose: neither TensorFlow nor Hydra is imported here, so that a wrong value is reported in
well under a second. `config/load.py` builds a `Settings`; every other part of the library reads one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modetrain.mode import Mode


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which examples, and how many at a time.

    Attributes:
      name: TFDS data set name (`mnist`, `fashion_mnist`, ...); for `source=folder` only a label.
      source: `auto` (prepared TFDS, else download, else the bundled sample), `tfds`, `bundled` or `folder`.
      dir: TFDS data folder; None is TFDS's own default (`TFDS_DATA_DIR` or `~/tensorflow_datasets`).
      path: folder with the user's own arrays or TFRecords, for `source=folder`.
      download: whether `auto` and `tfds` may download what is not prepared yet.
      train_split, eval_split: TFDS split expressions (`train`, `train[:90%]`, `test`).
      batch_size: examples in one global training batch.
      eval_batch_size: examples in one global evaluation batch; the last batch may be shorter.
        With `overfit` they are those of training.
      image_size: `(height, width)` every image is resized to; None keeps images as they are.
      overfit: number of training batches to repeat for ever, which evaluation then sees too, augmented alike; 0 is off.
      eval_batches: evaluation stops after so many batches; None sees every example exactly once.
      retries: how often a batch that could not be had is asked for again.
    """

    name: str
    source: str = "auto"
    dir: str | None = None
    path: str | None = None
    download: bool = True
    train_split: str = "train"
    eval_split: str = "test"
    batch_size: int = 64
    eval_batch_size: int = 250
    image_size: tuple[int, int] | None = None
    overfit: int = 0
    eval_batches: int | None = None
    retries: int = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """One optimizer: the update rule and what `minimize` does around it.

    Attributes:
      name: `adam`, `adamw` or `sgd`.
      learning_rate: peak learning rate, after warm-up.
      schedule: `constant`, `cosine` or `linear` (the last two decay to `final_fraction * learning_rate` at `steps`).
      warmup: updates over which the learning rate rises linearly from zero.
      final_fraction: learning rate at the last step, as a fraction of the peak.
      weight_decay: decoupled weight decay.
      momentum, nesterov: of `sgd`.
      beta_1, beta_2, epsilon: of `adam` and `adamw`.
      clip_norm: bound on the global norm of the gradients of the whole batch; None does not clip.
      accumulate: micro-batches one batch is cut into; must divide `data.batch_size`.
      ema: decay of an exponential moving average of the weights, which evaluation then uses; None keeps none.
    """

    name: str
    learning_rate: float
    schedule: str = "constant"
    warmup: int = 0
    final_fraction: float = 0.0
    weight_decay: float = 0.0
    momentum: float = 0.0
    nesterov: bool = False
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7
    clip_norm: float | None = None
    accumulate: int = 1
    ema: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class NonfiniteSettings:
    """What happens where a loss or a gradient is NaN or infinite.

    Attributes:
      policy: `stop` ends the run at that step; `skip` leaves the update out; `rollback` restores the checkpoint before and
        goes on with other batches; `ignore` looks at nothing.
      limit: updates skipped in a row, or rollbacks to one checkpoint, before the run ends after all.
    """

    policy: str = "stop"
    limit: int = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class InitFromSettings:
    """A new run's first values, from a checkpoint that need not fit in all.

    Attributes:
      path: a run folder or a checkpoint; None starts from the recipe's own.
      include: patterns of the variables to take; None is every one but the optimizers' own.
      exclude: patterns of variables to leave as they are.
    """

    path: str | None = None
    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class WatchdogSettings:
    """What is told to somebody who watches from outside.

    Attributes:
      after: seconds without progress after which it is written down where every thread stands; 0 is off.
      heartbeat: seconds between the lines that say the run is alive; 0 is off.
    """

    after: float = 600.0
    heartbeat: float = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """What `do=compare` compares.

    Attributes:
      modes: presets of the config group `mode`; the first is what the others are compared with.
      steps: how many steps.
      draws: how often a step of the first mode is repeated with its numbers moved by rounding noise.
      replicas: replicas of `mirrored`, and workers of `multiworker`.
    """

    modes: tuple[str, ...] = ("eager", "graph", "xla")
    steps: int = 10
    draws: int = 3
    replicas: int = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class InspectSettings:
    """What is looked for in the user's own code.

    Attributes:
      at_start: whether a graph or XLA run says, as it traces its steps, what tracing changes.
      target: what `do=inspect` judges by: `graph`, `xla` or `tpu`; None is what the mode compiles with.
    """

    at_start: bool = True
    target: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplaySettings:
    """Which step `do=replay` makes again.

    Attributes:
      path: a capsule, a run folder or a checkpoint (`replay.from`).
      step: the step as messages name it: 8 is the eighth update. None is that of the capsule.
      replica: make the step of this replica alone, on its share of the batch; None is the whole step.
      check: look for what first goes wrong, in every mode, instead of stopping in the debugger.
    """

    path: str | None = None
    step: int | None = None
    replica: int | None = None
    check: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything one run is made from.

    Attributes:
      recipe_name, model_name, debug_name: the chosen option of these config groups (`debug_name` may be None).
      recipe, model: what Hydra instantiates (a mapping with `_target_`).
      callbacks: per callback name its own settings (`{"log": {"every": 100}, ...}`).
      do: what is done with the run (`train`, `evaluate`, `compare`, `inspect`, `replay`).
      compare: of `do=compare`.
      replay: of `do=replay`.
      steps: number of updates.
      seed: every random draw of the run is a function of it and the step.
      run_dir: the run folder; None makes `runs/<recipe>/<mode>/<time>`.
      resume: None; or `latest`, which continues in `run_dir` (then always set, and there) from its newest checkpoint,
        or from the start if it has none yet; or the absolute path of a run folder or a checkpoint.
      check_numerics: stop at the first NaN or infinity and name the op that made it (`eager` and `graph` only).
      nonfinite, init_from, watchdog: see their classes.
      stop_after: seconds after which the run saves and stops; None lets it run.
      inspect: see `InspectSettings`.
      command: the command line, to be typed again.
      notes: what a debug preset turned on and off, one line each, printed at start.
      resolved: the whole composed config as plain containers, which the run folder keeps.
    """

    recipe_name: str
    model_name: str
    debug_name: str | None
    recipe: Mapping[str, Any]
    model: Mapping[str, Any]
    data: DataSettings
    optimizer: OptimizerSettings
    mode: Mode
    callbacks: Mapping[str, Any]
    do: str
    steps: int
    seed: int
    run_dir: Path | None
    resume: str | None
    command: str
    check_numerics: bool = False
    nonfinite: NonfiniteSettings = NonfiniteSettings()
    init_from: InitFromSettings = InitFromSettings()
    watchdog: WatchdogSettings = WatchdogSettings()
    stop_after: float | None = None
    inspect: InspectSettings = dataclasses.field(default_factory=InspectSettings)
    notes: tuple[str, ...] = ()
    compare: CompareSettings = CompareSettings()
    replay: ReplaySettings = ReplaySettings()
    resolved: Mapping[str, Any] = dataclasses.field(default_factory=dict)
