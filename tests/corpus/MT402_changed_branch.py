"""MT402: a branch on a Python value that changes between steps."""

from __future__ import annotations

import tensorflow as tf

from modetrain import Callback
from tests.corpus.base import Tiny


class BranchesOnTheEpoch(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.epoch = 0

    def losses(self, batch):
        found = super().losses(batch)
        if self.epoch > 3:  # expect MT402
            found = found * 0.5
        return found

    def next_epoch(self):
        self.epoch += 1  # expect MT405


class BranchesOnAFlag(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.warm = True

    def losses(self, batch):
        scale = 0.1 if self.warm else 1.0  # expect MT402
        return super().losses(batch) * scale

    def show(self):
        self.warm = False  # expect MT405
        return {}


class BranchOnEpoch(Tiny):
    epoch = 0

    def losses(self, batch):
        losses = super().losses(batch)
        if self.epoch >= 2:  # expect MT402
            losses = tf.where(losses < 1.0, tf.zeros_like(losses), losses)
        return losses

    def on_epoch(self, epoch):
        self.epoch = epoch  # expect MT405


class TellsEpoch(Callback):
    def on_step(self, trainer):
        trainer.recipe.on_epoch(trainer.step // 10)


class AddsAnAuxiliaryLoss(Tiny):
    use_aux = False

    def losses(self, batch):
        found = super().losses(batch)
        return found + 0.1 * tf.reduce_sum(batch["x"]) if self.use_aux else found  # expect MT402


class SwitchOn(Callback):
    def on_step(self, trainer):
        if trainer.step > 100:
            trainer.recipe.use_aux = True  # expect MT405 (AddsAnAuxiliaryLoss)
