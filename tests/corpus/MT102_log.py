"""MT102: logs or warns only while tracing."""

from __future__ import annotations

import logging
import warnings

import tensorflow as tf

from tests.corpus import elsewhere
from tests.corpus.base import Tiny


class Warns(Tiny):
    def losses(self, batch):
        warnings.warn("slow", stacklevel=2)  # expect MT102
        return super().losses(batch)


class WarnsOfLargeBatch(Tiny):
    def losses(self, batch):
        if batch["x"].shape[0] > 4:
            warnings.warn("a large batch", stacklevel=2)  # expect MT102
        return super().losses(batch)


class LoggedLoss(Tiny):
    """Logs through a helper."""

    modes = ("graph",)

    def losses(self, batch):
        losses = super().losses(batch)
        elsewhere.report("loss", tf.reduce_mean(losses))
        return losses


logger = logging.getLogger("corpus.shapes")


class LogsTheShape(Tiny):
    def losses(self, batch):
        logits = self.logits(batch)
        logger.info("logits %s", logits.shape)  # expect MT102
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)
