"""What a person reads at the end of a run: a short table, or why it failed."""

from __future__ import annotations

import os
import pdb
import shlex
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import keras
import tensorflow as tf
from rich.table import Table

from modetrain import paths, record
from modetrain.settings import Settings
from modetrain.trainer import Trainer

_LIBRARIES = tuple(str(Path(file).parent) + os.sep for file in (tf.__file__, keras.__file__, __file__))


def summary(run: Trainer, settings: Settings, folder: str) -> Table:
    """Results, where the time went, where things are."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("status", f"{run.status} at step {run.step} of {run.steps}")
    for split, results in run.results.items():
        if results:
            table.add_row(split, "  ".join(f"{name} {value:.4f}" for name, value in results.items()))
    clock = run.clock
    accounts = {
        name: clock.seconds[name] for name in ("import", "setup", "compile", "data", "steps", "eval", "checkpoint")
    }
    accounts["other"] = max(clock.total - sum(accounts.values()), 0.0)
    spent = "  ".join(f"{name} {seconds:.1f}" for name, seconds in accounts.items())
    table.add_row("seconds", f"{spent}  total {clock.total:.1f}")
    if step_ms := clock.step_ms():
        busy = clock.seconds["steps"] + clock.seconds["data"]
        speed = clock.steps * settings.data.batch_size / busy
        shown = "  ".join(f"{name} {value:.2f}" for name, value in step_ms.items())
        table.add_row("ms a step", f"{shown}  ({speed:,.0f} examples/s, {run.traces} traces)")
    effective = record.effective_mode(run)
    shown = "  ".join(f"{key} {effective[key]}" for key in ("compile", "precision", "steps_per_call"))
    table.add_row("mode", f"{shown}  on {', '.join(effective['devices'])}")
    table.add_row("run folder", folder)
    if run.status == "stopped":
        words = [word for word in shlex.split(settings.command) if not word.startswith(("resume=", "run_dir="))]
        table.add_row("go on", shlex.join([*words, "resume=latest", f"run_dir={folder}"]))
    logs = folder if settings.run_dir or settings.resume else str(Path(folder).parent.parent)
    table.add_row("look", f"tensorboard --logdir {logs}")
    return table


def failure(error: BaseException) -> None:
    """Prints an error with the user's frames alone: what libraries do in between is left out."""
    shown = traceback.TracebackException.from_exception(error)
    part: traceback.TracebackException | None = shown
    while part is not None:
        kept = [frame for frame in part.stack if _is_users(frame.filename)]
        part.stack = traceback.StackSummary.from_list(kept)
        part = part.__cause__ or (None if part.__suppress_context__ else part.__context__)
    sys.stderr.write("".join(shown.format()))


def post_mortem(error: BaseException) -> None:
    """Opens the debugger where the error came up in the user's own code, not deep inside TensorFlow."""
    frames = [tb for tb in _tracebacks(error.__traceback__) if _is_users(tb.tb_frame.f_code.co_filename)]
    if frames:
        frames[-1].tb_next = None
    pdb.post_mortem(error.__traceback__)


def _tracebacks(first: TracebackType | None) -> Iterator[TracebackType]:
    while first is not None:
        yield first
        first = first.tb_next


def _is_users(filename: str) -> bool:
    # AutoGraph's own files repeat frames that its message shows with the user's lines.
    if filename.startswith(str(paths.shipped() / "recipes") + os.sep):
        return True
    return not filename.startswith((*_LIBRARIES, "<frozen")) and "__autograph_generated_file" not in filename
