"""MT101: prints only while tracing."""

from __future__ import annotations

import functools
import io
import pprint
import sys

from tests.corpus import elsewhere
from tests.corpus.base import Tiny


class Prints(Tiny):
    def train_step(self, batch):
        values = super().train_step(batch)
        print("loss", values["loss"])  # expect MT101
        return values


class PrintsThroughADecorator(Tiny):
    @elsewhere.announced
    def losses(self, batch):
        return super().losses(batch)


shout = functools.partial(print, "step:", flush=True)


class PrintsByPartial(Tiny):
    def losses(self, batch):
        shout("hello")  # expect MT101
        return super().losses(batch)


class BuffersText(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.text = io.StringIO()

    def losses(self, batch):
        print("step", file=self.text)  # expect MT101
        return super().losses(batch)


class Pretty(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)
        pprint.pprint({"loss": losses})  # expect MT101
        return losses


class Heartbeat(Tiny):
    """A helper writes to the standard error."""

    modes = ("graph",)

    def train_step(self, batch):
        elsewhere.heartbeat()
        return self.minimize(lambda: self.losses(batch))


class WritesToStderr(Tiny):
    def losses(self, batch):
        sys.stderr.write("another batch\n")  # expect MT101
        return super().losses(batch)
