"""What a run carries over a restart besides its variables: open windows, counters, the latest results.

It goes into each checkpoint as JSON (`of`) and comes back from there (`bring_back`), on resuming and on going back alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modetrain.callbacks import Callback
    from modetrain.trainer import Trainer


def of(run: Trainer) -> dict[str, Any]:
    """All that the run would need to go on from here as if nothing had happened."""
    return {
        "recent": run.recent.state(),
        "evaluation": dict(run.evaluation),
        "evaluated": run.evaluated,
        "left_out": [list(window) for window in run.feed.left_out],
        "nonfinite": run.nonfinite.state(),
        "to_look": [name for name, callback in named(run.callbacks) if callback in run.to_look],
        "callbacks": {name: state for name, callback in named(run.callbacks) if (state := callback.state(run))},
    }


def bring_back(run: Trainer, carried: Mapping[str, Any]) -> None:
    """Gives a run what `of` took from it, or from the one before it; checkpoints of older versions carry less."""
    run.recent.restore(carried.get("recent", {}))
    run.evaluation = dict(carried.get("evaluation", {}))
    run.evaluated = carried.get("evaluated")
    run.feed.left_out = [(step, count) for step, count in carried.get("left_out", [])]
    run.feed.forget()
    run.nonfinite.restore(carried.get("nonfinite", {}))
    callbacks = dict(named(run.callbacks))
    run.to_look = [callbacks[name] for name in carried.get("to_look", []) if name in callbacks]
    for name, state in carried.get("callbacks", {}).items():
        if name in callbacks:
            callbacks[name].restore(state)


def named(callbacks: list[Callback]) -> Iterator[tuple[str, Callback]]:
    """Each callback with the name of its class, and a number where there are several of one."""
    seen: dict[str, int] = {}
    for callback in callbacks:
        name = type(callback).__name__
        seen[name] = seen.get(name, 0) + 1
        yield (name if seen[name] == 1 else f"{name}-{seen[name]}"), callback
