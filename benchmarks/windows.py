"""Windows: the stretches of steps that are timed, in a worker process that runs only while its turn lasts.

    while windows.wait():           # ends the window before, if any, and blocks until the next one may begin
        run(windows.steps)

All set-up belongs before the first `wait`, tracing and compiling into the first windows, which are not recorded.
"""

from __future__ import annotations

import os
import time
from multiprocessing.connection import Connection

from modetrain import Callback


class Windows:
    """The worker's side: measures windows and tells the parent.

    Args:
      connection: to the parent.
      steps: length of every window.

    Attributes:
      steps: as given.
    """

    def __init__(self, connection: Connection, steps: int):
        self.steps = steps
        self._connection = connection
        self._began: tuple[float, float] | None = None

    def wait(self) -> bool:
        """Ends the running window and waits for the next; False when there is none."""
        if self._began is not None:
            wall, cpu = time.perf_counter() - self._began[0], time.process_time() - self._began[1]
            self._connection.send((1e3 * wall / self.steps, 1e3 * cpu / self.steps))
        if not self._connection.recv():
            return False
        self._began = time.perf_counter(), time.process_time()
        return True


class WindowsCallback(Callback):
    """The same inside modetrain's trainer: a callback that looks at the end of every window.

    Args:
      fd: file descriptor of the connection to the parent.
      steps: length of every window.
    """

    def __init__(self, *, fd: int, steps: int):
        super().__init__(every=steps)
        self._windows = Windows(Connection(os.dup(fd)), steps)

    def on_train_begin(self, trainer):
        if not self._windows.wait():
            trainer.stop()

    def on_step(self, trainer):
        self.on_train_begin(trainer)
