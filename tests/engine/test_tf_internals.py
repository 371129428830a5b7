"""What is changed inside Keras is where it was, Keras counts replicas nowhere else, and every private import is known.

What needs two devices is in `keras_on_replicas.py` and runs in a process of its own, for how a CPU is split is global.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest
import tensorflow as tf
from keras.src.backend.tensorflow import optimizer as keras_optimizer
from keras.src.losses import loss as keras_loss

from modetrain.engine import tf_internals

HERE = Path(__file__).parent
PACKAGE = Path(tf_internals.__file__).parents[1]
KERAS = Path(keras.__file__).parent / "src"
# What of Keras asks how many replicas there are, or computes over them, and how often.
COUNTS = {
    "num_replicas_in_sync": {
        "losses/loss.py": 2,  # changed
        "backend/tensorflow/trainer.py": 1,  # Model.predict puts the replicas' outputs together
    },
    "scale_loss_for_distribution(": {  # unscale_ too
        "losses/loss.py": 3,  # two functions and a loss's mean
        "backend/tensorflow/trainer.py": 3,  # losses of a model, and what Model.fit shows of them
        "trainers/compile_utils.py": 1,  # what compute_loss notes of each output's loss
    },
    "all_reduce(": {
        "backend/tensorflow/nn.py": 3,  # batch normalisation over replicas: right
        "backend/tensorflow/optimizer.py": 1,  # changed
    },
}
# What the library imports that TensorFlow and Keras keep private, and may move or remove in any version.
PRIVATE = {
    "keras.src.backend.tensorflow.optimizer.TFOptimizer",
    "keras.src.losses.loss",
    "keras.src.random.seed_generator",
    "tensorflow.python.autograph.impl.api",
    "tensorflow.python.autograph.pyct.origin_info",
    "tensorflow.python.data.ops.debug_mode",
    "tensorflow.python.eager.backprop",
    "tensorflow.python.eager.context",
    "tensorflow.python.eager.polymorphic_function.polymorphic_function",
    "tensorflow.python.eager.polymorphic_function.polymorphic_function.OptionalXlaContext",
    "tensorflow.python.eager.wrap_function.VariableHolder",
    "tensorflow.python.eager.wrap_function.WrappedFunction",
    "tensorflow.python.framework.config",
    "tensorflow.python.framework.func_graph",
    "tensorflow.python.framework.op_callbacks",
    "tensorflow.python.ops.gen_stateless_random_ops_v2",
    "tensorflow.python.ops.handle_data_util",
    "tensorflow.python.ops.resource_variable_ops",
    "tensorflow.python.ops.summary_ops_v2",
    "tensorflow.python.pywrap_tfe",
    "tensorflow.python.util.pywrap_xla_ops",
    "tensorflow.python.util.tf_stack",
}


def test_every_private_import_is_listed():
    nodes = (node for file in PACKAGE.rglob("*.py") for node in ast.walk(ast.parse(file.read_text())))
    found = {
        f"{node.module}.{alias.name}"
        for node in nodes
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("tensorflow.python", "keras.src"))
        for alias in node.names
    }
    assert found == PRIVATE


@pytest.mark.parametrize("name", sorted(PRIVATE))
def test_a_private_import_is_still_there(name):
    module, _, attribute = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        assert hasattr(importlib.import_module(module), attribute), f"TensorFlow {tf.__version__} has no {name}"


@pytest.mark.parametrize("word", COUNTS)
def test_keras_counts_replicas_where_it_did(word):
    found = {}
    for file in sorted(KERAS.rglob("*.py")):
        times = file.read_text().count(word)
        if times and not file.name.endswith("_test.py"):
            found[file.relative_to(KERAS).as_posix()] = times
    assert found == COUNTS[word], (
        f"Keras {keras.__version__} has {word!r} elsewhere than the Keras that engine/tf_internals.py was written for: "
        "read what it does there over several replicas, change it there too if it scales, then change this list"
    )


def test_callers_in_keras_find_the_changed_functions():
    """By the module, whose functions are replaced: who imports them by name would have Keras's own."""
    imported = re.compile(r"from keras\.src\.losses\.loss import \(?[^)\n]*scale_loss_for_distribution")
    assert not [file for file in KERAS.rglob("*.py") if imported.search(file.read_text())]
    changed = (
        (keras_loss, "scale_loss_for_distribution"),
        (keras_loss, "unscale_loss_for_distribution"),
        (keras_optimizer.TFOptimizer, "_all_reduce_sum_gradients"),
        (keras.optimizers.LossScaleOptimizer, "_tf_apply"),
    )
    for owner, name in changed:
        function = getattr(owner, name)
        assert function.__wrapped__.__module__.startswith("keras.src"), f"{name} is not changed"
    assert issubclass(keras.optimizers.SGD, keras_optimizer.TFOptimizer)


def test_on_one_device_nothing_changes():
    y, z = tf.constant([[1.0, 2.0]]), tf.constant([[3.0, 5.0]])
    outside = keras.losses.MeanSquaredError()(y, z)
    with tf_internals.keras_scales_nothing():
        assert float(keras.losses.MeanSquaredError()(y, z)) == float(outside) == 6.5


def test_several_replicas(request):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "keras_on_replicas.py")]
    if request.config.getoption("--long"):
        command.append("--long")
    done = subprocess.run(command, cwd=HERE.parent.parent, env=os.environ, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


RECIPE = """
import keras
from modetrain import Recipe

class Mine(Recipe):
    def train_step(self, batch):
        return self.minimize(lambda: self.loss(batch, True))

    def eval_step(self, batch):
        return {"loss": self.loss(batch, False)}

    def loss(self, batch, training):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return loss(batch["label"], self.model(batch["image"], training=training))
"""
WORDS = (
    *("model=mlp", "model.hidden=[8]", "model.dropout=0", "data.source=bundled", "data.batch_size=32", "steps=4"),
    *("optimizer=sgd", "optimizer.momentum=0", "callbacks.log.every=2", "callbacks.evaluate.every=4"),
)


@pytest.fixture(scope="module")
def mine(cli):
    cli.write({"recipes/mine.py": RECIPE, "conf/recipe/mine.yaml": "_target_: recipes.mine.Mine\n"})
    return cli


@pytest.fixture(scope="module")
def one(mine):
    run = mine.run("recipe=mine", *WORDS, "mode=graph", folder="one")
    assert run.code == 0, run.out + run.err
    return run


@pytest.mark.parametrize(
    "mode",
    [
        ("mode=mirrored", "mode.replicas=2"),
        ("mode=mirrored", "mode.replicas=2", "mode.compile=xla"),
        ("mode=multiworker", "mode.workers=2"),
    ],
    ids=["graph", "xla", "workers"],
)
@pytest.mark.sampled(1)
def test_runs_on_replicas_show_what_one_device_shows(mode, mine, one):
    many = mine.run("recipe=mine", *WORDS, *mode, folder="-".join(mode).replace("=", "_"))
    assert many.code == 0, many.out + many.err
    for name in ("train/loss", "optimizer/grad_norm", "eval/loss"):
        assert many.scalars[name] == pytest.approx(one.scalars[name], rel=1e-4), name


@pytest.mark.long
def test_inspect_names_a_sum_and_no_mean():
    """A sum of a Keras loss is that of a replica's share, as any other sum is."""
    command = [sys.executable, "-m", "tests.corpus.score", "SumOfAKerasLoss", "MeanOfAKerasLoss"]
    done = subprocess.run(command, cwd=HERE.parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
