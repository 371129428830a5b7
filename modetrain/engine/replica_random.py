"""A replica's rows of the draws for a whole batch.

Within `replica_share` a replica draws the rows that one device would draw for its examples. Masks then differ between
replicas and equal the single device's. Philox is a counter: numbers can be made without those before them, so a
replica pays only for its own.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import gen_stateless_random_ops_v2 as stateless_ops

from modetrain.engine.devices import replica_number, replicas_here
from modetrain.engine.replaced import replaced


class _Share(threading.local):
    """The share of a batch that a thread has: `examples` of its `total` rows, from row `begin` on."""

    examples: int = 0
    begin: int | tf.Tensor = 0
    total: int = 0
    replica: tuple[int, int] | None = None  # (replica, replicas) where one device runs a replica's step
    rows: tuple[int, int] | None = None  # (begin, total) where one device runs a part of a batch


_share = _Share()
# How many numbers the generator makes a count, by the bytes of a number; more than 4 bytes take two words.
_WIDE, _GROUP, _GROUP_OF_WIDE = 8, 4, 2
_BY_COUNT = (
    "stateless_random_uniform_v2",
    "stateless_random_normal_v2",
    "stateless_random_uniform_int_v2",
    "stateless_random_uniform_full_int_v2",
)
_WHOLE = ("stateless_truncated_normal_v2",)  # some numbers take more words than others
# The operations that these functions make.
COVERED = (
    "StatelessRandomUniformV2",
    "StatelessRandomNormalV2",
    "StatelessRandomUniformIntV2",
    "StatelessRandomUniformFullIntV2",
    "StatelessTruncatedNormalV2",
)
_NO_NUMBERS = ("StatelessRandomGetKeyCounter", "StatelessRandomGetAlg", "StatelessRandomGetKeyCounterAlg")
_RANDOM_OPS = re.compile(r"Random|Multinomial|TruncatedNormal|Shuffle$|SampleDistortedBoundingBox")


@contextlib.contextmanager
def replica_share(examples: int) -> Iterator[None]:
    """Within this and `replica_draws`, draws that belong to examples are this replica's rows of the whole batch's draws.

    A draw belongs to the examples if its first dimension is a multiple of `examples`, or another one equals it. All
    others are the same on every replica, as on one device.

    Args:
      examples: examples in this replica's share of the batch.
    """
    replica, replicas = _share.replica or (replica_number(), replicas_here())
    _share.examples = examples
    _share.begin, _share.total = _share.rows or (replica * examples, replicas * examples)
    try:
        yield
    finally:
        _share.examples = 0


@contextlib.contextmanager
def single_replica(replica: int, replicas: int) -> Iterator[None]:
    """Within this one device draws what replica `replica` of `replicas` draws."""
    _share.replica = (replica, replicas)
    try:
        yield
    finally:
        _share.replica = None


@contextlib.contextmanager
def part_of_batch(begin: int, total: int) -> Iterator[None]:
    """Within this one device draws what belongs to the rows from `begin` on of a batch of `total`."""
    _share.rows = (begin, total)
    try:
        yield
    finally:
        _share.rows = None


def is_random_op(op: str) -> bool:
    """Whether an operation of this type draws numbers, stateless or not."""
    return _RANDOM_OPS.search(op) is not None and op not in _NO_NUMBERS


def draws_on(replicas: int) -> contextlib.AbstractContextManager[None]:
    """`replica_draws()` where there are several replicas or one of them is set apart; else nothing."""
    apart = _share.replica is not None or _share.rows is not None
    return replica_draws() if replicas > 1 or apart else contextlib.nullcontext()


@contextlib.contextmanager
def replica_draws() -> Iterator[None]:
    """Within this `replica_share` has an effect on a step that is traced or run eagerly."""
    names = (*_BY_COUNT, *_WHOLE)
    draws = {name: _wrap(getattr(stateless_ops, name), by_count=name in _BY_COUNT) for name in names}
    with replaced(stateless_ops, **draws):
        yield


def _wrap(sampler: Callable[..., tf.Tensor], *, by_count: bool) -> Callable[..., tf.Tensor]:
    def draw(shape, **given: Any) -> tf.Tensor:
        static = tf.get_static_value(shape) if _share.examples else None
        axis = None if static is None else _axis_of_examples(static.tolist())
        if static is None or axis is None:
            return sampler(shape, **given)
        if axis == 0 and by_count:
            return tf.reshape(_draw_rows(sampler, int(static.prod()), **given), static)
        times = int(static[axis]) // _share.examples  # draws for each example
        whole = static.copy()
        whole[axis] = times * _share.total
        begin = [_share.begin * times if a == axis else 0 for a in range(len(static))]
        return tf.slice(sampler(tf.constant(whole), **given), begin, static)

    return draw


def _axis_of_examples(shape: list[int]) -> int | None:
    if shape and shape[0] and shape[0] % _share.examples == 0:
        return 0
    return next((axis for axis, size in enumerate(shape) if size == _share.examples), None)


def _draw_rows(sampler: Callable[..., tf.Tensor], size: int, *, counter: tf.Tensor, **given: Any) -> tf.Tensor:
    """`size` numbers of an endless draw, from those of the share's first row on."""
    dtype = tf.as_dtype(given["minval"].dtype if "minval" in given else given["dtype"])
    group = _GROUP_OF_WIDE if dtype.size == _WIDE else _GROUP
    first = tf.cast(_share.begin, tf.uint64) * (size // _share.examples)
    moved = counter + tf.stack([first // group, tf.constant(0, tf.uint64)])
    if size % group == 0:
        return sampler(tf.constant([size], tf.int32), counter=moved, **given)
    drawn = sampler(tf.constant([size + group], tf.int32), counter=moved, **given)
    return tf.slice(drawn, [tf.cast(first % group, tf.int32)], [size])
