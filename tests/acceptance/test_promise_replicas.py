"""Promise 3: N replicas on a global batch = one device on that batch: losses, clipping, accumulation, metrics.

From the command line, in float64, with everything on that could tell them apart: dropout, batch normalisation, clipping,
accumulation, averaged weights, augmented images, a short last evaluation batch. And runs go on from one to the other.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Mapping

import numpy as np
import pytest
from conftest import Run

from modetrain.checkpoints import file
from modetrain.files import run_folder

STEPS = 50
COMMON = (
    f"steps={STEPS}",
    "data.source=bundled",
    "data.batch_size=16",
    "data.eval_batch_size=300",
    "optimizer.clip_norm=0.5",
    "optimizer.schedule=cosine",
    "mode.precision=float64",
    "callbacks.log.every=10",
    "callbacks.evaluate.every=25",
    "callbacks.checkpoint.every=20",
)
RECIPES = {
    "mnist": ("recipe=mnist", "model.filters=[4,8]", "optimizer.accumulate=2", "optimizer.ema=0.9"),
    "gan": ("recipe=gan", "model.width=4", "model.latent=8"),
    "dense": ("recipe=mnist", "model=mlp", "model.dropout=0.3", "optimizer.accumulate=2"),
}
WHERE = {
    "one device": ("mode=graph",),
    "mirrored 1": ("mode=mirrored",),
    "mirrored 2": ("mode=mirrored", "mode.replicas=2"),
    "mirrored 4": ("mode=mirrored", "mode.replicas=4"),
    "multiworker 1": ("mode=multiworker", "mode.workers=1"),
    "multiworker 2": ("mode=multiworker", "mode.workers=2"),
    "mirrored 2 eager": ("mode=mirrored", "mode.replicas=2", "mode.compile=eager"),
    "mirrored 2 xla": ("mode=mirrored", "mode.replicas=2", "mode.compile=xla"),
    "multiworker 2 xla": ("mode=multiworker", "mode.workers=2", "mode.compile=xla"),
}
SHORT = [
    ("mnist", "mirrored 2"),
    ("mnist", "multiworker 2"),
    ("gan", "mirrored 4"),
    ("dense", "mirrored 2 xla"),
]
LONG = [
    ("mnist", "mirrored 1"),
    ("mnist", "mirrored 4"),
    ("mnist", "multiworker 1"),
    ("gan", "mirrored 1"),
    ("gan", "mirrored 2"),
    ("gan", "multiworker 1"),
    ("gan", "multiworker 2"),
    ("dense", "mirrored 2 eager"),
    ("dense", "multiworker 2 xla"),
]
PAIRS = [*SHORT, *(pytest.param(*pair, marks=pytest.mark.long) for pair in LONG)]


@pytest.fixture(scope="module")
def runs(cli, request) -> Mapping[tuple[str, str], Run]:
    """Every pair, and each recipe on one device; two at a time."""
    pairs = [
        *((recipe, "one device") for recipe in RECIPES),
        *SHORT,
        *(LONG if request.config.getoption("--long") else []),
    ]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        started = {
            (recipe, where): pool.submit(
                cli.run, *RECIPES[recipe], *COMMON, *WHERE[where], folder=f"{recipe}_{where}".replace(" ", "_")
            )
            for recipe, where in pairs
        }
        found = {pair: future.result() for pair, future in started.items()}
    for pair, run in found.items():
        assert run.code == 0, f"{pair}: {run.out}\n{run.err}"
    return found


def state(run, step=STEPS):
    return file.load(run_folder.checkpoint(run.folder, step)).arrays


def assert_same_state(one, other, tolerance=1e-12):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert np.max(np.abs(value.astype(np.float64) - other[name].astype(np.float64)), initial=0) <= tolerance, name


@pytest.mark.parametrize(("recipe", "where"), PAIRS)
def test_the_state_is_that_of_one_device(recipe, where, runs):
    assert_same_state(state(runs[recipe, "one device"]), state(runs[recipe, where]))


@pytest.mark.parametrize(("recipe", "where"), PAIRS)
def test_every_point_in_tensorboard_is_that_of_one_device(recipe, where, runs):
    one, many = runs[recipe, "one device"].scalars, runs[recipe, where].scalars
    shared = [tag for tag in one if tag.split("/")[0] in ("train", "eval", "optimizer")]
    assert len(shared) >= 5
    for tag in shared:
        assert many[tag].keys() == one[tag].keys(), tag
        # TensorBoard keeps float32.
        np.testing.assert_allclose(list(many[tag].values()), list(one[tag].values()), rtol=2e-7, err_msg=tag)
    for split, results in runs[recipe, "one device"].json["results"].items():
        if split != "state_digest":
            assert runs[recipe, where].json["results"][split] == pytest.approx(results, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize(("recipe", "where"), PAIRS)
def test_the_record_says_what_took_effect(recipe, where, runs):
    effective = runs[recipe, where].json["mode"]["effective"]
    strategy, count, *compile = where.split()
    assert (effective["strategy"], effective["replicas"]) == (strategy, int(count))
    assert effective["compile"] == (compile[0] if compile else "graph")
    assert len(effective["devices"]) == int(count)
    assert effective["workers"] == (int(count) if strategy == "multiworker" else 1)
    if compile == ["xla"]:
        assert effective["xla_program"] == "gradients"


def test_several_workers_leave_one_record_and_a_log_each(runs):
    run = runs["mnist", "multiworker 2"]
    assert len(list(run.folder.glob("events.out.tfevents.*"))) == 1
    assert sorted(path.name for path in (run.folder / "workers").glob("*.log")) == ["worker-0.log", "worker-1.log"]
    assert run.json["restarts"] == []
    assert "mode.workers=2" in run.json["command"]
    for kind in ("step_ms", "data_wait_ms", "cpu_ms"):
        spread = run.json["workers"][kind]
        assert 0 <= spread["min"] <= spread["median"] <= spread["max"]
    assert run.json["workers"]["slowest"] in (0, 1, None)
    assert {"workers/step_ms_median", "workers/slowest"} <= run.scalars.keys()


def test_a_run_goes_on_with_another_number_of_replicas(cli, runs):
    """From the middle of a run on two replicas of one process: on one device, and in two workers."""
    begun = runs["mnist", "mirrored 2"]
    words = (*RECIPES["mnist"], *COMMON)
    start = f"resume={run_folder.checkpoint(begun.folder, 20)}"
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        started = [
            pool.submit(cli.run, *words, *WHERE[where], start, folder=f"on_{where}".replace(" ", "_"))
            for where in ("one device", "multiworker 2")
        ]
        gone_on = [future.result() for future in started]
    for run in gone_on:
        assert run.code == 0, run.out + run.err
        assert "resumed at step 20" in run.out
        assert "differs from the run it resumes" not in run.out
        assert run.json["resumed_at"] == 20
        assert_same_state(state(begun), state(run))
