"""Defects: what runs once, while tracing."""

from __future__ import annotations

import logging
import os
import pathlib
import subprocess
import sys
import time
import warnings
from logging import getLogger
from pprint import pprint
from warnings import warn

import tensorflow as tf

from tests.corpus import elsewhere
from tests.corpus.base import Tiny
from tests.corpus.elsewhere import shout

log = logging.getLogger("corpus")
say = getLogger("other").info
write = sys.stdout.write


class Prints(Tiny):
    def train_step(self, batch):
        values = super().train_step(batch)
        print("loss", values["loss"])  # expect MT101
        return values


class PrintsInTheLoss(Tiny):
    def train_step(self, batch):
        def loss():
            found = self.losses(batch)
            if batch["x"].shape[0] > 1:
                print(f"shape {found.shape}")  # expect MT101
            return found

        return self.minimize(loss)


class PrintsInAnotherFile(Tiny):
    def train_step(self, batch):
        shout("here")
        elsewhere.whisper("here")
        return super().train_step(batch)


class PrintsPretty(Tiny):
    def losses(self, batch):
        pprint({"batch": 1})  # expect MT101
        return super().losses(batch)


class WritesToStdout(Tiny):
    def losses(self, batch):
        sys.stdout.write("step\n")  # expect MT101
        return super().losses(batch)


class WritesToStderr(Tiny):
    def losses(self, batch):
        print("step", file=sys.stderr)  # expect MT101
        return super().losses(batch)


class PrintsInATensorBranch(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        if tf.reduce_mean(found) > 100.0:
            print("diverged")  # expect MT101
        return found


class Logs(Tiny):
    def losses(self, batch):
        logging.info("step")  # expect MT102
        return super().losses(batch)


class LogsByALogger(Tiny):
    def losses(self, batch):
        log.debug("x %s", batch["x"])  # expect MT102
        return super().losses(batch)


class LogsByABoundMethod(Tiny):
    def losses(self, batch):
        say("hello")  # expect MT102
        return super().losses(batch)


class LogsByItsOwnLogger(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.log = logging.getLogger(type(self).__name__)

    def losses(self, batch):
        found = super().losses(batch)
        self.log.warning("loss %s", found)  # expect MT102
        return found


class Warns(Tiny):
    def losses(self, batch):
        warnings.warn("slow", stacklevel=2)  # expect MT102
        return super().losses(batch)


class WarnsByName(Tiny):
    def losses(self, batch):
        warn("slow", stacklevel=1)  # expect MT102
        return super().losses(batch)


class AppendsToAFile(Tiny):
    def losses(self, batch):
        with open(os.devnull, "a") as file:  # expect MT103
            file.write("step\n")
        return super().losses(batch)


class WritesByPath(Tiny):
    def losses(self, batch):
        pathlib.Path(os.devnull).write_text("step")  # expect MT103
        return super().losses(batch)


class StartsAProcess(Tiny):
    def losses(self, batch):
        subprocess.run(["true"], check=False)  # expect MT103
        return super().losses(batch)


class Sleeps(Tiny):
    def losses(self, batch):
        time.sleep(0.001)  # expect MT104
        return super().losses(batch)


class PrintsThroughADecorator(Tiny):
    @elsewhere.announced
    def losses(self, batch):
        return super().losses(batch)


class PrintsByAnAttribute(Tiny):
    report = staticmethod(print)

    def losses(self, batch):
        self.report("step")  # expect MT101
        return super().losses(batch)


class Counts(Tiny):
    """A `tf.summary` is fine in a graph; under XLA it does not compile."""

    def losses(self, batch):
        found = super().losses(batch)
        tf.print(tf.reduce_mean(found))  # expect MT505
        return found
