"""The launcher's standard output, which worker 0's live output and the launcher's own lines share.

Bytes are passed on as they come, for a progress bar to work; what is cut in the middle of a character waits for the rest.
"""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import select
import struct
import termios
import threading
from collections.abc import Callable
from typing import BinaryIO, TextIO


class Screen:
    """Writes worker 0's output and the launcher's lines, one at a time.

    Args:
      stream: where to; standard output.
      say: prints one line of the launcher's own.
    """

    def __init__(self, stream: TextIO, say: Callable[[str], None]):
        self._stream = stream
        self._say = say
        self._lock = threading.Lock()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._line_open = False

    @property
    def terminal(self) -> bool:
        """Whether somebody watches it in a terminal."""
        return self._stream.isatty()

    def write(self, chunk: bytes) -> None:
        """Shows a piece of output."""
        with self._lock:
            self._show(self._decoder.decode(chunk))

    def end(self) -> None:
        """The output has ended; what it left incomplete is shown as it is."""
        with self._lock:
            self._show(self._decoder.decode(b"", final=True))
            self._decoder.reset()

    def say(self, text: str) -> None:
        """Prints the launcher's own lines, each on a line of its own."""
        with self._lock:
            if self._line_open:
                self._show("\n")
            for line in text.splitlines():
                self._say(line)

    def _show(self, text: str) -> None:
        if not text:
            return
        # Whoever read our output may be gone (`... | head`); the workers go on, and their logs are whole.
        with contextlib.suppress(OSError, ValueError):
            encoding = self._stream.encoding or "utf-8"
            self._stream.write(text.encode(encoding, "replace").decode(encoding))
            self._stream.flush()
        self._line_open = not text.endswith("\n")


class OutputTee:
    """Carries the output of one process to a log, and to the screen while it comes.

    The process is given a terminal where the screen is one, so that its progress bar is drawn.

    Args:
      screen: where it is shown.
      log: where it is kept, as it came.

    Attributes:
      writer: the descriptor to give to the process as its standard output and error; close it once it is started.
    """

    def __init__(self, screen: Screen, log: BinaryIO):
        self._screen = screen
        self._log = log
        self._ended = threading.Event()
        self._terminal = screen.terminal
        if self._terminal:
            self._reader, self.writer = os.openpty()
            settings = termios.tcgetattr(self.writer)
            settings[1] &= ~termios.OPOST  # newlines are made into \r\n by the real terminal, and not in the log
            termios.tcsetattr(self.writer, termios.TCSANOW, settings)
            self._resize()
        else:
            self._reader, self.writer = os.pipe()
        self._thread = threading.Thread(target=self._carry, daemon=True, name="worker-0-output")
        self._thread.start()

    def end(self) -> None:
        """Carries what is left, once the process has ended; returns within seconds whatever holds the other end."""
        self._ended.set()
        self._thread.join(timeout=5)

    def _carry(self) -> None:
        while True:
            # A process that worker 0 left behind may hold the other end open for ever.
            ended = self._ended.is_set()
            readable, _, _ = select.select([self._reader], [], [], 0.1)
            if not readable:
                if ended:
                    break
                continue
            try:
                chunk = os.read(self._reader, 65536)
            except OSError:  # how a terminal says that its other end is closed
                break
            if not chunk:
                break
            if self._terminal:
                self._resize()
            with contextlib.suppress(OSError):  # a full disk is no reason to stop the run
                self._log.write(chunk)
                self._log.flush()
            self._screen.write(chunk)
        os.close(self._reader)
        self._log.close()
        self._screen.end()

    def _resize(self) -> None:
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(1)
            fcntl.ioctl(self._reader, termios.TIOCSWINSZ, struct.pack("HHHH", size.lines, size.columns, 0, 0))
