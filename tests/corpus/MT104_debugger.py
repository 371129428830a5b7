"""MT104: stops in the debugger, or waits, only while tracing."""

from __future__ import annotations

import time

from tests.corpus.base import Tiny


class Sleeps(Tiny):
    def losses(self, batch):
        time.sleep(0.001)  # expect MT104
        return super().losses(batch)
