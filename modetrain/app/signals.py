"""Signals to a run: SIGTERM, SIGINT and SIGHUP save and stop, a second one ends at once, SIGUSR1 saves and goes on.

SIGQUIT writes a capsule of the running step and goes on. A thread receives the signals, because Python's own handlers wait
for TensorFlow to return, and a call may take minutes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator

from modetrain.callbacks import flight_recorder
from modetrain.trainer import Trainer

log = logging.getLogger(__name__)

_STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_SAVE = (signal.SIGUSR1,)
_RECORD = (signal.SIGQUIT,)
_END = b"\0"  # no signal has this number


@contextlib.contextmanager
def signals_to(trainer: Trainer, leave: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Within this, signals to the process are the run's. In a thread that is not the main one there are none, and a line says so.

    Args:
      trainer: what is asked to stop.
      leave: called before the process ends where a run that has made no step is told to stop: its first trace may take minutes.
    """
    if threading.current_thread() is not threading.main_thread():
        log.info("signals do not reach this run: it is not in the main thread. Stop it with trainer.stop()")
        yield
        return
    asked: set[int] = set()

    def hear(signum: int) -> None:
        name = signal.Signals(signum).name
        if signum in _SAVE:
            trainer.save()
            tell(f"{name}: saving after this call")
        elif signum in _RECORD:
            tell(
                f"{name}: {flight_recorder.write_capsule_beside(trainer, why='asked', said='') or 'no capsule, this run has no recorder'}"
            )
        elif asked:
            tell(f"{name}: stopping at once")
            os._exit(128 + signum)
        elif trainer.not_started and trainer.replicas.workers == 1:  # other workers would wait for this one
            tell(f"{name}: stopping; no step was made, so there is nothing to save")
            with contextlib.suppress(Exception):
                leave()
            os._exit(128 + signum)
        else:
            asked.add(signum)
            trainer.stop(signum)
            tell(f"{name}: stopping after this call; once more to stop at once")

    def tell(line: str) -> None:
        with contextlib.suppress(Exception, SystemExit):  # whatever is wrong with saying it: the signal counts
            log.info(line)
            sys.stdout.flush()

    def listen() -> None:
        while True:
            for signum in ears.recv(16):
                if bytes([signum]) == _END:
                    return
                if signum in (*_STOP, *_SAVE, *_RECORD):
                    hear(signum)

    ears, mouth = socket.socketpair()
    mouth.setblocking(False)
    thread = threading.Thread(target=listen, daemon=True, name="modetrain-signals")
    thread.start()
    before = signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
    # These do nothing: that there are any makes Python write to the socket, from C and at once. nohup has SIGHUP ignored.
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    heard = [one for one in (*_STOP, *_SAVE, *_RECORD) if not (one == signal.SIGHUP and ignored)]
    old = {signum: signal.signal(signum, lambda *_: None) for signum in heard}
    try:
        yield
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(before)
        mouth.send(_END)
        thread.join()
        ears.close()
        mouth.close()
