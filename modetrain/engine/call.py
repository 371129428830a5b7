"""Where in the run one call of a step stands: what a program tells a step besides the batch."""

from __future__ import annotations

import dataclasses

import tensorflow as tf


@dataclasses.dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a step on one micro-batch.

    Attributes:
      number: int64 scalar: updates completed, or the index of an evaluation batch.
      watch: bool scalar: somebody looks after this step.
      part: int32 scalar: number of the micro-batch.
      last_part: whether it is the last one of its step.
    """

    number: tf.Tensor
    watch: tf.Tensor
    part: tf.Tensor
    last_part: bool
