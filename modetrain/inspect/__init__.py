"""Diagnoses of what tracing and compiling do to the user's Python, by the user's own lines.

    findings = modetrain.inspect(recipe, batches, modes=["graph", "xla"])
    assert not findings

As `do=inspect` it looks at everything; a short form speaks up at the start of every graph and XLA run (`start.py`).
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterable, Sequence
from typing import Any

from modetrain.inspect.finding import Finding
from modetrain.inspect.inspector import Inspector
from modetrain.inspect.steps import Batch
from modetrain.mode import Mode
from modetrain.recipe import Recipe
from modetrain.replicas import Replicas

__all__ = ["Finding", "Inspector", "inspect"]

DEFAULT_MODES = ("graph", "xla")


def inspect(recipe: Recipe, batches: Iterable[Batch], modes: Sequence[str] = DEFAULT_MODES) -> list[Finding]:
    """Looks at a recipe as `do=inspect` does; variables are as before at the end.

    Args:
      recipe: a recipe, built.
      batches: training batches as a step gets them: per feature an array or a tensor [examples, ...]. Two are enough; more
        show more of what depends on data.
      modes: what it shall run in: `graph`, `xla`, `tpu`.

    Returns:
      What was found, in the order of files and lines. Empty for a step that every one of these modes runs as written.
    """
    found: dict[tuple, Finding] = {}
    for target in modes:
        compile_ = "graph" if target == "graph" else "xla"
        inspector = Inspector(
            recipe,
            list(batches),
            mode=Mode(name=compile_, compile=compile_),
            replicas=Replicas(),
            target=target,
        )
        for one in inspector.findings():
            found.setdefault((one.code, one.file, one.line), one)
    return sorted(found.values(), key=lambda one: (one.file, one.line, one.code))


class _Callable(types.ModuleType):
    """`modetrain.inspect` is this package and, as is promised to users, a function as well."""

    def __call__(self, *args: Any, **kwargs: Any) -> list[Finding]:
        return inspect(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
