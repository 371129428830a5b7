"""Which files are the user's, and how a line of theirs is shown, ordered and compared."""

import json
import linecache
import subprocess
import sys
import sysconfig

import keras
import numpy as np
import pytest
import tensorflow as tf

import modetrain.trainer
from modetrain.app import report
from modetrain.diagnostics import location
from modetrain.diagnostics.location import Location
from modetrain.files import paths
from modetrain.tools.compare.comparison import Comparison, Difference


@pytest.mark.parametrize(
    "file",
    [
        *(module.__file__ for module in (json, tf, keras, np, pytest, modetrain.trainer)),
        f"{sysconfig.get_path('purelib')}/somebodys/package.py",
        "/home/anna/.local/lib/python3.11/site-packages/somebodys/package.py",
        "/usr/lib/python3/dist-packages/somebodys/package.py",
        "/tmp/__autograph_generated_file0x1.py",
        "<frozen runpy>",
        "<string>",
        "<stdin>",
    ],
)
def test_python_packages_and_the_library_are_not_the_users(file):
    assert not location.is_users(file)


@pytest.mark.parametrize(
    "file", [__file__, str(paths.shipped_dir() / "recipes" / "mnist.py"), "/home/anna/recipes/mine.py", "recipe.py"]
)
def test_what_the_user_has_written_is_theirs_and_so_are_shipped_recipes(file):
    assert location.is_users(file)


def test_no_tensorflow_is_imported():
    said = (
        "import sys; from modetrain.diagnostics import location as place; place.is_users('/a.py'); "
        "print([name for name in ('tensorflow', 'keras') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_places_of_one_line_are_equal_and_are_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine.py"
    file.write_text("first = 1\n    second = 2\n")
    linecache.checkcache()
    second = Location(file=str(file), line=2, function="step")
    assert second == Location(file=str(file), line=2)
    assert hash(second) == hash(Location(file=str(file), line=2))
    assert sorted([second, Location(file=str(file), line=1)])[-1] is second
    assert (str(second), second.shown) == ("mine.py:2  second = 2", "mine.py:2")
    assert str(Location(file="/nowhere.py", line=3)) == "/nowhere.py:3"


def test_a_place_in_compare_json_has_its_text():
    here = Location(file=__file__, line=1)
    found = Difference(mode="xla", kind="different", message="", place=here)
    told = Comparison(reference="eager", modes=("eager", "xla"), first_step=0, steps=1, draws=1, findings=(found,))
    assert told.to_json()["findings"][0]["place"] == {"file": __file__, "line": 1, "function": "", "text": here.text}


def test_what_was_typed_is_reported_where_nothing_else_is_the_users():
    def report_of(source: str) -> str:
        with pytest.raises(ZeroDivisionError) as caught:
            exec(compile(source, "<string>", "exec"), {"fail": lambda: 1 / 0})
        error = caught.value
        assert error.__traceback__ is not None
        error.__traceback__ = error.__traceback__.tb_next  # not this test's own line
        return "".join(report.format_lines(error))

    assert 'File "<string>", line 1' in report_of("1 / 0")
    assert 'File "<string>"' not in report_of("fail()")


def test_a_statement_of_several_lines_is_shown_whole(tmp_path):
    file = tmp_path / "several.py"
    file.write_text(
        "x = tf.gather(\n    [1.0, 2.0],  # of a class\n    label,\n)\ny = x  # plain\nif (x\n    and y):\n    z = (\n"
    )
    assert str(Location(file=str(file), line=1)).endswith("several.py:1  x = tf.gather([1.0, 2.0], label)")
    assert str(Location(file=str(file), line=5)).endswith("y = x  # plain")
    assert str(Location(file=str(file), line=6)).endswith("if (x and y):")
    assert str(Location(file=str(file), line=8)).endswith("z = (")
    assert Location(file=str(file), line=1).text == "x = tf.gather("
