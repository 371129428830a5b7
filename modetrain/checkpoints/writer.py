"""The saver writes while the run goes on: jobs one after the other in a thread of their own, and no failure gets lost.

    saver.submit(job)     # waits where two are on their way already
    saver.check()         # raises what an earlier job failed with
    saver.wait()          # until all are done; raises the same

A job must touch nothing that the run still changes.
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
      background: whether in a thread; otherwise `submit` runs them itself.

    Attributes:
      seconds: spent in jobs.
      jobs: how many were done.
    """

    def __init__(self, *, background: bool = True):
        self._jobs: queue.Queue[Job] | None = queue.Queue(maxsize=1) if background else None
        self._failure: BaseException | None = None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.seconds = 0.0
        self.jobs = 0

    def submit(self, job: Job) -> None:
        """Has a job done. One may be under way and one may wait; for the rest there is no memory.

        Raises:
          BaseException: what an earlier job failed with; without a thread also what this one does.
        """
        self.check()
        if self._jobs is None:
            self._run(job)
            self.check()
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="modetrain-saver", daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def check(self) -> None:
        """Raises what an earlier job failed with, once."""
        with self._lock:
            failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def settle(self) -> None:
        """Returns when every job is done, well or not."""
        if self._jobs is not None:
            self._jobs.join()

    def wait(self) -> None:
        """Returns when every job is done; raises what one failed with."""
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
