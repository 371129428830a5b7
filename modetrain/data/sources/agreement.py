"""Whether two splits of arrays agree, so that one recipe can take both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from modetrain.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

Arrays = Mapping[str, "np.ndarray"]


def check_agreement(train: Arrays, evaluation: Arrays, *, where: str) -> None:
    """Raises ConfigError if the splits differ in the names, shapes or dtypes of their arrays: one recipe takes both."""
    if not evaluation:
        return
    varying = {name for name, shape in getattr(train, "shapes", {}).items() if None in shape}
    lengths = {f"{name}_length" for name in varying}  # an evaluation of one length has none, and gets them later
    for name in [*train, *(name for name in evaluation if name not in train)]:
        if name in lengths and name not in evaluation:
            continue
        if name not in train or name not in evaluation:
            has, lacks = ("training", "evaluation") if name in train else ("evaluation", "training")
            raise ConfigError(
                f"{where}: the {has} examples have `{name}` and the {lacks} examples have not, but one recipe takes both. "
                f"Save `{name}` in both splits, or in neither."
            )
        one, other = train[name], evaluation[name]
        skipped = 2 if name in varying else 1  # the length of an example may differ
        if (
            one.shape[skipped:] == other.shape[skipped:]
            and one.ndim == other.ndim
            and (one.dtype == other.dtype or one.dtype.kind == other.dtype.kind == "U")
        ):
            continue
        sides = (
            (array.dtype, f" of {format_sides(array.shape[1:])}" if array.ndim > 1 else "") for array in (one, other)
        )
        kinds = " and ".join(f"{dtype}{shape}" for dtype, shape in sides)
        resizable = name == "image" and one.dtype == other.dtype and one.shape[3:] == other.shape[3:] and one.ndim == 4
        advice = f"Type 'data.image_size=[{one.shape[1]},{one.shape[2]}]'." if resizable else "Save both alike."
        what = "training and evaluation images" if name == "image" else f"`{name}` of training and evaluation"
        raise ConfigError(f"{where}: {what} are {kinds}, but one model must take both. {advice}")


def format_sides(shape: tuple[int, ...]) -> str:
    """`28x28x1`."""
    return "x".join(map(str, shape))
