"""The crash harness in its short form: killed at random moments, resumed, and at the end not a bit is different."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("arms", "kills"), [("eager K=1,graph K=50", 4)])
@pytest.mark.long
def test_runs_that_are_killed_at_random_end_where_the_whole_ones_do(arms, kills, tmp_path):
    harness = Path(__file__).with_name("crash.py")
    options = ["--kills", str(kills), "--most", "2", "--arms", arms, "--steps", "90", "--longest", "0.4"]
    done = subprocess.run(
        [sys.executable, str(harness), *options, "--folder", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *runs, last = done.stdout.splitlines()
    assert last.startswith(f"{kills} kills (")
    assert last.endswith(" 0 lost")
    assert all("bit-equal" in run for run in runs)
