"""Text files for language models: `data=text`. An example is a window of tokens, by default bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from modetrain.data.sources.arrays import check_memory
from modetrain.data.sources.messages import format_path
from modetrain.errors import ConfigError
from modetrain.files.paths import visible
from modetrain.schema import Bounds

if TYPE_CHECKING:
    from modetrain.data.source import Splits
    from modetrain.data.windows import TokenFiles

BYTES = 256
_SEPARATOR = 0  # between files of bytes; a text has no such byte
_HELD_OUT = 0.1  # of the windows, where there is no file for it
_MEMORY = 2**28  # bytes of text that are kept in memory; of more the windows of a batch are read from the files
_PROBE = 4096  # characters by whose tokens a tokenizer is known again


def load(
    path: str,
    *,
    window: Annotated[int, Bounds(at_least=1)] = 128,
    files: str = "**/*",
    tokenizer: Callable[[str], Sequence[int]] | None = None,
    vocabulary: Annotated[int, Bounds(at_least=2)] | None = None,
    separator: Annotated[int, Bounds(at_least=0)] | None = None,
    cache: str | None = None,
) -> Splits:
    """Windows of the text in a file or a folder: `tokens` int32 [window] and, moved on by one, `targets` int32 [window].

    A folder with `train` and `validation` or `test` (files or folders of that name) has these splits. Else a tenth of the text,
    its end, is `validation`.

    Args:
      path: a file, or a folder of files.
      window: tokens of an example.
      files: which files of a folder, as a pattern.
      tokenizer: makes whole numbers from 0 of a text; by default the text's bytes in UTF-8.
      vocabulary: how many tokens there are; by default the tokenizer's own `vocabulary`, else 256 for bytes, else the largest that
        occurs plus one.
      separator: the token between two files; by default 0 for bytes, and none for a tokenizer.
      cache: a folder that keeps the tokens of a tokenizer, which are then read from there, so that they need not fit in memory.

    Raises:
      ConfigError: there is no text, or too little for a window.
    """
    given = Path(path).expanduser()
    if not given.exists():
        raise ConfigError(f"data.path={path}: there is no such file or folder. Type data.path= with one that has text.")
    parts = {name: found for name in ("train", "validation", "test") if (found := _part(given, name))}
    kept = None if cache is None else Path(cache).expanduser()
    tokens = {name: _tokens(found, files, tokenizer, separator, kept) for name, found in (parts or {"": given}).items()}
    if parts and "train" not in parts:
        raise ConfigError(
            f"data.path={format_path(given)} has {', '.join(parts)} and no train. Add train.txt or a folder train."
        )
    known = vocabulary or getattr(tokenizer, "vocabulary", None)
    if known is None:
        known = BYTES if tokenizer is None else 1 + max(_range(some)[1] for some in tokens.values())
    end = _SEPARATOR if separator is None and tokenizer is None else separator
    return in_windows(tokens, window=window, vocabulary=known, separator=end, where=f"text of {format_path(given)}")


def in_windows(
    tokens: Mapping[str, np.ndarray | TokenFiles],
    *,
    window: int,
    vocabulary: int,
    where: str,
    separator: int | None = _SEPARATOR,
) -> Splits:
    """Splits of windows of tokens.

    Args:
      tokens: by split; a tenth of a single one without a name is `validation`.
      window: tokens of an example.
      vocabulary: how many tokens there are.
      where: what the text is, for messages.
      separator: the token between files, if there is one.

    Raises:
      ConfigError: a split is shorter than a window, or has other tokens.
    """
    from modetrain.data.source import Splits  # with TensorFlow
    from modetrain.data.windows import TokenWindows

    windows: dict[str, Any] = {}
    for name, some in tokens.items():
        _check(some, window, f"the {where}" if not name else f"the split {name} of the {where}", vocabulary)
        count = (len(some) - 1) // window
        if name:
            windows[name] = TokenWindows(some, window, first=0, count=count)
            continue
        held = min(max(round(count * _HELD_OUT), 1), count - 1)
        windows["train"] = TokenWindows(some, window, first=0, count=count - held)
        if held:
            windows["validation"] = TokenWindows(some, window, first=count - held, count=held)
    return Splits(
        windows,
        description=f"{where}, {sum(map(len, tokens.values())):,} tokens",
        vocabulary=vocabulary,
        window=window,
        separator=-1 if separator is None else separator,
    )


def _part(folder: Path, name: str) -> Path | None:
    """The file or folder of a split."""
    found = [one for one in visible(folder, f"{name}*") if one.stem == name] if folder.is_dir() else []
    return found[0] if found else None


def _tokens(
    path: Path,
    pattern: str,
    tokenizer: Callable[[str], Sequence[int]] | None,
    separator: int | None,
    cache: Path | None,
) -> np.ndarray | TokenFiles:
    """The tokens of a file, or of all files of a folder in the order of their names."""
    from modetrain.data.windows import TokenFiles

    files = [path] if path.is_file() else [one for one in sorted(visible(path, pattern)) if one.is_file()]
    size = sum(one.stat().st_size for one in files)
    if tokenizer is None:
        between = _SEPARATOR if separator is None else separator
        if between >= BYTES:
            raise ConfigError(f"data.separator={between}: bytes go from 0 to 255. Type data.separator=0.")
        found = TokenFiles(files, np.uint8, between)
        return found if size > _MEMORY else found.read(0, len(found))
    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True)
        return TokenFiles([_cached(one, tokenizer, separator, cache) for one in files], np.int32, None)
    check_memory(size * 4, "the tokens", format_path(path), advice="Type data.cache=FOLDER to keep them on disk.")
    texts = [_with_end(tokenizer(_read(one)), separator) for one in files]
    return np.concatenate(texts) if texts else np.zeros(0, np.int32)


def _read(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{format_path(file)}: byte {error.start} is no UTF-8. Save it as UTF-8, or type data.tokenizer=null for bytes."
        ) from error


def _with_end(tokens: Sequence[int], separator: int | None) -> np.ndarray:
    return np.asarray([*tokens, *([] if separator is None else [separator])], np.int32)


def _cached(file: Path, tokenizer: Callable[[str], Sequence[int]], separator: int | None, cache: Path) -> Path:
    """The file that keeps the tokens of a text; it is written if the text or the tokenizer is new."""
    text = _read(file)
    known = hashlib.sha256(text.encode())
    known.update(repr((list(tokenizer(text[:_PROBE])), separator)).encode())
    kept = cache / f"{file.stem}-{known.hexdigest()[:16]}.tokens"
    if not kept.is_file():
        part = kept.with_suffix(f".{os.getpid()}")
        _with_end(tokenizer(text), separator).tofile(part)
        part.replace(kept)
    return kept


def _range(tokens: np.ndarray | TokenFiles) -> tuple[int, int]:
    """The least and the greatest token."""
    parts = (
        tokens[at : at + _MEMORY] if isinstance(tokens, np.ndarray) else tokens.read(at, min(at + 2**24, len(tokens)))
        for at in range(0, len(tokens), _MEMORY if isinstance(tokens, np.ndarray) else 2**24)
    )
    pairs = [(int(part.min()), int(part.max())) for part in parts]
    return min((low for low, _ in pairs), default=0), max((high for _, high in pairs), default=0)


def _check(tokens: np.ndarray | TokenFiles, window: int, where: str, vocabulary: int) -> None:
    """Raises ConfigError if there is less than a window, or a token that the vocabulary lacks."""
    if len(tokens) <= window:
        raise ConfigError(
            f"data.window={window}: {where} has {len(tokens):,} tokens, and a window needs {window + 1:,}. Type "
            f"data.window={max(len(tokens) - 1, 1)} or less, or give more text."
        )
    if tokens.dtype == np.uint8 and vocabulary >= BYTES:
        return
    lowest, highest = _range(tokens)
    if lowest < 0 or highest >= vocabulary:
        raise ConfigError(
            f"data.vocabulary={vocabulary}: {where} has tokens from {lowest} to {highest}. Type data.vocabulary={highest + 1}."
        )
