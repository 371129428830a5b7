"""A wheel, used in an empty folder, carries all that the main job needs: conf/, recipes and the sample of MNIST."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel's files, in a folder far from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)],
        check=True,
    )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(installed, cwd, *words):
    # -P keeps the current folder off sys.path, as the console script does.
    return subprocess.run(
        [sys.executable, "-P", "-c", "import sys; from modetrain.__main__ import main; sys.exit(main())", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_main_job_runs_in_an_empty_folder(installed, tmp_path):
    done = run(installed, tmp_path, "recipe=mnist", "mode=graph", "model=mlp", "steps=3", "data.source=bundled")
    assert done.returncode == 0, done.stderr
    (record,) = tmp_path.glob("runs/mnist/graph/*/run.json")
    described = json.loads(record.read_text())
    assert described["status"] == "completed"
    assert described["data"]["source"] == "bundled"
    assert described["data"]["train_examples"] == 4000


def test_the_console_script_is_the_front_door(installed):
    (points,) = installed.glob("*.dist-info/entry_points.txt")
    assert "modetrain = modetrain.__main__:main" in points.read_text()


def test_ones_own_files_add_to_and_override_the_shipped_ones(installed, tmp_path):
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "conf/model/mlp.yaml").write_text("# Mine.\n_target_: recipes.mine.tiny\nunits: 3\n")
    (tmp_path / "recipes/mine.py").write_text("def tiny(image_shape, classes, *, units): ...\n")
    shown = run(installed, tmp_path, "recipe=mnist", "model=mlp", "--cfg", "job")
    assert shown.returncode == 0, shown.stderr
    assert "_target_: recipes.mine.tiny" in shown.stdout
    assert "_target_: recipes.mnist.Digits" in shown.stdout
