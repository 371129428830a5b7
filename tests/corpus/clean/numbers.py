"""Numbers at the edge: casts, indices, NaN, whole numbers, matrices."""

from __future__ import annotations

import keras
import tensorflow as tf

from tests.corpus.base import Tiny, Varied


class FloatOfATensor(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        return found * float(tf.constant(2.0)) if False else found * float(2)


class EmbedsInRange(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.embedding = keras.layers.Embedding(3, 4)
        self.embedding.build((None,))

    def losses(self, batch):
        return super().losses({**batch, "x": self.embedding(batch["label"])}) + tf.gather(tf.ones([3]), batch["label"])


class BigLogits(Tiny):
    def logits(self, batch):
        return 300.0 * self.model(batch["x"], training=True)


class AtTheKink(Tiny):
    def losses(self, batch):
        logits = self.logits(batch)
        difference = tf.abs(logits - tf.roll(logits, 1, axis=1))
        return super().losses(batch) + tf.reduce_sum(tf.nn.relu(difference - 1e-3), axis=1)


class VarianceByMoments(Tiny):
    def losses(self, batch):
        x = self.logits(batch) + 10.0
        variance = tf.reduce_mean(x**2, axis=1) - tf.reduce_mean(x, axis=1) ** 2
        return super().losses(batch) + 0.1 * variance


class FloatOfTensor(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)
        share = float(tf.reduce_sum(batch["label"])) / 8.0
        return losses * share


class ConvertsATensor(Tiny):
    modes = ("graph",)

    def losses(self, batch):
        total = tf.reduce_sum(batch["label"])
        return super().losses(batch) * (1.0 + 0.0 * float(total))


class WhitensSafely(Tiny):
    def losses(self, batch):
        x = tf.cast(batch["x"], tf.float64)
        gram = tf.matmul(x, x, transpose_a=True) + 1e-3 * tf.eye(4, dtype=tf.float64)
        whitened = tf.linalg.triangular_solve(tf.linalg.cholesky(gram), tf.transpose(x))
        return super().losses({**batch, "x": tf.cast(tf.transpose(whitened), tf.float32)})


class AbsentOneHot(Varied):
    """One-hot rows of -1 and of classes too many are zeros everywhere."""

    def losses(self, batch):
        target = tf.one_hot(batch["label"] * 2 - 1, 3)
        return -tf.reduce_sum(target * tf.nn.log_softmax(self.logits(batch)), -1)


class DroppedSegments(Varied):
    """Segments with negative ids are dropped in every mode."""

    def losses(self, batch):
        sums = tf.math.unsorted_segment_sum(batch["x"], batch["label"] - 1, 2)
        return super().losses(batch) + 0.1 * tf.reduce_sum(sums[1])


class SaturatedPixels(Varied):
    """Floats become bytes by a cast that saturates."""

    def losses(self, batch):
        pixels = tf.saturate_cast(batch["x"] * 127.0 + 128.0, tf.uint8)
        return super().losses(batch) + tf.reduce_mean(tf.cast(pixels, tf.float32), -1) / 255.0


class CleanedMaximum(Varied):
    """What is not a number is taken out before the maximum."""

    def losses(self, batch):
        roots = tf.sqrt(batch["x"])
        roots = tf.where(tf.math.is_nan(roots), 0.0, roots)
        return super().losses(batch) + 0.1 * tf.reduce_max(roots, -1) + 0.1 * tf.math.top_k(roots, 2)[0][:, 1]


class SafeDivision(Varied):
    """Whole-number divisions by what cannot be zero, of negative numbers too."""

    def losses(self, batch):
        share = (5 - 7 * batch["label"]) // tf.maximum(batch["label"], 1)
        phase = tf.math.floormod(tf.range(8) - 4, batch["label"] + 1)
        return super().losses(batch) + 0.01 * tf.cast(share + phase, tf.float32)


class WholeNumberWrap(Varied):
    """Whole numbers overflow alike in every mode."""

    def losses(self, batch):
        hashed = (batch["label"] + 1) * 1103515245 + 12345
        bucket = tf.math.floormod(tf.bitwise.bitwise_xor(hashed, tf.bitwise.right_shift(hashed, 7)), 10)
        return super().losses(batch) + 0.1 * tf.cast(bucket, tf.float32)


class BigPythonInts(Varied):
    """Large whole numbers of Python, reduced before they meet a tensor."""

    def losses(self, batch):
        state = 12345
        for _ in range(4):
            state = state * 1103515245 + 12345
        return super().losses(batch) * (1.0 + (state % 1000) / 1000)


class StableLogs(Varied):
    """Log-likelihoods by the stable functions."""

    def losses(self, batch):
        x = 50.0 * batch["x"][:, 0]
        return super().losses(batch) + 0.01 * (
            tf.math.log_sigmoid(x) + tf.nn.softplus(x) + tf.reduce_logsumexp(batch["x"], -1)
        )


class PseudoInverse(Varied):
    """A ridge regression by solve and Cholesky, well conditioned."""

    def losses(self, batch):
        gram = tf.matmul(batch["x"], batch["x"], transpose_a=True) + 4.0 * tf.eye(4)
        right = tf.matmul(batch["x"], tf.one_hot(batch["label"], 3), transpose_a=True)
        beta = tf.linalg.cholesky_solve(tf.linalg.cholesky(gram), right)
        return super().losses(batch) + tf.reduce_sum((tf.matmul(batch["x"], beta) - self.logits(batch)) ** 2, -1)


class ArrayModule(Varied):
    """TensorFlow's own NumPy."""

    def losses(self, batch):
        tnp = tf.experimental.numpy
        x = tnp.asarray(batch["x"])
        return super().losses(batch) + tf.cast(0.1 * tnp.ptp(x, axis=1) + tnp.mean(tnp.abs(x), axis=1), tf.float32)


class FiniteSkip(Varied):
    """What is not finite is replaced, not caught."""

    def losses(self, batch):
        risky = tf.math.log(batch["x"][:, 0])
        risky = tf.where(tf.math.is_finite(risky), risky, tf.zeros_like(risky))
        return super().losses(batch) + 0.1 * risky


class ClippedCodes(Tiny):
    """Rounded and clipped to int8's range before the cast."""

    def fake_quant(self, x, scale=80.0):
        q = tf.cast(tf.clip_by_value(tf.round(x * scale), -127.0, 127.0), tf.int8)
        return x + tf.stop_gradient(tf.cast(q, tf.float32) / scale - x)

    def logits(self, batch):
        return self.model(self.fake_quant(batch["x"]), training=True)


class UsesScatter(Tiny):
    def losses(self, batch):
        counts = tf.math.bincount(batch["label"], minlength=3, maxlength=3, dtype=tf.float32)
        sums = tf.math.unsorted_segment_sum(super().losses(batch), batch["label"], 3)
        return tf.reduce_sum(sums / tf.maximum(counts, 1.0)) / 8.0


def sparse_cross_entropy(label, logits):
    return tf.nn.sparse_softmax_cross_entropy_with_logits(label, logits)


class ValidLookup(Tiny):
    """Looks labels up in a table which has all of them."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.table = tf.Variable([[0.0, 0.5, 1.0], [1.0, 0.0, 0.5], [0.5, 1.0, 0.0]], trainable=False)

    def losses(self, batch):
        return sparse_cross_entropy(
            batch["label"], self.logits(batch) + tf.nn.embedding_lookup(self.table, batch["label"])
        )


class Shapes(Tiny):
    def losses(self, batch):
        tf.debugging.assert_shapes([(batch["x"], ("n", 4)), (batch["label"], ("n",))])
        tf.debugging.assert_type(batch["x"], tf.float32)
        return super().losses(batch)


class PythonBuiltins(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)
        total = sum([losses, losses * 0.5])
        return abs(total) + max(0.1, 0.2) + round(1.234, 1)


class WeightsInBfloat16(Tiny):
    """Variables that are no Keras model's are stored in bfloat16: one unit in their last place is rounding."""

    def __init__(self, **given):
        super().__init__(**given)
        first = tf.reshape(tf.linspace(-1.0, 1.0, 12), [4, 3])
        self.weights = tf.Variable(tf.cast(first, tf.bfloat16), trainable=False)

    def train_step(self, batch):
        with tf.GradientTape() as tape:
            tape.watch(self.weights)
            logits = tf.cast(tf.tanh(tf.cast(batch["x"], tf.bfloat16) @ self.weights), tf.float32)
            losses = sparse_cross_entropy(batch["label"], logits)
        self.weights.assign_sub(tf.cast(0.1, tf.bfloat16) * tape.gradient(losses, self.weights))
        return {"loss": losses}


class HeadInBfloat16(Varied):
    """A part of the step is cast to bfloat16 by hand."""

    def losses(self, batch):
        narrow = tf.cast(self.logits(batch), tf.bfloat16)
        narrow = tf.tanh(narrow * tf.constant(1.3, tf.bfloat16)) + narrow * narrow
        return sparse_cross_entropy(batch["label"], tf.cast(narrow, tf.float32))


class SlotsOfTheFirstStep(Tiny):
    """A Keras optimizer makes its slots in the first step, and names them by a count of its layers."""

    def __init__(self, **given):
        super().__init__(**given)
        self.updates = keras.optimizers.Adam(0.01)

    def train_step(self, batch):
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self.losses(batch))
        self.updates.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return {"loss": loss}
