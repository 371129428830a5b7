"""`--help` and `--version` answer at once, from the files and the table that the command line is checked against."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import modetrain
from modetrain.__main__ import main
from modetrain.config import help as help_page
from modetrain.config.arguments import FLAGS
from modetrain.files.paths import conf_dirs, find_options, shipped_dir
from modetrain.keys import KEYS

ISSUED = (  # names that scripts type
    "steps",
    "seed",
    "run_dir",
    "resume",
    "data.batch_size",
    "data.source",
    "data.name",
    "optimizer.learning_rate",
    "mode.compile",
    "mode.steps_per_call",
    "mode.precision",
    "mode.deterministic",
    "mode.strict",
    "mode.debug_data",
    "callbacks.log.every",
    "callbacks.evaluate.every",
    "callbacks.checkpoint.every",
    "callbacks.checkpoint.keep",
    "callbacks.profile.at",
    "callbacks.profile.steps",
)


def python(folder: Path, *words: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(Path(modetrain.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )


def test_help_lists_every_option_with_what_its_file_says(tmp_path):
    text = help_page.text(conf_dirs(tmp_path), width=120)
    for group, _ in help_page.GROUPS:
        found = find_options(group, [shipped_dir() / "conf"])
        assert found
        for name in found:
            assert re.search(rf"^  {group}={name}\s+\w", text, re.M), f"{group}={name} is not described"


def test_help_lists_the_common_keys_and_all_flags(tmp_path):
    text = help_page.text(conf_dirs(tmp_path))
    for key in ISSUED:
        assert re.search(rf"^  {re.escape(key)}=\s+\w", text, re.M), key
    for names in FLAGS:
        assert f"  {', '.join(names)}" in text


def test_help_lists_the_users_own_recipes(tmp_path):
    (tmp_path / "conf/recipe").mkdir(parents=True)
    (tmp_path / "conf/recipe/mine.yaml").write_text("# @package _global_\n# What mine does.\nsteps: 3\n")
    (tmp_path / "conf/recipe/mnist.yaml").write_text("# @package _global_\n# Their own mnist.\nsteps: 3\n")
    text = help_page.text(conf_dirs(tmp_path))
    assert re.search(r"recipe=mine +What mine does\.", text)
    assert re.search(r"recipe=mnist +Their own mnist\.", text)


@pytest.mark.parametrize("width", [80, 120])
def test_help_fits_the_terminal(tmp_path, width):
    text = help_page.text(conf_dirs(tmp_path), width=width)
    assert max(len(line) for line in text.splitlines()) <= width


@pytest.mark.parametrize(("command", "about"), help_page.EXAMPLES)
def test_the_examples_of_help_are_right(tmp_path, monkeypatch, capsys, command, about):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/mnist/graph/2030-01-01_00-00-00").mkdir(parents=True)  # for resume=latest
    words = command.split()
    assert words[:3] == ["python", "-m", "modetrain"]
    assert main([*words[3:], "--cfg", "job"]) == 0
    assert len(help_page.EXAMPLES) == 6


def test_help_wins_over_whatever_else_is_typed_and_imports_nothing_heavy(tmp_path):
    code = (
        "import sys\nfrom modetrain.__main__ import main\ncode = main(sys.argv[1:])\n"
        "heavy = {'tensorflow', 'keras', 'numpy', 'hydra', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    for words in (["--help"], ["recipe=nonsense", "-h"]):
        done = python(tmp_path, "-c", code, *words)
        assert (done.returncode, done.stderr) == (0, "")
        assert "Exit codes:" in done.stdout


def test_python_m_modetrain_is_the_same_front_door(tmp_path):
    assert python(tmp_path, "-m", "modetrain", "--help").stdout.startswith("modetrain trains a TensorFlow recipe")
    wrong = python(tmp_path, "-m", "modetrain", "recipe=mnsit")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "recipe=mnist?" in wrong.stderr


def test_version_is_the_packages(capsys):
    version = importlib.metadata.version("modetrain")
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith(f"modetrain {version}, Python 3")
    assert modetrain.__version__ == version


def test_every_key_has_help_in_one_short_line():
    for key, entry in KEYS.items():
        assert entry.key.help, key
        assert len(entry.key.help) <= 90, key


def test_public_names_are_lazy(tmp_path):
    code = (
        "import sys, modetrain\nassert 'tensorflow' not in sys.modules\nmodetrain.Mode, modetrain.Settings\n"
        "assert 'tensorflow' not in sys.modules\nassert set(modetrain.__all__) == set(dir(modetrain))\n"
        "from modetrain import Recipe\nassert Recipe.__name__ == 'Recipe'\n"
    )
    assert python(tmp_path, "-c", code).returncode == 0
    with pytest.raises(AttributeError, match="Reciep"):
        modetrain.Reciep  # noqa: B018
