"""Splits of every kind: what they hold, how they are read, and what is refused."""

from __future__ import annotations

from collections import UserList

import numpy as np
import pytest
import tensorflow as tf

from modetrain.data.loader import BatchLoader
from modetrain.data.random_access import RandomAccess
from modetrain.data.seeds import Seeds
from modetrain.data.selection import choose, select
from modetrain.data.source import Source, Splits, as_split
from modetrain.data.split import ArraySplit
from modetrain.data.stream import Stream
from modetrain.errors import ConfigError
from modetrain.settings import DataSettings

X = np.arange(24, dtype=np.float32).reshape(12, 2)


class Examples:
    """Random access, with nested features and text."""

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return {"x": X[index], "box": {"top": index}, "name": f"photo {index}"}


class Ragged(Examples):
    def __getitem__(self, index):
        return {"x": X.ravel()[: 1 + index % 4]}


def stream():
    yield from (Examples()[index] for index in range(12))


KINDS = {
    "arrays": {"x": X, "box": {"top": np.arange(12)}, "name": np.array([f"photo {i}" for i in range(12)])},
    "random access": Examples(),
    "dataset": tf.data.Dataset.from_generator(
        stream,
        output_signature={
            "x": tf.TensorSpec([2]),
            "box": {"top": tf.TensorSpec([], tf.int64)},
            "name": tf.TensorSpec([], tf.string),
        },
    ),
    "generator": stream,
}


@pytest.mark.parametrize("kind", KINDS)
def test_examples_are_read_by_flat_names(kind):
    split = as_split(KINDS[kind])
    found = split.first(3)
    np.testing.assert_array_equal(found["x"], X[:3])
    assert found["box/top"].tolist() == [0, 1, 2]
    assert [str(name, "utf8") if isinstance(name, bytes) else str(name) for name in found["name"]] == [
        "photo 0",
        "photo 1",
        "photo 2",
    ]
    assert split.dtypes["name"] == tf.string
    assert (split.shapes["x"], split.shapes["box/top"]) == ((2,), ())


@pytest.mark.parametrize("kind", ["arrays", "random access"])
def test_rows_are_gathered_in_a_pipeline_in_their_order(kind):
    split = as_split(KINDS[kind])
    rows = tf.data.Dataset.from_tensors(tf.constant([7, 0, 7], tf.int64))
    (found,) = rows.map(split.gather)
    np.testing.assert_array_equal(found["x"], X[[7, 0, 7]])


@pytest.mark.parametrize("kind", ["arrays", "random access"])
@pytest.mark.parametrize(
    ("expression", "rows"),
    [
        ("train", range(12)),
        ("train[:25%]", range(3)),
        ("train[-2:]", (10, 11)),
        ("train[8:]+extra[:2]", (8, 9, 10, 11, 0, 1)),
    ],
)
def test_a_part_of_splits(kind, expression, rows):
    splits = {"train": as_split(KINDS[kind]), "extra": as_split(KINDS[kind])}
    split = select(splits, "train_split", expression, "toy")
    assert split.examples == len(rows)
    np.testing.assert_array_equal(split.first(99)["x"], X[list(rows)])
    mixed = tf.constant([len(rows) - 1, 0], tf.int64)
    np.testing.assert_array_equal(split.gather(mixed)["x"], X[[rows[-1], rows[0]]])


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("tran", r"data.train_split=tran: toy has no split 'tran'; it has s, train. Did you mean 'train'\?"),
        ("train[5:5]", "no example is left of toy"),
        ("s[:3]", "s of toy is a stream, of which no part can be taken"),
        ("train[", "cannot be read"),
    ],
)
def test_a_part_that_is_not_there(expression, message):
    splits = {"train": as_split(KINDS["arrays"]), "s": as_split(stream)}
    with pytest.raises(ConfigError, match=message):
        select(splits, "train_split", expression, "toy")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (7, "the split is a int; expected is a dict of arrays, an object with len"),
        ({"x": np.zeros(3), "y": np.zeros(2)}, r"differ in their number of examples \(x 3, y 2\)"),
        ({3: np.zeros(3)}, "a feature under 3, a int. Name features by strings"),
        (tf.data.Dataset.from_tensor_slices((X, X)), r"of tuples of 2; expected are dicts .*lambda x, y"),
        (tf.data.Dataset.from_tensor_slices({"x": X}).batch(2), r"yields batches .* Add .unbatch\(\)"),
        ([(1, 2)], "example 0 is a tuple; expected is a dict of values by feature"),
        ([], "holds no examples"),
        (lambda: iter([5]), "yields a int; expected is a dict"),
        (lambda: 5, "a function that returns a int"),
        ([{"x": 1}, {"y": 1}], "example 1 has no feature `x`; it has y"),
        ([{"x": 1}, {"x": 1.5}], r"example 1 has `x` as float64 of shape \[\]; the first examples have int64"),
    ],
)
def test_what_is_no_split_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        as_split(given)


def test_an_example_that_differs_from_the_first_is_named_by_its_number():
    rows = UserList([{"x": np.zeros(2)}] * 9 + [{"x": np.zeros(3)}])  # of an object only the first examples are read
    split = RandomAccess(rows)
    with pytest.raises(ConfigError, match=r"example 9 has `x` as float64 of shape \[3\]; .* of shape \[2\]"):
        split.gather(tf.constant([1, 9], tf.int64))


def test_examples_of_varying_length_are_filled_up_to_the_longest():
    split = RandomAccess(Ragged())
    assert split.shapes["x"] == (None,)
    found = split.gather(tf.constant([0, 2], tf.int64))["x"]
    np.testing.assert_array_equal(found, [[0, 0, 0], [0, 1, 2]])


def test_a_stream_begins_at_any_batch_and_has_no_end():
    split = as_split(stream)
    assert isinstance(split, Stream)
    (found,) = split.batches(5, first=7).take(1)
    assert found["box/top"].numpy().tolist() == [11, 0, 1, 2, 3], "examples 35 to 39 of the passes over 12"


def test_seeds_are_a_function_of_row_and_run():
    rows = tf.constant([0, 1, 2**40], tf.int64)
    found = Seeds(3, "train").gather(rows)["seed"].numpy()
    assert (found.shape, found.dtype) == ((3, 2), np.int32)
    assert len({tuple(seed) for seed in found}) == 3
    np.testing.assert_array_equal(found, Seeds(3, "train").gather(rows)["seed"])
    assert (found != Seeds(4, "train").gather(rows)["seed"].numpy()).any()


def chosen(given, **settings):
    return choose(given, DataSettings(name="toy", batch_size=2, **settings), where="toy")


def test_the_evaluation_split_is_the_first_usual_one_or_those_named():
    arrays = {"x": X}
    given = {"train": arrays, "test": {"x": X[:3]}, "validation": {"x": X[:5]}}
    source = chosen(given, eval_split="auto")
    assert {name: split.examples for name, split in source.evals.items()} == {"": 5}
    source = chosen(given, eval_splits={"held": "train[75%:]", "test": "test"}, train_split="train[:75%]")
    assert {name: split.examples for name, split in source.evals.items()} == {"held": 3, "test": 3}
    assert source.train.examples == 9
    assert chosen({"train": arrays}, eval_split="auto").evals == {}


def test_what_a_data_set_knows_is_kept():
    source = chosen(
        Splits({"train": ArraySplit({"image": np.zeros([4, 8, 8, 3])})}, vocabulary=["a"]), eval_split="auto"
    )
    assert source.facts == {"image_shape": (8, 8, 3), "feature_shapes": {"image": (8, 8, 3)}, "vocabulary": ["a"]}
    with pytest.raises(ConfigError, match="toy returned a list; expected are splits by name"):
        chosen([1])


@pytest.mark.parametrize("debug", [False, True])
def test_what_is_wrong_with_an_example_is_said_and_not_tried_again(make_data, debug):
    rows = UserList([{"x": np.zeros(2)}] * 9 + [{"x": np.zeros(3)}])  # of an object only the first examples are read
    data = make_data(source=Source(kind="rows", train=rows), batch_size=5, debug=debug)
    waits: list[float] = []
    with pytest.raises(ConfigError, match=r"^the training split: example 9 has `x` as float64 of shape \[3\]"):
        [BatchLoader(data, 1, sleep=waits.append).block(step) for step in range(2)]
    assert not waits


def test_whether_a_stream_is_the_same_when_it_is_read_again():
    numbers = tf.data.Dataset.range(100).map(lambda n: {"n": n})
    assert as_split(numbers).reproducible
    assert as_split(stream).reproducible
    assert not as_split(numbers.shuffle(100)).reproducible
    assert not as_split(numbers.shuffle(100, seed=1)).reproducible, "each reading has another order"
    split = as_split(lambda: numbers.shuffle(100, seed=1))
    assert split.reproducible
    whole = [batch["n"].numpy().tolist() for batch in split.batches(8, first=0).take(30)]
    assert [batch["n"].numpy().tolist() for batch in split.batches(8, first=20).take(10)] == whole[20:]
    read = [number for batch in whole for number in batch][:100]
    assert sorted(read) == list(range(100)) != read
