"""Advice is followed literally: what a message says to type is typed, and what a page shows is taken from its text and run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest

from modetrain.__main__ import _load
from modetrain.app import sweep
from modetrain.config import arguments, resumed
from modetrain.errors import ConfigError
from modetrain.files.quoting import key_of
from tests.config.test_load import OTHER_NAMES, WRONG_WORDS, M, folder  # noqa: F401

# --- what messages say to type ---------------------------------------------------------------------------------------

_QUOTED = r"'[^'\s]+=(?:[^']|\[[^\]]*\])*'"
_PLAIN = r"[~+]{0,2}[a-z_][\w./@]*=(?:\[[^\]\s]*\]|\"[^\"]*\"|[^\s?,;\"'.]|\.(?=\S))+"
_WORDS = rf"(?:{_QUOTED}|{_PLAIN}|--?[a-z]+\b(?:-run|(?= job| [a-z]+[./=])))(?: (?:{_QUOTED}|{_PLAIN}|job\b))*"
_ADVICE = re.compile(rf"(?:[Tt]ype|for example|one of|Did you mean|quote it:|,? or) ({_WORDS})")
_LEAVE = re.compile(r"[Ll]eave ([a-z][\w.]*)(?:=\S+)? (?:\w+ \S+ )?out")
_OPEN = re.compile(r"[A-Z]{3,}|\.\.\.|key=value|data set|=1,2")  # to fill in, or several words for one


def refusal(words: Sequence[str], cwd: Path) -> str:
    """What is answered to a command line, or nothing where it would run."""
    try:
        line = resumed.expand(arguments.parse(words), cwd)
        if line.multirun:
            sweep.plan(line.overrides, cwd, line.config_dirs, load=_load)
        elif not line.for_hydra:
            _load(line.overrides, cwd, line.config_dirs)
    except ConfigError as error:
        return str(error)
    return ""


def followed(words: Sequence[str], sentence: str) -> list[list[str]]:
    """The command lines that a sentence leads to: its words in addition, or instead of the words that it refuses."""
    subject = re.split(r": | with | and ", sentence)[0].replace("'", "").split()
    instead = [word for word in words if word not in subject]
    alone = [word for word in instead if "=" in word.strip("=") or word.startswith("-")]
    found = [
        [one for one in kept if key_of(one) not in {key_of(word) for word in advice}] + advice
        for advice in map(shlex.split, _ADVICE.findall(sentence))
        if not any(_OPEN.search(word) for word in advice)
        for kept in (alone, instead, words)
    ]
    left = [[word for word in words if key_of(word) != key] for key in _LEAVE.findall(sentence)]
    return [[*line] for line in dict.fromkeys(map(tuple, found + left)) if line != tuple(words)]


def leads_on(words: Sequence[str], cwd: Path, before: Sequence[set[str]] = ()) -> bool:
    """Whether what the answers propose leads to a run, or to an answer that leaves a value to the user; in no circle."""
    answer = refusal(words, cwd)
    given = set(answer.splitlines())
    if any(earlier <= given for earlier in before):
        return False
    ways = [line for sentence in answer.splitlines() for line in followed(words, sentence)]
    return not ways or any(leads_on(line, cwd, [*before, given]) for line in ways)


CASES = [words for words, _ in WRONG_WORDS] + [[M, names.split()[0]] for names in OTHER_NAMES]


@pytest.mark.parametrize("words", CASES, ids=" ".join)
def test_what_a_message_says_to_type_leads_on(words, folder):  # noqa: F811
    assert leads_on(words, folder), refusal(words, folder)
