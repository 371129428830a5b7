"""What `Recipe.show` returns as uint8 images [n, height, width, channels], by its dtype."""

from __future__ import annotations

from typing import Any

import numpy as np

_FEW_CLASSES = 32  # below it an integer is the number of a class, from it on a pixel's value
_FAR_ABOVE_ONE = 10.0  # no float in [0, 1] that overshoots a little


def convert(images: Any) -> tuple[np.ndarray | None, str]:
    """The images for TensorBoard, or None; and what is wrong with them, as the end of a sentence that names them.

    uint8 are pixels as they are, uint16 are scaled by 65535, bools are black and white. Other integers are pixels in 0..255, or
    numbers of classes if all are below 32: these are spread from black to white. Floats are clipped to [0, 1].
    """
    expected = "expected is [n, height, width, channels] with 1 to 4 channels"
    if images is None:
        return None, f"None: {expected}"
    try:
        array = np.asarray(images)
    except Exception as error:  # a list of arrays of several shapes, a tensor of a step's trace
        return None, f"a {type(images).__name__} that is no array ({type(error).__name__}): {expected}"
    if array.dtype.kind == "V":  # bfloat16 and its like
        try:
            array = array.astype(np.float32)
        except (TypeError, ValueError):
            return None, f"of dtype {array.dtype}: {expected}"
    if array.dtype.kind not in "buif":
        return None, f"of dtype {array.dtype}: expected are numbers or bools"
    if array.ndim != 4:
        fix = " (add the first with images[None], the last with images[..., None])" if array.ndim in (2, 3) else ""
        return None, f"of shape {list(array.shape)}: {expected}{fix}"
    if not 1 <= array.shape[3] <= 4:
        return (
            None,
            f"of shape {list(array.shape)}: {expected}; one image for each channel is images[..., :1] and so on",
        )
    if 0 in array.shape[1:3]:
        return None, f"of shape {list(array.shape)}, which has no pixel"
    if array.size == 0 or array.dtype == np.uint8:
        return array.astype(np.uint8), ""
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255), ""
    if array.dtype == np.uint16:
        return np.round(array / 257.0).astype(np.uint8), ""
    if array.dtype.kind in "ui":
        highest = int(array.max())
        if array.min() >= 0 and highest < _FEW_CLASSES:
            return np.round(array * (255.0 / max(highest, 1))).astype(np.uint8), ""
        outside = array.min() < 0 or highest > 255
        said = f"{array.dtype} in {array.min()}..{highest}: clipped to pixels in 0..255" if outside else ""
        return np.clip(array, 0, 255).astype(np.uint8), said
    values = np.nan_to_num(array.astype(np.float32), posinf=1.0, neginf=0.0)
    said = ""
    if values.max() > _FAR_ABOVE_ONE:
        said = f"floats up to {values.max():.4g}: clipped to [0, 1]. Divide pixels in 0..255 by 255, or return them as uint8"
    return np.minimum(np.maximum(values, 0.0) * 255.5, 255.0).astype(np.uint8), said  # as tf.summary.image does
