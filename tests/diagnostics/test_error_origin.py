"""Errors that TensorFlow raises late are named where they begin; others are not."""

from __future__ import annotations

import pytest
import tensorflow as tf

from modetrain.diagnostics.error_origin import find_origin


def grows(x):
    rows = x[:1]
    for _ in tf.range(3):
        last = rows[-1:] * 2.0
        rows = tf.concat([rows, last], 0)  # here
    return rows


def grows_in_a_body(x):
    def longer(i, rows):
        last = rows[-1:] * 2.0
        return i + 1, tf.concat([rows, last], 0)  # here

    return tf.while_loop(lambda i, rows: i < 3, longer, [tf.constant(0), x[:1]])[1]


def changes_dtype(x):
    total = tf.constant(0)
    for row in x:
        total = tf.reduce_sum(row)  # here
    return total


def fills_a_list(x):
    rows = []
    for i in tf.range(3):
        row = x[i] * 2.0
        rows.append(row)  # here
    return tf.stack(rows)


def shape_of_numpy(x):
    doubled = tf.numpy_function(lambda x: 2.0 * x, [x], tf.float32)  # here
    centred = doubled - 1.0
    return tf.zeros([centred.shape[0], 2])


@pytest.mark.parametrize("function", [grows, grows_in_a_body, changes_dtype, fills_a_list, shape_of_numpy])
def test_the_line_at_which_it_begins(function):
    with pytest.raises(Exception) as raised:  # noqa: PT011
        tf.function(function).get_concrete_function(tf.TensorSpec([4, 4]))
    origin = find_origin(raised.value)
    assert origin is not None, raised.value
    assert origin.text.endswith("# here"), str(raised.value)
    assert origin.file == __file__


def mismatched(x):
    tf.boolean_mask(x, x > 0.0)
    return x @ tf.zeros([3, 3])


def asks_for_nothing(x):
    chosen = tf.boolean_mask(x, x > 0.0)
    return chosen, None.shape


@pytest.mark.parametrize("function", [mismatched, asks_for_nothing])
def test_an_error_that_begins_where_it_raises_has_no_other_line(function):
    with pytest.raises((ValueError, AttributeError)) as raised:
        tf.function(function).get_concrete_function(tf.TensorSpec([4, 4]))
    assert find_origin(raised.value) is None
