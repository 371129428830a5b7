"""MT304: two traces of the step differ."""

from __future__ import annotations

import numpy as np

from tests.corpus.base import Tiny


class DrawsByGeneratorMethod(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.draw = np.random.default_rng(7).normal

    def losses(self, batch):
        return super().losses(batch) * self.draw()  # expect MT301 MT304
