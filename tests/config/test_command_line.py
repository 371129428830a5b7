"""A command line that a run keeps is the one that was typed."""

from __future__ import annotations

import pytest

from modetrain.config import arguments
from modetrain.files.quoting import key_of


def test_what_was_written_is_read_again():
    words = ("recipe=mnist", "+note='two words'", "data.image_size=[32,32]")
    kept = arguments.written(words, ["my conf", "/more"])
    assert kept.startswith("python -m modetrain recipe=mnist ")
    line = arguments.read(kept)
    assert (line.overrides, line.config_dirs) == (words, ("my conf", "/more"))


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("steps=5", "steps"),
        ("optimizer.name=sgd", "optimizer.name"),
        ("+recipe.depth=3", "recipe.depth"),
        ("++recipe.depth=3", "recipe.depth"),
        ("~callbacks.profile", "callbacks.profile"),
        ("note='a=b'", "note"),
    ],
)
def test_the_key_of_an_override(word, key):
    assert key_of(word) == key
