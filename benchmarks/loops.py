"""Steps per second of modetrain against hand-written loops and Keras, measured in turn.

    python benchmarks/loops.py --model mlp --rounds 9 --steps 300
    python benchmarks/loops.py --model cnn --contenders hand_graph,modetrain_graph --json cnn.json

Every contender lives in a worker process of its own and runs only while its turn lasts: one window of `steps` steps a
round, in an order that rotates. Ratios are taken within a round, so that a slow moment of the machine hits both sides.
See docs/reference/benchmarks.md.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.metadata
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BATCH_SIZES = {"mlp": 32, "cnn": 64}
CONTENDERS = (
    *("hand_graph", "hand_graph_fused", "hand_call", "hand_xla", "hand_xla_call", "hand_eager"),
    *("keras_default", "keras_k100", "keras_xla_k100"),
    *("modetrain_graph", "modetrain_xla", "modetrain_eager"),
)
# Eager steps are some twenty times slower; their windows are so much shorter.
EAGER_SHARE = 20
# (model or None for both, contender, against, at most this ratio or None): what modetrain promises, and more to know.
PROMISES = (
    (None, "modetrain_graph", "hand_graph", 1.05),
    (None, "modetrain_graph", "hand_graph_fused", None),
    ("mlp", "modetrain_graph", "keras_default", 1 / 3),
    ("cnn", "modetrain_graph", "keras_default", None),
    (None, "modetrain_xla", "hand_xla", 1.10),
    (None, "modetrain_xla", "hand_xla_call", None),
    (None, "modetrain_eager", "hand_eager", None),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints; returns the exit code."""
    options = _options(argv)
    sys.path.insert(0, str(ROOT))
    windows: dict[str, list[Window]] = {name: [] for name in options.contenders}
    failed: dict[str, str] = {}
    for _ in range(options.restarts):
        with tempfile.TemporaryDirectory() as folder:
            _measure(options, [n for n in options.contenders if n not in failed], windows, failed, Path(folder))
    measured = {name: found for name, found in windows.items() if name not in failed}
    _print(options, measured)
    for name, log in failed.items():
        print(f"\n{name} failed:\n{log[-3000:]}", file=sys.stderr)
    if options.json:
        options.json.write_text(json.dumps(_report(options, measured), indent=2) + "\n", encoding="utf-8")
    return 1 if failed else 0


# --- measuring --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Window:
    """One window of one contender.

    Attributes:
      ms: wall-clock milliseconds a step.
      cpu_ms: milliseconds of CPU time a step, over all threads.
    """

    ms: float
    cpu_ms: float


class Worker:
    """The parent's side of one contender's process.

    Args:
      name: of the contender.
      options: of the command line.
      folder: where its output goes.
    """

    def __init__(self, name: str, options: argparse.Namespace, folder: Path):
        self.name = name
        self._log = folder / f"{name}.log"
        self._connection, theirs = multiprocessing.Pipe()
        steps = max(1, options.steps // EAGER_SHARE) if name.endswith("_eager") else options.steps
        arguments = (name, options.model, steps, options.steps_per_call, theirs, self._log)
        self._process = multiprocessing.get_context("spawn").Process(target=_work, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def begin(self) -> None:
        """Lets one window run."""
        with contextlib.suppress(OSError):  # a dead worker shows in `end`
            self._connection.send(True)

    def end(self) -> Window:
        """Waits for the window's end.

        Raises:
          EOFError: the worker is no more.
        """
        ms, cpu_ms = self._connection.recv()
        return Window(ms=ms, cpu_ms=cpu_ms)

    def stop(self) -> None:
        """Ends the worker."""
        with contextlib.suppress(OSError):  # it may have ended by itself
            self._connection.send(False)
        self._process.join()

    @property
    def log(self) -> str:
        """What the worker has printed."""
        return self._log.read_text(encoding="utf-8", errors="replace")


def _measure(
    options: argparse.Namespace,
    names: Sequence[str],
    windows: dict[str, list[Window]],
    failed: dict[str, str],
    folder: Path,
) -> None:
    """One generation of workers: starts and warms them, lets them run in turn and adds to `windows`."""
    workers = [Worker(name, options, folder) for name in names]
    _tell(f"starting and warming up {len(workers)} workers")
    for _ in range(options.warmup):  # all at once: nothing is recorded
        for worker in workers:
            worker.begin()
        for worker in list(workers):
            _end(worker, workers, failed)
    for number in range(options.rounds):
        _tell(f"round {number + 1} of {options.rounds}")
        turn = number % max(1, len(workers))
        for worker in workers[turn:] + workers[:turn]:
            worker.begin()
            window = _end(worker, workers, failed)
            if window is not None:
                windows[worker.name].append(window)
    for worker in workers:
        worker.stop()
    _tell("")


def _environment(name: str) -> dict[str, str]:
    """What `python -m modetrain` sets before it imports TensorFlow; the other contenders keep this process's values."""
    if not name.startswith("modetrain_"):
        return {}
    from modetrain.mode import Mode

    mode = name.removeprefix("modetrain_")
    return Mode(name=mode, compile=mode).environment()


def _tell(text: str) -> None:
    """Says on a terminal how far things are."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _end(worker: Worker, workers: list[Worker], failed: dict[str, str]) -> Window | None:
    """Waits for a worker's window; one that has died moves from `workers` to `failed`, with what it printed."""
    try:
        return worker.end()
    except (EOFError, OSError):
        worker.stop()
        workers.remove(worker)
        failed[worker.name] = worker.log
        return None


def _work(name: str, model: str, steps: int, steps_per_call: int, connection: Connection, log: Path) -> None:
    """A worker's whole life."""
    with log.open("w", encoding="utf-8") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.update(_environment(name))
    from contenders import CONTENDERS as functions
    from contenders import Task
    from windows import Windows

    task = Task(model=model, batch_size=BATCH_SIZES[model], steps_per_call=steps_per_call, fd=connection.fileno())
    functions[name](task, Windows(connection, steps))


# --- reporting --------------------------------------------------------------------------------------------------------


def _ratios(windows: dict[str, list[Window]], name: str, reference: str) -> list[float]:
    """Per round the time of one contender over that of another."""
    return [a.ms / b.ms for a, b in zip(windows[name], windows[reference], strict=True)]


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median, third quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def _print(options: argparse.Namespace, windows: dict[str, list[Window]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 120)
    rounds = options.rounds * options.restarts
    title = f"{options.model}, batch {BATCH_SIZES[options.model]}: {rounds} rounds of {options.steps} steps"
    table = Table(title=title)
    for heading in ("contender", "ms a step", "min .. max", "steps/s", "CPU ms", f"x {options.reference}", "q1 .. q3"):
        table.add_column(heading, justify="left" if heading == "contender" else "right")
    for name, found in windows.items():
        ms = [window.ms for window in found]
        row = [name, f"{statistics.median(ms):.3f}", f"{min(ms):.3f} .. {max(ms):.3f}"]
        row += [f"{1e3 / statistics.median(ms):,.0f}", f"{statistics.median(w.cpu_ms for w in found):.3f}"]
        if options.reference in windows:
            low, middle, high = _quartiles(_ratios(windows, name, options.reference))
            row += [f"{middle:.2f}", f"{low:.2f} .. {high:.2f}"]
        table.add_row(*row)
    console.print(table)
    for name in windows:
        if settings := [f"{key}={value}" for key, value in _environment(name).items() if os.environ.get(key) != value]:
            console.print(f"{name} sets {', '.join(settings)}; the others keep TensorFlow's default", highlight=False)
    for model, name, against, bound in PROMISES:
        if model in (None, options.model) and name in windows and against in windows:
            low, middle, high = _quartiles(_ratios(windows, name, against))
            wanted = "" if bound is None else f"  (wanted: at most {bound:.2f}{'' if middle <= bound else '; MISSED'})"
            console.print(
                f"{name} takes {middle:.3f} ({low:.3f} .. {high:.3f}) times as long as {against}{wanted}",
                highlight=False,
            )


def _report(options: argparse.Namespace, windows: dict[str, list[Window]]) -> dict:
    return {
        "model": options.model,
        "batch_size": BATCH_SIZES[options.model],
        "steps": options.steps,
        "steps_per_call": options.steps_per_call,
        "rounds": options.rounds,
        "restarts": options.restarts,
        "reference": options.reference,
        "cores": os.cpu_count(),
        "versions": {name: importlib.metadata.version(name) for name in ("tensorflow", "keras")},
        "contenders": {
            name: {
                "ms": [window.ms for window in found],
                "cpu_ms": [window.cpu_ms for window in found],
                "environment": _environment(name),
                "median_ms": statistics.median(window.ms for window in found),
                "ratio": _quartiles(_ratios(windows, name, options.reference))[1]
                if options.reference in windows
                else None,
            }
            for name, found in windows.items()
        },
    }


# --- the command line -------------------------------------------------------------------------------------------------


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=BATCH_SIZES, default="mlp")
    parser.add_argument("--rounds", type=int, default=9, help="windows of each contender")
    parser.add_argument("--steps", type=int, default=300, help="steps a window")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="comma-separated; all by default")
    parser.add_argument("--reference", choices=CONTENDERS, default="hand_graph")
    parser.add_argument("--steps-per-call", type=int, default=100, help="K of the contenders that run K steps a call")
    parser.add_argument("--warmup", type=int, default=3, help="windows before the first recorded one; at least 1")
    parser.add_argument(
        "--restarts", type=int, default=1, help="start all workers again this many times, `rounds` each"
    )
    parser.add_argument("--json", type=Path, help="write every window's time there")
    options = parser.parse_args(argv)
    options.contenders = options.contenders.split(",")
    unknown = sorted(set(options.contenders) - set(CONTENDERS))
    if unknown:
        parser.error(f"--contenders: there is no {', '.join(unknown)}; there is {', '.join(CONTENDERS)}")
    for name in ("rounds", "steps", "steps_per_call", "warmup", "restarts"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')}={getattr(options, name)}: at least 1 is needed")
    calls = -(-options.steps // options.steps_per_call)
    if options.steps != calls * options.steps_per_call:
        parser.error(
            f"--steps={options.steps} is no multiple of --steps-per-call={options.steps_per_call}, which hand_xla and "
            f"fit's steps_per_execution need. Type --steps={calls * options.steps_per_call}."
        )
    return options


if __name__ == "__main__":
    sys.exit(main())
