"""The layers of the package: who may import whom, kept by import-linter (`pyproject.toml`)."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import ROOT

LINT = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-cache"]


def test_each_layer_imports_only_from_below_and_nothing_imports_in_a_circle():
    done = subprocess.run(LINT, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_trainer_loads_no_more_than_it_needs():
    """`import modetrain.trainer` loads no configuration, no checkpoints, no tools, and at most 50 files."""
    code = "import sys, modetrain.trainer; print(*(name for name in sys.modules if name.startswith('modetrain.')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert not {name.split(".")[1] for name in loaded} & {
        "app",
        "tools",
        "cluster",
        "callbacks",
        "config",
        "checkpoints",
    }
    assert len([name for name in loaded if name.count(".") > 1 or name == "modetrain.trainer"]) <= 50
