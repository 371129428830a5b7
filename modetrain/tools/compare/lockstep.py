"""Steps in lock-step: every step of every variant begins from the state that the reference had there.

So a difference is that step's own, and no earlier one hides or fakes it. The reference's steps are repeated: one that gives
other numbers the second time is no function of state and batch, and cannot be compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import tensorflow as tf

from modetrain.recipe import scale_images
from modetrain.tools.compare import tolerance
from modetrain.tools.compare.observation import ImpureStep, Observation, State, StateEntry, quantities
from modetrain.tools.compare.store import INITIAL, ResultStore
from modetrain.tools.compare.variant import Variant

Layout = Mapping[str, StateEntry]


def run_reference(variant: Variant, store: ResultStore, name: str) -> int:
    """Runs the reference's steps one after the other, up to the first that raises; returns how many."""
    for number in range(variant.steps):
        observation = variant.observe(number)
        if number == 0 and complete_start(variant, store):
            variant.load(store.get(INITIAL))
            observation = variant.observe(number)
        store.put(f"{name}/{number}", observation)
        if observation.error is not None:
            return number + 1
    return variant.steps


def complete_start(variant: Variant, store: ResultStore) -> bool:
    """Adds the variables that the first step has made to the state that all variants begin from; whether there are any."""
    start, now = store.get(INITIAL), variant.read()
    store.put(INITIAL, {**now, **start})
    return len(now) > len(start)


def make_variables(variant: Variant, state: State) -> None:
    """Runs the first step once where a variant lacks variables of a state, because that step makes them."""
    if not state.keys() <= variant.variables().keys():
        variant.load(state)
        variant.observe(0)


def run_steps(variant: Variant, store: ResultStore, name: str, reference: str, numbers: Iterable[int]) -> bool:
    """Runs steps from the reference's states; returns whether none raised."""
    fine = True
    for number in numbers:
        variant.load(store.state_before(reference, number))
        observation = variant.observe(number)
        store.put(f"{name}/{number}", observation)
        fine = fine and observation.error is None
    return fine


def repeat_steps(variant: Variant, store: ResultStore, name: str, steps: int, layout: Layout) -> list[ImpureStep]:
    """Repeats the reference's steps, the last one first; returns those that gave other numbers."""
    found: list[ImpureStep] = []
    for number in reversed(range(steps)):
        start = store.state_before(name, number)
        variant.load(start)
        differing = _differing(start, store.observation(name, number), variant.observe(number), layout)
        if differing:
            found.insert(0, ImpureStep(step=number, tensors=tuple(differing)))
    return found


def _differing(start: State, first: Observation, second: Observation, layout: Layout) -> list[str]:
    if first.error is not None or second.error is not None:
        same = first.error is not None and second.error is not None and first.error.type == second.error.type
        return [] if same else ["what it raises"]
    expected, got = quantities(start, first, layout), quantities(start, second, layout)
    return [
        label
        for label, quantity in expected.items()
        if label not in got or tolerance.measure_gap(quantity.after, got[label].after).absolute > 0
    ]


def measure_noise(
    variant: Variant,
    store: ResultStore,
    name: str,
    numbers: Iterable[int],
    layout: Layout,
    *,
    draws: int,
    dtype: str,
    first_draw: int = 0,
) -> dict[int, dict[str, float]]:
    """How far rounding noise moves each quantity of the reference's steps: the largest absolute difference, by label.

    Args:
      variant: the reference.
      store: where its steps are.
      name: its name there.
      numbers: which steps.
      layout: what each entry of the state is.
      draws: how often each step is repeated, each time moved by other noise.
      dtype: whose last place the noise moves.
      first_draw: number of the first draw, so that more draws can be added to earlier ones.
    """
    size = max(tolerance.epsilon(dtype), tolerance.epsilon("float64"))
    floors: dict[int, dict[str, float]] = {}
    for number in numbers:
        start, observation = store.state_before(name, number), store.observation(name, number)
        if observation.error is not None:
            continue
        expected = quantities(start, observation, layout)
        batch = scale_images({key: tf.constant(array[number]) for key, array in variant.batches.items()})
        largest = dict.fromkeys(expected, 0.0)
        for draw in range(first_draw, first_draw + draws):
            rng = np.random.default_rng([number, draw])
            # Later draws reach further: a compiler's roundings add up over a step.
            reach = 1.0 if draw < 3 else float(2 ** (draw % 3))
            moved = {key: tolerance.perturb(array, size * reach, rng) for key, array in start.items()}
            moved_batch = {
                key: tolerance.perturb(value.numpy(), size * reach, rng, constant=True)[np.newaxis]
                for key, value in batch.items()
            }
            variant.load(moved)
            again = variant.observe(number, variant.stack(moved_batch, number))
            if again.error is not None:
                continue
            # The state as it was loaded, in the variant's own dtypes.
            for label, quantity in quantities(moved, again, layout).items():
                if label in largest:
                    distance = tolerance.measure_gap(expected[label].value, quantity.value).absolute
                    largest[label] = max(largest[label], distance / reach)
        floors[number] = largest
    return floors
