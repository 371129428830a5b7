"""`compare` on steps that differ in nothing but numbers, each at its line, and on clean steps, of which it must say nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import keras
import pytest

import modetrain
from tests.corpus.base import batches, made
from tests.inspect_corpus import FOLDER, cases

pytestmark = pytest.mark.long

_MARK = re.compile(r"# compare (?P<modes>(graph|xla)( xla)?)( \((?P<case>\w+)\))?$")


def _marks(files: Iterable[Path]) -> dict[str, tuple[set[str], Path, int]]:
    """Per case the modes that differ from eager, and the file and line of the operation."""
    found, within = {}, ""
    for file in files:
        for number, line in enumerate(file.read_text().splitlines(), 1):
            if opened := re.match(r"class (\w+)", line):
                within = opened[1]
            if marked := _MARK.search(line):
                found[marked["case"] or within] = (set(marked["modes"].split()), file, number)
    return found


def _compared(case):
    def build():
        keras.utils.set_random_seed(0)
        return made(case.cls)

    modes = ["graph", "xla"] if "xla" in case.cls.modes else ["graph"]
    return modetrain.compare(build, batches() * 2, modes=modes)


@pytest.mark.parametrize(
    "case", cases("fourth_numeric", "sixth_numeric", "seventh_numeric", "ninth_numeric"), ids=lambda case: case.name
)
def test_other_numbers_are_found_in_their_modes_and_at_their_line(case):
    files = [FOLDER / f"{case.file}.py", FOLDER / f"{case.file.partition('_')[0]}_helpers.py"]
    modes, file, line = _marks(one for one in files if one.exists())[case.name]
    comparison = _compared(case)
    assert {one.mode for one in comparison.findings} == modes, str(comparison)
    places = [one.place and (one.place.file, one.place.line) for one in comparison.findings]
    assert places == [(str(file), line)] * len(modes), str(comparison)


@pytest.mark.parametrize(
    "case",
    cases("fourth_clean", "fifth_clean", "sixth_clean", "seventh_clean", "ninth_near"),
    ids=lambda case: case.name,
)
def test_nothing_is_said_of_clean_steps(case):
    comparison = _compared(case)
    assert comparison.agrees, str(comparison)
