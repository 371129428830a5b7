"""Lock-step: the reference's steps, how far rounding noise moves each, and an arm's steps from the same states.

Every step of an arm begins from the state that the reference had there, so that a difference is that step's own and no
earlier one hides or fakes it. The reference is run twice: a step that gives other numbers the second time is no function of
state and batch, and there is nothing to compare.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from modetrain.recipe import scaled
from modetrain.tools.compare import tolerance
from modetrain.tools.compare.observation import Entry, Impure, Seen, State, quantities
from modetrain.tools.compare.store import Shelf, before
from modetrain.tools.compare.variant import Arm, one


def lead(arm: Arm, shelf: Shelf, name: str) -> int:
    """Runs the reference's steps, one after the other, from the state on the shelf that there is; returns how many it could."""
    for number in range(arm.steps):
        seen = arm.step(number)
        shelf.put(f"{name}/{number}", seen)
        if seen.error is not None:
            return number + 1
    return arm.steps


def follow(arm: Arm, shelf: Shelf, name: str, reference: str, numbers: Iterable[int]) -> int:
    """Runs steps from the reference's states; returns how many."""
    count = 0
    for number in numbers:
        arm.load(before(shelf, reference, number))
        shelf.put(f"{name}/{number}", arm.step(number))
        count += 1
    return count


def repeat(arm: Arm, shelf: Shelf, name: str, steps: int, layout: Mapping[str, Entry]) -> list[Impure]:
    """Repeats the reference's steps, the last one first; returns those that gave other numbers."""
    found = []
    for number in reversed(range(steps)):
        start = before(shelf, name, number)
        arm.load(start)
        seen, again = shelf.get(f"{name}/{number}"), arm.step(number)
        other = _differing(start, seen, again, layout)
        if other:
            found.append(Impure(step=number, tensors=tuple(other)))
    return sorted(found, key=lambda impure: impure.step)


def _differing(start: State, seen: Seen, again: Seen, layout: Mapping[str, Entry]) -> list[str]:
    if seen.error is not None or again.error is not None:
        same = seen.error is not None and again.error is not None and seen.error.type == again.error.type
        return [] if same else ["what it raises"]
    wanted, found = quantities(start, seen, layout), quantities(start, again, layout)
    return [
        label
        for label, quantity in wanted.items()
        if label not in found or tolerance.gap(quantity.after, found[label].after).absolute > 0
    ]


def floors(
    arm: Arm,
    shelf: Shelf,
    name: str,
    numbers: Iterable[int],
    layout: Mapping[str, Entry],
    *,
    draws: int,
    first_draw: int = 0,
) -> dict[int, dict[str, float]]:
    """How far rounding noise moves each quantity of the reference's steps: the largest absolute difference, by label.

    Args:
      arm: the reference.
      shelf: where its steps are.
      name: its name there.
      numbers: which steps.
      layout: what each entry of the state is.
      draws: how often each step is repeated, moved anew each time.
      first_draw: number of the first draw, so that more of them can be added to earlier ones.
    """
    size = max(tolerance.epsilon(arm.compute_dtype()), tolerance.epsilon("float64"))
    found: dict[int, dict[str, float]] = {}
    for number in numbers:
        start, seen = before(shelf, name, number), shelf.get(f"{name}/{number}")
        if seen.error is not None:
            continue
        wanted = quantities(start, seen, layout)
        largest = dict.fromkeys(wanted, 0.0)
        for draw in range(first_draw, first_draw + draws):
            rng = np.random.default_rng([number, draw])
            # Later draws reach further: a compiler's roundings add up over a step.
            reach = 1.0 if draw < 3 else float(2 ** (draw % 3))
            moved = {key: tolerance.moved(array, size * reach, rng) for key, array in start.items()}
            batch = scaled({key: value[0] for key, value in _tensors(one(arm.batches, number)).items()})
            moved_batch = {
                key: tolerance.moved(value.numpy(), size * reach, rng)[np.newaxis] for key, value in batch.items()
            }
            arm.load(moved)
            again = arm.step(number, arm.block_of(moved_batch, number))
            if again.error is not None:
                continue
            # The state as it was loaded, in the arm's own dtypes.
            for label, quantity in quantities(moved, again, layout).items():
                if label in largest:
                    distance = tolerance.gap(wanted[label].value, quantity.value).absolute
                    largest[label] = max(largest[label], distance / reach)
        found[number] = largest
    return found


def _tensors(arrays):
    import tensorflow as tf

    return {name: tf.constant(array) for name, array in arrays.items()}
