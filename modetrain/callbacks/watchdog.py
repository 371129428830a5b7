"""Watches a run from a thread: writes a heartbeat for other processes, and all stacks when the run stalls.

If code outside Python holds Python's lock, no Python thread runs, not even this one. A timer of `faulthandler`, which needs no
lock, then writes the stacks to `blocked.txt`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from modetrain.callback import Callback
from modetrain.callbacks import flight_recorder
from modetrain.diagnostics import location
from modetrain.files import atomic, run_folder
from modetrain.files.lock import HEARTBEAT

log = logging.getLogger(__name__)

_BLOCKED = "blocked.txt"


class Watchdog(Callback):
    """Writes `heartbeat.json`, and `stall-<time>.txt` when a step does not end.

    Args:
      after: seconds without progress that count as a stall; 0 for never.
      heartbeat: seconds between heartbeats; 0 for none.
      now: reads a monotonic time in seconds.
    """

    def __init__(self, *, after: float, heartbeat: float, now: Callable[[], float] = time.monotonic):
        super().__init__()
        self._after = after
        self._heartbeat = heartbeat
        self._now = now
        self._moved = now()
        self._beaten = (now(), 0)
        self._reported = False
        self._over = threading.Event()
        self._blocked: TextIO | None = None
        self._thread: threading.Thread | None = None

    def on_train_begin(self, trainer):
        self._moved = self._now()
        self._beaten = (self._moved, trainer.step)
        periods = [self._heartbeat, self._after / 4]
        period = min((one for one in periods if one), default=0.0)
        if self._after:
            with contextlib.suppress(OSError):
                self._blocked = open(_worker_file(trainer, _BLOCKED), "w", encoding="utf-8")  # noqa: SIM115
        if period:
            self._thread = threading.Thread(
                target=self._watch, args=(trainer, period), daemon=True, name="modetrain-watch"
            )
            self._thread.start()

    def on_steps_end(self, trainer, metrics):
        self._moved, self._reported = self._now(), False

    def on_train_end(self, trainer):
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._beat(trainer)
        if self._blocked is not None:
            faulthandler.cancel_dump_traceback_later()
            self._blocked.close()
            path = _worker_file(trainer, _BLOCKED)
            with contextlib.suppress(OSError):
                if not path.stat().st_size:
                    path.unlink()

    def tick(self, trainer) -> None:
        """Runs once a period in the thread."""
        if self._blocked is not None:
            faulthandler.dump_traceback_later(self._after, file=self._blocked)  # restarts the timer: this thread runs
        if self._heartbeat and self._now() - self._beaten[0] >= self._heartbeat:
            self._beat(trainer)
        if self._after and not self._reported and self._now() - self._moved >= self._after:
            self._reported = True
            self._report_stall(trainer)

    def _watch(self, trainer, period: float) -> None:
        self._beat(trainer)
        while not self._over.wait(period):
            self.tick(trainer)

    def _beat(self, trainer) -> None:
        if not self._heartbeat:
            return
        (then, before), now = self._beaten, self._now()
        self._beaten = (now, trainer.step)
        beat: dict[str, Any] = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "time": time.time(),
            "status": trainer.status,
            "step": trainer.step,
            "steps": trainer.steps,
            "steps_per_s": max(trainer.step - before, 0) / (now - then) if now > then else 0.0,
            "doing": trainer.timer.doing or trainer.callbacks.active,
            "since_progress_s": now - self._moved,
        }
        with contextlib.suppress(OSError):  # a reader sees that it is old; the run itself goes on
            atomic.write_text(_worker_file(trainer, HEARTBEAT), json.dumps(beat) + "\n")

    def _report_stall(self, trainer) -> None:
        seconds = self._now() - self._moved
        doing = trainer.timer.doing or trainer.callbacks.active or "between two calls"
        path = _worker_file(trainer, f"stall-{time.strftime('%Y-%m-%d_%H-%M-%S')}.txt")
        text = f"no progress for {seconds:.0f} s after step {trainer.step} of {trainer.steps}, doing: {doing}"
        if places := location.of_threads():
            text += f", at {' and '.join(map(str, places))}"
        try:
            with open(path, "w", encoding="utf-8") as file:
                file.write(
                    f"{text}\nrecipe {type(trainer.recipe).__name__}, mode={trainer.mode.name}, process {os.getpid()}\n\n"
                )
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError as error:
            log.warning(f"{text}; the stacks of all threads could not be written to {path} ({error.strerror})")
            return
        log.warning(f"{text}; the stacks of all threads: {path} (watchdog.after={self._after:g})")
        if trainer.callbacks.active is None and (
            line := flight_recorder.write_capsule_beside(trainer, why="stall", said=text)
        ):
            log.info(f"  {line}")


def _worker_file(trainer, name: str) -> Path:
    return run_folder.worker_file(trainer.folder, name, trainer.replicas.worker)
