"""Examples of varying length: what a batch is padded to, in every mode, and one trace a length."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import modetrain
from modetrain.data.loader import BatchLoader
from modetrain.data.source import Source, as_split
from modetrain.engine.batching import BatchSharding
from modetrain.errors import ConfigError
from tests.data.test_dataset import same, streamed

SIZES = np.random.default_rng(0).integers(1, 13, 40)
BUCKET = (4, 8, 12)


def example(index: int) -> dict:
    return {"tokens": np.arange(1, SIZES[index] + 1), "index": index}


class Sentences:
    """Random access whose longest example is not known."""

    def __init__(self, count: int = 40):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return example(index)


def sentences():
    yield from map(example, range(40))


KINDS = {
    "random access": Sentences(),
    "stream": sentences,
    "arrays": {"tokens": [example(i)["tokens"] for i in range(40)], "index": np.arange(40)},
    "ragged": {
        "tokens": tf.ragged.constant([example(i)["tokens"].tolist() for i in range(40)]),
        "index": np.arange(40),
    },
}


def batches_of(kind, make_data, count=12, **settings):
    data = make_data(source=Source(kind="toy", train=KINDS[kind], evals={"": KINDS[kind]}), batch_size=4, **settings)
    return data, [{name: value.numpy() for name, value in data.batch(step).items()} for step in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_padded_to_the_smallest_length_that_holds_its_longest_example(kind, make_data):
    _, batches = batches_of(kind, make_data, bucket=BUCKET)
    widths = set()
    for batch in batches:
        width = batch["tokens"].shape[1]
        widths.add(width)
        assert width == min(size for size in BUCKET if size >= max(batch["tokens_length"]))
        for tokens, length, index in zip(*(batch[n] for n in ("tokens", "tokens_length", "index")), strict=True):
            assert tokens.tolist() == [*example(index)["tokens"], *[0] * (width - length)]
    assert len(widths) > 1
    _, fixed = batches_of(kind, make_data, count=2, pad=20)
    assert [batch["tokens"].shape for batch in fixed] == [(4, 20)] * 2


@pytest.mark.parametrize("kind", ["random access", "stream"])
@pytest.mark.parametrize("debug", [False, True])
def test_blocks_from_any_step_on_have_the_batches_of_the_steps(kind, debug, make_data):
    data, batches = batches_of(kind, make_data, bucket=BUCKET, debug=debug)
    for first, length in ((0, 8), (5, 3)):
        loader, found = BatchLoader(data, length), []
        while first + len(found) < 12:
            block = loader.block(first + len(found))
            assert block.arrays["tokens"].shape[0] == length, "filled up, so that a program has one shape a length"
            found += [
                {name: value[n, 0, 0].numpy() for name, value in block.arrays.items()} for n in range(block.length)
            ]
        for one, other in zip(found, batches[first:], strict=False):
            same(one, other)


def test_without_several_lengths_blocks_are_whole(make_data):
    data, batches = batches_of("random access", make_data, pad=12)
    for one, other in zip(streamed(data, 0, 6, 12), batches, strict=True):
        same(one, other)


def test_the_global_batch_decides_for_every_worker(make_data):
    _, batches = batches_of("random access", make_data, bucket=BUCKET)
    parts = [
        batches_of("random access", make_data, bucket=BUCKET, sharding=BatchSharding(replicas=2, first=n, local=1))[0]
        for n in range(2)
    ]
    for step in range(6):
        halves = [BatchLoader(part, 3).block(step).arrays["tokens"][0, 0, 0] for part in parts]
        np.testing.assert_array_equal(np.concatenate(halves), batches[step]["tokens"])


@pytest.mark.parametrize("replicas", [1, 2, 3])
@pytest.mark.parametrize("kind", ["random access", "stream"])
@pytest.mark.parametrize("debug", [False, True])
def test_an_evaluation_sees_every_example_once_in_batches_of_their_own_length(kind, debug, replicas, make_data):
    seen = []
    for first in range(replicas):  # as workers with a replica each
        sharding = BatchSharding(replicas=replicas, first=first, local=1)
        given = {"batch_size": 12, "eval_batch_size": 3, "bucket": BUCKET, "debug": debug}
        source = Source(kind="toy", train=KINDS[kind], evals={"": KINDS[kind]})
        for block in make_data(source=source, sharding=sharding, **given).evaluations[""].blocks(4):
            for n in range(block.length):
                tokens, index = block.arrays["tokens"][n, 0, 0].numpy(), block.arrays["index"][n, 0, 0].numpy()
                if block.counted[n, 0]:
                    seen += index.tolist()
                    assert tokens.shape[1] == min(size for size in BUCKET if size >= max(SIZES[index]))
    assert sorted(seen) == list(range(40))


@pytest.mark.parametrize(
    ("given", "settings", "message"),
    [
        (Sentences(), {}, r"^`tokens` of the training split varies in length \(\[any\]\).*data.pad=128.*'data.bucket="),
        ({"x": np.zeros([9, 2])}, {"bucket": (4,)}, r"^data.pad=4: no feature of the data varies .*\(x \[2\]\)"),
        (
            [{"photo": np.zeros([n, n, 3])} for n in range(1, 9)],
            {"pad": 9},
            r"^`photo` of the training split varies in 2 dimensions \(\[any, any, 3\]\)",
        ),
    ],
)
def test_what_cannot_be_padded_is_refused_at_the_start(given, settings, message, make_data):
    with pytest.raises(ConfigError, match=message):
        make_data(source=Source(kind="toy", train=given), batch_size=2, **settings)


@pytest.mark.parametrize("kind", ["random access", "stream", "arrays"])
def test_an_example_that_is_too_long_is_named_or_cut(kind, make_data):
    data = make_data(source=Source(kind="toy", train=KINDS[kind]), batch_size=4, bucket=(4, 8))
    which = "an example" if kind == "stream" else r"example \d+"
    message = (
        rf"^{which} of the training split has `tokens` of length (\d+), and 'data.bucket=\[4,8\]' holds at most 8. "
    )
    with pytest.raises(ConfigError, match=message + r"Type 'data.bucket=\[4,8,\1\]', or data.longer=cut"):
        [BatchLoader(data, 1).block(step) for step in range(20)]
    _, batches = batches_of(kind, make_data, bucket=(4, 8), longer="cut")
    assert max(batch["tokens_length"].max() for batch in batches) == 8
    assert {batch["tokens"].shape[1] for batch in batches} <= {4, 8}


def test_lists_in_memory_are_padded_to_their_longest(make_data):
    train = [example(i) for i in range(40)]
    data = make_data(source=Source(kind="toy", train=train, evals={"": train[:9]}), batch_size=4)
    assert data.lengths == (SIZES.max(),)
    assert data.batch(0)["tokens"].shape == (4, SIZES.max())


def test_an_evaluation_of_one_length_is_padded_as_the_training_is():
    evaluation = {"tokens": [[1, 2], [3, 4]], "index": np.arange(2)}
    trainer = modetrain.Trainer(
        Mean(), {"train": KINDS["arrays"], "eval": evaluation}, mode="eager", steps=1, batch_size=4, bucket=BUCKET
    )
    batch = trainer.data.eval_batch(2)
    assert (batch["tokens"].shape, batch["tokens_length"].numpy().tolist()) == ((2, 4), [2, 2])


def test_a_stream_of_sentences_is_no_stream_of_batches():
    tokens = tf.data.Dataset.from_generator(
        lambda: ({"tokens": example(i)["tokens"]} for i in range(9)), output_signature={"tokens": tf.TensorSpec([None])}
    )
    assert as_split(tokens).shapes == {"tokens": (None,), "tokens_length": ()}
    with pytest.raises(ConfigError, match="yields batches"):
        as_split(tf.data.Dataset.from_tensor_slices({"x": np.arange(9.0)}).batch(2))


@pytest.mark.parametrize("debug", [False, True])
def test_what_python_in_prepare_returns_is_judged_by_its_shape(debug, make_data):
    """Tracing does not see it; the batch does, in every mode."""
    given = {"source": Source(kind="toy", train=KINDS["arrays"]), "batch_size": 4, "pad": 12, "debug": debug}

    def preparing(function):
        def prepare(batch, *, seed, training):
            return {"made": tf.numpy_function(function, [batch["tokens_length"]], tf.int32)}

        return prepare

    varying = make_data(prepare=preparing(lambda n: np.zeros([4, n[0] % 2 + 1], np.int32)), **given)
    loader = BatchLoader(varying, 3)
    for step in range(6):
        block = loader.block(step)
        width = varying.batch(step)["made"].shape[1]
        assert block.arrays["made"].shape == (3, 1, 1, 4, width)
    for function, message in {
        (lambda n: n[:3]): r"returned `made` of shape \[3\]: the batch has 4 examples",
        (lambda n: n.sum(dtype=np.int32)): r"returned `made`, one number for the batch: .* Return tf.repeat",
    }.items():
        with pytest.raises(ConfigError, match=message):
            BatchLoader(make_data(prepare=preparing(function), **given), 1).block(0)


# --- trained ---------------------------------------------------------------------------------------------------------


class Mean(modetrain.Recipe):
    """Predicts the mean of a sentence from a sum that has to be masked."""

    prepares = False

    def __init__(self):
        self.info = modetrain.Info(seed=0)
        self.embedding = keras.layers.Embedding(13, 4, embeddings_initializer=keras.initializers.RandomNormal(seed=1))
        self.embedding.build()
        self.optimizer = modetrain.Optimizer(
            self.embedding.trainable_variables, modetrain.OptimizerSettings(name="sgd", learning_rate=0.1)
        )

    def loss(self, batch):
        mask = tf.sequence_mask(batch["tokens_length"], tf.shape(batch["tokens"])[1], tf.float32)
        total = tf.reduce_sum(self.embedding(batch["tokens"]) * mask[..., tf.newaxis], [1, 2])
        return tf.square(total - tf.cast(batch["tokens_length"], tf.float32))

    def train_step(self, batch):
        return self.minimize(lambda: self.loss(batch))

    def eval_step(self, batch):
        return {"loss": self.loss(batch)}


def trained(mode, **changes):
    mode = dataclasses.replace(modetrain.Mode.from_preset(mode), **changes)
    data = {"train": Sentences(), "eval": Sentences(30)}
    trainer = modetrain.Trainer(Mean, data, mode=mode, steps=16, batch_size=2, bucket=BUCKET)
    trainer.train()
    return trainer


def test_modes_agree_with_one_trace_for_each_length():
    found = {}
    for mode, changes in (("eager", {}), ("graph", {}), ("xla", {}), ("graph", {"steps_per_call": 3})):
        trainer = trained(mode, **changes)
        before, lengths = trainer.traces, {trainer.data.batch(step)["tokens"].shape[1] for step in range(16)}
        assert before == (0 if mode == "eager" else len(lengths)), "once for each length"
        evaluated = trainer.evaluate()
        assert trainer.traces - before <= (0 if mode == "eager" else 4), "the last batch is shorter"
        found[mode, *changes] = (trainer.recipe.embedding.embeddings.numpy(), evaluated["loss"])
    one, *others = found.values()
    for weights, loss in others:
        np.testing.assert_allclose(weights, one[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(loss, one[1], rtol=1e-5)
    np.testing.assert_array_equal(found["graph",][0], found["graph", "steps_per_call"][0])
