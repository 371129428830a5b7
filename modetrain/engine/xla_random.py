"""The same float draws under XLA as in eager and graph mode.

Both make the same Philox bits. TensorFlow's kernels take the low bits of a word for the mantissa, and XLA takes the high ones
(tensorflow#121243). Integer draws agree, so `portable()` draws integers and does TensorFlow's conversion itself.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator

import tensorflow as tf
from tensorflow.python.ops import gen_stateless_random_ops_v2 as stateless_ops

_PHILOX = 1
_full_int = stateless_ops.stateless_random_uniform_full_int_v2  # the original, whatever replaces it later
# Where TensorFlow's kernel starts the generator that makes key and counter from a seed.
_SEED_KEY = 0x02461E293EC8F720


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """What is traced within this draws TensorFlow's own float numbers, uniform and normal, under XLA too.

    Uniform draws are bitwise equal to eager's; normal draws agree to about 1.5e-6 (XLA has its own log, sin and cos).
    """
    uniform, normal = stateless_ops.stateless_random_uniform_v2, stateless_ops.stateless_random_normal_v2

    def portable_uniform(shape, key, counter, alg, dtype=tf.float32, name=None):
        drawn = _uniform(shape, key, counter, tf.as_dtype(dtype))
        return uniform(shape, key, counter, alg, dtype=dtype, name=name) if drawn is None else drawn

    def portable_normal(shape, key, counter, alg, dtype=tf.float32, name=None):
        return _normal(shape, key, counter, tf.as_dtype(dtype))

    key_counter = stateless_ops.stateless_random_get_key_counter

    def portable_key_counter(seed, name=None):
        return _key_and_counter(seed)

    stateless_ops.stateless_random_uniform_v2 = portable_uniform
    stateless_ops.stateless_random_normal_v2 = portable_normal
    stateless_ops.stateless_random_get_key_counter = portable_key_counter
    try:
        yield
    finally:
        stateless_ops.stateless_random_get_key_counter = key_counter
        stateless_ops.stateless_random_uniform_v2 = uniform
        stateless_ops.stateless_random_normal_v2 = normal


@functools.cache
def is_portable() -> bool:
    """Whether XLA draws eager's numbers under `portable()` with the installed TensorFlow, measured on 65 numbers.

    The patched functions are private to TensorFlow, so each process that uses XLA measures this once.
    """

    def draw():
        return (
            tf.random.stateless_uniform([65], seed=[1, 2]),
            tf.random.stateless_normal([65], seed=[3, 4]),
        )

    with portable():
        compiled = tf.function(draw, jit_compile=True)()
    uniform, normal = draw()
    same_uniform = bool(tf.reduce_all(compiled[0] == uniform))
    return same_uniform and bool(tf.reduce_all(tf.abs(compiled[1] - normal) < 1e-5))


# --- private ---------------------------------------------------------------------------------------------------------


def _key_and_counter(seed) -> tuple[tf.Tensor, tf.Tensor]:
    """Key and counter of a seed, integers [2], as TensorFlow's kernel makes them.

    XLA takes only the low 32 bits of each word. Half of all seeds are negative, and would give other numbers.
    """
    words = tf.bitcast(tf.cast(seed, tf.int64), tf.uint64)
    mixed = _full_int([2], [tf.constant(_SEED_KEY, tf.uint64)], words, dtype=tf.uint64, alg=_PHILOX)
    return mixed[:1], tf.stack([tf.constant(0, tf.uint64), mixed[1]])


def _words(shape, key, counter) -> tf.Tensor:
    """The 32-bit words of the generator, uint32 of the given shape.

    They are drawn as 64-bit words and split: the bits are the same, and XLA on a CPU is about a hundred times faster.
    """
    size = tf.reduce_prod(shape)
    pairs = tf.reshape((size + 1) // 2, [1])
    wide = _full_int(pairs, key, counter, dtype=tf.uint64, alg=_PHILOX)
    return tf.reshape(tf.reshape(tf.bitcast(wide, tf.uint32), [-1])[:size], shape)


def _uniform(shape, key, counter, dtype: tf.DType) -> tf.Tensor | None:
    """Uniform draws of [0, 1) by TensorFlow's own conversion, or None for a dtype on which both agree already."""
    if dtype == tf.float64:
        bits = _full_int(shape, key, counter, dtype=tf.uint64, alg=_PHILOX)
        # The first 32-bit word is the low part here and the high part in TensorFlow's kernel.
        bits = tf.bitwise.bitwise_or(tf.bitwise.left_shift(bits, 32), tf.bitwise.right_shift(bits, 32))
        bits = tf.bitwise.bitwise_or(tf.bitwise.bitwise_and(bits, 2**52 - 1), 1023 << 52)
        return tf.bitcast(bits, tf.float64) - tf.constant(1.0, tf.float64)
    if dtype not in (tf.float32, tf.bfloat16):
        return None
    bits = _words(shape, key, counter)
    if dtype == tf.bfloat16:
        bits = tf.bitwise.bitwise_or(tf.bitwise.bitwise_and(bits, 0x7F), 127 << 7)
        return tf.bitcast(tf.cast(bits, tf.uint16), tf.bfloat16) - tf.constant(1.0, tf.bfloat16)
    bits = tf.bitwise.bitwise_or(tf.bitwise.bitwise_and(bits, 0x7FFFFF), 127 << 23)
    return tf.bitcast(bits, tf.float32) - 1.0


def _normal(shape, key, counter, dtype: tf.DType) -> tf.Tensor:
    """Normal draws by the Box-Muller transform, paired up as TensorFlow's kernels do."""
    real = tf.float64 if dtype == tf.float64 else tf.float32
    size = tf.reduce_prod(shape)
    drawn = _uniform(tf.stack([(size + 1) // 2 * 2]), key, counter, real)
    pairs = tf.reshape(drawn, [-1, 2])
    radius = tf.sqrt(-2.0 * tf.math.log(tf.maximum(pairs[:, 0], 1.0e-7)))
    angle = 2.0 * math.pi * pairs[:, 1]
    flat = tf.reshape(tf.stack([tf.sin(angle) * radius, tf.cos(angle) * radius], axis=1), [-1])
    return tf.cast(tf.reshape(flat[:size], shape), dtype)
