"""Signals to a run: SIGTERM, SIGINT and SIGHUP save and stop, a second one ends at once, SIGUSR1 saves and continues.

SIGQUIT writes a capsule of the running step and continues. A thread receives the signals, because Python's own handlers wait
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
def signals_to(trainer: Trainer, leave: Callable[[], None] = lambda: None) -> Iterator[bool]:
    """Within this the run handles signals to the process. Outside the main thread there are no signals, and a line says so.

    Yields whether signals are handled: a KeyboardInterrupt is then no Ctrl-C.

    Args:
      trainer: the trainer to stop.
      leave: called before the process ends if a signal stops a run without a step: its first trace may take minutes.
    """
    if threading.current_thread() is not threading.main_thread():
        log.info("signals do not reach this run: it is not in the main thread. Stop it with trainer.stop()")
        yield False
        return
    asked: set[int] = set()

    def handle(signum: int) -> None:
        name = signal.Signals(signum).name
        if signum in _SAVE:
            trainer.save()
            show(f"{name}: saving after this call")
        elif signum in _RECORD:
            written = flight_recorder.write_capsule_beside(trainer, why="asked", said="")
            show(f"{name}: {written or 'no capsule, this run has no recorder'}")
        elif asked:
            show(f"{name}: stopping at once")
            os._exit(128 + signum)
        elif trainer.not_started and trainer.replicas.workers == 1:  # other workers would wait for this one
            show(f"{name}: stopping; no step was made, so there is nothing to save")
            with contextlib.suppress(Exception):
                leave()
            os._exit(128 + signum)
        else:
            asked.add(signum)
            trainer.stop(signum)
            show(f"{name}: stopping after this call; once more to stop at once")

    def show(line: str) -> None:
        with contextlib.suppress(Exception, SystemExit):  # an error of the output must not stop the handling
            log.info(line)
            sys.stdout.flush()

    def listen() -> None:
        while True:
            for signum in receiver.recv(16):
                if bytes([signum]) == _END:
                    return
                if signum in (*_STOP, *_SAVE, *_RECORD):
                    handle(signum)

    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    thread = threading.Thread(target=listen, daemon=True, name="modetrain-signals")
    thread.start()
    before = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    # These handlers do nothing. Because of them Python writes to the socket, from C and at once. nohup ignores SIGHUP.
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    handled = [one for one in (*_STOP, *_SAVE, *_RECORD) if not (one == signal.SIGHUP and ignored)]
    old = {signum: signal.signal(signum, lambda *_: None) for signum in handled}
    try:
        yield True
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(before)
        sender.send(_END)
        thread.join()
        receiver.close()
        sender.close()
