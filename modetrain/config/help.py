"""What `--help` prints: read from the config files there are, the user's own among them, and from the schema."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from modetrain.config.arguments import FLAGS
from modetrain.files.paths import describe, find_options
from modetrain.keys import KEYS
from modetrain.schema import Value

ABOUT = (
    "modetrain trains a TensorFlow recipe in the execution mode you name: the same train step runs line by line "
    "(mode=eager), as a graph (mode=graph) or compiled by XLA (mode=xla)."
)

GROUPS = (
    ("recipe", "Recipes, one is needed"),
    ("mode", "Modes"),
    ("model", "Models"),
    ("data", "Data"),
    ("optimizer", "Optimizers"),
    ("debug", "Debug presets"),
    ("do", "What to do"),
)

EXAMPLES = (
    ("python -m modetrain recipe=mnist", "train, in graph mode"),
    ("python -m modetrain recipe=mnist mode=eager steps=5", "step through it: breakpoints and print work"),
    ("python -m modetrain -m recipe=mnist mode=eager,graph,xla steps=50", "compare the modes, one process each"),
    ("python -m modetrain recipe=mnist do=compare", "whether the modes compute the same, and where and why not"),
    ("python -m modetrain recipe=mnist debug=fast", "a few steps of everything, to see that all of it runs"),
    ("python -m modetrain recipe=mnist resume=latest steps=3000", "go on where the newest run stopped"),
)

EXIT_CODES = (
    ("0", "done"),
    ("1", "the run failed"),
    ("2", "the configuration is wrong; nothing was run"),
    ("3", "a loss or gradient was not finite; the last checkpoint is good"),
    ("129, 130, 143", "stopped by SIGHUP, by Ctrl-C, or by SIGTERM or stop_after=; resume=latest goes on"),
)


def text(folders: Sequence[Path], width: int | None = None) -> str:
    """The whole help.

    Args:
      folders: where configs are looked up.
      width: columns; the terminal's by default, at most 120.
    """
    columns = min(width or shutil.get_terminal_size((100, 24)).columns, 120)
    lines = [*textwrap.wrap(ABOUT, columns), "", "Usage: python -m modetrain [FLAGS] recipe=NAME [key=value ...]"]
    for group, title in GROUPS:
        rows = [(f"{group}={name}", describe(file)) for name, file in find_options(group, folders).items()]
        lines += ["", f"{title}:", *_table(rows, columns)]
    common = [(f"{key}=", _about(entry)) for key, entry in KEYS.items() if entry.key.common]
    lines += ["", "Common keys (--cfg job prints all of them, with their values):", *_table(common, columns)]
    lines += ["", "Flags:", *_table([(", ".join(names), about) for names, about in FLAGS.items()], columns)]
    lines += ["", "Examples:", *(line for command, about in EXAMPLES for line in (f"  # {about}", f"  {command}"))]
    lines += ["", "Exit codes:", *_table(EXIT_CODES, columns)]
    own = "Your own conf/ and recipes/ in the folder you start in add to these, or override them by name."
    lines += ["", *textwrap.wrap(own, columns)]
    return "\n".join(lines)


def _about(entry: Value) -> str:
    choices = entry.key.choices if entry.type in (str, str | None) else ()
    return entry.key.help + (f" ({', '.join(choices)})" if choices else "")


def _table(rows: Sequence[tuple[str, str]], columns: int) -> Iterator[str]:
    """Two columns, the second wrapped."""
    left = max((len(name) for name, _ in rows), default=0)
    for name, about in rows:
        first, *more = textwrap.wrap(about, max(columns - left - 4, 20)) or [""]
        yield f"  {name:<{left}}  {first}".rstrip()
        yield from (f"  {'':<{left}}  {line}" for line in more)
