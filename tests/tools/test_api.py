"""`modetrain.build` and the tests of a user's own that the pages show."""

from __future__ import annotations

import inspect
import pydoc
import re
import subprocess
import sys
from pathlib import Path

import pytest

import modetrain
from tests.corpus.base import Tiny, batches, made

ROOT = Path(__file__).resolve().parents[2]
WORDS = ("recipe=mnist", "model=mlp", "model.hidden=[4]", "data.source=bundled", "data.batch_size=8")


def test_recipe_and_batches_are_those_of_the_command_line():
    build_recipe, kept = modetrain.build(*WORDS, batches=3)
    first, second = build_recipe(), build_recipe()
    assert type(first).__name__ == "Digits"
    assert first.info.batch_size == 8
    assert [v.numpy().tolist() for v in first.model.variables] == [v.numpy().tolist() for v in second.model.variables]
    assert [{name: value.shape for name, value in batch.items()} for batch in kept] == [
        {"image": (8, 28, 28, 1), "label": (8,)}
    ] * 3
    assert kept[0]["label"].tolist() != kept[1]["label"].tolist()


@pytest.mark.parametrize("word", ["mode=xla", "mode.precision=float64", "do=inspect"])
def test_what_the_functions_take_as_arguments_is_refused(word):
    with pytest.raises(modetrain.ConfigError, match=f"{word}: .*Leave it out"):
        modetrain.build(*WORDS, word)


def test_inspect_takes_a_function_that_builds_the_recipe():
    assert modetrain.inspect(lambda: made(Tiny), batches(), modes=["graph"]) == []
    with pytest.raises(TypeError, match=r"inspect was given what builds a int, not a modetrain\.Recipe"):
        modetrain.inspect(lambda: 3, batches(), modes=["graph"])


def test_help_shows_the_function():
    said = pydoc.plain(pydoc.render_doc(modetrain.inspect)).replace("'", "")  # of annotations, in Python 3.11
    assert "inspect(recipe: Recipe | Callable[[], Recipe], batches: Iterable[Batch]" in said
    assert "batches: training batches as a step gets them" in said
    assert list(inspect.signature(modetrain.inspect).parameters) == ["recipe", "batches", "modes", "notes"]


@pytest.mark.long
@pytest.mark.parametrize("page", ["inspect.md", "compare.md"])
def test_the_tests_that_a_page_shows_pass(page, tmp_path):
    shown = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "reference" / page).read_text(), re.S)
    own = [block for block in shown if "def test_" in block]
    assert own
    for number, block in enumerate(own):
        (tmp_path / f"test_own{number}.py").write_text(block)
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env={"PATH": "", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
