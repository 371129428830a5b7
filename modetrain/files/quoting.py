"""Words that are printed to be typed: a value quoted for Hydra's grammar first, then the word quoted for the shell.

override("run_dir", "runs/a=b")    run_dir="runs/a=b"        as Hydra reads it, and as a process is given it
shell_override("run_dir", "runs/a=b")    'run_dir="runs/a=b"'      as it is typed into a POSIX shell
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from modetrain.files import paths

# What neither Hydra nor a shell reads as anything but itself; numbers and words like `null` are still to be found out.
_PLAIN = re.compile(r"[A-Za-z0-9_./+-]+")
# A path that is one of these has another meaning, and so has one that begins with ~ (home) or - (a flag).
_NO_PATHS = ("latest", "null", "???")


def key_of(word: str) -> str:
    """The key or group of an override as it was typed: `steps` of `steps=5`, of `+steps=5`, `++steps=5` and of `~steps`."""
    return word.partition("=")[0].lstrip("+~")


def override(key: str, value: Any, *, interpolated: bool = False) -> str:
    """An override that sets a key to exactly this value, as Hydra reads it.

    Args:
      key: what is set, with a `+` before it or not.
      value: a text, number, truth value, None, or a list of them. A text stays a text, `"5"` and `"null"` too.
      interpolated: whether `${...}` in a text is an interpolation; else it is a part of the text.
    """
    return f"{key}={_value(value, interpolated)}"


def shell_override(key: str, value: Any) -> str:
    """An override as it is typed into a shell."""
    return quote_word(override(key, value))


def shell_path_override(key: str, path: Path | str) -> str:
    """An override that sets a key to a path, as it is typed into a shell."""
    return shell_override(key, path_value(path))


def path_value(path: Path | str) -> str:
    """A path as a value: relative to the working folder where it lies in it, and never read as anything but a path."""
    text = paths.format_path(Path(path), Path.cwd())
    return f"./{text}" if text in _NO_PATHS or text.startswith(("~", "-")) else text


def quote_word(word: str) -> str:
    """A word as it is typed into a POSIX shell.

    A character that a terminal does not show, or does not pass on when it is pasted (a tab, a line break, a byte that is no
    text), is written by printf.
    """
    if word.isprintable() or word.endswith("\n"):  # which the substitution would drop
        return shlex.quote(word)
    return f"\"$(printf -- '{''.join(_in_printf(character) for character in word)}')\""


def join(words: Iterable[str]) -> str:
    """A whole command as it is typed into a POSIX shell, on one line."""
    return " ".join(quote_word(word) for word in words)


def escape(text: str) -> str:
    """A text as OmegaConf resolves it to itself: `${` is no interpolation."""
    return re.sub(r"(\\*)\$\{", lambda found: f"{found[1] * 2}\\${{", text)


def _value(value: Any, interpolated: bool) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(_value(one, interpolated) for one in value)}]"
    if not isinstance(value, str):
        return str(value)
    return value if _is_plain(value) else _in_quotes(value if interpolated else escape(value))


def _is_plain(text: str) -> bool:
    """Whether Hydra reads a text without quotes as that text: no number, no truth value, no null."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return _PLAIN.fullmatch(text) is not None and OverridesParser.create().parse_override(f"x={text}").value() == text


def _in_quotes(text: str) -> str:
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(text, Quote.double).with_quotes()


def _in_printf(character: str) -> str:
    if character == "%":
        return "%%"
    if character == "\\":
        return "\\\\"
    if character.isprintable() and character != "'":
        return character
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(character))
