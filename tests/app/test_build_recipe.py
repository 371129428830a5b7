"""A recipe that lacks what every run needs is refused as it is built, not where it is first missed."""

from __future__ import annotations

import pytest

from modetrain.app import build
from modetrain.recipe import Info
from recipes.mnist import Digits

INFO = Info(image_shape=(4, 4, 1), classes=3, train_examples=40, eval_examples=23, batch_size=8, steps=7, seed=0)


class Forgets(Digits):
    def __init__(self, *, model, optimizer, info):
        self.model = model(info.image_shape, info.classes)
        self.optimizer = optimizer(self.model.trainable_variables)


def chosen(settings, cls):
    named = {
        "recipe": {"_target_": f"tests.app.test_build_recipe.{cls.__name__}"},
        "model": {"_target_": "recipes.models.mlp"},
    }
    return build.make_recipe(settings(**named), INFO)


def test_a_recipe_that_makes_its_models_itself_need_not_keep_the_info(settings):
    assert chosen(settings, Forgets).info is INFO


def test_an_info_that_is_none_is_refused_at_its_line():
    with pytest.raises(TypeError, match=r"^self.info = None: expected is a modetrain.Info"):
        Digits.__new__(Digits).info = None
