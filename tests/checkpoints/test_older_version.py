"""Runs of version 0.1 go on in this version as they would have gone on there.

`version_0_1/` holds a run of each mode that was stopped after 10 of 20 steps, and `expected.json` what version 0.1 ended
with after 20.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "version_0_1"
EXPECTED = json.loads((HERE / "expected.json").read_text())
WORDS = (
    *("recipe=mnist", "model=mlp", "model.hidden=[4]", "data.source=bundled", "data.image_size=[14,14]"),
    *("data.batch_size=32", "optimizer.ema=0.9", "callbacks.evaluate.every=5", "callbacks.log.every=5"),
    *("callbacks.checkpoint.every=10", "callbacks.checkpoint.best=null", "steps=20", "resume=latest"),
)
MODES = {
    "eager": ("mode=eager",),
    "graph": ("mode=graph",),
    "xla": ("mode=xla",),
    "mirrored": ("mode=mirrored", "mode.replicas=2"),
    "multiworker": ("mode=multiworker", "mode.workers=2"),
}


@pytest.mark.parametrize("name", [*(pytest.param(n, marks=pytest.mark.long) for n in MODES if n != "graph"), "graph"])
def test_a_run_of_version_0_1_goes_on_where_it_stopped(name, cli):
    shutil.copytree(HERE / name, cli.cwd / name)
    run = cli.run(*WORDS, *MODES[name], folder=name)
    assert run.code == 0, run.out + run.err
    assert "resumed at step 10" in run.out
    assert "differs from the run it resumes" not in run.out.replace("differs from the run it resumes: steps", "")
    for split, metrics in EXPECTED[name].items():
        for metric, value in metrics.items():
            assert run.json["results"][split][metric] == pytest.approx(value, rel=1e-5), (split, metric)
