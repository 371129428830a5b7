"""MT602: a label is out of range."""

from __future__ import annotations

import keras
import tensorflow as tf

from tests.corpus.base import Tiny


class LabelsInAFunction(Tiny):
    @tf.function
    def cross_entropy(self, labels, logits):
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)  # expect MT602

    def losses(self, batch):
        return self.cross_entropy(batch["label"] + 2, self.logits(batch))


class KerasLossIgnored(Tiny):
    """The same with a loss object of Keras, with a class too many."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.criterion = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")

    def losses(self, batch):
        return self.criterion(batch["label"] + 1, self.logits(batch))  # expect MT602


class KerasLabelOutOfRange(Tiny):
    def losses(self, batch):
        logits = self.logits(batch)
        return keras.losses.sparse_categorical_crossentropy(  # expect MT602
            batch["label"] * 2, logits, from_logits=True
        )
