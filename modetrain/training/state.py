"""The state of a run besides its variables: open windows, counters, the latest results.

Each checkpoint holds it as JSON (`collect`). Resuming and a rollback load it (`load`).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from modetrain.callback import Callback, TrainerProtocol
from modetrain.diagnostics import location


def collect(trainer: TrainerProtocol) -> dict[str, Any]:
    """The state that the run needs to continue from here."""
    callbacks = list(iter_named(trainer.callbacks))
    return {
        **trainer.history.state(),
        "left_out": [list(window) for window in trainer.loader.skipped_batches],
        "nonfinite": trainer.nonfinite.state(),
        "to_look": [name for name, callback in callbacks if callback in trainer.callbacks.pending],
        "callbacks": {name: state for name, callback in callbacks if (state := _state(name, callback, trainer))},
    }


def load(trainer: TrainerProtocol, state: Mapping[str, Any]) -> None:
    """Loads into a trainer what `collect` returned; older checkpoints hold less."""
    trainer.history.load_state(state, step=trainer.step)
    trainer.loader.skipped_batches = [(step, count) for step, count in state.get("left_out", [])]
    trainer.loader.reset()
    trainer.nonfinite.load_state(state.get("nonfinite", {}))
    callbacks = dict(iter_named(trainer.callbacks))
    trainer.callbacks.pending = [callbacks[name] for name in state.get("to_look", []) if name in callbacks]
    for name, kept in state.get("callbacks", {}).items():
        if name in callbacks:
            with _add_note(f"{name}.load_state failed", callbacks[name]):
                callbacks[name].load_state(kept)


def iter_named(callbacks: Iterable[Callback]) -> Iterator[tuple[str, Callback]]:
    """Each callback with the name of its class, and a number if there are several of a class."""
    seen: dict[str, int] = {}
    for callback in callbacks:
        name = type(callback).__name__  # checkpoints hold it: `Log` and `Checkpoint` keep their names
        seen[name] = seen.get(name, 0) + 1
        yield (name if seen[name] == 1 else f"{name}-{seen[name]}"), callback


def _state(name: str, callback: Callback, trainer: TrainerProtocol) -> Mapping[str, Any]:
    """The state of a callback; checks here, where the callback is known, that it is JSON."""
    example = 'write def state(self, trainer): return {"count": self.count}'
    if not callable(callback.state):
        with _add_note(f"{name}.state is a {type(callback.state).__name__} and no method: {example}", callback):
            raise TypeError(f"{name}.state cannot be called")
    with _add_note(f"{name}.state failed after step {trainer.step}", callback):
        state = callback.state(trainer)
        json.dumps(state)
    if state and not isinstance(state, Mapping):
        with _add_note(f"{name}.state returned {type(state).__name__} {state!r}: return a dict", callback):
            raise TypeError(f"{name}.state returned {state!r}")
    return state


@contextlib.contextmanager
def _add_note(what: str, callback: Callback) -> Iterator[None]:
    """Adds a note on the callback to an error raised inside."""
    try:
        yield
    except Exception as error:
        error.add_note(f"modetrain: {what} ({location.of_class(type(callback))})")
        raise
