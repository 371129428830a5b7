"""The launcher's standard output: worker 0's live output and the launcher's own lines.

Bytes are passed on at once, so that a progress bar works; a character that is cut in the middle waits for the rest.
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
from typing import BinaryIO, TextIO


class Screen:
    """Writes worker 0's output and the launcher's lines, one at a time.

    Args:
      stream: where to write, usually standard output.
      prefix: begins each of the launcher's lines.
    """

    def __init__(self, stream: TextIO, prefix: str = ""):
        self._stream = stream
        self._prefix = prefix
        self._lock = threading.Lock()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._line_open = False

    @property
    def terminal(self) -> bool:
        """Whether it is a terminal."""
        return self._stream.isatty()

    def write(self, chunk: bytes) -> None:
        """Writes a piece of worker 0's output."""
        with self._lock:
            self._write(self._decoder.decode(chunk))

    def end(self) -> None:
        """Ends worker 0's output; writes an incomplete character as it is."""
        with self._lock:
            self._write(self._decoder.decode(b"", final=True))
            self._decoder.reset()

    def write_line(self, text: str) -> None:
        """Writes the launcher's own lines, each on a new line."""
        with self._lock:
            if self._line_open:
                self._write("\n")
            for line in text.splitlines():
                self._write(f"{self._prefix}{line}\n")

    def _write(self, text: str) -> None:
        if not text:
            return
        # The reader of our output may be gone (`... | head`); the workers continue, and their logs are complete.
        with contextlib.suppress(OSError, ValueError):
            encoding = self._stream.encoding or "utf-8"
            self._stream.write(text.encode(encoding, "replace").decode(encoding))
            self._stream.flush()
        self._line_open = not text.endswith("\n")


class OutputTee:
    """Copies the output of one process to a log and, at once, to the screen.

    If the screen is a terminal the process gets a terminal too, so that it draws its progress bar.

    Args:
      screen: shows the output.
      log: keeps the output unchanged.

    Attributes:
      writer: the descriptor for the process's standard output and error; close it once the process has started.
    """

    def __init__(self, screen: Screen, log: BinaryIO):
        self._screen = screen
        self._log = log
        self._ended = threading.Event()
        self._terminal = screen.terminal
        if self._terminal:
            self._reader, self.writer = os.openpty()
            settings = termios.tcgetattr(self.writer)
            settings[1] &= ~termios.OPOST  # the real terminal makes newlines into \r\n; the log keeps them
            termios.tcsetattr(self.writer, termios.TCSANOW, settings)
            self._resize()
        else:
            self._reader, self.writer = os.pipe()
        self._thread = threading.Thread(target=self._carry, daemon=True, name="worker-0-output")
        self._thread.start()

    def end(self) -> None:
        """Copies the rest, once the process has ended; returns within seconds even if another process holds the other end."""
        self._ended.set()
        self._thread.join(timeout=5)

    def _carry(self) -> None:
        while True:
            # A process that worker 0 has left may hold the other end open for ever.
            ended = self._ended.is_set()
            readable, _, _ = select.select([self._reader], [], [], 0.1)
            if not readable:
                if ended:
                    break
                continue
            try:
                chunk = os.read(self._reader, 65536)
            except OSError:  # a terminal whose other end is closed
                break
            if not chunk:
                break
            if self._terminal:
                self._resize()
            with contextlib.suppress(OSError):  # a full disk does not stop the run
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
