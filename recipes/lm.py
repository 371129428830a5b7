"""A small GPT over bytes of the Python standard library's own source (Radford et al., 2018).

    python -m modetrain recipe=lm mode=xla

After 2000 steps, in 2.5 minutes on 2 cores shared with other work: 2.14 bits a byte on held out source of Python 3.11.
"""

from __future__ import annotations

import math
import sysconfig
from pathlib import Path
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from modetrain import Bounds, Recipe, Splits, Weighted
from modetrain.data.sources import text

Count = Annotated[int, Bounds(at_least=1)]
Share = Annotated[float, Bounds(at_least=0, below=1)]
MODULES = "argparse ast configparser dataclasses datetime difflib fractions heapq inspect json/decoder"


def standard_library(*, window: Count = 64, modules: str = MODULES) -> Splits:
    """Windows of bytes of some of the standard library's modules, which every Python has."""
    source = b"\0".join(Path(sysconfig.get_path("stdlib"), f"{name}.py").read_bytes() for name in modules.split())
    tokens = np.frombuffer(source, np.uint8)
    return text.in_windows({"": tokens}, window=window, vocabulary=text.BYTES, where="Python's own source")


def gpt(
    vocabulary: int, window: int, *, width: Count = 96, blocks: Count = 2, heads: Count = 4, dropout: Share = 0.1
) -> keras.Model:
    """Tokens [n, window] -> logits of the next token [n, window, vocabulary]."""
    tokens = keras.Input((window,), dtype="int32")
    x = layers.Embedding(vocabulary, width)(tokens) + layers.Embedding(window, width)(ops.arange(window))
    for _ in range(blocks):
        y = layers.LayerNormalization()(x)
        y = layers.MultiHeadAttention(heads, width // heads, dropout=dropout)(y, y, use_causal_mask=True)
        x = layers.Add()([x, y])
        y = layers.Dense(4 * width, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dropout(dropout)(layers.Dense(width)(y))])
    return keras.Model(tokens, layers.Dense(vocabulary)(layers.LayerNormalization()(x)), name="gpt")


class LanguageModel(Recipe):
    """Predicts the next token; the loss is in nats a token."""

    best_is = {"bits_per_token": "min"}

    def train_step(self, batch):
        return self.minimize(lambda: self.losses(batch, training=True))

    def eval_step(self, batch):
        loss = self.losses(batch, training=False)
        return {"loss": loss, "bits_per_token": Weighted(loss.values / math.log(2), loss.weights)}

    def losses(self, batch, training):
        logits = self.model(batch["tokens"], training=training)
        logits = logits if logits.dtype == tf.float64 else tf.cast(logits, tf.float32)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["targets"], logits)
        return Weighted(losses, batch["targets"] != self.info.separator)  # a file ends anywhere

    def show(self):
        """A text that continues `def `, the same draws each time."""
        if self.info.vocabulary != text.BYTES:
            return {}  # tokens of a user's own tokenizer, which nothing turns into text
        window, tokens = self.info.window, list(b"def ")
        predict = tf.function(lambda given: self.model(given, training=False))
        for position in range(4, 160):
            recent = tokens[-window:]
            logits = predict(tf.constant([recent + [0] * (window - len(recent))]))[:, len(recent) - 1]
            drawn = tf.random.stateless_categorical(tf.cast(logits, tf.float32), 1, [self.info.seed, position])
            tokens.append(int(drawn[0, 0]))
        return {"sample": "    " + bytes(tokens).decode("utf-8", "replace").replace("\n", "\n    ")}
