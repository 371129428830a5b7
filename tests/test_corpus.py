"""`inspect` and `compare` find in the corpus what `tests/corpus/baseline.json` says: a sample here, all of it under `--long`."""

from __future__ import annotations

import collections
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.corpus import score
from tests.corpus.cases import cases, files, marked
from tests.corpus.score import Result

ROOT = Path(__file__).parent.parent


def _scored(*options: str) -> subprocess.CompletedProcess[str]:
    """Scores in processes of their own: recipes of the corpus change the state of theirs."""
    return subprocess.run(
        [sys.executable, "-m", "tests.corpus.score", "--processes", "2", *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=3600,
    )


def test_no_case_of_the_sample_is_worse_than_the_baseline():
    done = _scored("--sample")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.long
def test_no_case_is_worse_than_the_baseline():
    done = _scored()
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_case_is_worse_with_a_lower_verdict_or_a_finding_that_nothing_asks_for():
    before = Result(verdict="right line", findings=("MT201 self.calls += 1",))
    assert score.worse(before, before) is None
    assert score.worse(before, Result(verdict="other line", findings=("MT201 x = 1",)))
    assert score.worse(before, Result(verdict="missed", findings=()))
    stray = ("MT301 y = random.random()",)
    assert score.worse(before, Result(verdict="right line", findings=before.findings + stray, strays=stray))
    known = Result(verdict="right line", findings=before.findings + stray)
    assert score.worse(known, Result(verdict="right line", findings=known.findings, strays=stray)) is None
    silent = Result(verdict="silent", findings=())
    assert score.worse(silent, Result(verdict="alarm", findings=stray, strays=stray))
    assert score.worse(None, silent)


def test_the_baseline_has_each_case_and_nearly_all_of_them_right():
    baseline = score.read_baseline()
    assert set(baseline) == {case.key for case in cases()}
    counts = score.totals(baseline)
    planted = sum(counts["inspect"][verdict] for verdict in ("missed", "other line", "right line"))
    assert counts["inspect"]["missed"] / planted < 0.03
    assert counts["inspect"]["right line"] / planted > 0.95
    assert counts["inspect"]["alarm"] / (counts["inspect"]["alarm"] + counts["inspect"]["silent"]) < 0.02


def test_the_corpus_is_large_enough_and_no_code_has_more_than_eight_cases():
    planted = collections.Counter(file for file in files() if file.startswith("MT"))
    by_file = collections.Counter(case.file for case in cases() if case.file in planted)
    assert sum(by_file.values()) >= 200
    assert max(by_file.values()) <= 8
    assert sum(case.tool == "inspect" and not case.marks for case in cases()) >= 150


def test_each_mark_names_a_case_and_each_name_is_used_once():
    names = collections.Counter(
        case.name for case in cases() if case.tool == "inspect" or not case.file.startswith("clean")
    )
    assert [name for name, count in names.items() if count > 1] == []
    assert [mark for mark in marked() if mark.case not in names] == []
    assert [case.key for case in cases() if not case.marks and not case.file.startswith("clean")] == []
