"""The recipe seq2seq: one training in every mode and on two replicas, killed and resumed, with batches of several lengths."""

from __future__ import annotations

import signal

import numpy as np
import pytest

from recipes.dates import LONGEST, SYMBOLS, dates

SMALL = (
    *("recipe=seq2seq", "recipe.units=8", "data.pairs=300", "data.batch_size=4", "data.bucket=[5,16]", "steps=8"),
    *(
        "data.eval_batch_size=5",
        "data.eval_batches=2",
        "callbacks.checkpoint.every=1",
        "callbacks.log.every=1",
        "inspect.at_start=false",
    ),
)


def test_dates_are_told_apart_and_written_in_words():
    made = dates(pairs=2000).splits
    vocabulary = dates(pairs=2000).facts["vocabulary"]
    words = {name: [" ".join(vocabulary[n - 1] for n in row) for row in split["words"]] for name, split in made.items()}
    iso = {name: ["".join(SYMBOLS[n - 1] for n in row if n) for row in split["date"]] for name, split in made.items()}
    assert (len(words["train"]), len(words["validation"])) == (1900, 100)
    assert not set(iso["train"]) & set(iso["validation"])
    known = dict(zip(words["train"], iso["train"], strict=True))
    assert {len(one) for one in known.values()} == {4, 7, 10}
    assert all(row.shape == (LONGEST,) for row in made["train"]["date"])
    for text, date in known.items():
        assert text.split()[-1] != "the"
        assert ("january" in text) == (date[4:7] == "-01")


@pytest.fixture(scope="module")
def whole(cli):
    run = cli.run(*SMALL, "mode=eager", folder="runs/eager")
    assert run.code == 0, run.err
    return run


@pytest.mark.long
def test_modes_and_replicas_agree(cli, whole):
    assert "words varies in length: a batch is padded to the smallest of 5 and 16" in whole.out
    for number, words in enumerate([("mode=xla",), ("mode=mirrored", "mode.replicas=2", "optimizer.accumulate=2")]):
        other = cli.run(*SMALL, *words, folder=f"runs/{number}")
        assert other.code == 0, other.err
        for part in ("train", "eval"):
            for name in ("loss", "exact_match") if part == "eval" else ("loss",):
                wanted = whole.json["results"][part][name]
                np.testing.assert_allclose(other.json["results"][part][name], wanted, rtol=1e-5)


def test_a_killed_run_continues_to_the_bit(cli, whole):
    words = (*SMALL, "mode=eager", "mode.steps_per_call=3")
    assert cli.signal_after(3, signal.SIGKILL, *words, folder="runs/killed").code == -signal.SIGKILL
    again = cli.run(*words, "resume=latest", folder="runs/killed")
    assert again.code == 0, again.err
    assert again.json["results"]["state_digest"] == whole.json["results"]["state_digest"]
