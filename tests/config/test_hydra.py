"""Hydra's own flags, settings and plugins work as they do elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import modetrain

M = "recipe=mnist"
ROOT = str(Path(modetrain.__file__).parents[1])
PATH = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))


def python(folder: Path, *words: str, **environ: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "modetrain", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": PATH, **environ},
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_info_shows_where_configs_are_looked_up(tmp_path):
    (tmp_path / "conf").mkdir()
    (tmp_path / "more").mkdir()
    done = python(tmp_path, "--info", "searchpath", M, "--config-dir", "more")
    assert done.returncode == 0, done.stderr
    found = [done.stdout.find(f"file://{folder}") for folder in (tmp_path / "conf", tmp_path / "more", ROOT)]
    assert min(found) > 0
    assert found == sorted(found), "the user's folders come first"


def test_the_settings_of_hydra_are_printed(tmp_path):
    done = python(tmp_path, M, "--cfg", "hydra")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("hydra:")


@pytest.mark.parametrize(
    ("typed", "proposed"),
    [
        ("modetrain recipe=mnist mode=", {"mode=eager", "mode=graph", "mode=xla"}),
        ("modetrain recipe=mnist optimizer.cl", {"optimizer.clip_norm="}),
        ("modetrain recipe=mnist callbacks.log.", {"callbacks.log.every="}),
        ("modetrain recipe=mi", {"recipe=mine"}),
    ],
)
def test_the_shell_completes_groups_options_and_keys(tmp_path, typed, proposed):
    (tmp_path / "conf/recipe").mkdir(parents=True)
    (tmp_path / "conf/recipe/mine.yaml").write_text("# @package _global_\nsteps: 3\n")
    done = python(tmp_path, "--shell-completion", "query=bash", COMP_LINE=typed)
    assert proposed <= set(done.stdout.split()), done.stderr


def test_a_search_path_adds_folders(tmp_path):
    (tmp_path / "more/data").mkdir(parents=True)
    (tmp_path / "more/data/seven.yaml").write_text("name: mnist\nbatch_size: 7\n")
    done = python(tmp_path, M, "hydra.searchpath=[more]", "data=seven", "--cfg", "job")
    assert "batch_size: 7\n" in done.stdout, done.stderr


def test_another_root_may_be_named(tmp_path):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/mine.yaml").write_text(
        "defaults:\n  - _self_\n  - do: train\n  - mode: xla\n  - optimizer: sgd\n  - data: mnist\n  - model: mlp\n"
        "  - recipe: mnist\nseed: 9\n"
    )
    done = python(tmp_path, "--config-name", "mine", "--cfg", "job")
    assert "seed: 9\n" in done.stdout, done.stderr
    assert "compile: xla\n" in done.stdout


APP = """
from pathlib import Path
import hydra
from hydra.core.global_hydra import GlobalHydra
from modetrain.config import load

@hydra.main(config_path=None, version_base="1.3")
def main(config):
    before = GlobalHydra.instance().hydra
    assert load.load(["recipe=mnist", "steps=7"], Path.cwd()).steps == 7
    assert GlobalHydra.instance().hydra is before

main()
"""


def test_a_program_of_the_users_own_that_uses_hydra_may_use_modetrain(tmp_path):
    (tmp_path / "app.py").write_text(APP)
    done = subprocess.run(
        [sys.executable, "app.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": PATH},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr


LAUNCHER = """
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.plugins.launcher import Launcher


class Prints(Launcher):
    def setup(self, *, hydra_context, task_function, config): ...

    def launch(self, job_overrides, initial_job_idx):
        print("launched", job_overrides)
        return []


@dataclass
class Config:
    _target_: str = "hydra_plugins.prints.Prints"


ConfigStore.instance().store(group="hydra/launcher", name="prints", node=Config)
"""


def test_a_launcher_of_the_users_own_gets_the_jobs(tmp_path):
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins/prints.py").write_text(LAUNCHER)
    done = python(tmp_path, "-m", M, "mode=eager,graph", "debug=null,nan", "steps=3", "hydra/launcher=prints")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("mode=eager") == done.stdout.count("mode=graph") == 2
    assert not list((tmp_path / "runs").iterdir()), "what Hydra needed while it ran is gone"


def test_jobs_run_beside_each_other_with_joblib(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = [M, "model=mlp", "data.source=bundled", "data.batch_size=8", "steps=2", "seed=1,2", "run_dir=out"]
    done = python(tmp_path, "-m", *words, "mode=eager", "hydra/launcher=joblib")
    assert done.returncode == 0, done.stderr
    assert {path.parent.name for path in tmp_path.glob("out/*/run.json")} == {"0-seed=1", "1-seed=2"}
