"""The settings of a run: every key of the configuration once, with its type, default, limits and help.

Defaults, checks, "did you mean", `--help` and docs/configuration.md are read from these fields (`keys.py`). The sections
`recipe`, `model` and callbacks of a user's own have the keys that their code takes. Neither TensorFlow nor Hydra is
imported here, so that a wrong value is reported in well under a second.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from modetrain.mode import Mode
from modetrain.schema import NAME, REQUIRED, common, key

SOURCES = ("auto", "tfds", "bundled", "folder", "none")
AUTO_SPLIT = "auto"  # data.eval_split of a function: the first there is of validation, ..., test
AUTO = "auto"  # callbacks.checkpoint.best: whichever of accuracy and loss the evaluation returns
LARGEST = 2**31 - 1
PAIR = "a pair [height, width] of whole numbers from 1"
RUN, OWN, MACHINE = ("run",), ("run", "machine"), ("numbers", "machine")  # what a key affects
TFDS, DECAYS = (
    ("data.source", "auto", "tfds"),
    ("optimizer.schedule", "cosine", "linear"),
)  # what a key counts only with
SGD, ADAM = ("optimizer.name", "sgd"), ("optimizer.name", "adam", "adamw")
DO = ("train", "evaluate", "compare", "inspect", "replay")
SCHEDULES, POLICIES = ("constant", "cosine", "linear"), ("stop", "skip", "rollback", "ignore")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which examples, and how many at a time.

    Attributes:
      function: what makes the splits, where the section has a `_target_`: that, and its arguments.
    """

    name: str = common(REQUIRED, "TFDS data set (mnist, fashion_mnist, ...)", "mnist", also="dataset")
    source: str = common("auto", "where data comes from; auto is TFDS, else the bundled sample", choices=SOURCES)
    dir: str | None = key(
        None, "TFDS data folder; null is TFDS's own", "FOLDER", also="data_dir", path=True, affects=MACHINE, only=TFDS
    )
    path: str | None = key(
        None, "folder of your own arrays or TFRecords", "FOLDER", path=True, also="data_path", affects=MACHINE
    )
    download: bool = key(True, "whether data that is not prepared may be downloaded", affects=MACHINE)
    train_split: str = key("train", "split to train on")
    eval_split: str | None = key("test", "split to evaluate on; null is none", also="test_split valid_split")
    eval_splits: Mapping[str, str] | None = key(
        None,
        "several splits to evaluate on, by name, instead of eval_split",
        {"val": "validation", "test": "test"},
        takes="splits by name",
    )
    batch_size: int = common(
        64,
        "examples in one training batch, over all devices",
        at_least=1,
        also="batch bs batchsize train_batch_size global_batch_size minibatch_size",
    )
    eval_batch_size: int = key(
        250, "examples in one evaluation batch", at_least=1, also="test_batch_size val_batch_size validation_batch_size"
    )
    image_size: tuple[int, int] | None = key(
        None,
        "[height, width] every image is resized to; null keeps it",
        [32, 32],
        at_least=1,
        takes=PAIR,
        also="size img_size input_size resize",
    )
    class_weight: str | None = key(
        None,
        "a feature `weight` with which rare classes count as much as common ones; null is none",
        "balanced",
        choices=("balanced",),
    )
    overfit: int = key(
        0, "batches to repeat for ever; evaluation sees them too; 0 is off", 1, at_least=0, also="overfit_batches"
    )
    eval_batches: int | None = key(
        None,
        "batches of one evaluation; null sees every example once",
        10,
        at_least=1,
        also="limit_val_batches validation_steps",
    )
    pad: int | None = key(
        None,
        "what features that vary in length are padded to; null is the longest, where that is known",
        128,
        at_least=1,
        also="max_length max_len max_seq_length sequence_length pad_to",
    )
    bucket: tuple[int, ...] | None = key(
        None,
        "lengths; each batch is padded to the smallest that holds its longest example",
        [32, 64, 128],
        at_least=1,
        shortest=1,
        also="buckets bucket_boundaries",
    )
    longer: str = key(
        "stop", "what an example longer than data.pad or data.bucket leads to", "cut", choices=("stop", "cut")
    )
    on_error: str = key(
        "stop",
        "an example that cannot be read ends the run, or the next one takes its place",
        "skip",
        choices=("stop", "skip"),
        meant={"ignore": "skip", "raise": "stop", "fail": "stop"},
    )
    retries: int = key(
        2, "how often a batch that could not be read is asked for again", at_least=0, affects=("machine",)
    )
    function: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """One optimizer: the update rule and what `minimize` does around it."""

    name: str = key(REQUIRED, "the update rule", "adamw", choices=("adam", "adamw", "sgd"))
    learning_rate: float = common(
        REQUIRED,
        "peak learning rate, after warm-up",
        0.001,
        above=0,
        also="lr base_lr init_lr initial_learning_rate peak_lr",
    )
    schedule: str = key(
        "constant",
        "the learning rate after warm-up",
        "cosine",
        choices=SCHEDULES,
        also="lr_schedule learning_rate_schedule scheduler lr_scheduler lr_scheduler_type decay learning_rate_decay lr_decay",
    )
    warmup: int = key(
        0,
        "updates over which the learning rate rises",
        100,
        at_least=0,
        also="warmup_steps num_warmup_steps lr_warmup_steps",
    )
    final_fraction: float = key(
        0.0, "learning rate at the last step, as a fraction of the peak", 0.1, at_least=0, at_most=1, only=DECAYS
    )
    weight_decay: float = key(0.0, "decoupled weight decay", 0.004, at_least=0, also="wd")
    momentum: float = key(0.0, "of sgd", 0.9, at_least=0, below=1, only=SGD)
    nesterov: bool = key(False, "of sgd", True, only=SGD)
    beta_1: float = key(0.9, "of adam and adamw", at_least=0, below=1, also="beta1 adam_beta1", only=ADAM)
    beta_2: float = key(0.999, "of adam and adamw", at_least=0, below=1, also="beta2 adam_beta2", only=ADAM)
    epsilon: float = key(1e-7, "of adam and adamw", above=0, also="eps adam_epsilon", only=ADAM)
    clip_norm: float | None = key(
        None,
        "bound on the gradients' global norm; null does not clip",
        1.0,
        above=0,
        also="clip grad_clip gradient_clip gradient_clip_val max_grad_norm clip_grad_norm clipnorm global_clipnorm max_norm",
    )
    accumulate: int = key(
        1,
        "micro-batches a batch is cut into",
        2,
        at_least=1,
        also="accumulate_steps accumulate_grad_batches gradient_accumulation gradient_accumulation_steps grad_accum_steps",
    )
    ema: float | None = key(
        None,
        "decay of the averaged weights for evaluation; null is none",
        0.999,
        above=0,
        below=1,
        also="ema_decay ema_momentum use_ema",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class NonfiniteSettings:
    """What happens where a loss or a gradient is NaN or infinite.

    `stop` ends the run at that step; `skip` leaves the update out; `rollback` restores the checkpoint before and goes on
    with other batches; `ignore` looks at nothing.
    """

    policy: str = common(
        "stop",
        "what a NaN or infinity in a loss or gradient leads to",
        choices=POLICIES,
        also="on_nonfinite on_nan nan_policy skip_nan",
    )
    limit: int = key(5, "updates skipped in a row, or rollbacks to one checkpoint, before the run ends", at_least=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InitFromSettings:
    """A new run's first values, from a checkpoint that need not fit in all."""

    path: str | None = common(
        None,
        "run folder or checkpoint that a new run starts from",
        "runs/other",
        path=True,
        also="pretrained pretrained_weights init_checkpoint load_weights weights warm_start finetune",
        affects=OWN,
    )
    include: tuple[str, ...] | None = key(
        None, "patterns of variables to take; null is all but the optimizers'", ["model/*"], shortest=1, affects=RUN
    )
    exclude: tuple[str, ...] | None = key(
        None, "patterns of variables to leave", ["model/*/bias"], shortest=1, affects=RUN
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class WatchdogSettings:
    """What is written for a person or a program that watches from outside; in seconds, 0 is off."""

    after: float = key(
        600.0, "time without progress until stacks are written; 0 is off", "10m", at_least=0, duration=True, affects=OWN
    )
    heartbeat: float = key(
        10.0, "time between signs of life in heartbeat.json; 0 is off", "10s", at_least=0, duration=True, affects=OWN
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """What `do=compare` compares."""

    AFFECTS: ClassVar = RUN
    ONLY: ClassVar = ("do.name", "compare")

    modes: tuple[str, ...] = common(
        ("eager", "graph", "xla"),
        "of do=compare: the modes, the first is what the others are compared with",
        pattern=NAME,
        shortest=1,
        also="modes",
    )
    steps: int = key(10, "of do=compare: how many steps", at_least=1, at_most=100_000)
    draws: int = key(3, "of do=compare: how often a step is repeated to measure its noise", at_least=1, at_most=1000)
    replicas: int = key(2, "of do=compare: replicas of mirrored, workers of multiworker", at_least=2, at_most=1024)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InspectSettings:
    """What is looked for in the user's own code."""

    AFFECTS: ClassVar = RUN

    at_start: bool = common(True, "a graph or xla run says what tracing changes", False, also="inspect_at_start lint")
    target: str | None = key(
        None, "what do=inspect judges by; null is the mode's own", "tpu", choices=("graph", "xla", "tpu")
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplaySettings:
    """Which step `do=replay` makes again, in the debugger or, with `check`, in every mode."""

    AFFECTS: ClassVar = RUN

    path: str | None = common(
        None, "of do=replay: a capsule, a run folder or a checkpoint", "FOLDER", name="from", path=True, also="capsule"
    )
    step: int | None = common(
        None, "of do=replay: the step as messages name it; null is the capsule's", 138, at_least=1
    )
    replica: int | None = key(None, "of do=replay: the replica, from 0, whose part is made; null is all", 1, at_least=0)
    check: bool = common(False, "of do=replay: say what first goes wrong, in every mode", True)


# --- the library's own callbacks; a run has a plain dict of each that is switched on ------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogSettings:
    AFFECTS: ClassVar = RUN
    every: int = common(
        100,
        "steps between log lines and points in TensorBoard",
        at_least=1,
        also="log_every log_every_n_steps log_interval log_steps logging_steps print_every print_freq summary_interval",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    AFFECTS: ClassVar = RUN
    every: int = common(
        500,
        "steps between evaluations; 0 is only at the end",
        at_least=0,
        also="eval_every eval_interval eval_steps eval_freq evaluate_every val_check_interval validation_freq val_every",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    AFFECTS: ClassVar = RUN
    every: int = common(
        500,
        "steps between checkpoints; 0 is only at the end",
        at_least=0,
        also="checkpoint_every checkpoint_interval save_every save_interval save_steps save_freq every_n_train_steps",
    )
    keep: int = common(
        3,
        "how many of the last checkpoints are kept",
        at_least=1,
        also="max_to_keep save_total_limit keep_last save_top_k",
    )
    keep_every: int | None = key(
        None, "checkpoints at multiples of it are kept for good; null keeps none", 10000, at_least=1
    )
    background: bool = key(True, "steps go on while a checkpoint is written", also="async async_save")
    best: str | None = key(
        AUTO,
        "metric of the best checkpoint, -METRIC if smaller is better; auto is accuracy, else loss",
        "accuracy",
        also="monitor monitor_metric",
    )
    best_is: str | None = key(
        None,
        "which end of that metric is best; null is what the recipe states, or its name",
        "min",
        choices=("min", "max"),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProfileSettings:
    AFFECTS: ClassVar = RUN
    at: int | None = common(None, "step at which a profiler trace begins; null takes none", 50, at_least=0)
    steps: int = common(5, "steps in the profiler trace", at_least=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecorderSettings:
    AFFECTS: ClassVar = RUN
    keep: int = key(3, "capsules of failed steps that are kept, the newest", at_least=1)


CALLBACKS: Mapping[str, type] = {
    "log": LogSettings,
    "evaluate": EvaluateSettings,
    "checkpoint": CheckpointSettings,
    "profile": ProfileSettings,
    "recorder": RecorderSettings,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything one run is made from; a field without `key` is no key of the configuration.

    Attributes:
      recipe_name, model_name, debug_name: the chosen option of these config groups (`debug_name` may be None).
      recipe, model: what Hydra instantiates (a mapping with `_target_`).
      callbacks: per callback name its own settings (`{"log": {"every": 100}, ...}`).
      run_dir: absolute; None makes `runs/<recipe>/<mode>/<time>`.
      resume: None; or `latest`, which continues in `run_dir` (then always set, and there) from its newest checkpoint,
        or from the start if it has none yet; or the absolute path of a run folder or a checkpoint.
      stop_after: in seconds.
      command: the command line, to be typed again.
      notes: what a debug preset turned on and off, one line each, printed at start.
      resolved: the whole composed config as plain containers, which the run folder keeps.
    """

    recipe_name: str
    model_name: str
    debug_name: str | None
    recipe: Mapping[str, Any]
    model: Mapping[str, Any]
    command: str
    steps: int = common(
        1000,
        "number of updates",
        at_least=1,
        at_most=LARGEST,
        also="step num_steps max_steps total_steps train_steps num_train_steps training_steps iterations max_iters max_iter",
    )
    seed: int = common(
        0,
        "every random draw is a function of it and the step",
        at_least=0,
        at_most=LARGEST,
        also="random_seed rng_seed manual_seed seed_everything",
    )
    run_dir: Path | None = common(  # noqa: RUF009 (it makes a field)
        None,
        "the run folder; null is runs/<recipe>/<mode>/<time>",
        "runs/mine",
        path=True,
        also="output_dir out_dir logdir log_dir output dir model_dir save_dir work_dir job_dir default_root_dir checkpoint_dir",
        affects=OWN,
    )
    resume: str | None = common(
        None,
        "latest, or the path of a run folder or a checkpoint",
        "latest",
        path=True,
        also="checkpoint ckpt ckpt_path checkpoint_path resume_from resume_from_checkpoint restore load",
        affects=OWN,
    )
    stop_after: float | None = common(
        None,
        "the run saves and stops after this time; null lets it run",
        "2h",
        duration=True,
        also="max_time time_limit deadline timeout",
        affects=RUN,
    )
    check_numerics: bool = key(
        False,
        "stop at the first NaN or infinity and name its op (not under XLA)",
        True,
        also="check_nan detect_nan nan detect_anomaly debug_nans terminate_on_nan",
        affects=("numbers", "run"),
    )
    nonfinite: NonfiniteSettings = NonfiniteSettings()
    init_from: InitFromSettings = InitFromSettings()
    watchdog: WatchdogSettings = WatchdogSettings()
    do: str = key(REQUIRED, "what is done with the run", "train", name="do.name", choices=DO, affects=RUN)
    replay: ReplaySettings = ReplaySettings()
    compare: CompareSettings = CompareSettings()
    inspect: InspectSettings = InspectSettings()
    data: DataSettings
    optimizer: OptimizerSettings
    mode: Mode
    callbacks: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    resolved: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def evaluates(self) -> bool:
        """Whether the run needs the evaluation split; `data.overfit` evaluates on the training batches."""
        return self.do == "evaluate" or (self.callbacks.get("evaluate") is not None and not self.data.overfit)
