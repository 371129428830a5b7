"""Diagnoses of what tracing and compiling do to the user's Python, by the user's own lines.

    findings = modetrain.inspect(recipe, batches, modes=["graph", "xla"])
    assert not findings

As `do=inspect` it looks at everything (`inspector.py`); a short form speaks up at the start of every graph and XLA run
(`start.py`). Nothing is imported before it is used: `program.py` needs the guards alone.
"""

from __future__ import annotations

import sys
import types
from typing import Any


class _Callable(types.ModuleType):
    """`modetrain.inspect` is this package and, as users know it, a function as well."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from modetrain.inspect.library import inspect

        return inspect(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
