"""Processes of their own for parts of a tool."""

from __future__ import annotations

import os

from modetrain.mode import Mode
from modetrain.tools.child_process import describe_exit, run_module, set_environment


def test_a_module_runs_to_its_end_with_its_output_in_a_file(tmp_path):
    log = tmp_path / "output.log"
    assert run_module("json.tool", "--help", log=log, cwd=tmp_path) == 0
    assert "usage" in log.read_text()
    assert run_module("json.tool", "missing.json", log=log, cwd=tmp_path) != 0
    assert "missing.json" in log.read_text()


def test_a_module_that_a_signal_ends_is_described_by_it(tmp_path):
    (tmp_path / "dying.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    code = run_module("dying", log=tmp_path / "output.log", cwd=tmp_path)
    assert (describe_exit(code), describe_exit(3)) == ("SIGKILL", "exit code 3")


def test_the_environment_of_a_mode_is_set(monkeypatch):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    monkeypatch.delenv("PLANTED", raising=False)
    set_environment(Mode(name="graph", compile="graph"), {"PLANTED": "1"})
    assert (os.environ["PLANTED"], os.environ["TF_CPP_MIN_LOG_LEVEL"]) == ("1", "3")
