"""A mixture of splits: which examples come, in which proportions, as a function of (seed, step)."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import tensorflow as tf

import modetrain
from modetrain.data.source import Source
from modetrain.errors import ConfigError
from tests.data.test_dataset import streamed
from tests.data.test_padding import Sentences


class Numbers:
    """Random access to 30 numbers from 100 on."""

    def __len__(self):
        return 30

    def __getitem__(self, index):
        return {"x": np.int64(100 + index)}


SPLITS = {"few": {"x": np.arange(10)}, "more": Numbers()}


def drawn(count, **given):
    split = modetrain.mixture(SPLITS, **given)
    return split.gather(tf.range(count, dtype=tf.int64))["x"].numpy()


def test_each_split_comes_by_its_weight_and_is_walked_by_permutations():
    found = drawn(3000, weights={"few": 3, "more": 1}, seed=1)
    few, more = found[found < 100], found[found >= 100]
    assert (len(few), len(more)) == (2250, 750)
    assert abs((found[:200] < 100).mean() - 0.75) < 0.1, "mixed from the beginning on"
    counts = collections.Counter(few.tolist())
    assert set(counts.values()) == {225}
    assert sorted(more[:30].tolist()) != more[:30].tolist()
    assert set(collections.Counter(more.tolist()).values()) == {25}
    assert (found != drawn(3000, weights={"few": 3, "more": 1}, seed=2)).any()


def test_by_default_a_split_comes_as_often_as_it_has_examples():
    assert np.mean(drawn(1000) < 100) == 0.25
    assert modetrain.mixture(SPLITS).examples == 40


def test_its_batches_are_functions_of_seed_and_step(make_data):
    def make(seed):
        return make_data(source=Source(kind="toy", train=modetrain.mixture(SPLITS)), batch_size=8, seed=seed)

    data = make(3)
    for one, step in zip(streamed(make(3), 125, 5, 10), range(125, 135), strict=True):
        np.testing.assert_array_equal(one["x"], data.batch(step)["x"])
    assert (data.batch(0)["x"].numpy() != make(4).batch(0)["x"].numpy()).any()


def test_examples_of_different_lengths_are_padded_to_one(make_data):
    fixed = {"tokens": np.full([5, 3], 7), "index": np.arange(5)}
    source = Source(kind="toy", train=modetrain.mixture({"a": Sentences(), "b": fixed}, weights={"a": 1, "b": 1}))
    for batch in (make_data(source=source, bucket=(4, 8, 12)).batch(step) for step in range(3)):
        held = (batch["tokens"].numpy() > 0).sum(axis=1)
        np.testing.assert_array_equal(held, batch["tokens_length"])
        assert batch["tokens"].shape[1] in (4, 8, 12)


@pytest.mark.parametrize(
    ("splits", "weights", "message"),
    [
        (
            {"a": SPLITS["few"], "s": lambda: iter([{"x": 1}])},
            None,
            "^s of the mixture is a stream: its examples have no numbers",
        ),
        ({"a": SPLITS["few"], "b": {"y": np.arange(3)}}, None, "^[ab] of the mixture has `[xy]` and [ab] has not"),
        (
            {"a": SPLITS["few"], "b": {"x": np.zeros([3, 2])}},
            None,
            "^`x` is int64 of 0 dimensions in a .* float64 of 1 in b",
        ),
        (SPLITS, {"few": 1}, "a mixture of few, more with weights of few: give each split a weight"),
        (SPLITS, {"few": 1, "more": 0}, "more of the mixture has the weight 0"),
    ],
)
def test_what_cannot_be_mixed_is_named(splits, weights, message):
    with pytest.raises(ConfigError, match=message):
        modetrain.mixture(splits, weights=weights)
