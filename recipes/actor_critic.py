"""Advantage actor-critic (Mnih et al., 2016) on a cart-pole: the environment is made of tensors, and there is no data.

    python -m modetrain recipe=actor_critic

Expected after 150 steps, 11 seconds on 2 cores: eval/length 200, the longest episode there is (at random: 22). mode=eager is slow,
a second a step: it calls the model 200 times.
"""

from __future__ import annotations

from typing import Annotated

import keras
import tensorflow as tf

from modetrain import Bounds, Recipe, Weighted


class ActorCritic(Recipe):
    """Plays an episode on as many cart-poles as the batch has examples, then learns from every step that had the pole up.

    The environment computes in float64: poles that are rounded differently soon fall differently, and modes round differently.

    Args:
      horizon: the most steps of an episode.
      discount: how much the next step counts of what this one does.
      entropy: how much the policy's entropy counts in the loss, for it to try both actions.
    """

    def __init__(
        self,
        *,
        model,
        optimizer,
        info,
        horizon: Annotated[int, Bounds(at_least=2)] = 200,
        discount: Annotated[float, Bounds(above=0, below=1)] = 0.98,
        entropy: Annotated[float, Bounds(at_least=0)] = 0.01,
    ):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.horizon, self.discount, self.entropy = horizon, discount, entropy

    def train_step(self, batch):
        shape = [batch["seed"].shape[0], self.horizon]
        draws = tf.random.stateless_uniform(shape, self.seed("action"), dtype=tf.float64)
        states, actions, alive = self.play(draws, self.seed("start"))

        def loss():
            logits, values = self.judge(states)
            left = tf.range(self.horizon) - tf.range(self.horizon)[:, None]  # [from step, to step]
            discounts = self.discount ** tf.cast(tf.maximum(left, 0), alive.dtype) * tf.cast(left >= 0, alive.dtype)
            # The critic stands for what comes after the last step.
            rewards = tf.concat([(1 - self.discount) * alive[:, :-1], alive[:, -1:] * values[:, -1:]], 1)
            advantage = tf.stop_gradient(tf.matmul(rewards, discounts, transpose_b=True)) - values
            surprise = tf.nn.sigmoid_cross_entropy_with_logits(actions, logits)
            entropy = tf.nn.sigmoid_cross_entropy_with_logits(tf.sigmoid(logits), logits)
            losses = tf.stop_gradient(advantage) * surprise + advantage**2 - self.entropy * entropy
            return Weighted(losses, alive), {
                "length": tf.reduce_sum(alive, 1),
                "entropy": Weighted(entropy, alive),
                "critic_error": Weighted(advantage**2, alive),
            }

        return self.minimize(loss)

    def eval_step(self, batch):
        """Always takes the likelier action."""
        halves = tf.fill([batch["seed"].shape[0], self.horizon], tf.constant(0.5, tf.float64))
        return {"length": tf.reduce_sum(self.play(halves, self.seed("eval start"))[2], 1)}

    def judge(self, states: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The logit of a push to the right and the value of each state: two [...], for states [..., 4]."""
        out = self.model(tf.reshape(tf.cast(states, keras.config.floatx()), [-1, 4]), training=True)
        return tf.unstack(tf.reshape(tf.cast(out, keras.config.floatx()), [*states.shape[:-1], 2]), axis=-1)

    def play(self, draws: tf.Tensor, seed: tf.Tensor) -> list[tf.Tensor]:
        """The states [n, horizon, 4] of episodes, the actions, and 1 while the pole is up; by a draw in [0, 1) for each action."""
        start = tf.random.stateless_uniform([draws.shape[0], 4], seed, -0.05, 0.05, dtype=draws.dtype)

        def step(last, draw):
            state, alive = last[:2]
            action = tf.cast(tf.cast(draw, keras.config.floatx()) < tf.sigmoid(self.judge(state)[0]), draw.dtype)
            after = moved(state, action)
            up = (tf.abs(after[:, 0]) < 2.4) & (tf.abs(after[:, 2]) < 0.2095)
            return after, alive * tf.cast(up, alive.dtype), state, action, alive

        one = tf.ones_like(start[:, 0])
        played = tf.scan(step, tf.transpose(draws), (start, one, start, one, one))[2:]
        return [tf.transpose(tf.cast(x, keras.config.floatx()), [1, 0, 2][: len(x.shape)]) for x in played]


def moved(state: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
    """Where carts are after a push to the left (0) or right (1): states [n, 4] of place, speed, angle and its speed."""
    _, speed, angle, turning = tf.unstack(state, axis=1)
    sin, cos = tf.sin(angle), tf.cos(angle)
    push = (20 * action - 10 + 0.05 * turning**2 * sin) / 1.1  # a cart of 1 kg, a pole of 0.1 kg and 1 m
    turned = (9.8 * sin - cos * push) / (0.5 * (4 / 3 - 0.1 * cos**2 / 1.1))
    pushed = push - 0.05 * turned * cos / 1.1
    return state + 0.02 * tf.stack([speed, pushed, turning, turned], axis=1)
