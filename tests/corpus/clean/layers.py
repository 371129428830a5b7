"""Layers and models of all kinds."""

from __future__ import annotations

import dataclasses

import keras
import tensorflow as tf
from keras import layers, ops

from tests.corpus.base import Tiny, varied
from tests.corpus.clean_helpers import cross_entropy, mlp


class Plain(Tiny):
    pass


class OwnLayer(Tiny):
    class Scale(keras.layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")

        def call(self, x, training=False):
            if training:
                x = x * 1.0
            return x * self.scale

    def __init__(self, **given):
        super().__init__(**given)
        self.scale_layer = self.Scale()
        self.scale_layer.build((None, 4))

    def losses(self, batch):
        return super().losses({**batch, "x": self.scale_layer(batch["x"], training=True)})


class UsesRnn(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.rnn = keras.layers.GRU(4)
        self.rnn.build((8, 2, 2))

    def losses(self, batch):
        return super().losses({**batch, "x": self.rnn(tf.reshape(batch["x"], [8, 2, 2]))})


class UsesConvolutions(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.conv = keras.layers.Conv2D(4, 2, padding="same")
        self.pool = keras.layers.GlobalAveragePooling2D()
        self.conv.build((8, 2, 2, 1))

    def losses(self, batch):
        return super().losses({**batch, "x": self.pool(self.conv(tf.reshape(batch["x"], [8, 2, 2, 1])))})


class UsesRegularizers(Tiny):
    @staticmethod
    def build_model(image_shape, classes):
        return keras.Sequential(
            [keras.Input((4,)), keras.layers.Dense(classes, kernel_regularizer="l2", activity_regularizer="l2")]
        )

    def losses(self, batch):
        return super().losses(batch) + tf.add_n(self.model.losses)


EPSILON = 1e-6


class SumsLayerLosses(Tiny):
    def losses(self, batch):
        penalty = sum(tf.reduce_sum(tf.square(w)) for w in self.model.trainable_weights if len(w.shape) > 1)
        return super().losses(batch) + EPSILON * penalty


class Regularised(Tiny):
    strength = 1e-3

    def penalty(self):
        return tf.add_n([tf.nn.l2_loss(v.value) for v in self.model.trainable_variables])

    def losses(self, batch):
        return super().losses(batch) + self.strength * self.penalty()


class RegularisedMore(Regularised):
    strength = 1e-2

    def train_step(self, batch):
        values = super().train_step(batch)
        return values | {"penalty": self.penalty()}


class BuildsLayersInBuild(Tiny):
    class Residual(keras.layers.Layer):
        def __init__(self, width, **kwargs):
            super().__init__(**kwargs)
            self.width = width

        def build(self, shape):
            self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")
            self.inner = keras.layers.Dense(self.width)
            self.inner.build(shape)

        def call(self, x, training=None):
            if training:
                x = x * 1.0
            return x + self.scale * self.inner(x)

    @staticmethod
    def build_model(image_shape, classes):
        layers = [BuildsLayersInBuild.Residual(4), keras.layers.Dense(classes)]
        return keras.Sequential([keras.Input((4,)), *layers])


class BiasBeforeBatchNorm(Tiny):
    def build_model(image_shape, classes):
        return keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dense(16, use_bias=True),
                keras.layers.BatchNormalization(momentum=0.9),
                keras.layers.ReLU(),
                keras.layers.Dense(classes),
            ]
        )


class TransformerBlock(Tiny):
    def build_model(image_shape, classes):
        inputs = keras.Input((4,))
        x = keras.layers.Dense(8)(keras.layers.Reshape((4, 1))(inputs))
        attended = keras.layers.MultiHeadAttention(num_heads=2, key_dim=4, dropout=0.1)(x, x, use_causal_mask=True)
        x = keras.layers.LayerNormalization()(x + attended)
        x = keras.layers.LayerNormalization()(x + keras.layers.Dense(8, activation="gelu")(x))
        return keras.Model(inputs, keras.layers.Dense(classes)(keras.layers.GlobalAveragePooling1D()(x)))


class RecurrentNet(Tiny):
    def build_model(image_shape, classes):
        return keras.Sequential(
            [keras.Input((4,)), keras.layers.Reshape((4, 1)), keras.layers.GRU(6), keras.layers.Dense(classes)]
        )


class BFloat16Head(Tiny):
    def losses(self, batch):
        logits = tf.cast(tf.cast(self.logits(batch), tf.bfloat16) * tf.constant(0.5, tf.bfloat16), tf.float32)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)


class FrozenPart(Tiny):
    """A layer is made untrainable for one loss and trainable after, the same at every step."""

    build_model = staticmethod(varied)

    def train_step(self, batch):
        layer = self.model.layers[-1]
        layer.trainable = False
        penalty = tf.reduce_mean(tf.stop_gradient(self.logits(batch)) ** 2, -1)
        layer.trainable = True
        return self.minimize(lambda: self.losses(batch) + penalty)


class CountingLayer(keras.layers.Layer):
    """Scales by a counter that is a weight of the layer."""

    def build(self, shape):
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, x, training=False):
        if training:
            self.calls.assign_add(1.0)
        return x / (1.0 + 0.1 * self.calls)


class LayerCounter(Tiny):
    """A Keras layer counts its calls in a weight."""

    @staticmethod
    def build_model(image_shape, classes):
        inputs = keras.Input((4,))
        x = CountingLayer()(inputs)
        return keras.Model(inputs, keras.layers.Dense(classes, kernel_initializer="ones")(x))


class RegularisedLayer(Tiny):
    """A regulariser of Keras, through the losses of the model."""

    @staticmethod
    def build_model(image_shape, classes):
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(classes, kernel_regularizer="l2")])

    def losses(self, batch):
        losses = super().losses(batch)
        return losses + tf.add_n(self.model.losses)


class AddLossLayer(layers.Layer):
    """Identity that asks for sparse activations."""

    def __init__(self, rate: float, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate

    def call(self, inputs):
        self.add_loss(self.rate * ops.mean(ops.absolute(inputs)))
        return inputs


class LayerLosses(Tiny):
    """Activity losses that layers add, behind batch normalisation."""

    @staticmethod
    def build_model(image_shape, classes):
        x = inputs = keras.Input((4,))
        for width in (8, 6):
            x = layers.Dense(width, use_bias=False)(x)
            x = layers.BatchNormalization(momentum=0.9)(x)
            x = AddLossLayer(0.05)(layers.ReLU()(x))
        return keras.Model(inputs, layers.Dense(classes)(x))

    def train_step(self, batch):
        def loss_fn():
            losses = self.losses(batch)
            added = tf.add_n(self.model.losses)
            return losses + added, {"added": added}

        return self.minimize(loss_fn)


@dataclasses.dataclass
class Routing:
    combine: tf.Tensor
    balance: tf.Tensor
    z_loss: tf.Tensor

    def auxiliary(self, balance: float, z: float):
        return balance * self.balance + z * self.z_loss


class SparseExperts(Tiny):
    """A mixture of experts with top-2 routing, a load-balancing loss and a router z-loss."""

    experts, top, width = 4, 2, 8

    def __init__(self, *, model, optimizer, info):
        self.info = info
        self.router = keras.Sequential([keras.Input((4,)), layers.Dense(self.experts, use_bias=False)], name="router")
        self.expert_nets = [mlp([self.width, info.classes], name=f"expert_{i}") for i in range(self.experts)]
        self.model = self.router
        self.optimizer = optimizer(self.learned)

    @property
    def learned(self):
        return [v for net in (self.router, *self.expert_nets) for v in net.trainable_variables]

    def route(self, x) -> Routing:
        logits = self.router(x, training=True)
        probabilities = tf.nn.softmax(logits)
        values, chosen = tf.math.top_k(probabilities, k=self.top)
        gates = values / tf.reduce_sum(values, axis=-1, keepdims=True)
        one_hot = tf.one_hot(chosen, self.experts)
        load = tf.reduce_mean(one_hot[:, 0], axis=0)
        balance = self.experts * tf.reduce_sum(load * tf.reduce_mean(probabilities, axis=0))
        return Routing(
            tf.einsum("bk,bke->be", gates, one_hot), balance, tf.square(tf.reduce_logsumexp(logits, axis=-1))
        )

    def train_step(self, batch):
        def loss_fn():
            routing = self.route(batch["x"])
            outputs = tf.stack([expert(batch["x"], training=True) for expert in self.expert_nets], axis=1)
            logits = tf.einsum("be,bec->bc", routing.combine, outputs)
            loss = cross_entropy(batch["label"], logits) + routing.auxiliary(balance=0.01, z=0.001)
            return loss, {"balance": routing.balance}

        return self.minimize(loss_fn, self.learned)


class Spectral(Tiny):
    def losses(self, batch):
        spectrum = tf.signal.rfft(tf.cast(batch["x"], tf.float32))
        return super().losses(batch) + 0.01 * tf.reduce_sum(tf.abs(spectrum), axis=1)
