"""The examples of a run, decoded in host memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """The examples of a run, decoded.

    Attributes:
      kind: `tfds`, `bundled` or `folder`; for `data.source=auto` the one that is used.
      description: one line: which source is used and why.
      train, eval: `image` [n, height, width, channels] (uint8, or the dtype of the user's arrays), `label` int32
        [n] in 0..classes-1, and any other arrays of the user's folder, with the same first dimension. Arrays from
        `.npy` files are memory-mapped.
      classes: number of classes.
    """

    kind: str
    description: str
    train: Mapping[str, np.ndarray]
    eval: Mapping[str, np.ndarray]
    classes: int
