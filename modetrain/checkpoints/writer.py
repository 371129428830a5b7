"""Writes checkpoints while the run continues: runs jobs one after the other in a thread, and reports every failure.

    writer.submit(job)     # waits if two jobs are pending already
    writer.check()         # raises the error of an earlier job
    writer.wait()          # waits until all are done; raises the same

A job must not use anything that the run still changes.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

Job = Callable[[], None]


class AsyncWriter:
    """Runs jobs in their order.

    Args:
      background: whether to use a thread; otherwise `submit` runs them itself.

    Attributes:
      seconds: time spent in jobs.
      jobs: number of finished jobs.
    """

    def __init__(self, *, background: bool = True):
        self._jobs: queue.Queue[Job] | None = queue.Queue(maxsize=1) if background else None
        self._failure: BaseException | None = None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.seconds = 0.0
        self.jobs = 0

    def submit(self, job: Job) -> None:
        """Runs a job. One may run and one may wait; more would need too much memory.

        Raises:
          BaseException: the error of an earlier job; without a thread also this job's.
        """
        self.check()
        if self._jobs is None:
            self._run(job)
            self.check()
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="modetrain-writer", daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def check(self) -> None:
        """Raises the error of an earlier job, once."""
        with self._lock:
            failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def settle(self) -> None:
        """Returns when every job is done, even if one has failed."""
        if self._jobs is not None:
            self._jobs.join()

    def wait(self) -> None:
        """Returns when every job is done; raises the error of one that failed."""
        self.settle()
        self.check()

    def _work(self) -> None:
        assert self._jobs is not None
        while True:
            job = self._jobs.get()
            try:
                self._run(job)
            finally:
                self._jobs.task_done()

    def _run(self, job: Job) -> None:
        began = time.perf_counter()
        try:
            job()
        except BaseException as error:
            with self._lock:
                self._failure = self._failure or error
        self.seconds += time.perf_counter() - began
        self.jobs += 1
