"""Which metric `callbacks.checkpoint.best=auto` comes to."""

from __future__ import annotations

from collections.abc import Callable, Container

from modetrain.config.schema import AUTO

_METRICS = ("accuracy", "loss")


def best_of(metric: str | None, results: Container[str], say: Callable[[str], None]) -> str | None:
    """The metric itself; for `auto` accuracy, else loss, whichever the evaluation returned, else None; that is said.

    Args:
      metric: as it was given.
      results: of an evaluation, by name.
      say: prints a line for the user.
    """
    if metric != AUTO:
        return metric
    found = next((name for name in _METRICS if name in results), None)
    what = (
        f"the one of the best {found} is kept too"
        if found
        else "there is no accuracy and no loss, so none is kept as the best"
    )
    say(f"checkpoints: {what} (callbacks.checkpoint.best={AUTO})")
    return found
