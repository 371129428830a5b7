"""Prints and logs outside of the step, by operations, or under a flag that is off."""

from __future__ import annotations

import logging
import math
import os
import random
import time
import warnings

import tensorflow as tf

from tests.corpus.base import Tiny, Varied

log = logging.getLogger(__name__)

STARTED = time.time()


class TensorPrint(Tiny):
    modes = ("graph",)

    def losses(self, batch):
        found = super().losses(batch)
        tf.print("mean", tf.reduce_mean(found), summarize=2)
        return found


class TensorPrintByDefault(TensorPrint):
    modes = None


class LogsElsewhere(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        log.info("made at %s", STARTED)
        self.noise_seed = random.randint(0, 2)

    def describe(self):
        print("a recipe", math.pi)


class EagerOnlyPrint(Tiny):
    def losses(self, batch):
        if tf.executing_eagerly():
            print("eager")
        return super().losses(batch)


class PrintsProperly(Tiny):
    modes = ("graph",)

    def losses(self, batch):
        found = super().losses(batch)
        tf.print("loss", tf.reduce_mean(found), output_stream=f"file://{os.devnull}")
        return found


class LogsAtTheBeginning(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        log.info("made at %s with seed %s", time.time(), random.Random(3).random())
        self.made_at = time.time()
        self.offset = random.Random(3).uniform(0.0, 0.1)

    def losses(self, batch):
        return super().losses(batch) + self.offset


DEBUG = False


class GuardedPrint(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)
        if DEBUG:
            print("losses", losses)
        assert isinstance(losses, tf.Tensor)
        assert losses.shape == (8,), f"one loss an example, not {losses.shape}"
        return losses


setup_log = logging.getLogger("corpus.setup")


class LoggedSetup(Tiny):
    """Logs while it is made, and outside the step."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.reports = []
        setup_log.info("a model of %d weights", self.model.count_params())

    def on_epoch_end(self):
        self.reports.append("epoch")
        setup_log.info("epoch %d", len(self.reports))


class QuietPrint(Tiny):
    """Prints under a flag which is off, and reads an option which may be missing."""

    verbose = False
    options = {"weight": 2.0}

    def losses(self, batch):
        losses = super().losses(batch)
        if self.verbose:
            tf.print("losses", losses)
        try:
            weight = self.options["scale"]
        except KeyError:
            weight = self.options.get("weight", 1.0)
        return weight * losses


logging.getLogger("corpus.quiet").setLevel(logging.ERROR)
logger = logging.getLogger("corpus.quiet.clean")

VERBOSE = bool(os.environ.get("CORPUS_DEBUG_NEVER_SET"))


class QuietLogging(Varied):
    """A debug line that is not on, behind a guard and without."""

    def train_step(self, batch):
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("batch of %s", batch["x"].shape)
        logger.info("step")
        return self.minimize(lambda: self.losses(batch))


class DeadWarning(Varied):
    """A warning where shapes are wrong, which they are not."""

    def losses(self, batch):
        if batch["x"].shape[-1] != 4:
            warnings.warn("unexpected width", stacklevel=2)
            print("unexpected width", batch["x"].shape)
        if VERBOSE:
            print(batch)
        return super().losses(batch)


class WarnOnSpikes(Tiny):
    """A running mean of the loss; tf.print reports a spike, which XLA cannot compile."""

    modes = ("graph",)

    def __init__(self, *, model, optimizer, info, factor: float = 3.0):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.factor = factor
        self.running = tf.Variable(1.0, trainable=False, name="running_loss")

    def watch(self, loss):
        if loss > self.factor * self.running:
            tf.print("step", self.step, "loss", loss, "against", self.running)
        self.running.assign(0.9 * self.running + 0.1 * loss)

    def train_step(self, batch):
        metrics = self.minimize(lambda: self.losses(batch))
        self.watch(tf.reduce_mean(metrics["loss"]))
        return metrics | {"running": tf.identity(self.running)}
