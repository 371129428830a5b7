"""Rules on steps: how they are run, what they train on and how they update."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

from modetrain.errors import nearest_multiple
from modetrain.mode import LOGICAL_CPUS
from modetrain.schema import text
from modetrain.settings import AUTO, Settings


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


def numerics(settings: Settings) -> str | None:
    if not settings.check_numerics:
        return None
    asked = f"debug={settings.debug_name}" if settings.debug_name else "check_numerics=true"
    if settings.mode.deterministic:
        return (
            f"{asked} with mode.deterministic=true: TensorFlow's deterministic sparse cross-entropy has a NaN inside for labels "
            f"out of range, and the check would stop at it. Type {asked} mode.deterministic=false."
        )
    if settings.mode.compile != "xla":
        return None
    key = "mode" if settings.mode.name == "xla" else "mode.compile"
    return (
        f"{asked} with {key}=xla: TensorFlow's numeric checks do not compile under XLA. Type {asked} {key}=graph, or "
        f"{key}=eager."
    )


def accumulate(settings: Settings) -> str | None:
    size, parts = settings.data.batch_size, settings.optimizer.accumulate
    if size % parts == 0:
        return None
    nearest = nearest_multiple(size, parts)
    return (
        f"optimizer.accumulate={parts} with data.batch_size={size}: a batch is cut into {parts} equal micro-batches, "
        f"and {parts} does not divide {size}. Type data.batch_size={nearest}, or optimizer.accumulate=1."
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
    wholes = {name: parts * count if isinstance(count, int) else 1 for name, count in counts.items()}
    for name, whole in wholes.items():
        count, size = counts[name], settings.data.batch_size
        if size % whole:
            cut = f" and optimizer.accumulate={parts}" if parts > 1 else ""
            fix = f"data.batch_size={nearest_multiple(size, math.lcm(*wholes.values()))}"
            if count > LOGICAL_CPUS and size % parts == 0:  # then the count is the mistake, and not the batch
                fix = f"{name}={max(n for n in range(1, LOGICAL_CPUS + 1) if size // parts % n == 0)}"
            return (
                f"data.batch_size={size} with {name}={count}{cut}: every replica gets an equal share of a batch, and {whole} does "
                f"not divide {size}. Type {fix}."
            )
    return None


def padding(settings: Settings) -> str | None:
    data = settings.data
    if data.pad is None or data.bucket is None:
        return None
    lengths = ",".join(map(str, data.bucket))
    return (
        f"data.pad={data.pad} with data.bucket=[{lengths}]: a batch is padded to one length, or to the smallest of several that "
        "holds its longest example. Type data.pad=null, or data.bucket=null."
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


def profile(settings: Settings) -> str | None:
    callback = settings.callbacks.get("profile")
    if not isinstance(callback, Mapping) or callback.get("at") is None:
        return None
    at, length, steps = callback["at"], callback["steps"], settings.steps
    if at + length <= steps:
        return None
    fix = f"callbacks.profile.at={steps - length}, or " if length <= steps else ""
    return (
        f"callbacks.profile.at={at} callbacks.profile.steps={length} with steps={steps}: the trace would end at step "
        f"{at + length}, after the run. Type {fix}steps={at + length}."
    )


def best(settings: Settings) -> str | None:
    save = settings.callbacks.get("checkpoint")
    best, best_is = (save.get("best"), save.get("best_is")) if isinstance(save, Mapping) else (None, None)
    if best_is is None:
        return None
    key, given = "callbacks.checkpoint.best", f"callbacks.checkpoint.best_is={best_is}"
    if best in (None, AUTO):
        return f"{given} with {key}={text(best)}: it says which end of a metric is best, and none is named. Type {key}=METRIC too."
    if best[:1] in "+-" and best[:1] != {"min": "-", "max": "+"}[best_is]:
        return f"{given} with {key}={best}: the sign says the opposite. Type {key}={best[1:]} with it, or leave {given} out."
    return None
