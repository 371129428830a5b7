"""The page of all keys: `python -m modetrain.config.reference > docs/configuration.md`."""

from __future__ import annotations

from collections.abc import Iterator

from modetrain.keys import KEYS
from modetrain.schema import REQUIRED, text

_TOP = """# Every key

Made by `python -m modetrain.config.reference > docs/configuration.md` from the fields of `modetrain/settings.py` and
`modetrain/mode.py`. A key is typed as `key=value`; `--cfg job` prints what a run has of each.

The sections `recipe`, `model` and callbacks of your own have the keys that their code takes 
([write-a-recipe.md](write-a-recipe.md)). What a key affects says whether a run may go on with another value: **numbers** (what the same steps compute), *placement* (where
and how steps run), *machine* (may differ between workers), *run* (what is kept, shown or done).
"""


def page() -> str:
    """The whole page."""
    sections: dict[str, list[str]] = {}
    for key in KEYS:
        sections.setdefault(key.rpartition(".")[0] or "the run", []).append(key)
    return "\n".join([_TOP, *(line for section, keys in sections.items() for line in _section(section, keys))])


def _section(section: str, keys: list[str]) -> Iterator[str]:
    yield from (f"## {section}", "", "| key | takes | default | what it is | affects |", f"|{' --- |' * 5}")
    for name in keys:
        entry = KEYS[name]
        default = "" if entry.default is REQUIRED else f"`{text(entry.default)}`"
        affects = ", ".join(f"**{one}**" if one == "numbers" else one for one in entry.key.affects or ())
        help = entry.key.help.replace("<", "&lt;")
        yield f"| `{name}` | {entry.kind.words(1e9)} | {default} | {help} | {affects} |"
    yield ""


if __name__ == "__main__":
    print(page(), end="")
