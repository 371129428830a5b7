"""Advantage actor-critic (Mnih et al., 2016) on a cart-pole (`cart_pole.py`), without any data.

Expected after 150 steps, 11 seconds on 2 cores: length 200, the longest episode there is (at random: 22).
"""

from __future__ import annotations

from typing import Annotated

import keras
import tensorflow as tf

from modetrain import Bounds, Recipe, Weighted
from recipes import cart_pole


class ActorCritic(Recipe):
    """Plays an episode on as many cart-poles as the batch has examples, then learns from every step that had the pole up.

    At most `horizon` steps each; `discount` weighs the next step, `entropy` that of the policy, for it to try both actions.
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
        draws = tf.random.stateless_uniform(
            [batch["seed"].shape[0], self.horizon], self.seed("action"), dtype=tf.float64
        )
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
            metrics = {"entropy": Weighted(entropy, alive), "critic_error": Weighted(advantage**2, alive)}
            return Weighted(losses, alive), {"length": tf.reduce_sum(alive, 1), **metrics}

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
        start = cart_pole.start(draws.shape[0], seed)

        def step(last, draw):
            state, alive = last[:2]
            action = tf.cast(tf.cast(draw, keras.config.floatx()) < tf.sigmoid(self.judge(state)[0]), draw.dtype)
            after = cart_pole.move(state, action)
            return after, alive * tf.cast(cart_pole.is_up(after), alive.dtype), state, action, alive

        one = tf.ones_like(start[:, 0])
        played = tf.scan(step, tf.transpose(draws), (start, one, start, one, one))[2:]
        return [tf.transpose(tf.cast(x, keras.config.floatx()), [1, 0, 2][: len(x.shape)]) for x in played]
