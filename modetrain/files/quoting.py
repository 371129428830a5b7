"""Words for the user to type: a value is quoted first for Hydra's grammar, then the word for the shell.

override("run_dir", "runs/a=b")    run_dir="runs/a=b"        as Hydra reads it, and as a process is given it
shell_override("run_dir", "runs/a=b")    'run_dir="runs/a=b"'      as it is typed into a POSIX shell
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from modetrain.files import paths

# Text that Hydra and a shell leave unchanged, except numbers and words like `null`.
_PLAIN = re.compile(r"[A-Za-z0-9_./+-]+")
# Text that a shell leaves unchanged, a list in brackets included unless files have names like it.
_SAFE = re.compile(r"[A-Za-z0-9_.,=/+:@%\[\]-]+")
# These values are no paths, and so is one that begins with ~ (home) or - (a flag).
_NO_PATHS = ("latest", "null", "???")


def key_of(word: str) -> str:
    """The key or group of an override as it was typed: `steps` of `steps=5`, of `+steps=5`, `++steps=5` and of `~steps`."""
    return word.partition("=")[0].lstrip("+~")


def override(key: str, value: Any, *, interpolated: bool = False) -> str:
    """An override that sets a key to exactly this value, as Hydra reads it.

    Args:
      key: the key, with or without a `+` before it.
      value: a text, number, bool, None, or a list of them. A text stays a text, even `"5"` and `"null"`.
      interpolated: whether `${...}` in a text is an interpolation; otherwise it is a part of the text.
    """
    return f"{key}={_value(value, interpolated)}"


def shell_override(key: str, value: Any) -> str:
    """An override, quoted for a shell."""
    return quote_word(override(key, value))


def proposal(key: str, value: Any) -> str:
    """An override for a sentence: quoted where a shell or Hydra would read it as something else, and only there."""
    return in_sentence(override(key, value))


def in_sentence(word: str) -> str:
    """A word for a sentence, quoted for a shell if it has to be; a list such as `[32,32]` need not be."""
    return word if _SAFE.fullmatch(word) else quote_word(word)


def shell_path_override(key: str, path: Path | str) -> str:
    """An override that sets a key to a path, quoted for a shell."""
    return shell_override(key, path_value(path))


def path_value(path: Path | str) -> str:
    """A path as a value: relative to the working folder if it is below it, and never read as anything but a path."""
    text = paths.format_path(Path(path), Path.cwd())
    return f"./{text}" if text in _NO_PATHS or text.startswith(("~", "-")) else text


def quote_word(word: str) -> str:
    """A word, quoted for a POSIX shell.

    printf writes a character that a terminal does not show, or changes when it is pasted (a tab, a line break, a byte that is
    no text, a letter that the encoding of the output does not have).
    """
    if _is_shown(word) or word.endswith("\n"):  # the substitution would drop a line break at the end
        return shlex.quote(word)
    return f"\"$(printf -- '{''.join(_in_printf(character) for character in word)}')\""


def join(words: Iterable[str]) -> str:
    """A whole command, quoted for a POSIX shell, on one line."""
    return " ".join(quote_word(word) for word in words)


def escape(text: str) -> str:
    """Escapes a text for OmegaConf, so that `${` is no interpolation."""
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
    """Whether Hydra reads a text without quotes as that text: no number, no bool, no null."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return _PLAIN.fullmatch(text) is not None and OverridesParser.create().parse_override(f"x={text}").value() == text


def _in_quotes(text: str) -> str:
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(text, Quote.double).with_quotes()


def _is_shown(text: str) -> bool:
    """Whether standard output shows a text as it is."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return text.isprintable()


def _in_printf(character: str) -> str:
    if character == "%":
        return "%%"
    if character == "\\":
        return "\\\\"
    if _is_shown(character) and character != "'":
        return character
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(character))
