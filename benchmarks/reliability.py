"""What surviving everything costs: the `mnist` CNN with checkpoints every 100 steps and all watching on, against none of it.

    python benchmarks/reliability.py --rounds 11 --steps 300

Two workers train the same thing in turn, each in a process of its own. `on`: checkpoints every 100 steps in the background,
the finite flag of every loss and gradient (`nonfinite.policy=stop`), heartbeat, watchdog and lock. `off`: no checkpoint, no flag
(`nonfinite.policy=ignore`), no watching, no flight recorder. `unrecorded`: `on` without the recorder; for its cost, of a small
model whose steps are short, which hides least,

    python benchmarks/reliability.py --arms on,unrecorded --over unrecorded --words model=mlp,data.batch_size=32 --steps 3000

A round gives each a window of `--steps` steps; the ratio is taken within rounds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

TRAINING = (
    *("recipe=mnist", "data.source=bundled", "steps=1000000", "optimizer.schedule=constant"),
    *("callbacks.log.every=100", "callbacks.evaluate.every=0"),
)
ARMS = {
    "on": ("callbacks.checkpoint.every=100", "callbacks.checkpoint.best=null"),
    "synchronous": (
        *("callbacks.checkpoint.every=100", "callbacks.checkpoint.best=null"),
        "callbacks.checkpoint.background=false",
    ),
    "off": (
        *("callbacks.checkpoint.every=0", "callbacks.checkpoint.best=null", "nonfinite.policy=ignore"),
        *("watchdog.after=0", "watchdog.heartbeat=0", "callbacks.recorder=null"),
    ),
    "unrecorded": (
        *("callbacks.checkpoint.every=100", "callbacks.checkpoint.best=null"),
        "callbacks.recorder=null",
    ),
}


def worker(arm: str, words: list[str], pipe: Connection, folder: str) -> None:
    """Trains windows of steps, one at each request, and answers with wall-clock and processor seconds."""
    os.chdir(folder)
    from modetrain import Callback
    from modetrain.config import load as config

    class Windows(Callback):
        """Holds the run at the end of each window until the next one is asked for."""

        def __init__(self) -> None:
            super().__init__()
            self.until = 0
            self.began = (0.0, 0.0)

        def next_step(self, step):
            return self.until if self.until > step else None

        def on_train_begin(self, trainer):
            self.ask(trainer)

        def on_step(self, trainer):
            *_, keeper = trainer.callbacks
            keeper.writer.wait()  # what a window began is paid in it
            now = (time.perf_counter(), time.process_time())
            seconds = [late - early for late, early in zip(now, self.began, strict=True)]
            pipe.send((seconds, trainer.timer.seconds["checkpoint"], keeper.writer.seconds))
            self.ask(trainer)

        def ask(self, trainer):
            steps = pipe.recv()
            if steps is None:
                trainer.stop()
            self.until = trainer.step + (steps or 0)
            self.began = (time.perf_counter(), time.process_time())

    settings = config.load([*TRAINING, *ARMS[arm], *words, f"run_dir={folder}/{arm}"], Path.cwd())
    for name, value in settings.mode.environment().items():
        os.environ.setdefault(name, value)
    from modetrain.app import session

    # After the others and before the one that saves, which is waited for.
    session.run(settings, tools=session.Tools(callbacks=lambda settings: [Windows()]))


def main() -> None:
    """Prints the table and, with `--json`, keeps every window."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--steps", type=int, default=300, help="of a window")
    parser.add_argument("--warmup", type=int, default=2, help="windows of each that are not recorded")
    parser.add_argument("--mode", default="graph")
    parser.add_argument("--arms", default="on,synchronous,off")
    parser.add_argument("--over", default="off", help="the arm that the others are compared with")
    parser.add_argument("--words", default="", help="more overrides, with commas between")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    arms = options.arms.split(",")
    words = [f"mode={options.mode}", *filter(None, options.words.split(","))]
    spawn = multiprocessing.get_context("spawn")
    windows: dict[str, list[tuple[float, float]]] = {arm: [] for arm in arms}
    booked: dict[str, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        pipes = {}
        for arm in arms:
            pipes[arm], other = spawn.Pipe()
            spawn.Process(target=worker, args=(arm, words, other, folder), daemon=True).start()
        for number in range(options.warmup + options.rounds):
            order = arms[number % len(arms) :] + arms[: number % len(arms)]
            for arm in order:
                pipes[arm].send(options.steps)
                seconds, *kept = pipes[arm].recv()
                booked[arm] = tuple(kept)
                if number >= options.warmup:
                    windows[arm].append(tuple(seconds))
        for pipe in pipes.values():
            pipe.send(None)
        time.sleep(2)
    print(f"mode={options.mode}, {options.rounds} rounds of {options.steps} steps, ms a step (median)")
    for arm in arms:
        wall, cpu = (1e3 * statistics.median(column) / options.steps for column in zip(*windows[arm], strict=True))
        line = f"  {arm:12s} wall {wall:7.3f}  cpu {cpu:7.3f}"
        if arm != options.over and options.over in arms:
            pairs = zip(windows[arm], windows[options.over], strict=True)
            walls, cpus = zip(*((a[0] / b[0], a[1] / b[1]) for a, b in pairs), strict=True)
            low, _, high = statistics.quantiles(walls, n=4)
            line += f"  over {options.over}: wall x{statistics.median(walls):.4f} ({low:.4f} to {high:.4f})"
            line += f"  cpu x{statistics.median(cpus):.4f}"
        print(line + f"  (booked to checkpoints {booked[arm][0]:.3f} s, in the background {booked[arm][1]:.3f} s)")
    if options.json:
        options.json.write_text(json.dumps(windows), encoding="utf-8")


if __name__ == "__main__":
    main()
