"""A run folder belongs to one live process: held across processes, given back by the kernel when one is killed."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from modetrain.errors import ConfigError
from modetrain.files.lock import NAME, Lock, find_holder

HOLDER = """
import sys, time
from pathlib import Path
from modetrain.files.lock import Lock
Lock.take(Path(sys.argv[1]))
print("taken", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "taken\n"
    yield process
    process.kill()
    process.communicate()


def test_a_folder_that_a_live_process_uses_is_refused_by_name(holder, tmp_path):
    for attempt in (lambda: Lock.take(tmp_path), lambda: find_holder(tmp_path)):
        try:
            problem = attempt()
        except ConfigError as error:
            problem = str(error)
        assert f"process {holder.pid} on " in problem
        assert "is writing there" in problem
        assert "run_dir= with another folder" in problem


def test_one_that_was_killed_is_taken_over_and_that_is_said(holder, tmp_path):
    holder.kill()
    holder.wait()
    assert find_holder(tmp_path) is None
    lock = Lock.take(tmp_path)
    assert f"process {holder.pid} on " in lock.stale
    lock.release()


def test_after_a_release_nobody_has_had_it(tmp_path):
    Lock.take(tmp_path).release()
    assert find_holder(tmp_path) is None
    lock = Lock.take(tmp_path)
    assert lock.stale is None
    with pytest.raises(ConfigError):
        Lock.take(tmp_path)
    lock.release()


def test_asking_does_not_take_it(tmp_path):
    assert find_holder(tmp_path) is None
    assert not (tmp_path / NAME).exists()
    Lock.take(tmp_path).release()
    assert find_holder(tmp_path) is find_holder(tmp_path) is None


@pytest.mark.parametrize(("age", "refused"), [(5, True), (900, False)])
def test_another_machine_counts_while_its_heart_beats(age, refused, tmp_path):
    """Where a file system keeps locks of one machine alone, the lock is free here, although another machine has it."""
    (tmp_path / NAME).write_text(json.dumps({"pid": 7, "host": "elsewhere", "since": "today"}))
    (tmp_path / "heartbeat.json").write_text(json.dumps({"time": time.time() - age}))
    assert (find_holder(tmp_path) is not None) == refused
    if refused:
        assert "process 7 on elsewhere" in find_holder(tmp_path)


def test_whatever_the_file_holds_it_can_be_taken(tmp_path):
    for content in (b"", b"\x00\xff", b"[1]", b'{"pid": 1'):
        (tmp_path / NAME).write_bytes(content)
        Lock.take(tmp_path).release()
