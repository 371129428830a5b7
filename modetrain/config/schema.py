"""Every key of the configuration as data: what it takes, its bounds, and one line of help.

The table is what values are checked against, what `--help` prints and what "did you mean" knows.
Sections that belong to the user (`recipe`, `model`, callbacks of their own) have no fixed keys: see `targets.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

from modetrain.config.key import Key
from modetrain.data.sources.load import SOURCES
from modetrain.mode import COMPILE, DEVICES, PRECISIONS, STRATEGIES, XLA_UNITS

MISSING = "???"  # how a YAML file says that a value has to be given
AUTO = "auto"  # callbacks.checkpoint.best: whichever of accuracy and loss the evaluation returns


def _every(what: str, at_least: int) -> Key:
    end = "; 0 is only at the end" if at_least == 0 else ""
    return Key(kind="int", help=f"steps between {what}{end}", example=100, at_least=at_least, common=True)


KEYS: Mapping[str, Key] = {
    "steps": Key(
        kind="int",
        help="number of updates",
        example=1000,
        at_least=1,
        at_most=2**31 - 1,
        common=True,
        also=("epochs", "num_steps", "max_steps", "train_steps", "iterations"),
    ),
    "seed": Key(
        kind="int",
        help="every random draw is a function of it and the step",
        example=0,
        at_least=0,
        at_most=2**31 - 1,
        common=True,
        also=("random_seed",),
    ),
    "run_dir": Key(
        kind="str",
        path=True,
        help="the run folder; null is runs/<recipe>/<mode>/<time>",
        example="runs/mine",
        optional=True,
        common=True,
        also=("output_dir", "out_dir", "logdir", "log_dir", "output", "dir"),
    ),
    "resume": Key(
        kind="str",
        path=True,
        help="latest, or the path of a run folder or a checkpoint",
        example="latest",
        optional=True,
        common=True,
        also=("checkpoint", "ckpt", "restore", "load"),
    ),
    "stop_after": Key(
        kind="duration",
        help="the run saves and stops after so long; null lets it run",
        example="2h",
        optional=True,
        common=True,
        also=("max_time", "time_limit", "deadline", "max_hours", "timeout"),
    ),
    "check_numerics": Key(
        kind="bool",
        help="stop at the first NaN or infinity and name the op that made it",
        example=True,
        also=("check_nan", "detect_nan", "nan"),
    ),
    "nonfinite.policy": Key(
        kind="str",
        help="what a NaN or infinity in a loss or gradient leads to",
        example="stop",
        choices=("stop", "skip", "rollback", "ignore"),
        common=True,
        also=("on_nonfinite", "on_nan", "nan_policy", "skip_nan"),
    ),
    "nonfinite.limit": Key(
        kind="int",
        help="updates skipped in a row, or rollbacks to one checkpoint, before the run ends after all",
        example=5,
        at_least=1,
    ),
    "init_from.path": Key(
        kind="str",
        path=True,
        help="run folder or checkpoint that a new run takes its first values from",
        example="runs/other",
        optional=True,
        common=True,
        also=("pretrained", "init_checkpoint", "warm_start", "finetune"),
    ),
    "init_from.include": Key(
        kind="list",
        help="patterns of the variables to take; null is all but the optimizers' own",
        example=["model/*"],
        each=Key(kind="str", help="", example="model/*"),
        shortest=1,
        optional=True,
    ),
    "init_from.exclude": Key(
        kind="list",
        help="patterns of variables to leave",
        example=["model/*/bias"],
        each=Key(kind="str", help="", example="model/*/bias"),
        shortest=1,
        optional=True,
    ),
    "watchdog.after": Key(
        kind="duration",
        help="time without progress until every thread's stack is written down; 0 is off",
        example="10m",
        at_least=0,
    ),
    "watchdog.heartbeat": Key(
        kind="duration", help="time between signs of life in heartbeat.json; 0 is off", example="10s", at_least=0
    ),
    "do.name": Key(
        kind="str",
        help="what is done with the run",
        example="train",
        choices=("train", "evaluate", "compare", "inspect", "replay"),
    ),
    "replay.from": Key(
        kind="str",
        help="of do=replay: a capsule, a run folder or a checkpoint",
        example="runs/mine",
        optional=True,
        common=True,
        also=("capsule",),
    ),
    "replay.step": Key(
        kind="int",
        help="of do=replay: the step as messages name it; null is the capsule's",
        example=138,
        at_least=1,
        optional=True,
        common=True,
    ),
    "replay.replica": Key(
        kind="int",
        help="of do=replay: the replica, from 0, whose part of the step is made; null is the whole step",
        example=1,
        at_least=0,
        optional=True,
    ),
    "replay.check": Key(
        kind="bool", help="of do=replay: say what first goes wrong, in every mode", example=True, common=True
    ),
    "compare.modes": Key(
        kind="list",
        help="of do=compare: the modes, the first is what the others are compared with",
        example=["eager", "graph", "xla"],
        each=Key(kind="name", help="", example="graph"),
        shortest=1,
        common=True,
        also=("modes",),
    ),
    "compare.steps": Key(kind="int", help="of do=compare: how many steps", example=10, at_least=1, at_most=100_000),
    "compare.draws": Key(
        kind="int",
        help="of do=compare: how often each step is repeated to measure its rounding noise",
        example=3,
        at_least=1,
        at_most=1000,
    ),
    "compare.replicas": Key(
        kind="int",
        help="of do=compare: replicas of mirrored, workers of multiworker",
        example=2,
        at_least=2,
        at_most=1024,
    ),
    "inspect.at_start": Key(
        kind="bool",
        help="a graph or xla run says what tracing changes",
        example=False,
        common=True,
        also=("inspect_at_start", "lint"),
    ),
    "inspect.target": Key(
        kind="str",
        help="what do=inspect judges by; null is the mode's own",
        example="tpu",
        optional=True,
        choices=("graph", "xla", "tpu"),
    ),
    "data.name": Key(
        kind="str",
        help="TFDS data set (mnist, fashion_mnist, ...)",
        example="mnist",
        common=True,
        also=("dataset",),
    ),
    "data.source": Key(
        kind="str",
        help="where data comes from; auto is TFDS, else the bundled sample",
        example="auto",
        choices=SOURCES,
        common=True,
    ),
    "data.dir": Key(
        kind="str",
        help="TFDS data folder; null is TFDS's own",
        example="~/tensorflow_datasets",
        optional=True,
        also=("data_dir",),
    ),
    "data.path": Key(
        kind="str",
        help="folder of your own arrays or TFRecords",
        example="FOLDER",
        optional=True,
        also=("data_path",),
    ),
    "data.download": Key(kind="bool", help="whether data that is not prepared may be downloaded", example=True),
    "data.train_split": Key(kind="str", help="TFDS split to train on", example="train"),
    "data.eval_split": Key(kind="str", help="TFDS split to evaluate on", example="test"),
    "data.batch_size": Key(
        kind="int",
        help="examples in one training batch, over all devices",
        example=64,
        at_least=1,
        at_most=2**31 - 1,
        common=True,
        also=("batch", "bs", "train_batch_size"),
    ),
    "data.eval_batch_size": Key(
        kind="int", help="examples in one evaluation batch", example=250, at_least=1, also=("test_batch_size",)
    ),
    "data.image_size": Key(
        kind="size", help="size every image is brought to; null keeps it", example="[32,32]", optional=True
    ),
    "data.overfit": Key(
        kind="int",
        help="so many training batches for ever, and evaluation sees them too, augmented alike; 0 is off",
        example=1,
        at_least=0,
        also=("overfit_batches",),
    ),
    "data.eval_batches": Key(
        kind="int",
        help="evaluation stops after so many batches; null sees every example once",
        example=10,
        at_least=1,
        optional=True,
        also=("limit_val_batches",),
    ),
    "data.retries": Key(
        kind="int", help="how often a batch that could not be had is asked for again", example=2, at_least=0
    ),
    "optimizer.name": Key(kind="str", help="the update rule", example="adamw", choices=("adam", "adamw", "sgd")),
    "optimizer.learning_rate": Key(
        kind="float",
        help="peak learning rate, after warm-up",
        example=0.001,
        above=0,
        common=True,
        also=("lr",),
    ),
    "optimizer.schedule": Key(
        kind="str",
        help="how the learning rate goes on after warm-up",
        example="cosine",
        choices=("constant", "cosine", "linear"),
        also=("lr_schedule", "scheduler", "decay"),
    ),
    "optimizer.warmup": Key(
        kind="int",
        help="updates over which the learning rate rises",
        example=100,
        at_least=0,
        also=("warmup_steps",),
    ),
    "optimizer.final_fraction": Key(
        kind="float",
        help="learning rate at the last step, as a fraction of the peak",
        example=0.1,
        at_least=0,
        at_most=1,
    ),
    "optimizer.weight_decay": Key(kind="float", help="decoupled weight decay", example=0.004, at_least=0, also=("wd",)),
    "optimizer.momentum": Key(kind="float", help="of sgd", example=0.9, at_least=0, below=1),
    "optimizer.nesterov": Key(kind="bool", help="of sgd", example=True),
    "optimizer.beta_1": Key(kind="float", help="of adam and adamw", example=0.9, at_least=0, below=1, also=("beta1",)),
    "optimizer.beta_2": Key(
        kind="float", help="of adam and adamw", example=0.999, at_least=0, below=1, also=("beta2",)
    ),
    "optimizer.epsilon": Key(kind="float", help="of adam and adamw", example=1e-7, above=0, also=("eps",)),
    "optimizer.clip_norm": Key(
        kind="float",
        help="bound on the gradients' global norm; null does not clip",
        example=1.0,
        above=0,
        optional=True,
        also=("clip", "grad_clip", "max_grad_norm", "clipnorm", "global_clipnorm"),
    ),
    "optimizer.accumulate": Key(
        kind="int",
        help="micro-batches a batch is cut into",
        example=2,
        at_least=1,
        also=("accumulate_steps", "gradient_accumulation_steps", "accumulation"),
    ),
    "optimizer.ema": Key(
        kind="float",
        help="decay of the averaged weights that evaluation uses; null keeps none",
        example=0.999,
        above=0,
        below=1,
        optional=True,
        also=("ema_decay",),
    ),
    "mode.name": Key(kind="name", help="name of the preset", example="graph"),
    "mode.compile": Key(
        kind="str",
        help="eager runs Python line by line, graph traces it, xla compiles it",
        example="graph",
        choices=COMPILE,
        common=True,
        also=("jit_compile", "jit", "run_eagerly"),
    ),
    "mode.strategy": Key(kind="str", help="where a step runs", example="one_device", choices=STRATEGIES),
    "mode.replicas": Key(
        kind="int",
        help="devices of mode=mirrored; without a GPU so many logical CPUs (auto: one; at most 64)",
        example=2,
        choices=("auto",),
        at_least=1,
        at_most=1024,
        common=True,
        also=("num_replicas", "gpus", "num_gpus", "num_devices"),
    ),
    "mode.workers": Key(
        kind="int",
        help="processes of mode=multiworker to start here; auto is as the cluster says",
        example=2,
        choices=("auto",),
        at_least=1,
        at_most=1024,
        common=True,
        also=("num_workers", "nodes", "num_nodes", "nproc"),
    ),
    "mode.restarts": Key(
        kind="int",
        help="how often workers started here start again after one was lost",
        example=3,
        at_least=0,
        also=("max_restarts",),
    ),
    "mode.restart_workers": Key(
        kind="int", help="how many workers there are then", example=1, choices=("auto",), at_least=1, at_most=1024
    ),
    "mode.startup_timeout": Key(
        kind="float", help="seconds that workers may take to find each other", example=120.0, above=0
    ),
    "mode.devices": Key(
        kind="list",
        help="auto, cpu, gpu, or the numbers of the GPUs to use",
        example=[0, 1],
        choices=DEVICES,
        each=Key(kind="int", help="", example=0, at_least=0),
        shortest=1,
        also=("device", "accelerator"),
    ),
    "mode.tpu": Key(
        kind="str",
        help="name or address of the TPU of mode=tpu, or local; null is TPU_NAME",
        example="local",
        optional=True,
    ),
    "mode.sync_batch_norm": Key(
        kind="bool", help="batch normalisation sees the whole batch, over all replicas", example=False
    ),
    "mode.xla_unit": Key(
        kind="str",
        help="what XLA compiles as one program; step over several replicas takes GPUs",
        example="step",
        choices=XLA_UNITS,
    ),
    "mode.steps_per_call": Key(
        kind="int",
        help="most steps in one call of the compiled program",
        example="auto",
        choices=("auto",),
        at_least=1,
        common=True,
        also=("steps_per_execution", "steps_per_loop"),
    ),
    "mode.precision": Key(
        kind="str",
        help="type of number that is computed with",
        example="mixed_bfloat16",
        choices=PRECISIONS,
        common=True,
        meant={
            **dict.fromkeys(("bfloat16", "bf16", "mixed_bf16"), "mixed_bfloat16"),
            **dict.fromkeys(("float16", "fp16", "f16", "half", "mixed", "amp", "mixed_fp16"), "mixed_float16"),
            **dict.fromkeys(("fp32", "f32", "single"), "float32"),
            **dict.fromkeys(("fp64", "f64", "double"), "float64"),
        },
        also=("dtype", "mixed_precision"),
    ),
    "mode.deterministic": Key(kind="bool", help="only kernels that repeat bit by bit", example=True, common=True),
    "mode.strict": Key(kind="bool", help="graph bitwise equal to eager", example=True, common=True),
    "mode.debug_data": Key(kind="bool", help="breakpoints work inside Dataset.map", example=True, common=True),
    "mode.guards": Key(
        kind="bool",
        help="raise the errors that XLA drops; auto is under XLA",
        example=True,
        choices=("auto",),
        also=("guards", "bounds_checks"),
    ),
    "callbacks.log.every": _every("log lines and points in TensorBoard", 1),
    "callbacks.evaluate.every": _every("evaluations", 0),
    "callbacks.checkpoint.every": _every("checkpoints", 0),
    "callbacks.checkpoint.keep": Key(
        kind="int", help="the last so many checkpoints are kept", example=3, at_least=1, common=True
    ),
    "callbacks.checkpoint.keep_every": Key(
        kind="int",
        help="checkpoints of each multiple of so many steps are kept for good; null keeps none",
        example=10000,
        at_least=1,
        optional=True,
    ),
    "callbacks.checkpoint.background": Key(
        kind="bool", help="steps go on while a checkpoint is written", example=True, also=("async", "async_save")
    ),
    "callbacks.checkpoint.best": Key(
        kind="str",
        help="evaluation metric whose best checkpoint is kept too; auto is accuracy, else loss",
        example="accuracy",
        optional=True,
    ),
    "callbacks.recorder.keep": Key(
        kind="int", help="capsules of failed steps that are kept, the newest", example=3, at_least=1
    ),
    "callbacks.profile.at": Key(
        kind="int",
        help="step at which a profiler trace begins; null takes none",
        example=50,
        at_least=0,
        optional=True,
        common=True,
    ),
    "callbacks.profile.steps": Key(kind="int", help="steps in the profiler trace", example=5, at_least=1, common=True),
}
