"""What N replicas compute is what one device computes: run by `test_replicas.py` in a process with four logical CPUs."""

from __future__ import annotations

import contextlib
import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorflow.python.distribute import mirrored_strategy

from modetrain import OptimizerSettings, Recipe, Sum, Trainer, Weighted, metrics
from modetrain.callbacks.checkpoint import Checkpoint
from modetrain.data.dataset import Data
from modetrain.data.source import Source
from modetrain.diagnostics import graph_ops, stack
from modetrain.engine import batch_norm, optimizer, replica_random, xla_random
from modetrain.engine.devices import Replicas, replica_number
from modetrain.engine.guards.guard import GuardError
from modetrain.engine.guards.step_guards import find_unguarded
from modetrain.errors import ConfigError
from modetrain.mode import Mode
from modetrain.settings import DataSettings, NonfiniteSettings
from modetrain.tools.compare import speed
from modetrain.tools.compare.variant import Variant
from modetrain.training.step_errors import NonFiniteError
from recipes.mnist import Digits, cross_entropy, hits

(_cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(_cpu, [tf.config.LogicalDeviceConfiguration()] * 4)
_reduction = tf.distribute.ReductionToOneDevice()
REPLICAS = {
    count: Replicas(tf.distribute.MirroredStrategy([f"CPU:{k}" for k in range(count)], cross_device_ops=_reduction))
    for count in (2, 4)
}


@pytest.fixture(params=[2, pytest.param(4, marks=pytest.mark.long)])
def replicas(request):
    return REPLICAS[request.param]


def copies(variable):
    """A variable's value on each replica."""
    return [copy.numpy() for copy in REPLICAS[2].strategy.experimental_local_results(variable.value)]


def weights(trainer):
    return {name: np.asarray(variable.numpy(), np.float64) for name, variable in trainer.recipe.state().items()}


def assert_same(one, other, tolerance=1e-12):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=tolerance, atol=tolerance, err_msg=name)


# --- draws -----------------------------------------------------------------------------------------------------------

DRAWS = {
    "uniform float32": lambda shape: tf.random.stateless_uniform(shape, [1, 2]),
    "uniform float64": lambda shape: tf.random.stateless_uniform(shape, [1, 2], dtype=tf.float64),
    "uniform bfloat16": lambda shape: tf.random.stateless_uniform(shape, [1, 2], dtype=tf.bfloat16),
    "uniform float16": lambda shape: tf.random.stateless_uniform(shape, [1, 2], dtype=tf.float16),
    "whole int32": lambda shape: tf.random.stateless_uniform(shape, [1, 2], 0, 1000, dtype=tf.int32),
    "whole int64": lambda shape: tf.random.stateless_uniform(shape, [1, 2], 0, 1000, dtype=tf.int64),
    "all int32": lambda shape: tf.random.stateless_uniform(shape, [1, 2], None, None, dtype=tf.int32),
    "all uint64": lambda shape: tf.random.stateless_uniform(shape, [1, 2], None, None, dtype=tf.uint64),
    "normal float32": lambda shape: tf.random.stateless_normal(shape, [1, 2]),
    "normal float64": lambda shape: tf.random.stateless_normal(shape, [1, 2], dtype=tf.float64),
    "truncated": lambda shape: tf.random.stateless_truncated_normal(shape, [1, 2]),
}


# Of the numbers a replica has, 6 and 24 begin where the generator's count does, and 3 and 30 for some replicas do not.
SHARES = ([3], [3, 2], [3, 8], [3, 2, 5])


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("how", ["eager", "graph", "xla"])
def test_replicas_draw_their_rows_of_the_whole_batch(draw, how, replicas):
    if how == "xla" and draw == "truncated":
        pytest.skip("truncated normal draws are not equal under XLA on one device either")

    def on_replica(_):
        def drawn():
            return [DRAWS[draw](shape) for shape in SHARES]

        with replica_random.replica_share(3):
            return (tf.function(drawn, jit_compile=True) if how == "xla" else drawn)()

    def run():
        return replicas.run(on_replica, [tf.constant(0)] * replicas.count)

    with xla_random.portable() if how == "xla" else contextlib.nullcontext(), replica_random.replica_draws():
        by_replica = run() if how == "eager" else tf.function(run, autograph=False)()
    for shape, *rows in zip(SHARES, *by_replica, strict=True):
        whole = DRAWS[draw]([3 * replicas.count, *shape[1:]]).numpy()
        if how == "xla" and draw.startswith("normal"):
            np.testing.assert_allclose(np.concatenate(rows), whole, atol=1.5e-6)
        else:
            assert np.concatenate(rows).tobytes() == whole.tobytes(), shape


def test_draws_that_belong_to_no_example_are_the_same_on_all(replicas):
    def on_replica(_):
        with replica_random.replica_share(3):
            return [tf.random.stateless_uniform(shape, [1, 2]) for shape in ([], [4], [5, 2])]

    with replica_random.replica_draws():
        found = replicas.run(on_replica, [tf.constant(0)] * replicas.count)
    for drawn in found:
        for one, shape in zip(drawn, ([], [4], [5, 2]), strict=True):
            assert one.numpy().tobytes() == tf.random.stateless_uniform(shape, [1, 2]).numpy().tobytes()


def test_examples_along_another_axis_have_their_part(replicas):
    def on_replica(_):
        with replica_random.replica_share(3):
            return tf.random.stateless_normal([5, 3, 2], [1, 2])

    with replica_random.replica_draws():
        found = replicas.run(on_replica, [tf.constant(0)] * replicas.count)
    whole = tf.random.stateless_normal([5, 3 * replicas.count, 2], [1, 2]).numpy()
    assert np.concatenate(found, axis=1).tobytes() == whole.tobytes()


def test_nothing_is_left_of_it_afterwards(replicas):
    before = tf.random.stateless_uniform([6, 2], [1, 2]).numpy()
    with replica_random.replica_draws():
        assert tf.random.stateless_uniform([6, 2], [1, 2]).numpy().tobytes() == before.tobytes(), "outside a replica"
    assert tf.random.stateless_uniform([6, 2], [1, 2]).numpy().tobytes() == before.tobytes()


# --- training --------------------------------------------------------------------------------------------------------

EVERYTHING = {
    **{"name": "adamw", "learning_rate": 0.05, "weight_decay": 0.1, "clip_norm": 0.3},
    **{"accumulate": 2, "ema": 0.9, "schedule": "cosine", "warmup": 2},
}


def in_float64(batch, *, seed, training):
    return {**batch, "image": tf.cast(batch["image"], tf.float64) / 255.0}


PREPARED = {"prepare": in_float64}
PLAIN_OR_ALL = [pytest.param(EVERYTHING, id="everything"), pytest.param({}, id="plain", marks=pytest.mark.long)]


@pytest.mark.parametrize("compile", ["eager", "graph", "xla"])
@pytest.mark.parametrize("settings", PLAIN_OR_ALL)
def test_training_and_evaluation_are_those_of_one_device(compile, settings, replicas, make_trainer, mlp, recorder):
    """Dropout, regularizers, accumulation, clipping, averages, a short last evaluation batch: all of it at once."""
    model = mlp(dtype="float64", regularizer=keras.regularizers.L2(0.01))
    found = []
    for where in (None, replicas):
        seen = recorder()
        trainer = make_trainer(
            compile,
            model=model,
            steps=6,
            replicas=where,
            callbacks=[seen],
            data=PREPARED,
            watch_every=1,
            **settings,
        )
        trainer.train()
        losses = {name: seen.values(name) for name in ("loss", "accuracy", "grad_norm")}
        found.append((trainer, losses, trainer.evaluate()))
    (one, curves, evaluated), (many, curves_of_many, evaluated_by_many) = found
    assert_same(one, many)
    for name, curve in curves.items():
        np.testing.assert_allclose(list(curves_of_many[name].values()), list(curve.values()), rtol=1e-12)
    for name, value in evaluated.items():
        assert evaluated_by_many[name] == pytest.approx(value, rel=1e-12)
    if compile == "xla":
        assert many.programs.train.compiled is True
        assert many.programs.train.unit == "gradients"


class LooksUp(Digits):
    """In step 4 a label of the last example is out of range, in the gradients of the last replica."""

    def train_step(self, batch):
        def loss():
            logits = self.model(batch["image"], training=True)
            beyond = tf.where(tf.equal(self.step, 3) & tf.equal(batch["index"], self.last), 5, 0)
            weights = tf.gather(tf.ones([5], logits.dtype), beyond)
            return weights * cross_entropy(batch["label"], logits)

        return self.minimize(loss)


@pytest.mark.parametrize("accumulate", [2, pytest.param(1, marks=pytest.mark.long)])
def test_what_xla_drops_inside_the_gradients_is_raised(accumulate, make_trainer, make_data, mlp, replicas):
    model = mlp(units=0, dropout=0.0)
    trainer = make_trainer("xla", LooksUp, model=model, steps=6, replicas=replicas, accumulate=accumulate)
    trainer.recipe.last = int(make_data().batch(3)["index"][-1])
    with pytest.raises(GuardError, match="in step 4") as caught:
        trainer.train()
    assert caught.value.place.text == "weights = tf.gather(tf.ones([5], logits.dtype), beyond)"
    assert not [line for line in trainer.said if line.startswith("not guarded")]


def test_what_is_beyond_the_guards_of_the_gradients_is_named(make_trainer, mlp):
    class LooksUpInABranch(Digits):
        def train_step(self, batch):
            def loss():
                losses = cross_entropy(batch["label"], self.model(batch["image"], training=True))
                if losses[0] > 0.0:
                    losses *= tf.gather(tf.ones([5]), batch["label"])
                return losses + 0.0 * tf.gather(tf.ones([5]), batch["label"])

            return self.minimize(loss)

    trainer = make_trainer("xla", LooksUpInABranch, model=mlp(units=0, dropout=0.0), steps=1, replicas=REPLICAS[2])
    trainer.train()
    (graph,) = [step.graph for step in trainer.programs.train._built.popitem()[1].steps]
    assert [place.text for place in find_unguarded(graph)] == ['losses *= tf.gather(tf.ones([5]), batch["label"])']


def test_operations_of_a_program_inside_the_step_know_the_users_line(make_trainer, mlp):
    trainer = make_trainer("xla", model=mlp(units=0, dropout=0.0), steps=1, replicas=REPLICAS[2])
    trainer.train()
    (graph,) = [step.graph for step in trainer.programs.train._built.popitem()[1].steps]
    programs = [
        inner for op in graph.get_operations() for inner in graph_ops.inner_graphs(op) if "program" in inner.name
    ]
    assert len(programs) == 2
    made = [op for program in programs for op in program.get_operations() if op.type in ("Mean", "MatMul")]
    assert made
    assert all(stack.of_op(op) is not None for op in made)


@pytest.fixture
def passed_off_as_gpus(monkeypatch):
    """TensorFlow lets replicas meet inside XLA programs where all devices are GPUs."""
    monkeypatch.setattr(mirrored_strategy, "_is_gpu_device", lambda device: True)


@pytest.mark.parametrize("settings", PLAIN_OR_ALL)
def test_a_whole_step_is_one_program_of_each_replica(settings, make_trainer, mlp, passed_off_as_gpus):
    """Up to where XLA on a CPU has no collectives; on GPUs it was not tried."""
    trainer = make_trainer(
        "xla", model=mlp(dtype="float64"), replicas=REPLICAS[2], data=PREPARED, mode={"xla_unit": "step"}, **settings
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="Only compiling NCCL"):
        trainer.train()
    assert (trainer.programs.train.unit, trainer.programs.train.compiled) == ("replica", True)
    (loop,) = trainer.programs.train._built.values()
    last = loop.steps[-1].graph.as_graph_def()
    programs = [function for function in last.library.function if function.attr["_XlaMustCompile"].b]
    inside = [[node.op for node in function.node_def if "Collective" in node.op] for function in programs]
    assert len(inside) == 2
    assert all(inside)
    outside = {node.op for node in last.node} | {
        node.op for function in last.library.function if function not in programs for node in function.node_def
    }
    assert not [op for op in outside if "Collective" in op or "Assign" in op or "MatMul" in op]


@pytest.mark.long
def test_whole_steps_compute_the_same_but_for_the_collective(make_trainer, mlp, passed_off_as_gpus, monkeypatch):
    """Without it XLA compiles the rest on CPUs too: updates of each replica's copies, metrics, what the optimizer decides."""
    monkeypatch.setattr(optimizer, "mean_over_replicas", list)
    given = {"model": mlp(dtype="float64"), "steps": 6, "replicas": REPLICAS[2], "data": PREPARED, **EVERYTHING}
    found = []
    for unit in ("auto", "step"):
        seen = make_trainer("xla", mode={"xla_unit": unit}, **given)
        seen.train()
        found.append([(name, copies(variable)) for name, variable in seen.recipe.state().items()])
    assert seen.programs.train.unit == "replica"
    apart = 0
    for (name, parts), (other, whole) in zip(*found, strict=True):
        assert name == other
        np.testing.assert_allclose(whole, parts, rtol=1e-12, atol=1e-12, err_msg=name)
        apart += not np.array_equal(*parts)
    assert apart  # for without the collective each replica goes its own way


def test_every_replica_holds_the_same_bits(make_trainer, mlp):
    trainer = make_trainer("graph", model=mlp(), steps=7, replicas=REPLICAS[2], **EVERYTHING)
    trainer.train()
    for name, variable in trainer.recipe.state().items():
        first, second = copies(variable)
        assert first.tobytes() == second.tobytes(), name


def test_the_number_of_steps_a_call_changes_nothing(make_trainer, mlp, replicas):
    found = []
    for cap in (1, 3, 7):
        trainer = make_trainer(
            "graph",
            model=mlp(),
            steps=7,
            replicas=replicas,
            mode={"steps_per_call": cap},
            name="adam",
            learning_rate=0.01,
        )
        trainer.train()
        assert trainer.programs.train.traces == 1
        found.append({name: value.tobytes() for name, value in weights(trainer).items()})
    assert found[0] == found[1] == found[2], "bitwise"


@pytest.mark.parametrize("compile", ["eager", "graph", "xla"])
def test_a_replica_that_overflows_has_all_of_them_skip(compile, replicas, make_trainer, mlp, recorder):
    """With loss scaling: the update is skipped and the scale halved everywhere, as on one device."""

    class Overflowing(Digits):
        def train_step(self, batch):
            def loss():
                logits = self.model(batch["image"], training=True)
                bad = tf.reduce_any((batch["index"] == 7)[:, tf.newaxis], axis=1)
                return cross_entropy(batch["label"], logits) * tf.where(bad, np.float32(1e36), 1.0)

            self.minimize(loss)
            return {"bad": tf.cast(batch["index"] == 7, tf.float32)}

    found = []
    for where in (None, replicas):
        seen = recorder()
        trainer = make_trainer(
            compile, Overflowing, model=mlp(dropout=0), steps=10, replicas=where, callbacks=[seen], loss_scaling=True
        )
        trainer.train()
        found.append((trainer, seen.values("skipped"), seen.values("loss_scale"), seen.values("bad")))
    (one, skipped, scales, bad), (many, *seen_by_many) = found
    assert sum(value > 0 for value in bad.values()) == sum(skipped.values()) == 2, "in each of two epochs"
    assert [list(curve.values()) for curve in seen_by_many] == [
        list(curve.values()) for curve in (skipped, scales, bad)
    ]
    assert_same(one, many, tolerance=1e-5)
    assert len({float(value) for value in copies_of(many, many.recipe.optimizer.loss_scale)}) == 1


@pytest.mark.parametrize(
    ("compile", "policy"),
    [
        ("graph", "stop"),
        ("eager", "skip"),
        ("graph", "skip"),
        pytest.param("xla", "skip", marks=pytest.mark.long),  # an overflow under XLA is above
        ("graph", "rollback"),
        pytest.param("xla", "rollback", marks=pytest.mark.long),
    ],
)
def test_nan_on_one_replica_leads_to_what_it_leads_to_on_one_device(
    compile, policy, make_trainer, make_recipe, mlp, tmp_path
):
    class BadExample(Digits):
        def train_step(self, batch):
            def loss():
                each = cross_entropy(batch["label"], self.model(batch["image"], training=True))
                return each * tf.where(batch["index"] == 7, np.float32(np.nan), 1.0)

            return self.minimize(loss)

    found = []
    for where in (Replicas(), REPLICAS[2]):
        with where.scope():
            recipe = make_recipe(BadExample, model=mlp(), nonfinite=policy, ema=0.9)
        trainer = make_trainer(
            compile,
            recipe=recipe,
            replicas=where,
            folder=tmp_path / f"{where.count}",
            callbacks=[Checkpoint(every=4, keep=9, first=True)],
            nonfinite=NonfiniteSettings(policy=policy),
        )
        stopped = None
        try:
            trainer.train()
        except NonFiniteError as error:
            stopped = error.step
        found.append((trainer, stopped))
    (one, stopped), (many, stopped_by_many) = found
    assert stopped_by_many == stopped
    assert (stopped is not None) == (policy == "stop")
    assert many.nonfinite.skipped == one.nonfinite.skipped == (2 if policy == "skip" else 0), "in each of two epochs"
    assert many.loader.skipped_batches == one.loader.skipped_batches
    assert bool(many.loader.skipped_batches) == (policy == "rollback")
    if policy != "stop":
        assert_same(one, many, tolerance=1e-5)
        for name, variable in many.recipe.state().items():
            assert len({copy.tobytes() for copy in copies_of(many, variable)}) == 1, name


def copies_of(trainer, variable):
    return [copy.numpy() for copy in trainer.replicas.strategy.experimental_local_results(variable.value)]


def test_values_of_a_whole_evaluation_batch_are_those_of_one_device(replicas, make_trainer, mlp):
    """A replica evaluates whole batches, so that what is no mean of examples comes out the same; each is counted once."""

    class Spread(Digits):
        def eval_step(self, batch):
            numbers = tf.cast(batch["index"], tf.float32)
            return {"spread": tf.math.reduce_std(numbers), "index": numbers, "which": tf.cast(self.step, tf.float32)}

    evaluated = [
        make_trainer("graph", Spread, model=mlp(), replicas=where, data={"eval_batch_size": size}).evaluate()
        for size in (3, 7, 23, 50)
        for where in (None, replicas)
    ]
    for one, many in zip(evaluated[::2], evaluated[1::2], strict=True):
        assert many == pytest.approx(one, rel=1e-6)
        assert many["index"] == pytest.approx(11.0), "the mean of 0 .. 22"


def test_a_tape_of_ones_own_and_two_optimizers(replicas, make_trainer, mlp):
    class Own(Digits):
        def __init__(self, *, model, optimizer, info):
            super().__init__(model=model, optimizer=optimizer, info=info)
            self.second = model(info.image_shape, info.classes)
            self.second_optimizer = optimizer(self.second.trainable_variables, learning_rate=0.05)

        def train_step(self, batch):
            with tf.GradientTape() as tape:
                logits = self.model(batch["image"], training=True)
                loss = tf.reduce_mean(cross_entropy(batch["label"], logits))
            variables = self.model.trainable_variables
            self.apply(tape.gradient(loss, [v.value for v in variables]), variables)

            def teach():
                return tf.reduce_mean(tf.square(self.second(batch["image"]) - tf.stop_gradient(logits)), axis=1)

            taught = self.minimize(teach, optimizer=self.second_optimizer)
            return {"loss": loss, "taught": taught["loss"], "accuracy": hits(batch["label"], logits)}

    trainers = [make_trainer("graph", Own, model=mlp(), steps=5, replicas=where) for where in (None, replicas)]
    for trainer in trainers:
        trainer.train()
    assert_same(*trainers, tolerance=1e-5)


def test_a_batch_that_cannot_be_shared_is_refused(replicas, make_trainer):
    size = replicas.count * 3 + 1
    with pytest.raises(
        ConfigError, match=rf"data.batch_size={size} over {replicas.count} replicas: .* Type data.batch_size="
    ):
        make_trainer("graph", replicas=replicas, data={"batch_size": size})


def test_a_failure_names_the_replicas_and_a_share_of_the_batch(make_trainer):
    class Broken(Digits):
        def train_step(self, batch):
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken") as caught:
        make_trainer("graph", Broken, replicas=REPLICAS[2]).train()
    notes = "\n".join(caught.value.__notes__)
    assert "2 replicas" in notes
    assert "image: uint8 (4, 4, 4, 1)" in notes


# --- batch normalisation ---------------------------------------------------------------------------------------------


def normalised(image_shape, classes):
    inputs = keras.Input(image_shape, dtype="float64")
    x = layers.Flatten(dtype="float64")(inputs)
    x = layers.BatchNormalization(momentum=0.9, dtype="float64")(layers.Dense(5, dtype="float64")(x))
    return keras.Model(inputs, layers.Dense(classes, dtype="float64")(x))


def masked(image_shape, classes):
    """Normalises only where an image is bright, which is not equally often on each replica."""
    inputs = keras.Input(image_shape, dtype="float64")
    x = layers.Reshape((4, 4), dtype="float64")(inputs)
    x = layers.BatchNormalization(momentum=0.9, dtype="float64")(x, mask=keras.ops.max(x, axis=-1) > 0.8)
    return keras.Model(inputs, layers.Dense(classes, dtype="float64")(layers.Flatten(dtype="float64")(x)))


@pytest.mark.parametrize("model", [normalised, masked])
def test_batch_normalisation_is_over_the_whole_batch(model, replicas, make_trainer, said):
    trainers = []
    for where in (Replicas(), replicas):
        trainer = make_trainer("graph", model=model, steps=5, replicas=where, data=PREPARED, accumulate=2)
        batch_norm.synchronise(trainer.recipe.models(), Mode(name="m", compile="graph"), where)
        trainer.train()
        trainers.append(trainer)
    assert_same(*trainers)
    (line,) = said
    assert line.startswith("batch normalisation over all replicas, as on one device: 1 layer (")


def test_plain_batch_normalisation_is_warned_about_and_is_another_computation(make_trainer, said):
    trainers = []
    mode = Mode(name="m", compile="graph", strategy="mirrored", sync_batch_norm=False)
    for where in (Replicas(), REPLICAS[2]):
        trainer = make_trainer("graph", model=normalised, steps=5, replicas=where, data=PREPARED)
        batch_norm.synchronise(trainer.recipe.models(), mode, where)
        trainer.train()
        trainers.append(trainer)
    (line,) = said
    assert line.startswith("WARNING: mode.sync_batch_norm=false: batch normalisation in 1 layer (")
    with pytest.raises(AssertionError):
        assert_same(*trainers, tolerance=1e-3)


def frozen(image_shape, classes):
    """A frozen backbone with batch normalisation, and a new head."""
    backbone = normalised(image_shape, 7)
    backbone.trainable = False
    inputs = keras.Input(image_shape, dtype="float64")
    return keras.Model(inputs, layers.Dense(classes, dtype="float64")(backbone(inputs)))


class AsInEvaluation(Digits):
    def train_step(self, batch):
        return self.minimize(lambda: cross_entropy(batch["label"], self.model(batch["image"], training=False)))


class Gathers(Digits):
    def train_step(self, batch):
        def loss():
            z = self.model(batch["image"], training=True)
            everyone = tf.distribute.get_replica_context().all_gather(z, 0)
            return tf.reduce_logsumexp(tf.matmul(z, everyone, transpose_b=True), axis=1)

        return self.minimize(loss)


def test_what_exchanges_values_inside_the_gradients_is_refused_under_xla_on_cpus(make_trainer, said):
    here = REPLICAS[2]
    for cls, given, message in (
        (
            Digits,
            {"model": normalised},
            r"batch_normalization.*Type mode.compile=graph, .*=false compiles too, but changes",
        ),
        (
            Gathers,
            {},
            r"on_replicas.py:\d+ exchanges values between the replicas \(all_gather\).* Type mode.compile=graph",
        ),
    ):
        trainer = make_trainer("xla", cls, steps=1, replicas=here, **given)
        batch_norm.synchronise(trainer.recipe.models(), trainer.mode, here)
        with pytest.raises(ConfigError, match=message):
            trainer.train()


@pytest.mark.parametrize(
    ("cls", "model", "lines"),
    [(Digits, frozen, 0), pytest.param(AsInEvaluation, normalised, 1, marks=pytest.mark.long)],
)
def test_batch_normalisation_that_uses_its_moving_averages_runs_under_xla_on_cpus(
    cls, model, lines, make_trainer, said
):
    trainers = []
    for compile, where in (("graph", Replicas()), ("xla", REPLICAS[2])):
        trainer = make_trainer(compile, cls, steps=3, model=model, replicas=where, data=PREPARED)
        batch_norm.synchronise(trainer.recipe.models(), trainer.mode, where)
        trainer.train()
        trainers.append(trainer)
    assert_same(*trainers)
    assert len(said) == lines, "only a layer that may reduce is said to"


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_all_reduces_of_a_step_are_counted(accumulate, make_recipe, source, mlp):
    mode, here = Mode(name="graph", compile="graph"), REPLICAS[2]
    found = []
    for model, dtype in ((mlp(dropout=0), np.float32), (normalised, np.float64)):
        with here.scope():
            recipe = make_recipe(model=model, accumulate=accumulate)
        batch_norm.synchronise(recipe.models(), mode, here)
        images = source.train["image"][np.newaxis, :8].astype(dtype)
        batches = {"image": images, "label": source.train["label"][np.newaxis, :8]}
        found.append(speed.all_reduce_bytes(Variant(recipe, mode, batches, replicas=here)))
    plain, normal = found
    assert sorted(plain) == [4 * size for size in (1, 3, 5, 15, 80)], "the loss and every variable, once a step"
    assert len(normal) == 7 + 5 * accumulate, "batch normalisation meets in every micro-batch"


def test_replicas_are_numbered(replicas):
    found = replicas.run(lambda given: given + replica_number(), [tf.constant(10 * k) for k in range(replicas.count)])
    assert [int(value) for value in found] == [11 * k for k in range(replicas.count)]


# --- losses and metrics with weights, and sums --------------------------------------------------------------------------

N, T = 32, 3
RNG = np.random.default_rng(0)
TOKENS = {"x": RNG.normal(size=(N, T, 2)), "y": RNG.normal(size=(N, T))}
# Very uneven, with examples and a whole share of a batch that weigh nothing.
TOKENS["w"] = RNG.random((N, T)) ** 8 * 100 * (np.arange(N)[:, None] % 16 > 3)


class Tokens(Recipe):
    """A linear model of token values, with a penalty, by plain gradient descent."""

    def error(self, batch):
        return (self.model(batch["x"], training=True)[..., 0] - batch["y"]) ** 2

    def train_step(self, batch):
        def loss():
            error = self.error(batch)
            return Weighted(error, batch["w"]), {
                "off": Weighted(tf.sqrt(error), batch["w"]),
                "weight": self.total(batch),
            }

        return self.minimize(loss)

    def eval_step(self, batch):
        return {"loss": Weighted(self.error(batch), batch["w"]), "weight": self.total(batch)}

    def total(self, batch):
        return Sum(tf.reduce_sum(batch["w"], axis=0))

    def summarize(self, sums):
        return {
            "heaviest": sums["weight"].max(),
            "picture": sums["weight"][None] / sums["weight"].max(),
            "text": "done",
        }


class Unweighted(Tokens):
    def train_step(self, batch):
        return self.minimize(lambda: self.error(batch))


def train_tokens(mode, data=TOKENS, steps=5, cls=Tokens, **settings):
    def make():
        keras.utils.set_random_seed(1)
        dense = layers.Dense(1, kernel_regularizer=keras.regularizers.L2(0.125))
        given = {"name": "sgd", "learning_rate": 0.125, **settings}
        return cls(model=keras.Sequential([keras.Input((T, 2)), dense]), optimizer=OptimizerSettings(**given))

    held = {name: value[:27] for name, value in data.items()}
    mode = dataclasses.replace(Mode.from_preset(mode), precision="float64")
    replicas = REPLICAS[4] if mode.strategy == "mirrored" else None
    given = {"mode": mode, "steps": steps, "batch_size": 16, "replicas": replicas}
    trainer = Trainer(make, {"train": data, "eval": held}, **given)
    return trainer, trainer.train()


def by_hand(steps=5):
    """Weights and losses of the same training in NumPy."""
    keras.utils.set_random_seed(1)
    first = keras.layers.Dense(1, dtype="float64")
    first.build((None, T, 2))
    kernel, bias = (variable.numpy() for variable in first.weights)
    order = Data(Source(kind="", train=TOKENS), DataSettings(name="", batch_size=16), seed=0)
    losses = []
    for step in range(steps):
        batch = {name: value.numpy() for name, value in order.batch(step).items()}
        off = (batch["x"] @ kernel)[..., 0] + bias - batch["y"]
        share = batch["w"] / batch["w"].sum()
        losses.append((share * off**2).sum())
        kernel = kernel - 0.125 * (np.einsum("bt,btd->d", 2 * share * off, batch["x"])[:, None] + 0.25 * kernel)
        bias = bias - 0.125 * (2 * share * off).sum()
    return kernel, bias, losses


@pytest.mark.parametrize("mode", ["eager", "graph", "xla", "mirrored"])
@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_loss_with_weights_is_the_weighted_mean_of_the_global_batch(mode, accumulate):
    kernel, bias, losses = by_hand()
    trainer, history = train_tokens(mode, accumulate=accumulate)
    for variable, wanted in zip(trainer.recipe.model.weights, (kernel, bias), strict=True):
        np.testing.assert_allclose(variable.numpy(), wanted, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose([history.train[step]["loss"] for step in range(1, 6)], losses, rtol=1e-12)
    held = TOKENS["w"][:27]
    off = (TOKENS["x"][:27] @ kernel)[..., 0] + bias - TOKENS["y"][:27]
    found = trainer.evaluate()
    assert found["loss"] == pytest.approx((held * off**2).sum() / held.sum(), rel=1e-12)
    assert found["heaviest"] == pytest.approx(held.sum(axis=0).max(), rel=1e-12)
    assert trainer.history.figures["text"] == "done"
    np.testing.assert_allclose(trainer.history.figures["picture"][0], held.sum(axis=0) / held.sum(axis=0).max())


def test_weights_of_one_change_no_bit():
    ones = {**TOKENS, "w": np.ones((N, T))}
    one, other = (train_tokens("graph", ones, cls=cls)[0] for cls in (Tokens, Unweighted))
    for variable, wanted in zip(one.recipe.model.weights, other.recipe.model.weights, strict=True):
        np.testing.assert_array_equal(variable.numpy(), wanted.numpy())


def test_a_batch_that_weighs_nothing_makes_no_number():
    trainer, history = train_tokens("graph", {**TOKENS, "w": np.zeros((N, T))}, steps=2)
    assert all(np.isfinite(variable.numpy()).all() for variable in trainer.recipe.model.weights)
    assert "loss" not in history.train[1], "the mean of nothing is no number"


class ByKeras(Tokens):
    def __init__(self, **given):
        super().__init__(**given)
        self.auc, self.f1 = keras.metrics.AUC(), keras.metrics.F1Score(average="macro", threshold=0.5)

    def eval_step(self, batch):
        near, wanted = tf.exp(-self.error(batch)), tf.cast(batch["y"] > 0, batch["y"].dtype)
        return {"auc": metrics.keras(self.auc, wanted, near, batch["w"]), "f1": metrics.keras(self.f1, wanted, near)}


def test_metrics_of_keras_are_those_of_one_device():
    found = [train_tokens(mode, cls=ByKeras)[0].evaluate() for mode in ("eager", "graph", "xla", "mirrored")]
    assert 0 < found[0]["auc"] < 1
    assert 0 < found[0]["f1"] < 1
    assert found == [pytest.approx(found[0], rel=1e-12)] * 4


class OverPairs(Tokens):
    """Every example is held against all of the global batch, by their order; gradients reach both of a pair."""

    def losses(self, batch, gather):
        own = self.model(batch["x"], training=True)[:, 0, 0]
        every, first = (self.gather(own), self.first_row(own)) if gather else (own, 0)
        numbers = tf.range(first, first + own.shape[0])
        pairs = tf.cast((numbers[:, None] + 1) * tf.range(1, every.shape[0] + 1), own.dtype)
        return tf.reduce_mean(pairs * tf.square(own[:, None] - 2 * every), axis=1) / 100

    def train_step(self, batch):
        return self.minimize(lambda: self.losses(batch, gather=True))


class OverPairsOfOneDevice(OverPairs):
    def train_step(self, batch):
        return self.minimize(lambda: self.losses(batch, gather=False))


@pytest.mark.parametrize("mode", ["eager", "graph", "mirrored"])
def test_gathered_rows_are_those_of_the_global_batch(mode):
    wanted = train_tokens("graph", cls=OverPairsOfOneDevice)[0]
    trainer, history = train_tokens(mode, cls=OverPairs)
    assert_same(trainer, wanted)
    assert history.train == {step: pytest.approx(values) for step, values in wanted.history.train.items()}
