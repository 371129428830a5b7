"""What is printed may be lost; the process that prints goes on."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

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


def test_a_run_goes_on_where_nobody_reads_what_it_says(tmp_path):
    words = ["recipe=mnist", "model=mlp", "mode=eager", "steps=3", "run_dir=run", "data.download=false"]
    run = subprocess.Popen([sys.executable, "-m", "modetrain", *words], cwd=tmp_path, stdout=subprocess.PIPE)
    assert run.stdout is not None
    run.stdout.close()  # as `| head` or a `tee` that was killed
    assert run.wait() == 0
    assert read(tmp_path / "run")["status"] == "completed"
