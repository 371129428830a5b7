"""MT303: a value that differs from process to process is frozen."""

from __future__ import annotations

import gc
import os
import secrets
import socket

import tensorflow as tf

from tests.corpus.base import Tiny


class FrozenId(Tiny):
    def losses(self, batch):
        return super().losses(batch) * (id(object()) % 97)  # expect MT303


class FrozenSetOrder(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        for name in {"a", "b", "c"}:  # expect MT303
            found = found * 2.0 + len(name)
        return found


class SeedsBySecrets(Tiny):
    def losses(self, batch):
        return super().losses(batch) * (1 + secrets.randbelow(10))  # expect MT303 MT301


class Load(Tiny):
    def losses(self, batch):
        load = os.getloadavg()[0]  # expect MT303
        return super().losses(batch) * (1.0 + load)


class Host(Tiny):
    def losses(self, batch):
        return super().losses(batch) * len(socket.gethostname())  # expect MT303


class Refs(Tiny):
    def losses(self, batch):
        return super().losses(batch) * len(gc.get_objects())  # expect MT303 MT304


class OrderOfNames(Tiny):
    penalties = frozenset({"l1", "l2", "linf"})

    def losses(self, batch):
        kernel = self.model.trainable_variables[0].value
        total = super().losses(batch)
        for weight, name in zip((0.1, 0.01, 0.001), self.penalties):  # expect MT303
            if name == "l1":
                total += weight * tf.reduce_sum(tf.abs(kernel))
            elif name == "l2":
                total += weight * tf.reduce_sum(kernel**2)
            else:
                total += weight * tf.reduce_max(tf.abs(kernel))
        return total


class SecretBit(Tiny):
    """Differential privacy's coin from `secrets`."""

    modes = ("graph",)

    def losses(self, batch):
        return super().losses(batch) * (1.0 + secrets.randbelow(10**6) / 10**6)  # expect MT303
