"""What was probably meant by a key that does not exist."""

from __future__ import annotations

from collections.abc import Iterable

from modetrain.errors import closest
from modetrain.keys import KEYS


def keys(key: str, known: Iterable[str] = ()) -> list[str]:
    """The keys that were probably meant: by another name of it, by its last part alone, or by spelling.

    Args:
      key: what was typed.
      known: keys there are besides those of the table.
    """
    key = key.replace("/", ".").replace("-", "_").strip(".")
    names = {*KEYS, *known}
    if key in names:
        return [key]
    section, _, leaf = key.rpartition(".")
    for name, entry in KEYS.items():
        if leaf in entry.key.also.split():
            return [name]
    siblings = [name for name in names if name.rpartition(".")[0] == section]
    if section and siblings:
        # Whole keys would be alike for their common section alone.
        near = closest(leaf, [name.rpartition(".")[2] for name in siblings])
        if near:
            return [f"{section}.{near}"]
    same = sorted(name for name in names if name.rpartition(".")[2] == leaf)
    if section and same:
        near = closest(key, same)
        return [near] if near else same
    if same or (section and siblings):
        return same
    near = closest(key, names) or _near_leaf(leaf, names)
    return [near] if near else []


def _near_leaf(leaf: str, names: Iterable[str]) -> str | None:
    by_leaf: dict[str, list[str]] = {}
    for name in names:
        by_leaf.setdefault(name.rpartition(".")[2], []).append(name)
    near = closest(leaf, [name for name in by_leaf if len(name) > 3])  # anything is close to `at`
    return by_leaf[near][0] if near and len(by_leaf[near]) == 1 else None


def sentence(key: str, known: Iterable[str] = (), value: str | None = None) -> str:
    """A sentence that proposes what to type instead of a key that does not exist.

    Args:
      key, known: as in `keys`.
      value: what was to be assigned, to make the proposal whole.
    """
    found = keys(key, known)
    whole = [f"{name}={value}" if value is not None else name for name in found]
    section = key.rpartition(".")[0]
    siblings = [name for name in dict.fromkeys([*KEYS, *known]) if section and name.rpartition(".")[0] == section]
    if not whole and siblings:
        return f"There is {', '.join(siblings)}."
    if not whole:
        return "See --help for the common keys, and --cfg job for all."
    return f"Did you mean {whole[0]}?" if len(whole) == 1 else f"Did you mean one of {', '.join(whole)}?"
