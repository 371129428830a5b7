"""Random draws as functions of (seed, step), and equal in every mode.

Three mechanisms. `Draws` re-seeds every Keras `SeedGenerator` of a recipe at the start of each step, so that a dropout
mask depends on the run's seed, the layer and the step, and on nothing that ran before. `portable()` makes float draws
under XLA the same numbers as in eager and graph mode while an XLA program is traced. `of_replica()` has a replica draw its
rows of what one device would draw for the whole batch, so that masks differ between replicas and equal the single device's.
"""

from __future__ import annotations

import contextlib
import functools
import math
import re
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.ops import gen_stateless_random_ops_v2 as stateless_ops

from modetrain.engine.devices import replica_number, replicas_here

_PHILOX = 1
_full_int = stateless_ops.stateless_random_uniform_full_int_v2  # as it is, whatever is put in its place below
# Keras folds a seed into int32 by this modulus before it draws; staying below it keeps the folding the identity.
_MODULUS = 2**31 - 2
# Odd and close to the golden ratio: successive steps land far apart, and no two steps of a run meet.
_STRIDE = 0x9E3779B1
_DRAWS_OF_A_PART = 2**16


class Draws:
    """The seed generators of a recipe.

    Args:
      states: by name the int64 [2] state variable of each generator.
      seed: the run's seed.
    """

    def __init__(self, states: Mapping[str, keras.Variable], seed: int):
        self.states = list(states.values())
        # Not from where the generators stand: restoring a checkpoint has moved them.
        self._bases = [zlib.crc32(f"{seed}/{name}".encode()) % _MODULUS for name in states]

    def seek(self, step: tf.Tensor | int, part: tf.Tensor | int = 0) -> None:
        """Sets every generator to where micro-batch `part` (int32 scalar) of step `step` (int64 scalar) begins."""
        if not self.states:
            return
        offset = tf.math.floormod(tf.cast(step, tf.int64) * tf.constant(_STRIDE % _MODULUS, tf.int64), _MODULUS)
        for state, base in zip(self.states, self._bases, strict=True):
            first = tf.math.floormod(offset + base, _MODULUS)
            # The second word counts the draws made; no step makes so many that it reaches the next micro-batch's.
            state.assign(tf.stack([first, tf.cast(part, tf.int64) * _DRAWS_OF_A_PART]))


def named_seed(seed: int, name: str, step: tf.Tensor | int, part: tf.Tensor | int = 0) -> tf.Tensor:
    """An int32 [2] seed for `tf.random.stateless_*`: one for each (run seed, name, step, micro-batch)."""
    word = tf.constant(zlib.crc32(f"{seed}/{name}".encode()) & 0x7FFFFFFF, tf.int32)
    seed_of_step = tf.stack([word, tf.cast(tf.math.floormod(tf.cast(step, tf.int64), _MODULUS), tf.int32)])
    return tf.random.experimental.stateless_fold_in(seed_of_step, tf.cast(part, tf.int32))


# --- float draws that XLA and TensorFlow's own kernels agree on -------------------------------------------------------
# Both make the same Philox bits, but TensorFlow's kernels take the low bits of a word for the mantissa and XLA the high
# ones (tensorflow#121243). Drawing integers, which agree, and doing TensorFlow's conversion ourselves mends it.


# Where TensorFlow's kernel starts the generator that makes key and counter out of a seed.
_SEED_KEY = 0x02461E293EC8F720


def _key_and_counter(seed) -> tuple[tf.Tensor, tf.Tensor]:
    """Key and counter of a seed, integers [2], as TensorFlow's kernel makes them.

    XLA takes but the low 32 bits of each word: half of all seeds are negative, and gave other numbers.
    """
    words = tf.bitcast(tf.cast(seed, tf.int64), tf.uint64)
    mixed = _full_int([2], [tf.constant(_SEED_KEY, tf.uint64)], words, dtype=tf.uint64, alg=_PHILOX)
    return mixed[:1], tf.stack([tf.constant(0, tf.uint64), mixed[1]])


def _words(shape, key, counter) -> tf.Tensor:
    """The 32-bit words of the generator, uint32 of the given shape.

    Drawn as 64-bit words and cut in two: the same bits, and on a CPU XLA makes them some hundred times faster.
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


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """While tracing under this, float uniform and normal draws are TensorFlow's own numbers, under XLA too.

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
def portable_works() -> bool:
    """Whether XLA draws eager's numbers under `portable()` with the installed TensorFlow, tried on 65 numbers.

    The patched functions are private to TensorFlow, so this is tried once in each process that uses XLA.
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


# --- a replica's rows of the draws for a whole batch ------------------------------------------------------------------
# Philox is a counter: the numbers from any place on can be made without those before, so that a replica pays for its own.


class _Share(threading.local):
    """What part of a batch a thread's replica has: rows `replica * examples` and following, `examples` of them."""

    examples: int = 0
    replica: int | tf.Tensor = 0
    replicas: int = 1
    alone: tuple[int, int] | None = None  # (replica, replicas) whose step is made without the others


_share = _Share()
# Numbers that one count of the generator makes, by the bytes of a number; more than 4 bytes take two words.
_WIDE, _GROUP, _GROUP_OF_WIDE = 8, 4, 2
_BY_COUNT = (
    "stateless_random_uniform_v2",
    "stateless_random_normal_v2",
    "stateless_random_uniform_int_v2",
    "stateless_random_uniform_full_int_v2",
)
_WHOLE = ("stateless_truncated_normal_v2",)  # takes more words for some numbers than for others
# The operations that these make.
COVERED = (
    "StatelessRandomUniformV2",
    "StatelessRandomNormalV2",
    "StatelessRandomUniformIntV2",
    "StatelessRandomUniformFullIntV2",
    "StatelessTruncatedNormalV2",
)
_NO_NUMBERS = ("StatelessRandomGetKeyCounter", "StatelessRandomGetAlg", "StatelessRandomGetKeyCounterAlg")
_BY_CHANCE = re.compile(r"Random|Multinomial|TruncatedNormal|Shuffle$|SampleDistortedBoundingBox")


@contextlib.contextmanager
def of_replica(examples: int) -> Iterator[None]:
    """Within this, and within `by_replica`, draws that belong to examples are this replica's rows of the whole batch's.

    A draw belongs to the examples if its first dimension is a multiple of `examples`, or another one is just that; all
    others are the same on every replica, as they would be on one device.

    Args:
      examples: in this replica's share of the batch.
    """
    _share.examples = examples
    _share.replica, _share.replicas = _share.alone or (replica_number(), replicas_here())
    try:
        yield
    finally:
        _share.examples, _share.replica, _share.replicas = 0, 0, 1


@contextlib.contextmanager
def alone(replica: int, replicas: int) -> Iterator[None]:
    """Within this, one device draws what replica `replica` of `replicas` draws; see `Program`."""
    _share.alone = (replica, replicas)
    try:
        yield
    finally:
        _share.alone = None


def by_chance(op: str) -> bool:
    """Whether an operation of this type draws numbers, stateless or not."""
    return _BY_CHANCE.search(op) is not None and op not in _NO_NUMBERS


def is_alone() -> bool:
    """Whether a replica's step is made without the others."""
    return _share.alone is not None


@contextlib.contextmanager
def by_replica() -> Iterator[None]:
    """While a step is traced, or run eagerly, under this, `of_replica` has an effect."""
    samplers = {name: getattr(stateless_ops, name) for name in (*_BY_COUNT, *_WHOLE)}
    for name, sampler in samplers.items():
        setattr(stateless_ops, name, _rows_of(sampler, by_count=name in _BY_COUNT))
    try:
        yield
    finally:
        for name, sampler in samplers.items():
            setattr(stateless_ops, name, sampler)


def _rows_of(sampler: Callable[..., tf.Tensor], *, by_count: bool) -> Callable[..., tf.Tensor]:
    def draw(shape, **given: Any) -> tf.Tensor:
        static = tf.get_static_value(shape) if _share.examples else None
        axis = None if static is None else _axis_of_examples(static.tolist())
        if static is None or axis is None:
            return sampler(shape, **given)
        if axis == 0 and by_count:
            return tf.reshape(_continued(sampler, int(static.prod()), **given), static)
        whole = static.copy()
        whole[axis] *= _share.replicas
        begin = [_share.replica * int(size) if a == axis else 0 for a, size in enumerate(static)]
        return tf.slice(sampler(tf.constant(whole), **given), begin, static)

    return draw


def _axis_of_examples(shape: list[int]) -> int | None:
    if shape and shape[0] and shape[0] % _share.examples == 0:
        return 0
    return next((axis for axis, size in enumerate(shape) if size == _share.examples), None)


def _continued(sampler: Callable[..., tf.Tensor], size: int, *, counter: tf.Tensor, **given: Any) -> tf.Tensor:
    """The `size` numbers from number `replica * size` on of an endless draw."""
    dtype = tf.as_dtype(given["minval"].dtype if "minval" in given else given["dtype"])
    group = _GROUP_OF_WIDE if dtype.size == _WIDE else _GROUP
    first = tf.cast(_share.replica, tf.uint64) * size
    moved = counter + tf.stack([first // group, tf.constant(0, tf.uint64)])
    if size % group == 0:
        return sampler(tf.constant([size], tf.int32), counter=moved, **given)
    drawn = sampler(tf.constant([size + group], tf.int32), counter=moved, **given)
    return tf.slice(drawn, [tf.cast(first % group, tf.int32)], [size])
