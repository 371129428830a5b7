"""Branches and contexts: on tensors, on the step, with and without AutoGraph."""

from __future__ import annotations

import contextlib
import functools

import tensorflow as tf

from tests.corpus.base import Tiny, Varied
from tests.corpus.clean_helpers import LOSSES


class UsesContext(Tiny):
    @contextlib.contextmanager
    def named(self, name):
        with tf.name_scope(name):
            yield

    def losses(self, batch):
        with self.named("losses"):
            return super().losses(batch)


class UsesCond(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        return tf.cond(tf.reduce_mean(found) > 1.0, lambda: found * 0.5, lambda: found)


class ChainedComparison(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)
        mean = tf.reduce_mean(losses)
        if 0.0 < mean < 5.0:
            losses = losses * 0.5
        return losses


class TriesAndTidies(Tiny):
    def losses(self, batch):
        depth = 0
        try:
            depth += 1
            losses = super().losses(batch)
        finally:
            depth -= 1
        assert depth == 0
        return losses


class CondOnStep(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)
        warm = tf.minimum(1.0, tf.cast(self.step + 1, tf.float32) / 5.0)
        return tf.cond(self.step < 3, lambda: losses * warm, lambda: losses)


class ConvertedBranch(Tiny):
    """A branch of Python which depends on a tensor, in the step itself: autograph converts it."""

    def train_step(self, batch):
        spread = tf.math.reduce_std(batch["x"])
        if spread > 1.0:  # noqa: SIM108
            scale = 1.0 / spread
        else:
            scale = tf.constant(1.0)
        return self.minimize(lambda: scale * self.losses(batch))


class PureBranches(Varied):
    """tf.cond and tf.switch_case without side effects."""

    def losses(self, batch):
        values = super().losses(batch)
        scaled = tf.cond(tf.reduce_mean(batch["x"]) > 0, lambda: values * 2.0, lambda: values)
        return tf.switch_case(batch["label"][2], [lambda: scaled, lambda: -scaled, lambda: scaled + 1.0])


class TensorBranch(Tiny):
    """`if` on a tensor, with a value from either branch, counted in a variable."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.outliers = tf.Variable(0.0, trainable=False)

    def train_step(self, batch):
        if tf.reduce_any(tf.abs(batch["x"]) > 2.3):
            weight = tf.constant(0.5)
            self.outliers.assign_add(1.0)
        else:
            weight = tf.constant(1.0)
        results = self.minimize(lambda: weight * self.losses(batch))
        return {**results, "outliers": self.outliers.read_value()}


class SwitchCaseTasks(Tiny):
    """Alternates three tasks by tf.switch_case."""

    def losses(self, batch):
        logits = self.logits(batch)
        target = batch["x"][:, :3]
        tasks = [functools.partial(fn, target, logits) for _, fn in sorted(LOSSES.items())]
        return tf.switch_case(tf.cast(self.step % len(tasks), tf.int32), tasks)


class Contexts(Tiny):
    @contextlib.contextmanager
    def scoped(self, name):
        with tf.name_scope(name):
            yield name.upper()

    def losses(self, batch):
        with contextlib.ExitStack() as stack, self.scoped("main"):
            stack.enter_context(tf.name_scope("inner"))
            return super().losses(batch)


class ScopesByContext(Tiny):
    @contextlib.contextmanager
    def scaled(self, by):
        kept = []
        with tf.name_scope("scaled"):
            yield lambda x: kept.append(by) or x * by

    def losses(self, batch):
        with self.scaled(0.5) as scale:
            return scale(super().losses(batch))
