"""What is printed may be lost; the process that prints goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import pytest

import modetrain
from modetrain.__main__ import main
from modetrain.errors import ConfigError
from modetrain.files.run_json import read

PRINTS = """
import sys
from modetrain import console as output
output.outlive_readers()
for i in range(2000):
    print("a line of a log, long enough to fill what a pipe holds before anybody reads it", i)
    sys.stderr.write("one of an error\\n")
sys.exit(7)
"""


@pytest.mark.parametrize("flags", [[], ["-u"]])
def test_a_full_disk_or_a_reader_that_left_ends_nothing(flags):
    command = [sys.executable, *flags, "-c", PRINTS]
    with open("/dev/full", "w") as full:
        assert subprocess.run(command, stdout=full, stderr=full).returncode == 7
    read_end, write_end = os.pipe()
    os.close(read_end)
    assert subprocess.run(command, stdout=write_end, stderr=write_end).returncode == 7
    os.close(write_end)


@pytest.mark.parametrize("flags", [[], ["-u"]])
def test_what_can_be_written_is(flags):
    code = (
        "from modetrain import console\nconsole.outlive_readers()\n"
        "print('a ß line', flush=True)\nprint('the last, not flushed', end='')"
    )
    ended = subprocess.run([sys.executable, *flags, "-c", code], stdout=subprocess.PIPE, check=True, encoding="utf-8")
    assert ended.stdout == "a ß line\nthe last, not flushed"


def test_a_stream_that_was_replaced_is_left_alone(capsys):
    from modetrain import console

    before = sys.stdout
    console.outlive_readers()
    assert sys.stdout is before


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
GREETS = """
from recipes.mnist import Digits


class Greets(Digits):
    def eval_step(self, batch):
        return {"größe": super().eval_step(batch)["loss"]}
"""


def test_letters_that_the_output_does_not_have_end_nothing(tmp_path):
    """Neither in the output, nor in files and paths where the locale is C."""
    for name, text in {
        "recipes/greets.py": GREETS,
        "conf/recipe/greets.yaml": "# @package _global_\n# ß\nrecipe:\n  _target_: recipes.greets.Greets\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    words = ["recipe=greets", "model=mlp", "mode=graph", "steps=2", 'run_dir="größe"', "data.source=bundled"]
    ended = subprocess.run(
        [sys.executable, "-m", "modetrain", *words], cwd=tmp_path, env={**os.environ, **ASCII}, capture_output=True
    )
    assert ended.returncode == 0, ended.stderr
    assert b"eval gr??e " in ended.stdout
    assert b"""tensorboard --logdir "$(printf -- 'gr\\303\\266\\303\\237e')\"""" in ended.stdout
    found = read(tmp_path / "größe")
    assert (found["status"], list(found["results"]["eval"])) == ("completed", ["größe"])


def test_no_folder_for_temporary_files_is_said(monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nonexistent"])
    assert main(["recipe=mnist", "data.source=bundled"]) == 2
    assert "TMPDIR=FOLDER python -m modetrain" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="no folder for temporary files can be written to"):
        modetrain.run("recipe=mnist", "data.source=bundled")


def test_a_run_goes_on_where_nobody_reads_what_it_says(tmp_path):
    words = ["recipe=mnist", "model=mlp", "mode=eager", "steps=3", "run_dir=run", "data.download=false"]
    run = subprocess.Popen([sys.executable, "-m", "modetrain", *words], cwd=tmp_path, stdout=subprocess.PIPE)
    assert run.stdout is not None
    run.stdout.close()  # as `| head` or a `tee` that was killed
    assert run.wait() == 0
    assert read(tmp_path / "run")["status"] == "completed"
