"""Whole recipes as they are published: what is frozen, made in the first step, counted in a table, drawn by stateful generators."""

from __future__ import annotations

import keras
import tensorflow as tf

from tests.corpus.base import Tiny, two_layers


def pretrained(image_shape, classes):
    """A body that is frozen, in evaluation mode, under a new head."""
    body = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(6, activation="relu"), keras.layers.BatchNormalization()]
    )
    body.trainable = False
    for layer in body.layers[:1]:
        layer.trainable = False
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.layers.Dense(classes)(body(inputs, training=False)))


def unfrozen(model):
    """For a second run, which begins from the first one's weights."""
    for layer in model.layers:
        layer.trainable = True
    return model


class TransfersABody(Tiny):
    modes = ("xla", "mirrored")
    build_model = staticmethod(pretrained)


class OptimizerOfKeras(Tiny):
    """Its slots are made by the first step."""

    def __init__(self, **given):
        super().__init__(**given)
        self.updates = keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(0.01, 10))

    def train_step(self, batch):
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self.losses(batch))
        self.updates.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return {"loss": loss}


class ScaleOfTheFirstBatch(Tiny):
    """A variable is made by the first step, and is then the recipe's."""

    scale = None

    def losses(self, batch):
        if self.scale is None:
            self.scale = keras.Variable(1.0, trainable=False, name="scale")
        self.scale.assign(0.9 * self.scale + 0.1 * tf.reduce_max(tf.abs(batch["x"])))
        return super().losses({**batch, "x": batch["x"] / self.scale})


class CountsInATable(Tiny):
    """Frequent labels weigh less; the counts are in a hash table."""

    modes = ("graph",)

    def __init__(self, **given):
        super().__init__(**given)
        self.counts = tf.lookup.experimental.MutableHashTable(tf.int32, tf.float32, default_value=0.0)

    def losses(self, batch):
        counts = tf.ensure_shape(self.counts.lookup(batch["label"]), batch["label"].shape)
        self.counts.insert(batch["label"], counts + 1.0)
        return super().losses(batch) / (1.0 + counts)


class CountsInADenseTable(CountsInATable):
    def __init__(self, **given):
        super().__init__(**given)
        self.counts = tf.lookup.experimental.DenseHashTable(
            tf.int32, tf.float32, default_value=0.0, empty_key=-1, deleted_key=-2
        )


class LatentByGenerator(Tiny):
    """A latent is drawn from a tf.random.Generator: other numbers in XLA and on replicas, from the same distribution."""

    modes = ("xla", "mirrored")
    build_model = staticmethod(two_layers)

    def __init__(self, **given):
        super().__init__(**given)
        self.generator = tf.random.Generator.from_seed(7)

    def logits(self, batch):
        return self.model(batch["x"] + 0.1 * self.generator.normal(batch["x"].shape), training=True)


class LatentByOperation(Tiny):
    modes = ("xla", "mirrored")
    build_model = staticmethod(two_layers)

    def logits(self, batch):
        return self.model(batch["x"] + 0.1 * tf.random.normal(batch["x"].shape), training=True)


class EpsilonOfTheRun(Tiny):
    """A setting of Keras's that is made once, before the first step."""

    def __init__(self, **given):
        super().__init__(**given)
        keras.config.set_epsilon(1e-7)

    def losses(self, batch):
        return super().losses(batch) + keras.config.epsilon()


class TeacherOfAverages(Tiny):
    """A clone follows the weights, and teaches."""

    modes = ("xla", "mirrored")
    build_model = staticmethod(two_layers)

    def __init__(self, **given):
        super().__init__(**given)
        self.teacher = keras.models.clone_model(self.model)
        self.teacher.set_weights(self.model.get_weights())
        self.teacher.trainable = False

    def train_step(self, batch):
        target = tf.nn.softmax(self.teacher(batch["x"], training=False))

        def loss():
            logits = self.model(batch["x"], training=True)
            apart = tf.reduce_sum(tf.square(tf.nn.softmax(logits) - target), -1)
            return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits) + apart, {"apart": apart}

        values = self.minimize(loss)
        for mine, average in zip(self.model.variables, self.teacher.variables, strict=True):
            average.assign(0.9 * average + 0.1 * mine)
        return values
