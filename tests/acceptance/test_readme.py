"""The README does what it says: its commands are valid, its recipe trains, and CI runs its test command."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from modetrain.app import sweep
from modetrain.config import arguments
from modetrain.config import load as config
from modetrain.config.schema import KEYS
from modetrain.config.sections import CALLBACKS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
DOCS = {path.name: path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}


def commands(text: str) -> list[str]:
    """What follows `python -m modetrain` in the code blocks of a page, and in --help."""
    found = re.findall(r"^(?:\$ )?python -m modetrain (.*?)(?: +#.*)?$", text, re.MULTILINE)
    return [one for one in found if "mine" not in one and "mode.strict=true" not in one]


@pytest.mark.parametrize("command", sorted({c for page in DOCS.values() for c in commands(page)}))
def test_every_command_shown_is_accepted(command, tmp_path):
    (tmp_path / "runs/mnist/graph/2026-01-01_00-00-00/checkpoints").mkdir(parents=True)
    (tmp_path / "runs/mnist/graph/2026-01-01_00-00-00/checkpoints/step-00000001.npz").touch()
    line = arguments.parse(command.split())
    if line.multirun:
        assert len(sweep.plan(line.overrides, tmp_path, line.config_dirs)) == 3
    else:
        assert config.load(line.overrides, tmp_path, line.config_dirs).recipe_name


def test_the_commands_are_found_at_all():
    assert len(commands(README)) >= 4


def test_every_key_that_the_readme_shows_exists():
    shown = set(re.findall(r"`((?:mode|data|optimizer|callbacks)\.[a-z_.]+)=", "\n".join(DOCS.values())))
    callbacks = {f"callbacks.{name}" for name in CALLBACKS}  # each can be switched off
    assert len(shown) > 15
    assert not {key for key in shown if key not in {*KEYS, *callbacks} and not key.startswith("callbacks.mine")}


def test_ci_runs_the_readmes_test_command():
    tests = README.split("<!-- test command -->")[1].split("```")[1].removeprefix("sh\n").strip()
    assert tests.startswith("python3 -m venv")
    assert tests.endswith("-m pytest -q -n 2 --dist loadfile")
    assert "\n" not in tests
    seen = subprocess.run(
        ["bash", "-c", "sed -n '/<!-- test command -->/,/^```$/p' README.md | grep '^python3'"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert seen == tests
    assert "sed -n '/<!-- test command -->/,/^```$/p' README.md" in (ROOT / ".ci/run").read_text()


OWN = {
    "README.md": (("recipes/mine.py", "conf/recipe/mine.yaml"), ("recipe=mine",), {"loss"}),
    "recipes.md": (
        ("recipes/nets.py", "conf/model/wide.yaml"),
        ("recipe=mnist", "model=wide", "model.width=128"),
        {"loss", "accuracy"},
    ),
}


@pytest.mark.parametrize("page", OWN)
def test_what_a_page_shows_of_ones_own_trains_from_a_folder_of_its_own(page, tmp_path):
    files, words, metrics = OWN[page]
    for name in files:
        kind = "python" if name.endswith(".py") else "yaml"
        block = re.search(rf"`{re.escape(name)}`.*?```{kind}\n(.*?)```", DOCS[page], re.DOTALL)
        assert block
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(block[1])
    done = subprocess.run(
        [sys.executable, "-m", "modetrain", *words, "steps=3", "data.source=bundled", "run_dir=run"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["status"] == "completed"
    assert record["steps"] == 3
    assert set(record["results"]["eval"]) == metrics


def test_contributing_says_what_every_module_is_for():
    rows = re.findall(r"^\| `.*$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    listed = set(re.findall(r"`(\w+(?:\.py|/))`", "\n".join(rows)))
    there = {path.name for path in (ROOT / "modetrain").glob("*.py")} - {"__init__.py"}
    there |= {f"{path.parent.name}/" for path in (ROOT / "modetrain").glob("*/__init__.py")}
    assert sorted(there - listed) == [], "not in the table"
    within = {path.name for path in (ROOT / "modetrain").glob("*/*.py")}
    assert [name for name in listed - there - within if name.endswith(".py")] == [], "in the table, but not there"
