"""The report at the end of a run: a short table, or why it failed."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.table import Table

from modetrain.app import record
from modetrain.checkpoints.file import NotFiniteError
from modetrain.config import arguments
from modetrain.diagnostics import location, tf_errors
from modetrain.engine import devices
from modetrain.errors import NotSavedError
from modetrain.files import paths, run_folder
from modetrain.settings import Settings
from modetrain.trainer import Trainer
from modetrain.training.step_errors import NonFiniteError

# File names of code that was typed at the prompt or after -c; methods that Python generates have them too.
_TYPED = ("<stdin>", "<string>")
_NOT_FINITE = (NonFiniteError, NotFiniteError)
# Python's own sentences.
_CAUSE = "The above exception was the direct cause of the following exception:"
_CONTEXT = "During handling of the above exception, another exception occurred:"


def summary(trainer: Trainer, settings: Settings, folder: str) -> Table:
    """Results, the time by account, and paths. Commands are not in it, because a cell may be folded."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    early = (
        f" (stopped early: {trainer.stopped_early})" if trainer.stopped_early and trainer.status == "completed" else ""
    )
    table.add_row("status", f"{trainer.status} at step {trainer.step} of {trainer.steps}{early}")
    nonfinite = trainer.nonfinite
    hidden = ("skipped",) if nonfinite.settings.policy == "skip" else ()  # the count says more than the mean
    for split, results in trainer.results.items():
        shown = "  ".join(f"{name} {value:.4f}" for name, value in results.items() if name not in hidden)
        if shown:
            table.add_row(split, shown)
    if nonfinite.skipped:
        table.add_row("skipped updates", f"{nonfinite.skipped}")
    timer = trainer.timer
    accounts = {
        name: timer.seconds[name] for name in ("import", "setup", "compile", "data", "steps", "eval", "checkpoint")
    }
    accounts["other"] = max(timer.total - sum(accounts.values()), 0.0)
    spent = "  ".join(f"{name} {seconds:.1f}" for name, seconds in accounts.items())
    table.add_row("seconds", f"{spent}  total {timer.total:.1f}")
    if step_ms := timer.step_ms():
        read = timer.read()
        speed = read.steps * settings.data.batch_size / read.busy_s
        shown = "  ".join(f"{name} {value:.2f}" for name, value in step_ms.items())
        table.add_row("ms a step", f"{shown}  ({speed:,.0f} examples/s, {trainer.traces} traces)")
    if trainer.history.worker_times is not None:
        spread = trainer.history.worker_times.spread()["step_ms"]
        shown = "  ".join(f"{name} {value:.2f}" for name, value in spread.items())
        slowest = (
            "none stands out"
            if trainer.history.worker_times.slowest is None
            else f"slowest: worker {trainer.history.worker_times.slowest}"
        )
        table.add_row("workers", f"mean ms a step, with waiting for data: {shown}  ({slowest})")
    effective = record.effective_mode(trainer)
    shown = "  ".join(f"{key} {effective[key]}" for key in ("compile", "precision", "steps_per_call"))
    table.add_row("mode", f"{shown}  on {devices.format_devices(effective['devices'])}")
    table.add_row("run folder", folder)
    return table


def commands(trainer: Trainer, settings: Settings) -> Iterator[str]:
    """Lines with the next commands; each command has its own line, which must not be wrapped."""
    if trainer.status == "stopped":
        yield "resume with:"
        yield f"  {arguments.resuming(settings.command, trainer.folder)}"
    yield "see its curves with:"
    logs = trainer.folder if settings.run_dir or settings.resume else trainer.folder.parent.parent
    yield f"  {arguments.tensorboard(logs)}"


def format_error(error: BaseException, file: Path, settings: Settings | None = None) -> str:
    """The error with only the user's own lines; the complete traceback is in the run folder.

    Args:
      error: the run's error.
      file: the file of the complete error, in the run folder.
      settings: the settings of a run that may be resumed.
    """
    notes = [f"modetrain: the complete error: {paths.format_path(file, Path.cwd())}"]
    newest = run_folder.newest(file.parent)
    # A NaN would come again, and an error of saving says itself how to resume.
    resumable = settings is not None and settings.do == "train" and not isinstance(error, (*_NOT_FINITE, NotSavedError))
    if settings is not None and newest is not None and resumable:
        command = arguments.resuming(settings.command, file.parent)
        notes.insert(
            0, f"modetrain: once that is fixed, resume at step {run_folder.step_of(newest)} with:\n  {command}"
        )
    return "".join(format_lines(error, notes))


def note_exit(error: BaseException, *, interrupted: bool) -> int | None:
    """The exit code where the user's own code raised SystemExit or KeyboardInterrupt, with a note on it; else None.

    Args:
      error: what ended the run.
      interrupted: whether a KeyboardInterrupt can only be the user's own, because signals are handled elsewhere.
    """
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) and error.code else 1
    elif isinstance(error, KeyboardInterrupt) and interrupted:
        code = 130
    else:
        return None
    error.add_note(
        f"modetrain: code of this run raised {type(error).__name__}, so the run has failed (exit code {code}). A callback ends a "
        "run well with trainer.stop_early('why'), and stops it to be resumed with trainer.stop()."
    )
    return code


def format_headline(error: BaseException) -> str:
    """Reason and location of an error in one line: `KeyError: 'lable' (recipes/mine.py:12)`."""
    frames, text = _read_error(error)
    first = next(iter(text.splitlines()), type(error).__name__)
    return (
        f"{first} ({location.Location(file=frames[-1].filename, line=frames[-1].lineno or 0).shown})"
        if frames
        else first
    )


def format_lines(error: BaseException, notes: Sequence[str] = ()) -> Iterator[str]:
    """The error for the user: their own lines, the reason and the notes."""
    if isinstance(error, NotSavedError):  # its sentence is complete; NumPy's traceback does not help
        yield f"modetrain: {error}\n"
        yield from (f"{note}\n" for note in (*notes, *getattr(error, "__notes__", ())))
        return
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if earlier is not None:
        yield from format_lines(earlier)
        yield f"\n{_CAUSE if error.__cause__ else _CONTEXT}\n\n"
    frames, text = _read_error(error)
    if frames:
        yield "Traceback (most recent call last):\n"
        yield from traceback.StackSummary.from_list(frames).format()
    yield f"{text}\n"
    for note in (*notes, *getattr(error, "__notes__", ())):
        yield f"{note}\n"


def _read_error(error: BaseException) -> tuple[list[traceback.FrameSummary], str]:
    """The user's lines of an error, outermost first, and its reason."""
    caught = traceback.TracebackException.from_exception(error)
    frames = _user_frames(caught.stack)
    message = tf_errors.read(error)
    if message is None:
        caught.__notes__ = None  # type: ignore[attr-defined]
        return list(frames), "".join(caught.format_exception_only()).rstrip("\n")
    of_message = _message_frames(message, caught.stack)
    known = {_location_key(frame) for frame in of_message}
    return [frame for frame in frames if _location_key(frame) not in known] + of_message, message.text


def _message_frames(
    message: tf_errors.Message, caught: Sequence[traceback.FrameSummary]
) -> list[traceback.FrameSummary]:
    """The user's lines of a message's first stack that has any."""
    for stack in message.stacks:
        # Such a stack begins where the program begins; a traceback begins where the error is caught.
        start = next(
            (n for n, frame in enumerate(stack) if caught and _location_key(frame) == _location_key(caught[0])), 0
        )
        if users := _user_frames(stack[start:]):
            return users
    return []


def _location_key(frame: traceback.FrameSummary) -> tuple[str, str]:
    return frame.filename, frame.name


def _user_frames(frames: Sequence[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    """The frames of the user's own code in files; if there are none, of the code that they typed."""
    users = [frame for frame in frames if location.is_users(frame.filename)]
    return users or [frame for frame in frames if frame.filename in _TYPED]
