"""Metrics are (total, count) pairs that merge by `+`: a mean is exact however the examples were divided."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from modetrain.engine import metrics
from modetrain.engine.metrics import RunningMeans

# --- row: what one step returned -------------------------------------------------------------------------------------


def test_one_value_per_example_is_a_sum_and_a_number_of_examples():
    row = metrics.pack_row({"loss": tf.constant([1.0, 2.0, 6.0])}, 3)
    assert row.dtype == tf.float32
    assert row.numpy().tolist() == [[9.0, 3.0]]


def test_a_scalar_counts_as_the_mean_over_the_batch():
    assert metrics.pack_row({"loss": tf.constant(2.5)}, 4).numpy().tolist() == [[10.0, 4.0]]


def test_several_values_an_example_all_count():
    row = metrics.pack_row({"per_pixel": tf.constant([[1.0, 2.0], [3.0, 6.0]])}, 2)
    assert row.numpy().tolist() == [[12.0, 4.0]]


@pytest.mark.parametrize("hits", [tf.constant([True, False, True]), tf.constant([1, 0, 1]), [1.0, 0.0, 1.0]])
def test_whatever_is_a_number_is_counted(hits):
    assert metrics.pack_row({"accuracy": hits}, 3).numpy().tolist() == [[2.0, 3.0]]


def test_rows_are_in_the_order_the_step_wrote():
    row = metrics.pack_row({"b": tf.constant(1.0), "a": tf.constant(2.0)}, 1)
    assert row.numpy()[:, 0].tolist() == [1.0, 2.0]


def test_float64_stays_float64():
    assert metrics.pack_row({"a": tf.constant(1.0), "b": tf.constant(1.0, tf.float64)}, 1).dtype == tf.float64
    third = tf.constant([1 / 3], tf.float64)
    assert metrics.pack_row({"b": third}, 1).numpy()[0, 0] == 1 / 3


def test_half_precision_is_summed_in_float32():
    # 4096 + 1 is 4096 in float16 and bfloat16
    for dtype in (tf.float16, tf.bfloat16):
        row = metrics.pack_row({"loss": tf.ones([4097], dtype)}, 4097)
        assert row.numpy().tolist() == [[4097.0, 4097.0]]


def test_a_value_of_unknown_rank_is_refused_with_its_name():
    @tf.function(input_signature=[tf.TensorSpec(None, tf.float32)])
    def step(loss):
        return metrics.pack_row({"loss": loss}, 4)

    with pytest.raises(ValueError, match=r"returned 'loss' with a shape that is not known when the step is traced"):
        step.get_concrete_function()


def test_a_step_may_return_nothing():
    assert metrics.pack_row({}, 3).shape == (0, 2)


def test_a_value_of_another_length_is_refused_with_its_name_and_shape():
    with pytest.raises(ValueError, match="the step returned 'loss', a tensor of shape") as caught:
        metrics.pack_row({"loss": tf.zeros([5, 2])}, 8)
    assert str(caught.value) == (
        "the step returned 'loss', a tensor of shape (5, 2), for a batch of 8 examples: return one value per example, or a scalar "
        "that is the mean over the batch; a mean with weights is modetrain.Weighted(values, weights), a sum that a figure is "
        "made from modetrain.Sum(tensor)."
    )


@pytest.mark.parametrize("returned", [None, 1.0, [("loss", 1.0)]])
def test_a_step_that_returns_no_mapping_is_told_what_to_write(returned):
    with pytest.raises(TypeError, match=r'one value per example.*Write for example: return \{"loss": loss\}'):
        metrics.pack_row(returned, 8)


# --- RunningMeans: sums that become means when they are read ---------------------------------------------------------------


def rows(values, counts):
    return np.array([[[v, c]] for v, c in zip(values, counts, strict=True)], np.float32)


def test_short_batches_weigh_by_their_examples():
    means = RunningMeans.from_rows(["loss"], rows([30.0, 1.0], [10, 1]))
    assert means.means() == {"loss": 31.0 / 11}, "a mean of means would be 2"


def test_merging_is_the_same_however_the_steps_are_divided():
    values = np.random.default_rng(0).integers(0, 100, (12, 3, 2)).astype(np.float32)
    names = ["a", "b", "c"]
    whole = RunningMeans.from_rows(names, values)
    for cut in range(13):
        assert RunningMeans.from_rows(names, values[:cut]) + RunningMeans.from_rows(names, values[cut:]) == whole
    one_by_one = sum((RunningMeans.from_rows(names, values[i]) for i in range(12)), RunningMeans())
    assert one_by_one == whole


def test_merging_commutes_associates_and_has_a_zero():
    a, b, c = (RunningMeans(pairs={name: (n, 2.0 * n)}) for n, name in enumerate(["x", "y", "x"], 1))
    assert (a + b) + c == a + (b + c)
    assert (a + b).means() == (b + a).means()
    assert a + RunningMeans() == a == RunningMeans() + a


def test_what_only_one_side_counted_is_kept():
    merged = RunningMeans(pairs={"loss": (4.0, 2.0)}) + RunningMeans(pairs={"grad_norm": (3.0, 1.0)})
    assert merged.means() == {"loss": 2.0, "grad_norm": 3.0}


def test_what_was_never_counted_has_no_mean():
    assert RunningMeans(pairs={"grad_norm": (0.0, 0.0), "loss": (1.0, 1.0)}).means() == {"loss": 1.0}
    assert RunningMeans().means() == {}


def test_many_small_values_are_summed_in_double_precision():
    # float32 sums of 0.1 are off in the fourth digit after a million
    steps = np.full((1_000_000, 1, 2), [0.1, 1.0], np.float32)
    assert RunningMeans.from_rows(["loss"], steps).means()["loss"] == pytest.approx(float(np.float32(0.1)), rel=1e-12)
