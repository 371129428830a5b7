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
      kind: `tfds`, `bundled` or `folder`: what `data.source=auto` came to.
      description: one line, which of them is used and why.
      train, eval: `image` [n, height, width, channels] (uint8, or the dtype of the user's own arrays), `label` int32
        [n] in 0..classes-1, and any further arrays of the user's folder, with the same first dimension. Memory-mapped
        where the folder holds `.npy` files.
      classes: number of classes.
    """

    kind: str
    description: str
    train: Mapping[str, np.ndarray]
    eval: Mapping[str, np.ndarray]
    classes: int
