"""What an optimizer updates is in every checkpoint, or refused by name before the first update."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from modetrain import Recipe
from modetrain.app import build
from modetrain.callbacks.checkpoint import Checkpoint
from modetrain.checkpoints import file
from modetrain.errors import ConfigError
from modetrain.files import run_folder
from modetrain.recipe import Info
from recipes.mnist import cross_entropy

INFO = Info(image_shape=(4, 4, 1), classes=3, train_examples=40, eval_examples=23, batch_size=8, steps=7, seed=0)


class Plain:
    def __init__(self, net):
        self.net = net


class Module(tf.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net


@dataclasses.dataclass
class Dataclass:
    net: Any


@dataclasses.dataclass(slots=True, frozen=True)
class Slots:
    net: Any


def closure_of(net):
    def forward(images, **given):
        return net(images, **given)

    return forward


class Base(Recipe):
    """Keeps its model where a subclass says."""

    def __init__(self, *, model, optimizer, info):
        self.info = info
        self.net_of(model(info.image_shape, info.classes))
        self.optimizer = optimizer(self.trained().trainable_variables)

    def net_of(self, net):
        self.net = net

    def trained(self):
        return self.net

    def train_step(self, batch):
        return self.minimize(lambda: cross_entropy(batch["label"], self.trained()(batch["image"], training=True)))

    def eval_step(self, batch):
        return {"loss": cross_entropy(batch["label"], self.trained()(batch["image"], training=False))}


class OnObject(Base):
    def net_of(self, net):
        self.nets = Plain(net)

    def trained(self):
        return self.nets.net


class OnTwoObjects(OnObject):
    model = property(lambda self: self.nets.net)

    def net_of(self, net):
        self.nets = Plain(Plain({"a": [net]}))

    def trained(self):
        return self.nets.net.net["a"][0]


class OnModule(OnObject):
    def net_of(self, net):
        self.nets = Module(net)


class OnDataclass(OnObject):
    def net_of(self, net):
        self.nets = Dataclass(net)


class OnSlots(OnObject):
    def net_of(self, net):
        self.nets = Slots(net)


class InSet(Base):
    def net_of(self, net):
        self.nets = {net}

    def trained(self):
        return next(iter(self.nets))


class InDeque(Base):
    def net_of(self, net):
        self.nets = collections.deque([net])

    def trained(self):
        return self.nets[0]


class InClosure(Base):
    def net_of(self, net):
        self.forward = closure_of(net)

    def trained(self):
        return self.forward.__closure__[0].cell_contents


class InGlobal(Base):
    def net_of(self, net):
        NETS[:] = [net]

    def trained(self):
        return NETS[-1]


NETS: list[Any] = []


def chosen(settings, cls):
    named = {
        "recipe": {"_target_": f"tests.engine.test_untracked.{cls.__name__}"},
        "model": {"_target_": "recipes.models.mlp"},
    }
    return build.make_recipe(settings(**named), INFO)


# --- a model that is not kept ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "place", "line"),
    [
        (OnObject, "It is in self.nets.net. ", "self.net = self.nets.net"),
        (OnTwoObjects, "It is in self.nets.net.net['a'][0]. ", "self.model_ = ..."),
        (OnModule, "It is in self.nets.net. ", "self.net = self.nets.net"),
        (OnDataclass, "It is in self.nets.net. ", "self.net = self.nets.net"),
        (OnSlots, "It is in self.nets.net. ", "self.net = self.nets.net"),
        (InSet, "It is in self.nets, a set. ", "self.model = ..."),
        (InDeque, "It is in self.nets[0]. ", "self.model = ..."),
        (InClosure, "It is in the closure of self.forward. ", "self.model = ..."),
        (InGlobal, "It is in NETS[0]. ", "self.model = ..."),
    ],
)
def test_a_model_that_no_checkpoint_would_hold_is_refused_when_the_recipe_is_made(cls, place, line, settings):
    with pytest.raises(ConfigError) as caught:
        chosen(settings, cls)
    said = str(caught.value)
    assert f"{cls.__name__}: the optimizer optimizer updates " in said
    assert "/kernel and 3 more, which the recipe does not keep: only attributes of the recipe are" in said
    assert f"that are attributes. {place}A resumed run would start from fresh values." in said
    assert f"Keep the model as an attribute: write {line} in {cls.__name__}.__init__." in said


class AsTyped(OnObject):
    def net_of(self, net):
        super().net_of(net)
        self.net = self.nets.net


class InList(Base):
    def net_of(self, net):
        self.nets = [{"a": (net,)}]

    def trained(self):
        return self.nets[0]["a"][0]


class OwnState(OnObject):
    """Says itself what else is its state."""

    def state(self):
        return {**super().state(), **{f"nets/{i}": v for i, v in enumerate(self.nets.net.variables)}}


class KeepsInner(Base):
    """Keeps a weight that is no model's, and the tf.Variable inside one of Keras's."""

    def net_of(self, net):
        self.net, self.bare = net, keras.Variable(1.0, name="bare")
        inner = keras.Variable(2.0, name="inner")
        self.inner, self.hidden = inner.value, Plain(inner)

    def __init__(self, **given):
        super().__init__(**given)
        weights = [*self.net.trainable_variables, self.bare, self.hidden.net]
        self.optimizer = given["optimizer"](weights)


@pytest.mark.parametrize("cls", [Base, AsTyped, InList, OwnState, KeepsInner])
def test_one_that_a_checkpoint_holds_is_not_refused(cls, settings):
    recipe = chosen(settings, cls)
    assert recipe.optimizer.kept
    kept = [v for v in recipe.state().values()]
    assert all(any(v is one or v.value is one for one in kept) for v in recipe.optimizer.trainable)


def test_the_proposed_line_is_trained_and_resumed(make_trainer, tmp_path):
    def trainer(name, **given):
        return make_trainer("graph", AsTyped, folder=tmp_path / name, callbacks=[Checkpoint(every=2)], **given)

    whole = trainer("whole", steps=4)
    whole.train()
    trainer("part", steps=2).train()
    path = run_folder.checkpoint(tmp_path / "part", 2)
    resumed = trainer("part", steps=4, step=2, seed=0)
    found = file.load(path)
    file.restore(found, resumed.recipe.state(), path)
    resumed.load_state(found.meta["carry"], step=found.step)
    resumed.train()
    for one, other in zip(resumed.recipe.net.variables, whole.recipe.net.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


class SecondOptimizer(Base):
    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.hidden = Plain(model(info.image_shape, info.classes))
        self.opts = {"a": [optimizer(self.hidden.net.trainable_variables[-1:])]}


def test_the_optimizer_is_named_where_there_are_several(settings):
    with pytest.raises(
        ConfigError, match=r"SecondOptimizer: the optimizer opts/a/0 updates \S*bias, which the recipe does"
    ):
        chosen(settings, SecondOptimizer)


# --- an optimizer that is not kept, or made late ---------------------------------------------------------------------


class HiddenOptimizer(Base):
    def __init__(self, *, model, optimizer, info):
        self.info, self.net = info, model(info.image_shape, info.classes)
        self.hidden = Plain(optimizer(self.net.trainable_variables))

    def train_step(self, batch):
        def loss():
            return cross_entropy(batch["label"], self.net(batch["image"], training=True))

        return self.minimize(loss, optimizer=self.hidden.net)


class HiddenBehindAName(HiddenOptimizer):
    optimizer = property(lambda self: self.hidden.net)


class OwnTape(HiddenOptimizer):
    def train_step(self, batch):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(cross_entropy(batch["label"], self.net(batch["image"], training=True)))
        weights = self.net.trainable_variables
        self.apply(tape.gradient(loss, [v.value for v in weights]), weights, optimizer=self.hidden.net)
        return {"loss": loss}


@pytest.mark.parametrize("cls", [HiddenOptimizer, HiddenBehindAName, OwnTape])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_optimizer_that_no_checkpoint_would_hold_is_refused_before_it_updates(cls, accumulate, mode, make_trainer):
    trainer = make_trainer(mode, cls, name="adam", accumulate=accumulate)
    before = [v.numpy() for v in trainer.recipe.net.trainable_variables]
    with pytest.raises(ConfigError) as caught:
        trainer.train()
    said = str(caught.value)
    assert said.startswith(f"{cls.__name__}: the optimizer of ")
    assert "/kernel is not kept by the recipe: only attributes of the recipe are" in said
    assert "It is self.hidden.net. A resumed run would start from fresh values. Keep the optimizer" in said
    assert f"write self.net_ = self.hidden.net in {cls.__name__}.__init__." in said
    for one, other in zip(before, trainer.recipe.net.trainable_variables, strict=True):
        np.testing.assert_array_equal(one, other.numpy())
    assert int(trainer.recipe.hidden.net.updates.numpy()) == 0


class MadeLate(Base):
    """Makes its optimizer in the first step, for a model that is not kept."""

    def __init__(self, *, model, optimizer, info):
        self.info, self.make = info, optimizer
        self.nets = Plain(model(info.image_shape, info.classes))

    def trained(self):
        return self.nets.net

    def train_step(self, batch):
        if not hasattr(self, "optimizer"):
            with tf.init_scope():
                self.optimizer = self.make(self.nets.net.trainable_variables)
        return super().train_step(batch)


def test_a_model_whose_optimizer_is_made_in_the_step_is_refused_before_it_is_updated(mode, make_trainer):
    trainer = make_trainer(mode, MadeLate)
    before = [v.numpy() for v in trainer.recipe.nets.net.trainable_variables]
    with pytest.raises(
        ConfigError, match=r"MadeLate: the optimizer optimizer updates .*write self\.net = self\.nets\.net"
    ):
        trainer.train()
    for one, other in zip(before, trainer.recipe.nets.net.trainable_variables, strict=True):
        np.testing.assert_array_equal(one, other.numpy())


class Stranger(Base):
    """Gives minimize a weight that its optimizer was not made for, nor the recipe keeps."""

    def train_step(self, batch):
        def loss():
            return cross_entropy(batch["label"], self.net(batch["image"], training=True)) * STRANGER

        return self.minimize(loss, variables=[*self.net.trainable_variables, STRANGER])


STRANGER = keras.Variable(1.0, name="stranger")


def test_a_variable_that_minimize_is_given_and_no_optimizer_has_is_refused_before_it_is_updated(mode, make_trainer):
    trainer = make_trainer(mode, Stranger)
    before = [v.numpy() for v in trainer.recipe.net.trainable_variables]
    with pytest.raises(ValueError, match="the optimizer was not made for stranger"):
        trainer.train()
    assert float(STRANGER.numpy()) == 1.0
    for one, other in zip(before, trainer.recipe.net.trainable_variables, strict=True):
        np.testing.assert_array_equal(one, other.numpy())


def test_an_optimizer_is_checked_as_the_trainer_is_made_and_not_in_steps(make_trainer):
    asked: list[int] = []
    by_step: list[int] = []

    class Counts(Base):
        def state(self):
            asked.append(1)
            return super().state()

        def train_step(self, batch):
            before = len(asked)
            found = super().train_step(batch)
            by_step.append(len(asked) - before)
            return found

    make_trainer("eager", Counts, steps=4).train()
    assert by_step == [0, 0, 0, 0]


# --- from the command line -------------------------------------------------------------------------------------------

MINE = """
import keras
import tensorflow as tf
from recipes.mnist import Digits

class Nets:
    def __init__(self, net):
        self.net = net

class Hides(Digits):
    def __init__(self, *, model, optimizer, info):
        self.info, self.nets = info, Nets(model(info.image_shape, info.classes))
        self.optimizer = optimizer(self.nets.net.trainable_variables)

    model = property(lambda self: self.nets.net)

class Words(Digits):
    def __init__(self, **given):
        super().__init__(**given)
        self.words = tf.Variable(["a", "b"])

class Pickles(Digits):
    def __init__(self, **given):
        super().__init__(**given)
        self.allow_pickle = tf.Variable(1.0, trainable=False)
        self.file = tf.Variable(2.0, trainable=False)

class HidesOptimizer(Digits):
    def __init__(self, **given):
        super().__init__(**given)
        self.nets = Nets(self.optimizer)
        del self.optimizer

    def train_step(self, batch):
        self_ = self
        def loss():
            from recipes.mnist import cross_entropy
            return cross_entropy(batch["label"], self_.model(batch["image"], training=True))
        return self.minimize(loss, optimizer=self.nets.net)

class Builds(Digits):
    def __init__(self, *, model, **given):
        class Late(keras.Model):
            def __init__(self, body, classes):
                super().__init__()
                self.body, self.head = body, keras.layers.Dense(classes)
            def call(self, x, training=False):
                return self.head(self.body(x, training=training))
        super().__init__(model=lambda image_shape, classes: Late(model(image_shape, classes), classes), **given)

class Measures(Digits):
    def __init__(self, **given):
        super().__init__(**given)
        self.accuracy = keras.metrics.SparseCategoricalAccuracy()

    def eval_step(self, batch):
        self.accuracy.update_state(batch["label"], self.model(batch["image"]))
        return {"accuracy": self.accuracy.result()}
"""
FILES = {"recipes/mine.py": MINE} | {
    f"conf/recipe/{cls.lower()}.yaml": f"# {cls}.\n_target_: recipes.mine.{cls}\n"
    for cls in ("Hides", "Words", "Pickles", "HidesOptimizer", "Builds", "Measures")
}
COMMON = ("model=mlp", "data.source=bundled", "callbacks.evaluate.every=0")


@pytest.fixture(scope="module")
def mine(cli):
    cli.write(FILES)
    return cli


@pytest.mark.parametrize(
    ("recipe", "mode", "said"),
    [
        ("hides", ["mode=graph"], "Hides: the optimizer optimizer updates "),
        ("words", ["mode=graph"], "Words has variables that no checkpoint can hold: words (string). "),
        ("hidesoptimizer", ["mode=mirrored", "mode.replicas=2"], "HidesOptimizer: the optimizer of "),
        ("builds", ["mode=graph"], "Builds: self.model.head (Dense dense"),
        ("measures", ["mode=eager"], "Measures: eval_step updates the Keras metric self.accuracy "),
    ],
)
def test_the_command_line_says_it_before_the_first_step(recipe, mode, said, mine):
    run = mine.run(f"recipe={recipe}", *COMMON, "steps=5", *mode, folder=recipe)
    assert run.code == 2
    assert f"modetrain: {said}" in " ".join(run.err.split())
    assert "in user code" not in run.err
    assert "Traceback" not in run.err
    assert "MT206" not in run.err
    assert list((run.folder / "checkpoints").glob("*.npz")) == []


def test_the_command_line_resumes_a_run_whose_variables_are_named_like_parameters(mine):
    part = mine.run("recipe=pickles", *COMMON, "steps=2", folder="pickles")
    assert part.code == 0
    resumed = mine.run("recipe=pickles", *COMMON, "steps=4", "resume=latest", folder="pickles")
    assert resumed.code == 0, resumed.err
    assert "resumed at step 2" in resumed.out
    found = file.load(run_folder.checkpoint(resumed.folder, 4)).arrays
    assert (float(found["allow_pickle"]), float(found["file"])) == (1.0, 2.0)
