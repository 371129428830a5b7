"""What is read from TensorFlow's error messages."""

from __future__ import annotations

import pytest
import tensorflow as tf

import modetrain.recipe
from modetrain.diagnostics import tf_errors
from tests.conftest import ROOT

STACK = """Input 1 to node `Range` with op Range must be a compile-time constant.

Stack trace for op definition: 
File "{folder}modetrain/recipe.py", line 193, in run_train_step
File "{folder}recipes/mnist.py", line 48, in train_step

\t [[{{{{node Range}}}}]]
"""


@pytest.mark.parametrize("left_out", ["", "/", f"{ROOT}/"])
def test_paths_are_whole_where_the_message_leaves_out_a_folder(left_out):
    said = STACK.format(folder=f"{ROOT}/".removeprefix(left_out))
    message = tf_errors.read(tf.errors.InvalidArgumentError(None, None, said))
    assert message is not None
    (stack,) = message.stacks
    assert [(frame.filename, frame.lineno) for frame in stack] == [
        (modetrain.recipe.__file__, 193),
        (f"{ROOT}/recipes/mnist.py", 48),
    ]


def test_a_path_that_cannot_be_made_whole_is_left(tmp_path):
    said = STACK.format(folder="nowhere/")
    message = tf_errors.read(tf.errors.InvalidArgumentError(None, None, said))
    assert message is not None
    assert message.stacks[0][1].filename == "nowhere/recipes/mnist.py"


def test_a_message_that_is_clear_only_while_tracing_gets_a_code_and_no_advice():
    """Outside of a trace the user's own code may raise it for any reason."""
    error = TypeError("must be real number, not Tensor")
    assert tf_errors.code_of_trace_error(error) == "MT105"
    assert tf_errors.plain_sentence(error) is None


def test_a_model_that_runs_its_own_step_on_a_replica_has_advice():
    error = RuntimeError("in user code:\n    Method requires being in cross-replica context, use get_replica_context()")
    assert "not model.fit, train_on_batch" in (tf_errors.plain_sentence(error) or "")


def test_penalties_of_two_dtypes_are_left_to_minimize():
    def add():
        return tf.add_n([tf.constant(1.0, tf.float16), tf.constant(1.0)])

    for run in (add, tf.function(add)):
        with pytest.raises((TypeError, tf.errors.InvalidArgumentError)) as caught:
            run()
        assert "minimize adds each of them once" in (tf_errors.plain_sentence(caught.value) or "")
