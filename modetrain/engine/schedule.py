"""Learning-rate schedules: functions of the step alone, so that a resumed run needs no state for them."""

from __future__ import annotations

import math

import tensorflow as tf

from modetrain.settings import OptimizerSettings


def learning_rate_at(settings: OptimizerSettings, step: tf.Tensor | int, steps: int | None) -> tf.Tensor:
    """Learning rate of the update that begins at `step` of `steps`; `step` may be a vector.

    The rate rises linearly over `settings.warmup` updates; the first update has a rate above 0. It then stays constant, or
    falls along half a cosine (Loshchilov and Hutter, "SGDR", 2017) or a line. At the last update it is
    `settings.final_fraction` of the peak.

    Raises:
      ValueError: the rate decays, and the number of steps is unknown.

    Returns:
      float64, of the shape of `step` (a scalar where the rate is constant).
    """
    peak = tf.constant(settings.learning_rate, tf.float64)
    if settings.schedule == "constant" and not settings.warmup:
        return peak
    now = tf.cast(step, tf.float64)
    rise = tf.minimum((now + 1.0) / max(settings.warmup, 1), 1.0)
    if settings.schedule == "constant":
        return peak * rise
    if steps is None:
        raise ValueError(
            f"optimizer.schedule={settings.schedule} decays over the steps of the run, and their number is unknown. Pass "
            "it: modetrain.Optimizer(variables, settings, steps=...)."
        )
    progress = tf.clip_by_value((now - settings.warmup) / max(steps - 1 - settings.warmup, 1), 0.0, 1.0)
    shape = (1.0 + tf.cos(math.pi * progress)) / 2.0 if settings.schedule == "cosine" else 1.0 - progress
    return peak * rise * (settings.final_fraction + (1.0 - settings.final_fraction) * shape)
