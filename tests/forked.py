"""`python -m modetrain` forked from a process that has imported TensorFlow: its own process, without the import's seconds."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

ROOT = Path(__file__).parent.parent
_SERVER = multiprocessing.get_context("forkserver")
# None of ours: every run imports modetrain itself. Hydra and TensorBoard are imported by every run that trains.
_SERVER.set_forkserver_preload(["tensorflow", "keras", "hydra", "tensorboard.compat.proto.event_pb2", "rich.console"])


@contextlib.contextmanager
def forked(
    words: Sequence[str], *, cwd: Path, env: Mapping[str, str] = MappingProxyType({}), typed: str = ""
) -> Iterator[ForkedRun]:
    """Starts `python -m modetrain WORDS` in a folder, with `env` added to the environment and `typed` on its standard input."""
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(tempfile.NamedTemporaryFile("w+")) for _ in range(3)]
        streams[0].write(typed)
        streams[0].flush()
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        run = ForkedRun(
            words, cwd, {**os.environ, "PYTHONPATH": path, **env}, [Path(stream.name) for stream in streams]
        )
        stack.callback(run.kill)
        yield run


class ForkedRun:
    """A run of the command line, with the methods of `subprocess.Popen` that tests need; its streams are files."""

    def __init__(self, words: Sequence[str], cwd: Path, env: Mapping[str, str], streams: Sequence[Path]):
        self._printed = streams[1:]
        self._process = _SERVER.Process(target=_run, args=(list(words), str(cwd), dict(env), list(streams)))
        self._process.start()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, signum: int) -> None:
        if self._process.exitcode is None:
            os.kill(self._process.pid, signum)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
        self._process.join()

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Waits for the end; what it printed, on standard output and on standard error."""
        self._process.join(timeout)
        out, err = (path.read_text() for path in self._printed)
        if self._process.exitcode is None:
            raise TimeoutError(f"no end within {timeout} s\n{out}{err}")
        return out, err


def _run(words: list[str], cwd: str, env: dict[str, str], streams: list[Path]) -> None:
    """Becomes `python -m modetrain WORDS`, as far as a process can that is already running; does not return."""
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    for number, path in enumerate(streams):
        opened = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    theirs = ("", str(ROOT), str(ROOT / "tests"))
    sys.path[:] = [cwd, *env["PYTHONPATH"].split(os.pathsep), *(path for path in sys.path if path not in theirs)]
    sys.argv[1:] = words
    code: object = 0
    try:
        runpy.run_module("modetrain", run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(int(code or 0))  # type: ignore[call-overload]
