"""Names that users of other libraries type and that are no key here, each with the sentence that leads on.

A name that takes the same value as a key stands at that key's field (`also=`).
"""

from __future__ import annotations

from collections.abc import Mapping


def _all(names: str, sentence: str) -> Mapping[str, str]:
    return dict.fromkeys(names.split(), sentence)


EPOCHS = ("epochs", "epoch", "num_epochs", "max_epochs", "n_epochs", "nb_epoch", "num_train_epochs", "train_epochs")
LENGTH = {
    **_all(
        " ".join(EPOCHS),
        "There are no epochs: a run has a number of steps, and an epoch is as many as the training examples divided by "
        "data.batch_size. Type steps=STEPS.",
    ),
    **_all(
        "steps_per_epoch limit_train_batches",
        "There are no epochs. Type steps= for the whole run, and callbacks.evaluate.every= for the steps between evaluations.",
    ),
    **_all(
        "early_stopping earlystopping early_stop patience min_delta",
        "There is no early stopping by a key: a callback of your own calls trainer.stop_early('why'); docs/write-a-recipe.md "
        "has one with a patience. Type +callbacks.NAME._target_=MODULE.CLASS.",
    ),
    **_all("fast_dev_run dry_run smoke_test", "Type debug=fast for a short run of every part."),
    **_all("max_hours max_minutes max_seconds", "Type stop_after=2h, or another time such as 90m or 45s."),
}
ORDER = _all(
    "shuffle shuffle_buffer shuffle_buffer_size buffer_size",
    "Training examples are always shuffled, as a function of seed and step. Leave it out, or type another seed=.",
)
BATCHES = {
    **_all(
        "per_device_train_batch_size per_device_batch_size per_replica_batch_size per_gpu_batch_size local_batch_size",
        "data.batch_size is that of all devices together. Type data.batch_size= with the product.",
    ),
    **_all(
        "num_parallel_calls prefetch dataloader_num_workers data_workers pin_memory persistent_workers",
        "Batches are prepared ahead by themselves. Leave it out.",
    ),
}
SPLITS = _all(
    "validation_split val_split",
    "Type data.eval_split= with the name of a split, or 'data.train_split=train[:80%]' 'data.eval_split=train[80%:]' to cut one.",
)
OBJECTIVE = _all(
    "loss loss_fn criterion objective metrics",
    "The recipe says it: its train_step returns the loss and more metrics, its eval_step those of an evaluation "
    "(docs/write-a-recipe.md).",
)
WARMUP = _all("warmup_ratio warmup_proportion warmup_epochs", "Type optimizer.warmup= with a number of steps.")
DECAY = _all(
    "optimizer.exclude exclude_from_weight_decay no_weight_decay no_decay",
    "All variables of an optimizer decay alike: a recipe gives the others to a second one, optimizer(variables, "
    "weight_decay=0.0).",
)
CLIPPING = _all(
    "gradient_clip_algorithm clip_value clipvalue clip_by_value",
    "Gradients are clipped by their global norm. Type optimizer.clip_norm=1.",
)
OUTPUT = _all(
    "verbose quiet silent progress_bar enable_progress_bar tqdm",
    "A terminal shows a bar, and a file a line each callbacks.log.every steps. Type callbacks.log.every=STEPS.",
)
EVALUATION = _all(
    "check_val_every_n_epoch eval_epochs evaluation_strategy eval_strategy",
    "Type callbacks.evaluate.every= with the steps between evaluations; 0 is only at the end.",
)
CHECKPOINTS = {
    **_all(
        "enable_checkpointing checkpoint_callback save_checkpoints save_strategy",
        "Type callbacks.checkpoint=null for no checkpoints, or callbacks.checkpoint.every= with the steps between them.",
    ),
    **_all("save_best save_best_only", "Type callbacks.checkpoint.best=METRIC; auto is accuracy, else loss."),
}
PROFILE = _all(
    "profiler profile profile_batch profile_steps enable_profiler",
    "Type debug=profile, or callbacks.profile.at=50 for a trace that begins at that step.",
)
COMPILE = {
    **_all("run_eagerly eager", "Type mode=eager."),
    **_all("jit_compile jit xla use_xla torch_compile", "Type mode=xla, or mode=graph without it."),
}
REPLICAS = {
    **_all(
        "gpus num_gpus n_gpus ngpus devices num_devices num_replicas",
        "Type mode=mirrored mode.replicas=NUMBER for that many devices, or 'mode.devices=[0,1]' for the GPUs of these numbers.",
    ),
    **_all("accelerator", "Type mode.devices=gpu or mode.devices=cpu; mode=tpu for a TPU."),
}
WORKERS = {
    **_all(
        "nodes num_nodes nnodes nproc nproc_per_node num_processes world_size",
        "Type mode=multiworker mode.workers=NUMBER for processes on this machine; a cluster says by itself how many there are.",
    ),
    **_all(
        "num_workers",
        "Batches are prepared ahead by themselves. Processes that train together are mode=multiworker mode.workers=NUMBER.",
    ),
}
PRECISION = {
    **_all("fp16 float16 use_fp16 amp use_amp", "Type mode.precision=mixed_float16."),
    **_all("bf16 bfloat16 use_bf16", "Type mode.precision=mixed_bfloat16."),
}
INSTEAD: Mapping[str, Mapping[str, str]] = {  # by the key that the sentences lead to
    "steps": LENGTH,
    "seed": ORDER,
    "data.eval_split": SPLITS,
    "data.batch_size": BATCHES,
    "optimizer.name": OBJECTIVE,
    "optimizer.warmup": WARMUP,
    "optimizer.weight_decay": DECAY,
    "optimizer.clip_norm": CLIPPING,
    "mode.compile": COMPILE,
    "mode.replicas": REPLICAS,
    "mode.workers": WORKERS,
    "mode.precision": PRECISION,
    "callbacks.log.every": OUTPUT,
    "callbacks.evaluate.every": EVALUATION,
    "callbacks.checkpoint.every": CHECKPOINTS,
    "callbacks.profile.at": PROFILE,
}
