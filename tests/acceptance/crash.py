"""The crash harness: runs that are killed at random moments and resumed must end where an undisturbed run does.

    python tests/acceptance/crash.py --kills 200        # the long form, over eager, graph and xla, one step a call and fifty

Every run is a process of its own, forked from this one after TensorFlow was imported (which saves seconds each) and killed
with SIGKILL. Compared are the digest of all variables, the results, and every point in the event files, bit for bit.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

# Dropout, averaged weights, a schedule, augmented images, evaluations and windows that no call and no checkpoint fits.
TRAINING = (
    *("recipe=mnist", "recipe.shift=1", "model=mlp", "model.hidden=[16]", "model.dropout=0.25"),
    *("data.source=bundled", "data.batch_size=16", "data.eval_batches=2", "data.eval_batch_size=50"),
    *("optimizer.schedule=cosine", "optimizer.warmup=4", "optimizer.ema=0.9"),
    *("callbacks.log.every=6", "callbacks.evaluate.every=25", "callbacks.checkpoint.every=10"),
)
ARMS = {
    **{f"{mode} K=1": (f"mode={mode}", "mode.steps_per_call=1") for mode in ("eager", "graph", "xla")},
    **{f"{mode} K=50": (f"mode={mode}", "mode.steps_per_call=50") for mode in ("eager", "graph", "xla")},
}
_OURS = ("train/", "eval/", "optimizer/")  # times are never the same twice


@dataclasses.dataclass(frozen=True, kw_only=True)
class End:
    """What a run came to.

    Attributes:
      digest: SHA-256 of all variables.
      results: means of the last steps and of the evaluation.
      points: every (tag, step, value) in the event files, as a plain reader finds them, sorted.
    """

    digest: str
    results: dict
    points: list[tuple[str, int, float]]

    @classmethod
    def of(cls, folder: Path) -> End:
        """Reads a run folder."""
        kept = json.loads((folder / "run.json").read_text())
        assert kept["status"] == "completed", kept
        results = kept["results"]
        return cls(digest=results.pop("state_digest"), results=results, points=points_of(folder))


def points_of(folder: Path) -> list[tuple[str, int, float]]:
    """Every point of the metrics in a folder's event files: a plain reader, to which a duplicate is a duplicate."""
    from modetrain.files.tensorboard import iter_records

    found = []
    for file in sorted(folder.glob("events.out.tfevents.*")):
        content = file.read_bytes()
        records = list(iter_records(content))
        assert sum(len(raw) for raw, _ in records) == len(content), f"{file} is not whole"
        for _, event in records:
            for value in event.summary.value:
                if value.tag.startswith(_OURS):
                    found.append((value.tag, event.step, value.tensor.float_val[0]))
    return sorted(found)


def start(words: Sequence[str], log: Path) -> int:
    """Starts `python -m modetrain` with these words in a process of its own; returns its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(file, 1)
        os.dup2(file, 2)
        from modetrain.__main__ import main

        code = main(list(words))
    finally:
        sys.stdout.flush()
        os._exit(code)


def run(words: Sequence[str], folder: Path, log: Path, *, dies_after: float | None = None, counts: str = "") -> int:
    """Runs to the end, or kills it.

    Args:
      words, folder: what is run, and where.
      log: what it prints is added there.
      dies_after: seconds after which it is killed; None lets it run.
      counts: a line that begins so starts the time; empty counts from the start of the process.

    Returns:
      The exit code, or minus the signal.
    """
    before = log.stat().st_size if log.exists() else 0
    pid = start([*words, f"run_dir={folder}"], log)
    began = time.monotonic() if not counts else None
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if began is None and log.exists() and f"\n{counts}" in log.read_text()[before:]:
            began = time.monotonic()
        if dies_after is not None and began is not None and time.monotonic() - began > dies_after:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            dies_after = None
        time.sleep(0.002 if began else 0.02)


def crash(words: Sequence[str], folder: Path, kills: int, draw: random.Random, longest: float) -> tuple[int, int]:
    """Kills and resumes a run until it completes; after this many kills it is left alone.

    Most die up to `longest` seconds after their first line about a step, one in eight anywhere from its start.

    Returns:
      How often it was killed, and how often after its first checkpoint.
    """
    log, done, late = folder.with_suffix(".log"), 0, 0
    while True:
        resume = ["resume=latest"] if (folder / "run.json").exists() else []
        early = draw.random() < 1 / 8
        dies = draw.uniform(0, 6.0 if early else longest) if done < kills else None
        code = run([*words, *resume], folder, log, dies_after=dies, counts="" if early else "step ")
        if code == 0:
            return done, late
        assert code == -signal.SIGKILL, f"exit code {code}:\n{log.read_text()[-3000:]}"
        done += 1
        late += any((folder / "checkpoints").glob("step-*.npz"))


def main() -> int:
    """The long form."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--longest", type=float, default=1.5, help="seconds of training after which a run is dead")
    parser.add_argument("--most", type=int, default=40, help="kills of one run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    import tensorflow  # noqa: F401

    from modetrain.app import session as _  # noqa: F401

    root = options.folder or Path(tempfile.mkdtemp(prefix="crash-"))
    root.mkdir(parents=True, exist_ok=True)
    draw = random.Random(options.seed)
    arms = options.arms.split(",")
    total = after = lost = rounds = 0
    wholes: dict[str, End] = {}
    while total < options.kills:
        arm = arms[rounds % len(arms)]
        name = arm.replace(" ", "-").replace("=", "")
        words = [*TRAINING, *ARMS[arm], f"steps={options.steps}"]
        if arm not in wholes:
            assert run(words, root / name, root / f"{name}.log") == 0, (root / f"{name}.log").read_text()
            wholes[arm] = End.of(root / name)
        folder = root / f"{name}-{rounds}"
        killed, late = crash(words, folder, min(options.kills - total, options.most), draw, options.longest)
        end, whole = End.of(folder), wholes[arm]
        same = [
            field.name for field in dataclasses.fields(End) if getattr(end, field.name) == getattr(whole, field.name)
        ]
        bad = len(same) < len(dataclasses.fields(End))
        total, after, lost, rounds = total + killed, after + late, lost + bad, rounds + 1
        print(
            f"{arm}: killed {killed} times, {late} of them with a checkpoint: {'DIFFERS' if bad else 'bit-equal'}"
            f" ({total} of {options.kills} kills)",
            flush=True,
        )
        if bad:
            print(f"  equal only in {same}: {folder}", flush=True)
    print(f"{total} kills ({after} with a checkpoint), {rounds} runs, {lost} lost")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
