"""Processes of their own for parts of a tool: how one is started, and how it begins.

    code = run_module("modetrain.tools.replay.step_process", *arguments, log=folder / "xla.log")

Imports no TensorFlow.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from modetrain.mode import Mode


def run_module(module: str, *arguments: str, log: Path, cwd: Path | None = None) -> int:
    """Runs `python -m module` to its end and returns its exit code, which is negative after a signal.

    Args:
      module: its full name.
      arguments: of the module.
      log: the file for its standard output and error.
      cwd: the folder to run in.
    """
    with open(log, "wb") as output:  # `run` kills the process where an exception ends this one's wait
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.run(command, cwd=cwd, stdout=output, stderr=subprocess.STDOUT, check=False).returncode


def describe_exit(code: int) -> str:
    """`SIGSEGV`, or `exit code 3`."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def set_environment(mode: Mode, environ: Mapping[str, str] | None = None) -> None:
    """Sets the environment variables that TensorFlow reads when it is imported.

    Args:
      mode: how this process runs steps.
      environ: more variables to set.
    """
    os.environ.update(environ or {})
    mode.set_environment()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
