"""Data: position is (seed, step). Any batch can be asked for, and streaming from any step on gives the same ones."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from modetrain.callbacks.evaluate import Evaluate
from modetrain.data import aligned
from modetrain.data.dataset import Data
from modetrain.data.source import Source
from modetrain.engine.batching import BatchSharding
from modetrain.errors import ConfigError
from modetrain.files.tensorboard import TensorBoardWriter
from recipes.mnist import Digits


def numbers(batch) -> list[int]:
    """Which examples are in a batch."""
    return batch["index"].numpy().ravel().tolist()


def many(count) -> Source:
    """Examples that are numbers and nothing else."""
    split = {"index": np.arange(count), "label": np.zeros(count, np.int32)}
    return Source(kind="folder", train=split, evals={"": split}, facts={"classes": 1})


def streamed(data, first, length, count):
    """The batches of `count` steps from `first` on, as they come in blocks of `length`."""
    found = []
    for block in itertools.islice(data.train_blocks(first, length), -(-count // length)):
        assert block.first == first + len(found)
        assert block.length == length
        found += [{name: array[n, 0, 0] for name, array in block.arrays.items()} for n in range(length)]
    return found[:count]


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


# --- order -----------------------------------------------------------------------------------------------------------


def test_every_epoch_is_a_permutation_of_its_own(make_data, source):
    data = make_data()
    epochs = [[n for step in range(5 * e, 5 * e + 5) for n in numbers(data.batch(step))] for e in range(4)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(40))
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert list(range(40)) not in epochs


def test_epochs_follow_each_other_without_gaps(make_data):
    data = make_data(batch_size=7)  # 40 = 5 * 7 + 5: batch 5 holds the end of one epoch and the start of the next
    stream = [n for step in range(40) for n in numbers(data.batch(step))]
    for epoch in range(7):
        assert sorted(stream[40 * epoch : 40 * epoch + 40]) == list(range(40))


def test_a_batch_may_be_the_whole_epoch(make_data):
    assert sorted(numbers(make_data(batch_size=40).batch(3))) == list(range(40))


def test_images_keep_their_labels(make_data, source):
    batch = make_data().batch(12)
    for name in ("image", "label"):
        np.testing.assert_array_equal(batch[name], source.train[name][batch["index"]])


def test_two_data_objects_agree(make_data):
    one, other = make_data(seed=3), make_data(seed=3)
    other.batch(17)  # what was asked for before does not matter
    for step in (0, 4, 5, 1000, 10**12):
        same(one.batch(step), other.batch(step))


@pytest.mark.parametrize("other", [1, 2, 256, 2**31, 2**32, 2**63 - 1])
def test_another_seed_is_another_order(make_data, other):
    assert numbers(make_data(seed=0).batch(0)) != numbers(make_data(seed=other).batch(0))


def test_orders_are_as_different_as_those_of_a_die(make_data):
    """No epoch resembles another one, another seed's, or the order in the file: correlations are those of chance."""
    orders = [np.arange(4000)]
    for seed in (0, 1, 2):
        data = make_data(seed=seed, batch_size=4000, source=many(4000))
        orders += [np.argsort(numbers(data.batch(epoch))) for epoch in (0, 1, 2, 3, 256)]
    found = np.abs(np.corrcoef(orders)[np.triu_indices(len(orders), 1)])
    assert found.max() < 5 / np.sqrt(4000), "five standard deviations"
    # Examples that were in one batch of 64 meet again in another epoch as often as chance has it.
    batches = np.array(orders[1:]) // 64
    for one, other in itertools.combinations(batches, 2):
        meeting = np.unique(one * 100 + other, return_counts=True)[1]
        assert (meeting * (meeting - 1)).sum() / (4000 * 63 * 63 / 3999) == pytest.approx(1, abs=0.1)


# --- blocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize(("first", "length"), [(0, 1), (0, 4), (3, 4), (13, 5), (1000, 3)])
def test_blocks_hold_the_batches_of_their_steps(make_data, prepared, first, length):
    def prepare(batch, *, seed, training):
        return {**batch, "noise": tf.random.stateless_uniform([8], seed)}

    data = make_data(prepare=prepare if prepared else None)
    for step, batch in enumerate(streamed(data, first, length, 9), first):
        same(batch, data.batch(step))


def test_two_streams_of_one_data_do_not_disturb_each_other(make_data):
    data = make_data()
    one, other = data.train_blocks(0, 2), data.train_blocks(6, 2)
    blocks = [next(one), next(other), next(one), next(other)]
    assert [block.first for block in blocks] == [0, 6, 2, 8]
    for block in blocks:
        assert numbers(block.arrays) == numbers(data.batch(block.first)) + numbers(data.batch(block.first + 1))


def test_automatic_block_lengths_fit_a_budget(make_data):
    assert make_data().steps_that_fit() == 100, "tiny batches: as many as it takes"

    def large(batch, *, seed, training):
        return {**batch, "padding": tf.zeros([8, 2**18])}  # 8 MiB a batch

    assert make_data(prepare=large).steps_that_fit() == 7, "64 MiB hold 7 of them and their images"

    def huge(batch, *, seed, training):
        return {**batch, "padding": tf.zeros([8, 2**22])}

    assert make_data(prepare=huge).steps_that_fit() == 1


# --- prepare ---------------------------------------------------------------------------------------------------------


def test_prepare_sees_raw_examples_and_a_seed_of_the_step(make_data):
    seen = []

    def prepare(batch, *, seed, training):
        seen.append((tf.executing_eagerly(), batch["image"].dtype, seed.dtype, tuple(seed.shape), training))
        return {**batch, "seed": tf.tile(seed[tf.newaxis], [8, 1])}

    data = make_data(prepare=prepare)
    batches = streamed(data, 0, 4, 12)
    assert seen == [(False, tf.uint8, tf.int32, (2,), True)], "once, as Dataset.map traces it"
    seeds = [tuple(batch["seed"].numpy()[0]) for batch in batches]
    assert len(set(seeds)) == 12
    assert seeds[7:12] == [tuple(batch["seed"].numpy()[0]) for batch in streamed(data, 7, 1, 5)]
    other = streamed(make_data(seed=1, prepare=prepare), 0, 4, 12)
    assert not set(seeds) & {tuple(batch["seed"].numpy()[0]) for batch in other}


def test_evaluation_batches_are_prepared_with_seeds_of_their_own(make_data):
    def prepare(batch, *, seed, training):
        count = batch["index"].shape[0]
        return {"seed": tf.tile(seed[tf.newaxis], [count, 1]), "training": tf.fill([count], training)}

    data = make_data(prepare=prepare)
    training = {tuple(data.batch(step)["seed"].numpy()[0]) for step in range(3)}
    seeds = []
    for _, arrays in evaluated(data, 1):
        assert not arrays["training"].numpy().any()
        seeds.append(tuple(arrays["seed"].numpy()[0]))
    assert len(set(seeds)) == 3
    assert not training & set(seeds)


def test_debugged_data_is_prepared_in_python_when_a_step_needs_it(make_data):
    """The same batches, with values in `prepare`, one at a time and none ahead."""
    seen = []

    def prepare(batch, *, seed, training):
        seen.append((tf.executing_eagerly(), numbers(batch) if tf.executing_eagerly() else None))
        return {**batch, "noise": tf.random.stateless_uniform([len(batch["index"])], seed)}

    data = make_data(prepare=prepare, debug=True)
    blocks = data.train_blocks(3, 2)
    assert seen == []
    block = next(blocks)
    assert [eagerly for eagerly, _ in seen] == [True, True]
    assert [examples for _, examples in seen] == [numbers({"index": array[0, 0]}) for array in block.arrays["index"]]
    plain = make_data(prepare=prepare)
    for found in (block, next(blocks)):
        for index in range(2):
            same({name: array[index, 0, 0] for name, array in found.arrays.items()}, plain.batch(found.first + index))


def test_debugged_evaluation_is_prepared_in_python_when_it_is_needed(make_data):
    """The same batches, with values in `prepare`, each once: those that fill a block up are not prepared again."""
    seen = []

    def prepare(batch, *, seed, training):
        seen.append((tf.executing_eagerly(), training))
        return {**batch, "noise": tf.random.stateless_uniform([len(batch["index"])], seed)}

    data = make_data(prepare=prepare, debug=True, eval_batch_size=4)
    assert data.steps_that_fit() == 1
    blocks = data.evaluations[""].blocks(2)
    assert seen == []
    found = [next(blocks)]
    assert seen == [(True, False)] * 2
    found += blocks
    assert seen == [(True, False)] * 6, "5 full batches and a short one"
    plain = list(make_data(prepare=prepare, eval_batch_size=4).evaluations[""].blocks(2))
    for debugged, other in zip(found, plain, strict=True):
        assert (debugged.first, debugged.length) == (other.first, other.length)
        same(debugged.arrays, other.arrays)
        np.testing.assert_array_equal(debugged.counted, other.counted)


RETURNED = {
    "nothing": (lambda batch: None, "returned None. End it with `return batch`"),
    "a tuple": (lambda batch: (batch["image"], batch["label"]), "returned a tuple. Return a dict of tensors"),
    "no feature": (lambda batch: {}, "returned a dict without a feature"),
    "a number": (lambda batch: {**batch, "x": 0.5}, "returned `x`, one number for the batch"),
    "a scalar": (
        lambda batch: {**batch, "x": tf.constant(1)},
        r"returned `x`, one number .* Return tf.repeat\(value, ",
    ),
    "None": (lambda batch: {**batch, "x": None}, "returned `x`, None"),
    "ragged": (
        lambda batch: {**batch, "x": tf.RaggedTensor.from_tensor(batch["image"])},
        "returned `x`, a ragged tensor.*to_tensor",
    ),
    "sparse": (
        lambda batch: {**batch, "x": tf.sparse.from_dense(batch["label"])},
        "returned `x`, a sparse tensor.*to_dense",
    ),
    "a table": (
        lambda batch: {**batch, "x": tf.range(10.0)},
        r"returned `x` of shape \[10\]: the batch has . examples",
    ),
    "fewer": (
        lambda batch: {k: v[:-1] for k, v in batch.items()},
        r"returned `image` of shape \[\d, 4, 4, 1\]: the batch has",
    ),
    "twice": (
        lambda batch: {k: tf.concat([v, v], 0) for k, v in batch.items()},
        r"returned `image` of shape \[.*Return . rows",
    ),
}


@pytest.mark.parametrize("what", RETURNED)
def test_what_prepare_may_not_return_is_named_with_its_line(make_data, what):
    """It would be cut over micro-batches and replicas like the batch, or fail far from its cause."""
    returned, expected = RETURNED[what]

    def prepare(batch, *, seed, training):
        return returned(batch)

    named = rf"prepare \(tests/data/test_dataset.py:\d+\) {expected}"
    with pytest.raises(ConfigError, match=named):
        make_data(prepare=prepare, debug=True).batch(0)
    with pytest.raises(ConfigError, match=named):
        next(make_data(prepare=prepare).train_blocks(0, 1))
    with pytest.raises(ConfigError, match=named.replace("returned", "for evaluation returned", 1)):
        make_data(prepare=prepare, eval_batch_size=4).check_evaluation()


@pytest.mark.parametrize("debug", [False, True])
def test_shapes_that_python_hides_work_too(make_data, debug):
    """An array of `tf.numpy_function` has no shape in a graph: it is sharded like any other, or refused by name."""

    def hide(batch, *, seed, training):
        flipped = tf.numpy_function(lambda image: image[:, ::-1], [batch["image"]], tf.uint8)
        return {**batch, "image": flipped, "text": tf.strings.as_string(batch["label"])}

    def show(batch, *, seed, training):
        return {**batch, "image": batch["image"][:, ::-1], "text": tf.strings.as_string(batch["label"])}

    sharding = BatchSharding(parts=2, replicas=2, local=1, first=1)
    hidden, plain = (make_data(prepare=prepare, sharding=sharding, debug=debug) for prepare in (hide, show))
    same(next(hidden.train_blocks(3, 2)).arrays, next(plain.train_blocks(3, 2)).arrays)
    hidden, plain = (make_data(prepare=prepare, debug=debug, eval_batch_size=4) for prepare in (hide, show))
    for one, other in zip(hidden.evaluations[""].blocks(2), plain.evaluations[""].blocks(2), strict=True):
        same(one.arrays, other.arrays)

    def cut(batch, *, seed, training):
        return {**batch, "x": tf.numpy_function(lambda label: label[:-1], [batch["label"]], tf.int32)}

    with pytest.raises((ConfigError, tf.errors.UnknownError), match=r"cut \(.*returned `x` of"):
        next(make_data(prepare=cut, debug=debug).train_blocks(0, 1))


def test_what_prepare_returns_for_evaluation_is_refused_before_the_first_step(make_trainer):
    class Careless(Digits):
        def prepare(self, batch, *, seed, training):
            return batch if training else {**batch, "table": tf.range(5)}

    trainer = make_trainer("graph", Careless, callbacks=[Evaluate(every=None, events=TensorBoardWriter(None))])
    trainer.data = make_prepared(trainer)
    with pytest.raises(
        ConfigError, match=r"^Careless.prepare \(tests/data/test_dataset.py:\d+\) for evaluation returned `table`"
    ):
        trainer.train()
    assert trainer.step == 0


def make_prepared(trainer):
    """The trainer's data with its recipe's `prepare`, which the fixture leaves out."""
    data = trainer.data
    return Data(data.source, data.settings, seed=0, prepare=trainer.recipe.prepare, sharding=data.sharding)


# --- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux measures the most memory that was used")
def test_examples_are_held_once(make_data):
    """`tf.constant` keeps two copies of an array beside it: the limit on the examples' memory would not hold."""

    def memory(key):
        return next(
            int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key)
        )

    image = aligned.empty((100, 1000, 1000, 1), np.uint8)  # as every source makes it
    image[:] = np.arange(100, dtype=np.uint8)[:, None, None, None]
    label = np.zeros(100, np.int32)
    for array, copies in ((image, 0), (image[1:], 1)):  # the second begins where no tensor can
        split = {"image": array, "label": label[: len(array)], "index": np.arange(len(array))}
        given = Source(kind="folder", train=split, facts={"classes": 1})
        Path("/proc/self/clear_refs").write_text("5")  # the most from here on
        before = memory("VmRSS")
        data = make_data(source=given)
        assert memory("VmHWM") - before < (copies + 0.5) * array.nbytes / 1024
        batch = data.batch(0)
        np.testing.assert_array_equal(batch["image"][:, 5, 5, 0], array[batch["index"], 5, 5, 0])
    users = {"image": image.copy(), "label": label}
    mine = make_data(source=Source(kind="arrays", train=users, facts={"classes": 1}, shared=False))
    users["image"][:] = 7
    assert len(np.unique(mine.batch(0)["image"])) == 8, "arrays of the caller are copied: they may change"


# --- evaluation ------------------------------------------------------------------------------------------------------


def evaluated(data, length):
    """(number, arrays) of each evaluation batch, as they come in blocks of `length`."""
    found = []
    for block in data.evaluations[""].blocks(length):
        assert block.first == len(found)
        batches = [{name: array[n, 0, 0] for name, array in block.arrays.items()} for n in range(block.length)]
        found += enumerate(batches, block.first)
    return found


@pytest.mark.parametrize("length", [1, 2, 3, 100])
@pytest.mark.parametrize("size", [1, 4, 5, 10, 22, 23, 24, 1000])
def test_every_evaluation_example_is_seen_exactly_once(make_data, source, length, size):
    data = make_data(eval_batch_size=size)
    batches = [arrays for _, arrays in evaluated(data, length)]
    assert [n for batch in batches for n in numbers(batch)] == list(range(23))
    assert all(len(numbers(batch)) == size for batch in batches[:-1])
    assert data.eval_examples == 23
    for batch in batches:
        np.testing.assert_array_equal(batch["image"], source.eval["image"][batch["index"]])


def test_blocks_of_evaluation_have_two_shapes_at_most(make_data):
    # 5 full batches in blocks of 2: the third block is filled up, and its bounds keep the filling out
    blocks = list(make_data(eval_batch_size=4).evaluations[""].blocks(2))
    assert [(block.first, block.length) for block in blocks] == [(0, 2), (2, 2), (4, 1), (5, 1)]
    assert [tuple(block.arrays["index"].shape) for block in blocks] == [(2, 1, 1, 4)] * 3 + [(1, 1, 1, 3)]


@pytest.mark.parametrize(("batches", "seen"), [(1, 10), (2, 20), (3, 23), (9, 23)])
def test_evaluation_may_stop_after_so_many_batches(make_data, batches, seen):
    data = make_data(eval_batches=batches)
    assert data.eval_examples == seen
    assert [n for _, batch in evaluated(data, 2) for n in numbers(batch)] == list(range(seen))


def test_overfitting_repeats_the_first_batches_and_evaluation_sees_them(make_data, source):
    data = make_data(overfit=2, eval_batch_size=6)
    first = [numbers(make_data().batch(step)) for step in range(2)]
    assert [numbers(data.batch(step)) for step in range(6)] == first * 3
    assert [numbers(batch) for batch in streamed(data, 1, 3, 6)] == first[1:] + first * 2 + first[:1]
    assert data.eval_examples == 16
    batches = [batch for _, batch in evaluated(data, 2)]
    assert [n for batch in batches for n in numbers(batch)] == first[0] + first[1]
    for batch in batches:
        np.testing.assert_array_equal(batch["image"], source.train["image"][batch["index"]])


@pytest.mark.parametrize("debug", [False, True])
def test_overfitting_evaluates_the_very_batches_trained_on(make_data, debug):
    """Augmented with the same draws: else a loss of zero in training would not be one in evaluation."""

    def prepare(batch, *, seed, training):
        count = batch["index"].shape[0]
        return {**batch, "noise": tf.random.stateless_uniform([count], seed), "training": tf.fill([count], training)}

    data = make_data(prepare=prepare, overfit=2, eval_batch_size=6, debug=debug)
    batches = [batch for _, batch in evaluated(data, 3)]
    assert len(batches) == 2
    for step, batch in enumerate(batches):
        same(batch, data.batch(step))


@pytest.mark.parametrize(
    ("sharding", "most"),
    [(BatchSharding(), 40), (BatchSharding(replicas=3, local=3), 39), (BatchSharding(parts=2, replicas=8), 32)],
)
def test_a_batch_of_more_examples_than_there_are_is_refused(make_data, sharding, most):
    with pytest.raises(ConfigError, match=rf"batch_size=48: there are only 40 .* Type data.batch_size={most} or less"):
        make_data(batch_size=48, sharding=sharding)
    assert make_data(batch_size=most, sharding=sharding).settings.batch_size == most
