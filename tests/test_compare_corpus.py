"""`compare` on steps that differ in nothing but numbers, each at its line, and on clean steps, of which it must say nothing."""

from __future__ import annotations

import re
from pathlib import Path

import keras
import pytest

import modetrain
from tests.corpus.base import batches, made
from tests.inspect_corpus import FOLDER, cases

pytestmark = pytest.mark.long

_MARK = re.compile(r"# compare (?P<modes>(graph|xla)( xla)?)( \((?P<case>\w+)\))?$")


def _marks(file: Path) -> dict[str, tuple[set[str], int]]:
    """Per case the modes that differ from eager, and the line of the operation."""
    found, within = {}, ""
    for number, line in enumerate(file.read_text().splitlines(), 1):
        if opened := re.match(r"class (\w+)", line):
            within = opened[1]
        if marked := _MARK.search(line):
            found[marked["case"] or within] = (set(marked["modes"].split()), number)
    return found


def _compared(case):
    def build():
        keras.utils.set_random_seed(0)
        return made(case.cls)

    modes = ["graph", "xla"] if "xla" in case.cls.modes else ["graph"]
    return modetrain.compare(build, batches() * 2, modes=modes)


@pytest.mark.parametrize("case", cases("fourth_numeric", "sixth_numeric"), ids=lambda case: case.name)
def test_other_numbers_are_found_in_their_modes_and_at_their_line(case):
    modes, line = _marks(FOLDER / f"{case.file}.py")[case.name]
    comparison = _compared(case)
    assert {one.mode for one in comparison.findings} == modes, str(comparison)
    assert [one.place and one.place.line for one in comparison.findings] == [line] * len(modes), str(comparison)


@pytest.mark.parametrize("case", cases("fourth_clean", "fifth_clean", "sixth_clean"), ids=lambda case: case.name)
def test_nothing_is_said_of_clean_steps(case):
    comparison = _compared(case)
    assert comparison.agrees, str(comparison)
