"""What a person reads at the end of a run: a short table, or why it failed."""

from __future__ import annotations

import pdb
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import keras
import tensorflow as tf
from rich.table import Table

from modetrain.settings import Settings
from modetrain.trainer import Trainer

_LIBRARIES = tuple(str(Path(module.__file__).parent) for module in (tf, keras) if module.__file__)
_OWN = str(Path(__file__).parent)


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
    accounts = {name: clock.seconds[name] for name in ("setup", "compile", "data", "steps", "eval", "checkpoint")}
    accounts["other"] = max(clock.total - sum(accounts.values()), 0.0)
    spent = "  ".join(f"{name} {seconds:.1f}" for name, seconds in accounts.items())
    table.add_row("seconds", f"{spent}  total {clock.total:.1f}")
    if step_ms := clock.step_ms():
        busy = clock.seconds["steps"] + clock.seconds["data"]
        speed = clock.steps * settings.data.batch_size / busy
        shown = "  ".join(f"{name} {value:.2f}" for name, value in step_ms.items())
        table.add_row("ms a step", f"{shown}  ({speed:,.0f} examples/s, {run.traces} traces)")
    table.add_row("run folder", folder)
    logs = str(Path(folder).parent.parent) if settings.run_dir is None else folder
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
    return not filename.startswith((*_LIBRARIES, _OWN, "<frozen")) and "__autograph_generated_file" not in filename
