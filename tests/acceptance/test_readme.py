"""README and docs do what they say: commands are valid, programs train, links lead somewhere, CI runs the test command."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from modetrain.app import sweep
from modetrain.config import arguments
from modetrain.config import load as config
from modetrain.keys import KEYS
from modetrain.settings import CALLBACKS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in FILES}


def commands(text: str) -> list[str]:
    """What follows `python -m modetrain` in the code blocks of a page, but for names to fill in and refusals that are shown."""
    found = re.findall(r"^ *(?:\$ |srun )?python -m modetrain (.*?)(?: +#.*)?$", text, re.MULTILINE)
    return [one for one in found if not re.search(r"mine\b|mode\.strict=true|CAPSULE|RUN_FOLDER|KEY|\.\.\.|=/", one)]


@pytest.mark.parametrize("command", sorted({c for page in PAGES.values() for c in commands(page)}))
def test_every_command_shown_is_accepted(command, tmp_path):
    (tmp_path / "runs/mnist/graph/2026-01-01_00-00-00/checkpoints").mkdir(parents=True)
    (tmp_path / "runs/mnist/graph/2026-01-01_00-00-00/checkpoints/step-00000001.npz").touch()
    line = arguments.parse(shlex.split(command))
    if line.multirun:
        assert len(sweep.plan(line.overrides, tmp_path, line.config_dirs)) > 1
    else:
        assert config.load(line.overrides, tmp_path, line.config_dirs).recipe_name


def test_the_commands_are_found_at_all():
    assert len({c for page in PAGES.values() for c in commands(page)}) > 20


def test_every_key_that_a_page_shows_exists():
    shown = set(re.findall(r"`((?:mode|data|optimizer|callbacks)\.[a-z_.]+)=", "\n".join(PAGES.values())))
    callbacks = {f"callbacks.{name}" for name in CALLBACKS}  # each can be switched off
    presets = [yaml.safe_load(file.read_text()) for file in (ROOT / "conf/data").glob("*.yaml")]
    of_functions = {f"data.{name}" for preset in presets for name in preset}
    known = {*KEYS, *callbacks, *of_functions}
    assert len(shown) > 15
    assert not {key for key in shown if key not in known and not key.startswith("callbacks.mine")}


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


def test_the_program_on_the_first_page_trains(tmp_path):
    program = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert program
    assert len([line for line in program[1].splitlines() if line.strip()]) <= 21
    (tmp_path / "first.py").write_text(program[1])  # AutoGraph reads the source of a file
    done = subprocess.run(
        [sys.executable, "first.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (accuracy,) = re.findall(r"'accuracy': ([\d.]+)", done.stdout)
    assert float(accuracy) > 0.8


def test_the_first_page_shows_a_few_commands_and_links_to_the_rest():
    assert 1 <= README.count("python -m modetrain") <= 3
    assert README.index("<!-- main command -->") < README.index("<!-- test command -->")
    for page in (ROOT / "docs").glob("*.md"):
        assert f"docs/{page.name}" in README or page.name == "configuration.md", page


# Files that a page shows, words of the command line that trains with them, and the metrics of the run.
OWN = {
    "recipe": (("recipes/mine.py", "conf/recipe/mine.yaml"), ("recipe=mine",), {"loss"}),
    "model": (
        ("recipes/nets.py", "conf/model/wide.yaml"),
        ("recipe=mnist", "model=wide", "model.width=128"),
        {"loss", "accuracy"},
    ),
}


@pytest.mark.parametrize("name", OWN)
def test_what_a_page_shows_trains_from_a_folder_of_its_own(name, tmp_path):
    files, words, metrics = OWN[name]
    page = PAGES["docs/write-a-recipe.md"]
    for file in files:
        kind = "python" if file.endswith(".py") else "yaml"
        block = re.search(rf"`{re.escape(file)}`.*?```{kind}\n(.*?)```", page, re.DOTALL)
        assert block
        path = tmp_path / file
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


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    return {
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    }


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_a_heading(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / name).resolve() if name else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


def test_pages_that_the_code_names_exist():
    """Messages, comments and tests name pages by their path."""
    named = [
        (file, name)
        for folder in ("modetrain", "conf", "recipes", "benchmarks", "tests")
        for file in (ROOT / folder).rglob("*")
        if file.suffix in (".py", ".yaml")
        for name in re.findall(r"\bdocs/[\w/-]+\.(?:md|yaml|svg|sbatch)", file.read_text())
    ]
    assert len(named) > 10
    assert [(file, name) for file, name in named if not (ROOT / name).exists()] == []


def test_contributing_shows_the_tree_as_it_is():
    tree = re.search(r"```text\n(modetrain/\n.*?)^conf/", PAGES["CONTRIBUTING.md"], re.DOTALL | re.MULTILINE)
    assert tree
    shown = set(re.findall(r"([\w/]+/|\w+\.py)(?=\s|,|$)", tree[1])) - {"modetrain/"}
    package = ROOT / "modetrain"
    there = {path.name for path in package.glob("*.py")} | {
        f"{path.parent.name}/" for path in package.glob("*/__init__.py")
    }
    assert there - shown == set(), "not in the tree"
    everywhere = {path.name for path in package.rglob("*.py")} | {
        f"{path.name}/" for path in package.rglob("*") if path.is_dir()
    }
    assert {name for name in shown if name not in everywhere} == set(), "in the tree, but not there"
