"""Other values for attributes of a class or module, for a while.

with replaced(module, function=other):
    ...
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def replaced(holder: Any, **values: Any) -> Iterator[None]:
    """Within this the attributes of these names have these values; one that was inherited is inherited again afterwards."""
    own = {name: vars(holder)[name] for name in values if name in vars(holder)}
    for name, value in values.items():
        setattr(holder, name, value)
    try:
        yield
    finally:
        for name in values:
            if name in own:
                setattr(holder, name, own[name])
            else:
                delattr(holder, name)
