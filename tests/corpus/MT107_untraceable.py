"""MT107: cannot be traced."""

from __future__ import annotations

import tensorflow as tf

from tests.corpus.base import Tiny


class AsksByInt(Tiny):
    def losses(self, batch):
        k = int(tf.reduce_max(batch["label"]))
        return super().losses(batch) * k  # expect MT107


class ListInLoop(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)
        kept = []
        for i in tf.range(8):
            kept.append(losses[i] * 2.0)
        return tf.stack(kept)  # expect MT107 MT203
