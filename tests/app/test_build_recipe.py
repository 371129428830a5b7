"""A recipe that lacks what every run needs is refused as it is built, not where it is first missed."""

from __future__ import annotations

import pytest

from modetrain.app import build
from modetrain.errors import ConfigError
from modetrain.recipe import Info
from recipes.mnist import Digits

INFO = Info(image_shape=(4, 4, 1), classes=3, train_examples=40, eval_examples=23, batch_size=8, steps=7, seed=0)


class Forgets(Digits):
    def __init__(self, *, model, optimizer, info):
        self.model = model(info.image_shape, info.classes)
        self.optimizer = optimizer(self.model.trainable_variables)


class Keeps(Forgets):
    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.info = info


def chosen(settings, cls):
    named = {
        "recipe": {"_target_": f"tests.app.test_build_recipe.{cls.__name__}"},
        "model": {"_target_": "recipes.models.mlp"},
    }
    return build.make_recipe(settings(**named), INFO)


def test_a_recipe_that_keeps_no_info_is_told_what_its_init_must_call(settings):
    with pytest.raises(ConfigError) as caught:
        chosen(settings, Forgets)
    assert "Forgets.__init__ sets no self.info" in str(caught.value)
    assert "must call super().__init__(model=model, optimizer=optimizer, info=info)" in str(caught.value)
    assert "self.info = info" in str(caught.value)


def test_one_that_makes_its_models_itself_need_not_call_it(settings):
    assert chosen(settings, Keeps).info is INFO
