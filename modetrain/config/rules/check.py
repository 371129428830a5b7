"""Every rule, in the order in which their sentences come."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from modetrain.config.compose import Composition
from modetrain.config.rules import do, folders, only, presets, steps
from modetrain.settings import Settings

Rule = Callable[[Settings], str | None]
RULES: tuple[Rule, ...] = (
    steps.mode,
    steps.tpu,
    steps.numerics,
    steps.accumulate,
    steps.shares,
    steps.warmup,
    steps.nesterov,
    steps.data,
    steps.profile,
    folders.run_dir,
    folders.rollback,
    folders.init_from,
    folders.resume,
    folders.further,
    do.evaluate,
    do.compare,
    do.replay,
)


def problems(settings: Settings, composition: Composition) -> Iterator[str]:
    """Yields what is wrong with the keys together, one sentence each.

    Args:
      settings: every value of which is good by itself.
      composition: what they were made from, which knows where a value comes from.
    """
    yield from only.ignored(settings, composition)
    clash = presets.clash(settings, composition)
    if clash:
        yield clash
    for rule in RULES:
        problem = rule(settings)
        if problem and not (clash and rule is steps.mode):  # which says the same of keys that nobody typed
            yield problem
    yield from only.waiting(settings, composition)
