"""What was probably meant by a key that does not exist."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from modetrain.config.other_names import INSTEAD
from modetrain.errors import closest
from modetrain.files.quoting import in_sentence, override
from modetrain.keys import KEYS, SECTIONS
from modetrain.settings import CALLBACKS

# Sections whose keys mean the same wherever they are typed; `exclude` or `every` of others say nothing by themselves.
_OF_THE_RUN = ("", "data", "optimizer", "mode")


def keys(key: str, known: Iterable[str] = ()) -> list[str]:
    """The keys that were probably meant: by another name of it, by its last part alone, or by spelling.

    Args:
      key: what was typed.
      known: keys there are besides those of the table.
    """
    key = _plain(key)
    names = {*KEYS, *known}
    if key in names:
        return [key]
    section, _, leaf = key.rpartition(".")
    alike = by_other_name(key)
    siblings = [name for name in names if name.rpartition(".")[0] == section]
    if inside := [name for name in alike if name in siblings]:
        return inside[:1]
    if section and siblings:
        # Whole keys would be alike for their common section alone.
        near = closest(leaf, [name.rpartition(".")[2] for name in siblings])
        if near:
            return [f"{section}.{near}"]
    if alike:
        return alike[:1]
    same = sorted(name for name in names if name.rpartition(".")[2] == leaf)
    if (root := section.partition(".")[0]) in SECTIONS:
        same = [one for one in same if one.partition(".")[0] == root or one.rpartition(".")[0] in _OF_THE_RUN]
    if callback := _own_callback(key):  # of another callback only where its name is alike
        names = {one for one in names if closest(callback, one.split(".")[1:2])}
        same = [one for one in same if one in names]
    if section and same:
        near = closest(key, same)
        return [near] if near else same
    if same or (section and siblings):
        return same
    near = closest(key, [name for name in names if not section or closest(leaf, [name.rpartition(".")[2]])])
    near = near or _near_leaf(leaf, names)
    return [near] if near else []


def by_other_name(key: str) -> list[str]:
    """The keys that another library's name stands for."""
    leaf = _plain(key).rpartition(".")[2].lower()
    return [name for name, one in KEYS.items() if leaf in one.key.also.split() or _instead(_plain(key), name)]


def as_typed(key: str, value: Any) -> str:
    """The value that was probably meant, in Hydra's grammar: `mixed_float16` for `precision=16`."""
    found = [KEYS[name] for name in keys(key) if name in KEYS]
    meant = value if len(found) != 1 or found[0].accepts(value) else found[0].propose(value)
    return override("", meant).removeprefix("=")


def _plain(key: str) -> str:
    return key.replace("/", ".").replace("-", "_").strip(".")


def _instead(key: str, leads_to: str) -> str | None:
    """The sentence that leads to a key from another library's name: as it was typed, its last part, or that of a callback."""
    whole, sentences = key.lower(), INSTEAD.get(leads_to, {})
    found = (sentences.get(name) for name in (whole, whole.rpartition(".")[2], _own_callback(whole)))
    return next((sentence for sentence in found if sentence), None)


def _own_callback(key: str) -> str:
    """The name of the callback that a key belongs to, if it is none of the library's."""
    section, name = [*key.split("."), "", ""][:2]
    return name if section == "callbacks" and key.count(".") > 1 and name not in CALLBACKS else ""


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
      value: what was to be assigned, in Hydra's grammar, to make the proposal whole.
    """
    leading = next(filter(None, (_instead(_plain(key), name) for name in INSTEAD)), None)
    if leading is not None:
        return leading
    found = keys(key, known)
    whole = [in_sentence(f"{name}={value}") if value is not None else name for name in found]
    section = key.rpartition(".")[0]
    siblings = [name for name in dict.fromkeys([*KEYS, *known]) if section and name.rpartition(".")[0] == section]
    if not whole and siblings:
        return f"There is {', '.join(siblings)}."
    if not whole:
        return "See --help for the common keys, and --cfg job for all."
    return f"Did you mean {whole[0]}?" if len(whole) == 1 else f"Did you mean one of {', '.join(whole)}?"
