"""Semantic segmentation: which pixels of a textured ground are ink of a digit (a U-Net, Ronneberger et al., 2015).

    python -m modetrain recipe=segment

Expected on scenes of the bundled digits after 300 steps, a minute on 2 busy cores: eval/mean_iou 0.915.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import tensorflow as tf

from modetrain import Bounds, Recipe, Splits, metrics
from modetrain.data.sources.bundled import SAMPLE
from recipes.mnist import cross_entropy


class Segmentation(Recipe):
    """Classes of pixels: batches of `image` [n, h, w, c] in [0, 1] and `mask` [n, h, w], numbers of classes."""

    best_is = {"mean_iou": "max"}

    def train_step(self, batch):
        return self.minimize(lambda: self.measured(batch, training=True)[:2])

    def eval_step(self, batch):
        losses, metrics_, predicted = self.measured(batch, training=False)
        iou = metrics.mean_iou(batch["mask"], predicted, classes=self.info.classes)
        return {"loss": losses, **metrics_, "mean_iou": iou}

    def show(self, batch):
        """Evaluation images, and the masks that are true and predicted."""
        predicted = self.measured(batch, training=False)[2]
        return {
            "image": batch["image"],
            "mask": tf.cast(batch["mask"], tf.int32)[..., None],
            "predicted": predicted[..., None],
        }

    def measured(self, batch, *, training: bool):
        """The cross-entropy of each pixel in nats, metrics, and the predicted classes, [n, h, w]."""
        labels = tf.cast(batch["mask"], tf.int32)
        logits = self.model(batch["image"], training=training)
        predicted = tf.argmax(logits, -1, output_type=tf.int32)
        return cross_entropy(labels, logits), {"accuracy": tf.cast(predicted == labels, tf.float32)}, predicted


def scenes(
    *,
    size: Annotated[int, Bounds(at_least=28)] = 48,
    digits: Annotated[int, Bounds(at_least=1)] = 2,
    examples: Annotated[int, Bounds(at_least=1)] = 4000,
) -> Splits:
    """Scenes of the bundled digits: class 0 is the ground and class 1 is ink. Test scenes show other digits."""
    with np.load(SAMPLE) as sample:
        parts = {
            split: scene(np.random.default_rng(number), sample[f"{split}_image"], size, digits, count)
            for number, (split, count) in enumerate({"train": examples, "test": max(1, examples // 8)}.items())
        }
    return Splits(parts, classes=2)


def scene(random, images, size: int, digits: int, count: int) -> dict[str, np.ndarray]:
    """`image` uint8 [count, size, size, 1] and `mask` uint8 [count, size, size]; later digits cover earlier ones."""
    wave = random.uniform(-0.5, 0.5, [3, count, 1, 1])
    down, right = np.mgrid[:size, :size]
    ground = (
        90 + 60 * np.sin(wave[0] * down + wave[1] * right + 9 * wave[2]) + random.normal(0, 20, [count, size, size])
    )
    mask = np.zeros([count, size, size], np.uint8)
    for image, labelled in zip(ground, mask, strict=True):
        for which in random.integers(len(images), size=digits):
            y, x = random.integers(size - 27, size=2)
            ink = images[which, :, :, 0] > 127
            image[y : y + 28, x : x + 28][ink] += random.uniform(60, 120)
            labelled[y : y + 28, x : x + 28][ink] = 1
    return {"image": np.clip(ground, 0, 255).astype(np.uint8)[..., None], "mask": mask}
