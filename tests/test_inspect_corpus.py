"""The score of `inspect` on planted defects and clean steps: what it must find, at which line, and what it must not say.

A part of the corpus, always the same one, which takes less than a minute; `python -m tests.inspect_corpus` looks at all of it.
"""

from __future__ import annotations

import collections
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.inspect_corpus import CLEAN, DEFECTS, cases

ROOT = Path(__file__).parent.parent
PARTS = 2


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """The counts over the part, and what was printed of it."""
    folder = tmp_path_factory.mktemp("corpus")
    started = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.inspect_corpus",
                "--quick",
                "--part",
                f"{n}/{PARTS}",
                "--json",
                str(folder / f"{n}.json"),
            ],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(PARTS)
    ]
    said = [process.communicate(timeout=900) for process in started]
    assert all(process.returncode == 0 for process in started), said
    total: collections.Counter[str] = collections.Counter()
    for n in range(PARTS):
        total.update(json.loads((folder / f"{n}.json").read_text()))
    return total, "\n".join(out for out, _ in said)


def test_the_corpus_is_large_enough_and_so_is_the_part(scored):
    counts, _ = scored
    assert len(cases(*DEFECTS)) >= 300
    assert len(cases(*CLEAN)) >= 100
    assert counts["planted"] >= 25
    assert counts["clean"] >= 10


def test_nearly_all_planted_defects_are_found(scored):
    counts, said = scored
    assert counts["found"] / counts["planted"] > 0.97, said


def test_nearly_all_are_told_with_the_right_line(scored):
    counts, said = scored
    assert counts["right_line"] / counts["planted"] > 0.95, said


def test_nothing_is_said_of_clean_steps(scored):
    counts, said = scored
    assert counts["alarms"] / counts["clean"] < 0.02, said
