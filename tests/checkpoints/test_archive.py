"""Names in a checkpoint are the recipe's: any is written and read back, or refused by name before the first step."""

from __future__ import annotations

import hashlib
import io
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from modetrain.app import build
from modetrain.callbacks.checkpoint import Checkpoint
from modetrain.checkpoints import archive, capsule
from modetrain.checkpoints import file as checkpoint
from modetrain.engine import variables
from modetrain.errors import ConfigError
from modetrain.files import run_folder
from modetrain.recipe import Info
from recipes.mnist import Digits

INFO = Info(image_shape=(4, 4, 1), classes=3, train_examples=40, eval_examples=23, batch_size=8, steps=7, seed=0)

NAMES = {
    "plain": ["model/0/kernel", "smooth", "50%", "größe", "..", "/", "a\\b", "a/b", "", "self", "a\nb"],
    "parameters of np.savez": ["file", "allow_pickle", "args", "kwds", "arr_0", "arr_1"],
    "the file's own": ["__modetrain__", "__sha256__", "__modetrain__/0", "__modetrain__/1", "__modetrain__.npy"],
    "endings": ["x", "x.npy", "x.npy.npy", ".npy"],
    "cut at a zero": ["x", "x\0", "x\0y"],
    "no UTF-8": ["\udc80", "\udc81"],
    "hundreds of letters": ["x" * 1000, "x" * 1001, "x" * 70_000, "x" * 70_001],
}


def chosen(settings, cls):
    named = {
        "recipe": {"_target_": f"tests.checkpoints.test_archive.{cls.__name__}"},
        "model": {"_target_": "recipes.models.mlp"},
    }
    return build.make_recipe(settings(**named), INFO)


# --- any name --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NAMES)
def test_any_name_is_written_and_read_back(kind, tmp_path):
    path = run_folder.checkpoint(tmp_path, 7)
    state = {name: tf.Variable([float(index), 0.5]) for index, name in enumerate(NAMES[kind])}
    sha = checkpoint.save(path, state, step=7, meta={"kept": 1})
    found = checkpoint.load(path)
    assert {name: array.tolist() for name, array in found.arrays.items()} == {
        name: [float(index), 0.5] for index, name in enumerate(NAMES[kind])
    }
    assert (found.step, found.meta) == (7, {"kept": 1})
    assert sha == checkpoint.save(path, state, step=7, meta={"kept": 1})
    blank = {name: tf.Variable([9.0, 9.0]) for name in state}
    checkpoint.restore(found, blank, path)
    assert checkpoint.digest(blank) == checkpoint.digest(state)
    checkpoint.check(state, owner="Mine")


@pytest.mark.parametrize("name", [name for names in NAMES.values() for name in names])
def test_any_name_is_read_back_alone(name, tmp_path):
    checkpoint.save(tmp_path / "one.npz", {name: np.array([2.0, 3.0])}, step=0, meta={})
    found = checkpoint.load(tmp_path / "one.npz").arrays
    assert {one: array.tolist() for one, array in found.items()} == {name: [2.0, 3.0]}


def test_any_name_is_read_back_from_a_capsule(tmp_path):
    names = [name for names in NAMES.values() for name in names]
    state = {name: np.array(index) for index, name in enumerate(names)}
    batch = {name: np.array([-index]) for index, name in enumerate(names)}
    rest = {"method": "train_step", "why": "asked", "said": "", "command": "", "config": {}, "info": {}, "carry": {}}
    made = capsule.Capsule(step=3, state_step=3, number=3, state=state, batch=batch, made_on={}, **rest)
    made.save(tmp_path / "capsule.npz")
    found = capsule.load(tmp_path / "capsule.npz")
    assert found.state == state
    assert found.batch == batch


def test_a_batch_with_text_is_left_out_of_a_capsule(tmp_path):
    rest = {"method": "train_step", "why": "asked", "said": "", "command": "", "config": {}, "info": {}, "carry": {}}
    batch = {"label": np.array([1]), "word": tf.constant(["a"]).numpy()}
    made = capsule.Capsule(step=3, state_step=3, number=3, state={"w": np.array(2)}, batch=batch, made_on={}, **rest)
    made.save(tmp_path / "capsule.npz")
    found = capsule.load(tmp_path / "capsule.npz")
    assert found.batch is None
    assert found.state == {"w": 2}
    assert not found.complete


def test_numpy_opens_the_file_by_the_names_of_the_variables(tmp_path):
    state = {"model/0/kernel": np.ones([2]), "allow_pickle": np.zeros([1]), "x.npy": np.array([5.0])}
    checkpoint.save(tmp_path / "one.npz", state, step=0, meta={})
    with np.load(tmp_path / "one.npz") as found:
        assert set(found.files) == {"__modetrain__", "__sha256__", "model/0/kernel", "allow_pickle", "__modetrain__/2"}
        assert found["model/0/kernel"].tolist() == [1.0, 1.0]


class Named(Digits):
    """Counts its steps in variables with the names of parameters of np.savez, and more."""

    def __init__(self, **given):
        super().__init__(**given)
        for name in ("allow_pickle", "file", "__modetrain__", "x.npy", "x"):
            setattr(self, name, tf.Variable(0.0, trainable=False))
        self.inner = {
            "__sha256__": tf.Variable(0.0, trainable=False),
            1: keras.Variable(0.0),
            "b/c": keras.Variable(0.0),
        }

    def counters(self):
        plain = ("allow_pickle", "file", "__modetrain__", "x.npy", "x")
        return [*(getattr(self, name) for name in plain), *self.inner.values()]

    def train_step(self, batch):
        for index, variable in enumerate(self.counters()):
            variable.assign_add(1.0 + index)
        return super().train_step(batch)


def test_a_run_with_such_names_is_saved_and_resumed(make_trainer, tmp_path):
    def trainer(name, **given):
        return make_trainer("graph", Named, folder=tmp_path / name, callbacks=[Checkpoint(every=2)], **given)

    whole = trainer("whole", steps=4)
    whole.train()
    assert [float(v.numpy()) for v in whole.recipe.counters()] == [4.0 * (1 + index) for index in range(8)]
    trainer("part", steps=2).train()
    path = run_folder.checkpoint(tmp_path / "part", 2)
    resumed = trainer("part", steps=4, step=2)
    found = checkpoint.load(path)
    checkpoint.restore(found, resumed.recipe.state(), path)
    resumed.load_state(found.meta["carry"], step=found.step)
    resumed.train()
    assert checkpoint.digest(resumed.recipe.state()) == checkpoint.digest(whole.recipe.state())


# --- files of before -------------------------------------------------------------------------------------------------


def test_a_file_of_the_version_before_is_read(tmp_path):
    """Written as dc7b248 did, by np.savez with the names as keywords."""
    arrays = {name: np.array([float(index)]) for index, name in enumerate(["model/0/kernel", "50%", "x.npy", "größe"])}
    header = json.dumps(
        {"step": 7, "arrays": {n: [a.dtype.name, list(a.shape)] for n, a in arrays.items()}, "meta": {"kept": 1}}
    ).encode()
    sha = hashlib.sha256(header)
    for name in sorted(arrays):
        sha.update(f"{name} float64 (1,)\n".encode() + arrays[name].tobytes())
    own = {"__modetrain__": np.frombuffer(header, np.uint8), "__sha256__": np.frombuffer(sha.digest(), np.uint8)}
    np.savez(tmp_path / "old.npz", **own, **arrays)
    found = checkpoint.load(tmp_path / "old.npz")
    assert (found.step, found.meta, found.arrays) == (7, {"kept": 1}, arrays)


def test_the_names_of_a_recipes_state_are_those_of_before(make_recipe):
    recipe = make_recipe(Named, name="adam")
    assert list(recipe.state()) == [
        *("model/0/kernel", "model/1/bias", "model/2/seed_generator_state", "model/3/kernel", "model/4/bias"),
        "optimizer/0/updates",
        *(f"optimizer/{n}/{'mean' if n < 5 else 'square'}" for n in range(1, 9)),
        *("allow_pickle", "file", "__modetrain__", "x.npy", "x", "inner/__sha256__", "inner/1", "inner/b/c"),
    ]


# --- one name for two ------------------------------------------------------------------------------------------------


def variable():
    return tf.Variable(1.0, trainable=False)


class KeysOfTwoTypes(Digits):
    def __init__(self, **given):
        super().__init__(**given)
        self.x = {1: variable(), "1": variable()}


class SlashInAnAttribute(Digits):
    def __init__(self, **given):
        super().__init__(**given)
        setattr(self, "a/b", variable())
        self.a = {"b": variable()}


class SlashInAKey(Digits):
    def __init__(self, **given):
        super().__init__(**given)
        self.d = {"a/b": variable(), "a": {"b": variable()}}


class IndexAndKey(Digits):
    def __init__(self, **given):
        super().__init__(**given)
        self.d = {"a": [variable()], "a/0": variable()}


class TwoModels(Digits):
    def __init__(self, **given):
        super().__init__(**given)
        self.nets = {1: given["model"]((4, 4, 1), 3), "1": given["model"]((4, 4, 1), 3)}


class TwoOptimizers(Digits):
    def __init__(self, **given):
        super().__init__(**given)
        self.more = {name: given["optimizer"](self.model.trainable_variables) for name in (True, "True")}


@pytest.mark.parametrize(
    ("cls", "name", "one", "other"),
    [
        (KeysOfTwoTypes, "x/1", "self.x[1]", "self.x['1']"),
        (SlashInAnAttribute, "a/b", "getattr(self, 'a/b')", "self.a['b']"),
        (SlashInAKey, "d/a/b", "self.d['a/b']", "self.d['a']['b']"),
        (IndexAndKey, "d/a/0", "self.d['a'][0]", "self.d['a/0']"),
        (TwoModels, "nets/1/0/kernel", "self.nets[1]", "self.nets['1']"),
        (TwoOptimizers, "more/True/0/updates", "self.more[True]", "self.more['True']"),
    ],
)
def test_two_variables_of_one_name_are_refused_by_both_places(cls, name, one, other, settings):
    with pytest.raises(ConfigError) as caught:
        chosen(settings, cls)
    said = str(caught.value)
    assert f"two variables of {cls.__name__} would have one name in a checkpoint, {name}: that of {one} and" in said
    assert f"that of {other}. One of them would be lost. Rename an attribute" in said


def test_one_variable_in_two_places_of_one_name_is_no_clash():
    class Holder:
        def __init__(self):
            one = variable()
            self.x = {1: one, "1": one, 2: "text", "2": "other text"}

    holder = Holder()
    assert variables.find_variables(holder) == {"x/1": holder.x[1]}


# --- what a file cannot hold -----------------------------------------------------------------------------------------


class Text(Digits):
    def __init__(self, **given):
        super().__init__(**given)
        self.words = {"all": [tf.Variable(["a", "b"], trainable=False)]}


class AnyShape(Digits):
    def __init__(self, **given):
        super().__init__(**given)
        self.bag = tf.Variable([1.0], shape=tf.TensorShape(None), trainable=False)


@pytest.mark.parametrize(("cls", "said"), [(Text, "words/all/0 (string)"), (AnyShape, "bag (of unknown rank)")])
def test_what_no_file_can_hold_is_refused_by_name_when_the_recipe_is_made(cls, said, settings):
    with pytest.raises(ConfigError) as caught:
        chosen(settings, cls)
    assert f"{cls.__name__} has variables that no checkpoint can hold: {said}. " in str(caught.value)
    assert "Keep text in a plain attribute" in str(caught.value)


KINDS = [
    *(tf.bool, tf.int8, tf.uint8, tf.int16, tf.uint16, tf.int32, tf.uint32, tf.int64, tf.uint64),
    *(tf.float16, tf.bfloat16, tf.float32, tf.float64, tf.complex64, tf.complex128, tf.qint8, tf.quint8),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_kind_of_number_is_held(kind):
    state = {"v": tf.Variable(tf.zeros([2], kind), trainable=False)}
    checkpoint.check(state, owner="Mine")
    file = io.BytesIO()
    archive.write(file, {"v": state["v"].numpy()}, {})
    assert archive.read(file)[1]["v"].dtype == state["v"].numpy().dtype


def test_a_variable_with_an_open_dimension_is_restored_at_the_length_it_had(tmp_path):
    path = run_folder.checkpoint(tmp_path, 7)
    grown = tf.Variable([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], shape=[None, 2], trainable=False)
    checkpoint.save(path, {"bag": grown}, step=7, meta={})
    fresh = tf.Variable([[0.0, 0.0]], shape=[None, 2], trainable=False)
    checkpoint.restore(checkpoint.load(path), {"bag": fresh}, path)
    assert fresh.numpy().tolist() == [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    other = tf.Variable([[0.0, 0.0, 0.0]], shape=[None, 3], trainable=False)
    with pytest.raises(
        checkpoint.CheckpointError, match=r"bag: float32 \(3, 2\) in the checkpoint, float32 \(None, 3\)"
    ):
        checkpoint.restore(checkpoint.load(path), {"bag": other}, path)


def test_a_failure_that_is_not_the_disks_leaves_no_part_of_a_file(tmp_path):
    with pytest.raises(TypeError, match="Cannot change data-type"):
        checkpoint.save(tmp_path / "one.npz", {"w": np.array([b"a"], dtype=object)}, step=0, meta={})
    assert list(tmp_path.iterdir()) == []
