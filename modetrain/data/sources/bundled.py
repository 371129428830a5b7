"""The bundled sample: 5,000 digits of MNIST, 4,000 to train on and 1,000 to evaluate (see `samples/README.md`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modetrain.data.sources import arrays
from modetrain.data.sources.splits import evals
from modetrain.settings import DataSettings

if TYPE_CHECKING:
    from modetrain.data.source import Source

SAMPLE = Path(__file__).parent.parent / "samples" / "mnist_5k.npz"
CLASSES = 10


def load(settings: DataSettings, *, because: str) -> Source:
    """Loads the sample; `because` says why the sample is used."""
    from modetrain.data.source import Source

    with np.load(SAMPLE) as sample:
        splits = {
            name: {"image": sample[f"{name}_image"], "label": sample[f"{name}_label"].astype(np.int32)}
            for name in ("train", "test")
        }
    found = arrays.select(splits, settings, where="the bundled sample of MNIST")
    return Source(
        kind="bundled",
        description=f"bundled sample of MNIST ({arrays.format_counts(found)}): {because}",
        train=found["train_split"],
        evals=evals(found),
        facts={"classes": CLASSES},
    )
