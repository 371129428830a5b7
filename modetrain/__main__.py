"""The front door: `python -m modetrain ...` and the console script `modetrain`.

Checks everything, and only then imports TensorFlow. Exit codes: 0 done, 1 the run failed, 2 the configuration is wrong,
3 a loss or gradient was not finite, 129, 130 and 143 stopped and resumable.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from modetrain import console
from modetrain.cluster import protocol
from modetrain.cluster.rendezvous import NotJoinedError
from modetrain.config import arguments
from modetrain.errors import ConfigError
from modetrain.files import paths
from modetrain.settings import Settings

_STARTED = time.perf_counter()


def main(argv: Sequence[str] | None = None) -> int:
    """Does what the command line says; returns the exit code.

    Args:
      argv: the words after the program's name; those of this process by default.
    """
    protocol.die_with_parent(os.environ)
    console.outlive_readers()
    try:
        return _announced(sys.argv[1:] if argv is None else list(argv))
    except ConfigError as error:
        for line in str(error).splitlines():
            print(f"modetrain: {line}", file=sys.stderr)
        return 2
    except NotJoinedError as error:
        print(f"modetrain: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except SystemExit as error:  # no code of ours
        code = error.code if isinstance(error.code, int) and error.code else 1
        print(f"modetrain: the code of this run called sys.exit({error.code!r}); exit code {code}", file=sys.stderr)
        return code


def _announced(words: list[str]) -> int:
    """Does what the words say; a worker announces an error to its launcher, also one before a run exists."""
    try:
        return _main(words, Path.cwd())
    except Exception as error:
        protocol.announce_failure(error, os.environ, text=str(error) if isinstance(error, ConfigError) else "")
        raise


def _main(words: Sequence[str], cwd: Path) -> int:
    if any(word in ("--help", "-h") for word in words):
        from modetrain.config import help as help_page

        print(help_page.text(paths.conf_dirs(cwd)))
        return 0
    line = arguments.parse(words)
    if line.version:
        print(_versions())
        return 0
    if line.for_hydra:
        from modetrain.config import hydra_main

        return hydra_main.run(line.for_hydra, cwd, line.config_dirs)
    from modetrain.config import load as config
    from modetrain.config import resumed

    line = resumed.expand(line, cwd)
    if line.multirun:
        from modetrain.app import sweep, sweep_run

        jobs = sweep.plan(line.overrides, cwd, line.config_dirs, load=_load)
        if line.show_config:
            print("---\n".join(config.to_yaml(job.settings) for job in jobs), end="")
            return 0
        return sweep_run.run(jobs, line.overrides, cwd, line.config_dirs)
    settings = _load(line.overrides, cwd, line.config_dirs)
    if line.show_config:
        print(config.to_yaml(settings), end="")
        return 0
    if settings.do == "compare":
        from modetrain.tools.compare import compare_command

        return compare_command.run(settings, line, cwd)
    if settings.mode.strategy == "multiworker" and settings.do != "inspect":  # inspect needs no workers
        from modetrain.cluster import multiworker

        code = multiworker.start(settings, line, cwd)
        if code is not None:
            return code
    settings.mode.set_environment()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _quiet_stderr():
        import tensorflow  # noqa: F401
    if settings.do == "replay":
        from modetrain.tools.replay import replay_command

        return replay_command.replay(settings, line, cwd)
    from modetrain.app.session import run
    from modetrain.tools.inspect_command import TOOLS

    settings = dataclasses.replace(settings, command=os.environ.get(protocol.COMMAND, settings.command))
    outcome = run(settings, started=_STARTED, tools=TOOLS, check=lambda: _check_code(line, cwd))
    if outcome.error is not None:
        sys.stderr.write(outcome.text)
        if line.pdb:
            from modetrain.diagnostics.debugger import post_mortem

            post_mortem(outcome.error)
    return outcome.code


def _load(words: Sequence[str], cwd: Path, config_dirs: Sequence[str] = ()) -> Settings:
    """The settings of a run, checked as far as that goes without TensorFlow."""
    if "do=replay" in words:  # has the settings of the run it repeats; may need no data: a capsule has its batch
        from modetrain.tools.replay import source

        return source.load(words, cwd, config_dirs)
    from modetrain.app import check

    return check.load(words, cwd, config_dirs)


def _check_code(line: arguments.CommandLine, cwd: Path) -> None:
    """Imports the user's own code and checks its arguments."""
    from modetrain.app import check

    check.code(line.overrides, cwd, line.config_dirs)


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Holds back what is written to stderr, C++ included, and shows it only if the block fails.

    TensorFlow logs that it found no GPU before any of its log levels apply; the run logs later which devices it uses.

    Raises:
      ConfigError: no folder for temporary files is usable.
    """
    sys.stderr.flush()
    with paths.temporary_file() as held:
        stderr = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(stderr, held.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _versions() -> str:
    import importlib.metadata
    import platform

    import modetrain

    found = [f"modetrain {modetrain.__version__}", f"Python {platform.python_version()}"]
    for package in ("tensorflow", "keras", "hydra-core"):
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{package} not installed")
    return ", ".join(found)


if __name__ == "__main__":
    sys.exit(main())
