"""What several replicas compute differently: found by `inspect`, and printed as a run on several of them starts."""

from __future__ import annotations

import pytest

import modetrain
from recipes.mnist import Digits

RECIPE = """
import tensorflow as tf

from recipes.mnist import Digits


class Centred(Digits):
    def train_step(self, batch):
        mean, _ = tf.nn.moments(batch["image"], axes=[0])
        halves = [tf.reduce_mean(batch["image"]) for _ in range(6)]
        return super().train_step(batch | {"image": batch["image"] - mean + 0.0 * tf.add_n(halves)})
"""
CONFIG = """# @package _global_
# Takes the mean of the batch away.
defaults:
  - override /model: mlp
recipe:
  _target_: recipes.centred.Centred
model:
  hidden: [4]
"""


def test_a_run_on_several_replicas_says_so_as_it_starts(cli):
    cli.write({"recipes/centred.py": RECIPE, "conf/recipe/centred.yaml": CONFIG})
    words = ("recipe=centred", "data.source=bundled", "data.batch_size=48", "steps=1")
    several = cli.run(*words, "mode=mirrored", "mode.replicas=2", folder="several")
    assert several.code == 0, several.err
    warnings = [line for line in several.out.splitlines() if line.startswith("WARNING")]
    assert ["recipes/centred.py:9: MT702" in line for line in warnings] == [True], warnings
    one = cli.run(*words, "mode=graph", folder="one")
    assert "WARNING" not in one.out


def test_a_line_is_no_loop_because_each_replica_runs_it(cli):
    cli.write({"recipes/centred.py": RECIPE, "conf/recipe/centred.yaml": CONFIG})
    many = cli.run(
        *(
            "recipe=centred",
            "data.source=bundled",
            "data.batch_size=48",
            "steps=1",
            "mode=mirrored",
            "mode.replicas=16",
        ),
        folder="many",
    )
    assert many.code == 0, many.err
    assert "MT501" not in many.out


@pytest.mark.parametrize("modes", [["graph"], ["mirrored"]])
@pytest.mark.sampled(1)
def test_accumulation_has_no_findings(modes, make_recipe, source):
    recipe = make_recipe(Digits, accumulate=2)
    batches = [{name: array[start : start + 8] for name, array in source.train.items()} for start in (0, 8)]
    assert modetrain.inspect(recipe, batches, modes=modes) == []
