"""Random draws are functions of (seed, step), and XLA draws the numbers that TensorFlow's own kernels draw."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.ops import gen_stateless_random_ops_v2 as stateless_ops

from modetrain.engine import xla_random
from modetrain.engine.random import Draws, named_seed

SHAPES = ([1], [2], [3], [65], [2, 3, 5, 7], [1003], [])


def under_xla(draw):
    """What a function draws where XLA compiles it, traced as the library traces a step."""
    with xla_random.portable():
        return tf.function(draw, jit_compile=True)()


# --- portable draws --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64, tf.bfloat16, tf.float16], ids=lambda dtype: dtype.name)
def test_uniform_draws_are_bitwise_equal(dtype):
    def draw():
        return [tf.random.stateless_uniform(shape, [11, n], dtype=dtype) for n, shape in enumerate(SHAPES)]

    for compiled, eager in zip(under_xla(draw), draw(), strict=True):
        assert compiled.dtype == eager.dtype == dtype
        assert compiled.shape == eager.shape
        assert compiled.numpy().tobytes() == eager.numpy().tobytes()


@pytest.mark.parametrize(
    "seed", [[-11, 3], [11, -3], [-1, -1], tf.constant([-(2**40), 2**50], tf.int64)], ids=["-+", "+-", "--", "int64"]
)
def test_draws_by_negative_and_by_wide_seeds_are_bitwise_equal(seed):
    """Half of the seeds that `Recipe.seed` gives are negative."""

    def draw():
        return (
            tf.random.stateless_uniform([5], seed),
            tf.random.stateless_uniform([5], seed, minval=0, maxval=1000, dtype=tf.int32),
        )

    for compiled, eager in zip(under_xla(draw), draw(), strict=True):
        assert compiled.numpy().tobytes() == eager.numpy().tobytes()


def test_uniform_draws_within_bounds_and_whole_numbers_are_bitwise_equal():
    def draw():
        return (
            tf.random.stateless_uniform([101], [1, 2], minval=-3.0, maxval=5.0),
            tf.random.stateless_uniform([101], [1, 2], minval=0, maxval=1000, dtype=tf.int32),
        )

    for compiled, eager in zip(under_xla(draw), draw(), strict=True):
        assert compiled.numpy().tobytes() == eager.numpy().tobytes()


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(tf.float32, 1.5e-6), (tf.float64, 1e-12), (tf.bfloat16, 0.0)],
    ids=["float32", "float64", "bfloat16"],
)
def test_normal_draws_are_close(dtype, tolerance):
    def draw():
        return [tf.random.stateless_normal(shape, [5, n], dtype=dtype) for n, shape in enumerate(SHAPES)]

    for compiled, eager in zip(under_xla(draw), draw(), strict=True):
        assert compiled.dtype == eager.dtype == dtype
        np.testing.assert_allclose(
            compiled.numpy().astype(np.float64), eager.numpy().astype(np.float64), rtol=tolerance, atol=tolerance
        )


@pytest.mark.parametrize("draw", ["stateless_random_uniform_v2", "stateless_random_normal_v2"])
def test_tensorflow_is_left_as_it_was(draw):
    own = getattr(stateless_ops, draw)
    with xla_random.portable():
        assert getattr(stateless_ops, draw) is not own
    assert getattr(stateless_ops, draw) is own
    with pytest.raises(ZeroDivisionError), xla_random.portable():
        raise ZeroDivisionError
    assert getattr(stateless_ops, draw) is own


def test_the_installed_tensorflow_can_be_made_to_agree():
    assert xla_random.is_portable()


# --- seeds by name ---------------------------------------------------------------------------------------------------


def test_each_run_name_step_and_micro_batch_has_a_seed_of_its_own():
    seeds = {
        tuple(named_seed(seed, name, step, part).numpy())
        for seed, name, step, part in itertools.product(
            (0, 1, 12345), ("noise", "prepare", "a", ""), (0, 1, 2, 1000, 2**31 - 3), (0, 1, 3)
        )
    }
    assert len(seeds) == 3 * 4 * 5 * 3


def test_a_seed_is_the_same_wherever_it_is_asked_for():
    there = named_seed(7, "noise", 5, 2)
    assert there.dtype == tf.int32
    assert there.shape == (2,)

    def draw():
        return named_seed(7, "noise", tf.constant(5, tf.int64), tf.constant(2))

    for found in (named_seed(7, "noise", 5, 2), draw(), tf.function(draw)(), under_xla(draw)):
        assert found.numpy().tolist() == there.numpy().tolist()


# --- seed generators -------------------------------------------------------------------------------------------------


def dropout(seed):
    """A dropout layer as it would be in a run with this seed, and the library's hold on it."""
    layer = keras.layers.Dropout(0.5)
    return layer, Draws({"dropout": layer.seed_generator.state}, seed)


def mask(layer, held, step):
    held.seek(step)
    return (layer(tf.ones([64]), training=True) > 0).numpy()


def test_a_mask_depends_on_the_step_and_not_on_what_ran_before():
    layer, held = dropout(seed=0)
    first = [mask(layer, held, step) for step in range(5)]
    for _ in range(3):  # an evaluation, a look by a callback, anything
        layer(tf.ones([64]), training=True)
    backwards = [mask(layer, held, step) for step in reversed(range(5))][::-1]
    assert np.array_equal(first, backwards)


def test_a_mask_depends_on_the_seed():
    masks = [mask(*dropout(seed), 3) for seed in (0, 1)]
    assert np.array_equal(masks[0], mask(*dropout(0), 3))
    assert not np.array_equal(*masks)


def test_masks_of_steps_and_layers_all_differ():
    layers = [keras.layers.Dropout(0.5) for _ in range(3)]
    held = Draws({f"layer {n}": layer.seed_generator.state for n, layer in enumerate(layers)}, seed=0)
    masks = set()
    for step in [*range(30), 2**31 - 4, 2**31 - 3]:
        held.seek(step)
        masks |= {(layer(tf.ones([64]), training=True) > 0).numpy().tobytes() for layer in layers}
    assert len(masks) == 32 * 3


def test_a_mask_does_not_depend_on_where_the_generator_stood():
    """As after a restore from a checkpoint, which moves it before anything is drawn."""
    layer, held = dropout(seed=0)
    wanted = mask(layer, held, 3)
    other, _ = dropout(seed=0)
    other.seed_generator.state.assign([123, 45])
    assert np.array_equal(mask(other, Draws({"dropout": other.seed_generator.state}, 0), 3), wanted)


def test_several_draws_in_one_step_differ():
    layer, held = dropout(seed=0)
    held.seek(4)
    one, two = (layer(tf.ones([64]), training=True).numpy() for _ in range(2))
    assert not np.array_equal(one, two)
    held.seek(4)
    assert np.array_equal(layer(tf.ones([64]), training=True).numpy(), one)


def test_a_recipe_without_generators_needs_nothing():
    Draws({}, seed=0).seek(3)


def test_masks_are_the_same_in_a_graph_and_under_xla():
    layer, held = dropout(seed=0)

    def draw(step):
        held.seek(step)
        return layer(tf.ones([65]), training=True)

    with xla_random.portable():
        compiled = tf.function(draw, jit_compile=True, autograph=False)(tf.constant(9, tf.int64)).numpy()
    traced = tf.function(draw, autograph=False)(tf.constant(9, tf.int64)).numpy()
    eager = draw(tf.constant(9, tf.int64)).numpy()
    assert eager.tobytes() == traced.tobytes() == compiled.tobytes()
