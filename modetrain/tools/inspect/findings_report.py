"""What `inspect` found, for a person (like a good linter) and as `inspect.json`."""

from __future__ import annotations

import collections
import dataclasses
import json
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from modetrain.tools.inspect.codes import CODES
from modetrain.tools.inspect.finding import Finding

FILE = "inspect.json"
_WIDTH = 116


def lines(findings: Sequence[Finding]) -> Iterator[str]:
    """The whole story of every finding."""
    for one in findings:
        yield f"{one.place.shown}: {one.code} {CODES[one.code].title}"
        yield f"    {one.text}"
        yield from _wrapped("what", one.what)
        yield from _wrapped("why", one.why)
        yield from _wrapped("fix", one.fix)
        yield f"    seen by {', '.join(one.evidence)}"
        yield ""


def short(one: Finding) -> str:
    """One line for a finding."""
    return f"{one.place.shown}: {one.code} {CODES[one.code].title}: {one.what}"


def summary(findings: Sequence[Finding], target: str) -> str:
    """One line for all of them."""
    if not findings:
        return f"inspect: nothing found for target={target}"
    counts = collections.Counter(one.code for one in findings)
    listed = ", ".join(f"{code} x{count}" if count > 1 else code for code, count in sorted(counts.items()))
    return f"inspect: {len(findings)} finding{'s' * (len(findings) > 1)} for target={target}: {listed} (docs/reference/inspect.md)"


def write(folder: Path, findings: Sequence[Finding], target: str) -> None:
    """Keeps the findings in a run folder."""
    kept = {"target": target, "findings": [dataclasses.asdict(one) for one in findings]}
    (folder / FILE).write_text(json.dumps(kept, indent=2) + "\n")


def _wrapped(name: str, text: str) -> Iterator[str]:
    first, *rest = textwrap.wrap(text, _WIDTH - 10) or [""]
    yield f"    {name:<5} {first}"
    for line in rest:
        yield f"          {line}"
