"""What a run carries over a restart besides its variables: open windows, counters, the latest results.

It goes into each checkpoint as JSON (`of`) and comes back from there (`bring_back`), on resuming and on going back alike.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from modetrain.diagnostics import location

if TYPE_CHECKING:
    from modetrain.callback import Callback
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
        "callbacks": {name: state for name, callback in named(run.callbacks) if (state := _state(name, callback, run))},
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
            with _told(f"{name}.restore failed", callbacks[name]):
                callbacks[name].restore(state)


def named(callbacks: list[Callback]) -> Iterator[tuple[str, Callback]]:
    """Each callback with the name of its class, and a number where there are several of one."""
    seen: dict[str, int] = {}
    for callback in callbacks:
        name = type(callback).__name__
        seen[name] = seen.get(name, 0) + 1
        yield (name if seen[name] == 1 else f"{name}-{seen[name]}"), callback


def _state(name: str, callback: Callback, run: Trainer) -> Mapping[str, Any]:
    """What a callback keeps, known to be JSON here, where it is known whose it is."""
    example = 'write def state(self, run): return {"count": self.count}'
    if not callable(callback.state):
        with _told(f"{name}.state is a {type(callback.state).__name__} and no method: {example}", callback):
            raise TypeError(f"{name}.state cannot be called")
    with _told(f"{name}.state failed after step {run.step}", callback):
        state = callback.state(run)
        json.dumps(state)
    if state and not isinstance(state, Mapping):
        with _told(f"{name}.state returned {type(state).__name__} {state!r}: return a dict", callback):
            raise TypeError(f"{name}.state returned {state!r}")
    return state


@contextlib.contextmanager
def _told(what: str, callback: Callback) -> Iterator[None]:
    """Adds to what fails inside whose it is; it may be any callback that asks all of them."""
    try:
        yield
    except Exception as error:
        error.add_note(f"modetrain: {what} ({location.of_class(type(callback))})")
        raise
