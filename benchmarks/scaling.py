"""Predicts step time and efficiency on N replicas from constants that `do=compare` measures, and draws them.

    python -m modetrain recipe=mnist do=compare compare.modes=[graph,multiworker] data.batch_size=64 run_dir=small
    python -m modetrain recipe=mnist do=compare compare.modes=[graph,multiworker] data.batch_size=256 run_dir=large
    python benchmarks/scaling.py small/compare.json large/compare.json --plot docs/scaling.svg

The model and what it leaves out are in docs/scaling.md. Needs matplotlib for the plot.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REPLICAS = tuple(2**power for power in range(13))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constants:
    """What a step is made of, in seconds and bytes.

    Attributes:
      host_s: what a step costs whatever its batch.
      example_s: what one example costs more.
      tensors: all-reduces of a step.
      bytes: that they move together.
      hop_s: latency of one hop of a ring.
      bandwidth: bytes a second from one replica to the next.
    """

    host_s: float
    example_s: float
    tensors: int
    bytes: int
    hop_s: float
    bandwidth: float

    @classmethod
    def measured(cls, small: Mapping[str, Any], large: Mapping[str, Any]) -> Constants:
        """From two comparisons of one device with two workers, at two batch sizes."""
        one, other = (found["arms"][found["reference"]]["time"]["step_ms"]["p50"] / 1e3 for found in (small, large))
        example = (other - one) / (large["batch_size"] - small["batch_size"])
        reduce = next(
            arm["time"]["all_reduce"] for arm in small["arms"].values() if (arm["time"] or {}).get("all_reduce")
        )
        return cls(
            host_s=max(one - example * small["batch_size"], 0.0),
            example_s=example,
            tensors=reduce["tensors_per_step"],
            bytes=reduce["bytes_per_step"],
            hop_s=reduce["latency_ms"] / 1e3 / 2,  # a ring of two has two hops
            bandwidth=reduce["bandwidth_mb_per_s"] * 2**20,
        )

    def all_reduce_s(self, replicas: int) -> float:
        """A ring all-reduce of each tensor, one after the other, hidden by nothing."""
        hops = 2 * (replicas - 1)
        return hops * self.tensors * self.hop_s + hops / replicas * self.bytes / self.bandwidth

    def step_s(self, replicas: int, batch_size: int, *, shared: int = 1) -> float:
        """A step on a global batch, where `shared` replicas have the processors of one machine between them."""
        return self.host_s + self.example_s * batch_size / replicas * shared + self.all_reduce_s(replicas)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("small", type=Path, help="compare.json at a small batch size")
    parser.add_argument("large", type=Path, help="compare.json at a large one")
    parser.add_argument("--check", type=Path, nargs="*", default=[], help="run.json of runs to hold against the model")
    parser.add_argument("--plot", type=Path, help="where to draw the predictions, an .svg or .png")
    given = parser.parse_args()
    small, large = (json.loads(path.read_text()) for path in (given.small, given.large))
    constants = Constants.measured(small, large)
    for field in dataclasses.fields(constants):
        print(f"{field.name:>10} {getattr(constants, field.name):.6g}")
    share = small["batch_size"]
    print(f"\n{'replicas':>8} {'fixed share ms':>15} {'efficiency':>11} {'fixed batch ms':>15} {'speed-up':>9}")
    for n in REPLICAS:
        weak, strong = constants.step_s(n, share * n), constants.step_s(n, share)
        alone = constants.step_s(1, share)
        print(f"{n:8} {weak * 1e3:15.2f} {alone / weak:11.1%} {strong * 1e3:15.2f} {alone / strong:9.2f}")
    for path in given.check:
        run = json.loads(path.read_text())
        n, batch = run["mode"]["effective"]["replicas"], run["data"]["batch_size"]
        seen, predicted = run["time"]["step_ms"]["p50"], constants.step_s(n, batch, shared=n) * 1e3
        print(f"{path}: {n} replicas on one machine, batch {batch}: {seen:.1f} ms, predicted {predicted:.1f}")
    if given.plot:
        draw(constants, share, given.plot)


def draw(constants: Constants, share: int, path: Path) -> None:
    """Efficiency with a fixed share a replica, for all-reduces as measured and on faster networks."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    networks = {
        "as measured here": constants,
        "hops of 5 us, 12.5 GB/s": dataclasses.replace(constants, hop_s=5e-6, bandwidth=12.5e9),
    }
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, network in networks.items():
        left.plot(REPLICAS, [network.step_s(n, share * n) * 1e3 for n in REPLICAS], "o-", label=name)
        right.plot(
            REPLICAS, [network.step_s(1, share) / network.step_s(n, share * n) for n in REPLICAS], "o-", label=name
        )
    left.set(
        xscale="log",
        yscale="log",
        xlabel="replicas",
        ylabel="ms a step",
        title=f"step time, {share} examples a replica",
    )
    right.set(xscale="log", xlabel="replicas", ylabel="efficiency", ylim=(0, 1.05), title="predicted, not measured")
    for axes in (left, right):
        axes.axvspan(1, 4, color="0.9", zorder=0)
        axes.legend()
    figure.savefig(path)


if __name__ == "__main__":
    main()
