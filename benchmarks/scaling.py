"""Predicts step time and efficiency on N replicas from constants that `do=compare` measures, and draws them.

In the root of the clone:

    M="python -m modetrain recipe=mnist"
    $M do=compare compare.modes=[graph,mirrored,multiworker] data.batch_size=64 run_dir=runs/small
    $M do=compare compare.modes=[graph,mirrored,multiworker] data.batch_size=256 run_dir=runs/large
    $M mode=multiworker mode.workers=2 steps=60 data.batch_size=64 run_dir=runs/two
    python benchmarks/scaling.py --small runs/small/compare.json --large runs/large/compare.json \\
        --check runs/two/run.json --plot runs/scaling.svg

The model and what it leaves out are in docs/reference/scaling.md. Needs matplotlib for the plot: pip install -e '.[plot]'.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

REPLICAS = tuple(2**power for power in range(13))
UNITS = {
    "host_s": "s a step",
    "example_s": "s an example",
    "input_s": "s an example",
    "tensors": "all-reduces a step",
    "bytes": "bytes a step",
    "pair_s": "s an all-reduce",
    "bandwidth": "bytes a second",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constants:
    """What a step is made of, in seconds and bytes.

    Attributes:
      host_s: what a step costs whatever its batch.
      example_s: what computing one example costs more, with all processors of a machine.
      input_s: what making one example of a batch costs, with all processors.
      whole_batch: every process makes the whole batch and not only its share.
      tensors: all-reduces of a step.
      bytes: that a replica gives to them together.
      pair_s: the part of an all-reduce between two replicas that does not depend on its size.
      bandwidth: bytes a second of an all-reduce between two.
      ring: the replicas are processes and pass sums on in a ring; else one of them adds up for all, in one process.
    """

    host_s: float
    example_s: float
    input_s: float
    whole_batch: bool
    tensors: int
    bytes: int
    pair_s: float
    bandwidth: float
    ring: bool

    @classmethod
    def measured(cls, small: Sequence[Mapping[str, Any]], large: Sequence[Mapping[str, Any]], mode: str) -> Constants:
        """From comparisons of one device with two replicas in `mode`, at two batch sizes.

        Of several at one size the lowest time counts, which the machine's other work has disturbed least.
        """
        host, example = line(small, large)
        arms = [found["arms"][mode] for found in (*small, *large)]
        reduces = [arm["time"]["all_reduce"] for arm in arms]
        return cls(
            host_s=max(host, 0.0),
            example_s=max(example, 0.0),
            input_s=min(found["input"]["step_ms"] for found in large) / 1e3 / large[0]["batch_size"],
            whole_batch=large[0]["input"]["whole_batch"],
            tensors=reduces[0]["tensors_per_step"],
            bytes=reduces[0]["bytes_per_step"],
            pair_s=min(reduce["latency_ms"] for reduce in reduces) / 1e3,
            bandwidth=max(reduce["bandwidth_mb_per_s"] or math.inf for reduce in reduces) * 2**20,
            ring=arms[0]["effective"]["workers"] > 1,
        )

    def all_reduce_s(self, replicas: int) -> float:
        """All-reduces of a step, one after the other, hidden by nothing."""
        if replicas == 1:
            return 0.0
        latency, transfer = self.tensors * self.pair_s, self.bytes / self.bandwidth
        if self.ring:  # 2 (N - 1) hops, each with one Nth of the bytes; between two that is 2 hops and all bytes once
            return (replicas - 1) * latency + 2 * (replicas - 1) / replicas * transfer
        return replicas / 2 * (latency + transfer)

    def step_s(self, replicas: int, batch_size: int) -> float:
        """A step on a global batch, each process on a machine of its own; replicas of one process share its input."""
        made = batch_size / replicas if self.ring and not self.whole_batch else batch_size
        return self.host_s + self.example_s * batch_size / replicas + self.input_s * made + self.all_reduce_s(replicas)

    def shared_step_s(self, replicas: int, batch_size: int, cores: int) -> float:
        """The same with all replicas on the one machine that the constants are of, where they take turns on its cores."""
        turns = max(1.0, replicas / cores)
        made = batch_size * replicas if self.ring and self.whole_batch else batch_size
        return self.host_s * turns + self.example_s * batch_size + self.input_s * made + self.all_reduce_s(replicas)


def line(small: Sequence[Mapping[str, Any]], large: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Seconds of a step whatever its batch, and of an example: the line through the lowest times at two batch sizes."""
    one, other = _lowest_s(small), _lowest_s(large)
    least, most = small[0]["batch_size"], large[0]["batch_size"]
    example = (other - one) / (most - least)
    return one - example * least, example


def doubt(small: Sequence[Mapping[str, Any]], large: Sequence[Mapping[str, Any]]) -> str | None:
    """What is said where the line through the two points cannot be right."""
    host, example = line(small, large)
    if host > 0 and example > 0:
        return None
    seen = " and ".join(f"{_lowest_s(each) * 1e3:.2f} ms at batch {each[0]['batch_size']}" for each in (small, large))
    return (
        f"WARNING: {seen} give {host * 1e3:.2f} ms a step whatever its batch and {example * 1e3:.4f} ms an example. Neither can be "
        "0 or less: that one is taken as 0, and the predictions are worth little. The machine was busy during one of the "
        "comparisons. Repeat both and give all of them (--small a/compare.json b/compare.json: the lowest time counts), or take "
        "batch sizes further apart."
    )


def _lowest_s(found: Sequence[Mapping[str, Any]]) -> float:
    return min(one["arms"][one["reference"]]["time"]["step_ms"]["p50"] for one in found) / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", type=Path, nargs="+", required=True, help="compare.json at a small batch size")
    parser.add_argument("--large", type=Path, nargs="+", required=True, help="compare.json at a large one")
    parser.add_argument("--check", type=Path, nargs="*", default=[], help="run.json of runs to hold against the model")
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="of the machine that all of this ran on")
    parser.add_argument("--plot", type=Path, help="where to draw the predictions, an .svg or .png")
    given = parser.parse_args()
    missing = [path for path in (*given.small, *given.large, *given.check) if not path.is_file()]
    if missing:
        parser.error(f"there is no {missing[0]}: make it with the commands at the top of this file")
    small, large = (
        [json.loads(path.read_text(encoding="utf-8")) for path in paths] for paths in (given.small, given.large)
    )
    share = small[0]["batch_size"]
    if large[0]["batch_size"] <= share:
        parser.error(
            f"--small is of batch size {share}, and --large of {large[0]['batch_size']}: it takes a larger one"
        )
    found = {
        mode: Constants.measured(small, large, mode)
        for mode, arm in small[0]["arms"].items()
        if (arm["time"] or {}).get("all_reduce")
    }
    for mode, constants in found.items():
        print(f"{mode}:")
        for field in dataclasses.fields(constants):
            value = getattr(constants, field.name)
            shown = str(value) if isinstance(value, bool) else f"{value:.6g} {UNITS[field.name]}"
            print(f"{field.name:>12} {shown}")
    if (warning := doubt(small, large)) is not None:
        print(f"\n{warning}")
    network = next((one for one in found.values() if one.ring), None)
    if network is not None:
        table(network, share)
    for path in given.check:
        run = json.loads(path.read_text(encoding="utf-8"))
        effective, batch = run["mode"]["effective"], run["data"]["batch_size"]
        n, seen = effective["replicas"], run["time"]["step_ms"]["p50"]
        constants = found[run["mode"]["requested"]] if n > 1 else next(iter(found.values()))
        predicted = constants.shared_step_s(n, batch, given.cores) * 1e3
        print(
            f"\n{path}: {effective['strategy']}, {n} replicas on {given.cores} cores, batch {batch}: measured {seen:.1f} ms, "
            f"predicted {predicted:.1f}, ratio {seen / predicted:.2f}"
        )
    if network is not None and given.plot:
        draw(network, share, given.plot)


def table(network: Constants, share: int) -> None:
    """Prints the predictions for `share` examples a replica, and for a batch of that many."""
    print(f"\n{'replicas':>8} {'fixed share ms':>15} {'efficiency':>11} {'fixed batch ms':>15} {'speed-up':>9}")
    alone = network.step_s(1, share)
    for n in REPLICAS:
        weak, strong = network.step_s(n, share * n), network.step_s(n, share)
        # With more replicas than examples a fixed batch cannot be cut.
        cut = f"{strong * 1e3:15.2f} {alone / strong:9.2f}" if n <= share else f"{'-':>15} {'-':>9}"
        print(f"{n:8} {weak * 1e3:15.2f} {alone / weak:11.1%} {cut}")


def draw(constants: Constants, share: int, path: Path) -> None:
    """Efficiency with a fixed share a replica and speed-up of a fixed batch, as measured and with parts replaced."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    fast = dataclasses.replace(constants, pair_s=1e-5, bandwidth=12.5e9)
    cases = {
        "all-reduce and input as measured": constants,
        "assumed network: hop 5 us, 12.5 GB/s": fast,
        "that, and each worker makes its share only": dataclasses.replace(fast, whole_batch=False),
    }
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    batch = share * REPLICAS[-1]
    for name, case in cases.items():
        alone = case.step_s(1, share)
        left.plot(REPLICAS, [alone / case.step_s(n, share * n) for n in REPLICAS], "o-", label=name)
        right.plot(REPLICAS, [case.step_s(1, batch) / case.step_s(n, batch) for n in REPLICAS], "o-", label=name)
    right.plot(REPLICAS, REPLICAS, color="0.6", linestyle="--", label="as many times as replicas")
    left.set(xscale="log", xlabel="replicas", ylabel="efficiency", ylim=(0, 1.05), title=f"{share} examples a replica")
    right.set(xscale="log", yscale="log", xlabel="replicas", ylabel="speed-up", title=f"a batch of {batch:,}")
    for axes in (left, right):
        axes.axvspan(1, 4, color="0.9", zorder=0)
        axes.legend(fontsize="small")
    figure.suptitle("Predicted, not measured; held against runs in the grey part only")
    figure.savefig(path)


if __name__ == "__main__":
    main()
