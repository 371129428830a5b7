"""What a person reads at the end of a run: a short table, or why it failed."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import keras
import tensorflow as tf
from rich.table import Table

from modetrain.settings import Settings
from modetrain.trainer import Trainer

_LIBRARIES = tuple(str(Path(module.__file__).parent) for module in (tf, keras) if module.__file__)
_OWN = str(Path(__file__).parent)


def summary(run: Trainer, settings: Settings, folder: Path) -> Table:
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
    table.add_row("run folder", str(folder))
    logs = folder.parent.parent if settings.run_dir is None else folder
    table.add_row("look", f"tensorboard --logdir {logs}")
    return table


def failure(error: BaseException) -> None:
    """Prints an error with the user's frames alone: what TensorFlow, Keras and this library do in between is left out."""
    shown = traceback.TracebackException.from_exception(error)
    part: traceback.TracebackException | None = shown
    while part is not None:
        kept = [frame for frame in part.stack if _is_users(frame.filename)]
        part.stack = traceback.StackSummary.from_list(kept)
        part = part.__cause__ or (None if part.__suppress_context__ else part.__context__)
    sys.stderr.write("".join(shown.format()))


def _is_users(filename: str) -> bool:
    # AutoGraph's own files repeat frames that its message shows with the user's lines.
    return not filename.startswith((*_LIBRARIES, _OWN, "<frozen")) and "__autograph_generated_file" not in filename
