"""A head for a backbone that another recipe has trained: first the head alone, then both, the backbone at a lower rate.

    python -m modetrain recipe=contrastive run_dir=runs/backbone
    python -m modetrain recipe=finetune init_from.path=runs/backbone

Expected of 400 labels (data.source=bundled) after 300 steps, 12 seconds on 2 cores: eval/accuracy 0.90; with the backbone's
first weights in its place it is 0.85.
"""

from __future__ import annotations

from typing import Annotated

import keras
import tensorflow as tf

from modetrain import Bounds, ConfigError, Recipe
from recipes.mnist import cross_entropy, hits


class FineTune(Recipe):
    """Softmax classification: `model` is the backbone, images -> embeddings, and `head` makes logits of its outputs.

    Args:
      backbone: where the backbone is from, `init_from.path`; there has to be one.
      frozen: number of steps for which the backbone stays as it is.
      backbone_speed: its learning rate after that, as a multiple of the head's.
    """

    def __init__(
        self,
        *,
        model,
        optimizer,
        info,
        backbone: str | None = None,
        frozen: Annotated[int, Bounds(at_least=0)] = 100,
        backbone_speed: Annotated[float, Bounds(above=0)] = 0.2,
    ):
        if backbone is None:
            raise ConfigError(
                "init_from.path=null: recipe=finetune begins with a backbone that was trained before. Type python -m modetrain "
                "recipe=contrastive run_dir=runs/backbone, and then init_from.path=runs/backbone."
            )
        self.info = info
        self.model = model()
        self.head = keras.Sequential([keras.Input(self.model.output_shape[1:]), keras.layers.Dense(info.classes)])
        self.head_optimizer = optimizer(self.head.trainable_variables)
        rate = self.head_optimizer.settings.learning_rate * backbone_speed
        # Weight decay would move a backbone whose gradients are 0.
        self.backbone_optimizer = optimizer(self.model.trainable_variables, learning_rate=rate, weight_decay=0.0)
        self.frozen = frozen

    def train_step(self, batch):
        with tf.GradientTape() as tape:
            logits = self.logits(batch, training=True)
            losses = cross_entropy(batch["label"], logits)
            loss = tf.reduce_mean(losses)
        variables = (self.head.trainable_variables, self.model.trainable_variables)
        of_head, of_backbone = tape.gradient(loss, [[v.value for v in some] for some in variables])
        thawed = self.step >= self.frozen
        self.apply(of_head, optimizer=self.head_optimizer)
        self.apply([g * tf.cast(thawed, g.dtype) for g in of_backbone], optimizer=self.backbone_optimizer)
        return {"loss": losses, "accuracy": hits(batch["label"], logits)}

    def eval_step(self, batch):
        logits = self.logits(batch, training=False)
        return {"loss": cross_entropy(batch["label"], logits), "accuracy": hits(batch["label"], logits)}

    def logits(self, batch, training):
        return self.head(self.model(batch["image"], training=training), training=training)
