"""Diagnoses of what tracing and compiling do to the user's Python, by the user's own lines.

    findings = modetrain.inspect(recipe, batches, modes=["graph", "xla"])
    assert not findings

As `do=inspect` it looks at everything (`inspector.py`); a short form speaks up at the start of every graph and XLA run
(`start.py`). Nothing is imported before it is used.
"""

from __future__ import annotations

import inspect as python_inspect
import sys
import types
from typing import Any

_DOC = __doc__


class _Callable(types.ModuleType):
    # `modetrain.inspect` is this package and, as users know it, a function as well: help() tells of the function.

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from modetrain.inspect.library import inspect

        return inspect(*args, **kwargs)

    @property
    def __signature__(self) -> python_inspect.Signature:
        from modetrain.inspect.library import inspect

        return python_inspect.signature(inspect)

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        from modetrain.inspect.library import inspect

        signature = f"modetrain.inspect{self.__signature__}".replace("'", "")
        return f"{signature}\n\n{python_inspect.getdoc(inspect)}\n\n{_DOC}"


sys.modules[__name__].__class__ = _Callable
