"""Text for language models: windows of bytes or tokens."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from modetrain.data.sources import text
from modetrain.errors import ConfigError


def test_windows_of_bytes_and_their_targets(tmp_path):
    (tmp_path / "b.txt").write_text("no")
    (tmp_path / "a.txt").write_text("hällo" * 30, encoding="utf-8")
    (tmp_path / ".hidden").write_text("x" * 1000)
    found = text.load(str(tmp_path), window=8)
    whole = ("hällo" * 30).encode() + b"\0no"
    train, held = (found.splits[name].first(99) for name in ("train", "validation"))
    tokens, targets = train["tokens"].ravel(), train["targets"].ravel()
    assert bytes(tokens.astype(np.uint8)) == whole[: len(tokens)]
    np.testing.assert_array_equal(tokens[1:], targets[:-1])
    assert len(held["tokens"]) == 2
    assert (found.facts, train["tokens"].dtype, train["tokens"].shape[1]) == (
        {"vocabulary": 256, "window": 8, "separator": 0},
        np.int32,
        8,
    )


def test_a_tokenizer_and_splits_of_ones_own(tmp_path):
    for name, words in (("train", "a b a c"), ("test", "c b a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "one.txt").write_text(words)
    found = text.load(str(tmp_path), window=2, tokenizer=lambda said: ["abc".index(word) for word in said.split()])
    train = found.splits["train"].first(9)
    assert (train["tokens"].tolist(), train["targets"].tolist()) == ([[0, 1]], [[1, 0]])
    assert (set(found.splits), found.facts["vocabulary"]) == ({"train", "test"}, 3)


def test_windows_are_read_from_files_as_they_are_in_memory(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_bytes(bytes(range(1, 60)))
    (tmp_path / "b.txt").write_bytes(b"")
    (tmp_path / "c.txt").write_bytes(bytes(range(100, 133)))
    wanted = text.load(str(tmp_path), window=7).splits
    monkeypatch.setattr(text, "_MEMORY", 10)
    rows = tf.constant([8, 0, 8, 3], tf.int64)
    for name, split in text.load(str(tmp_path), window=7).splits.items():
        assert not split.in_memory
        for feature, value in split.gather(rows % split.examples).items():
            np.testing.assert_array_equal(value, wanted[name].gather(rows % split.examples)[feature])


def test_a_cache_keeps_the_tokens_of_a_tokenizer(tmp_path):
    folder, cache, calls = tmp_path / "texts", tmp_path / "kept", []
    folder.mkdir()
    for name, said in (("a", "one two " * 9), ("b", "two " * 7000)):
        (folder / f"{name}.txt").write_text(said)

    class Words:
        vocabulary = 5

        def __call__(self, said):
            calls.append(len(said))
            return [("one", "two").index(word) for word in said.split() if word in ("one", "two")]

    plain = text.load(str(folder), window=4, tokenizer=Words(), separator=4)
    first, calls = text.load(str(folder), window=4, tokenizer=Words(), separator=4, cache=str(cache)), []
    again = text.load(str(folder), window=4, tokenizer=Words(), separator=4, cache=str(cache))
    assert max(calls) <= 4096, "nothing is tokenized again but the beginnings"
    assert again.facts == plain.facts == {"vocabulary": 5, "window": 4, "separator": 4}
    for split, one in plain.splits.items():
        for other in (first, again):
            np.testing.assert_array_equal(other.splits[split].first(9)["tokens"], one.first(9)["tokens"])
    (folder / "a.txt").write_text("two " * 18)
    changed = text.load(str(folder), window=4, tokenizer=Words(), separator=4, cache=str(cache))
    assert changed.splits["train"].first(1)["tokens"].tolist() == [[1, 1, 1, 1]]


@pytest.mark.parametrize(
    ("files", "given", "message"),
    [
        ({}, {"path": "nothing"}, "there is no such file or folder"),
        ({"train.txt": "short"}, {}, r"has 5 tokens, and a window needs 129\. Type data.window=4 or less"),
        ({"test.txt": "text"}, {}, "has test and no train"),
        (
            {"train.txt": "abc" * 9},
            {"window": 4, "vocabulary": 50},
            "has tokens from 97 to 99. Type data.vocabulary=100",
        ),
        ({"train.txt": b"ab\xff" * 9}, {"tokenizer": list, "window": 4}, "byte 2 is no UTF-8"),
    ],
)
def test_text_that_cannot_be_used(tmp_path, files, given, message):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    path = str(tmp_path / given.pop("path", ""))
    with pytest.raises(ConfigError, match=message):
        text.load(path, **given)
