"""The findings of `inspect`, for a person (like a good linter) and as `inspect.json`."""

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


def format_findings(findings: Sequence[Finding]) -> Iterator[str]:
    """Lines that say everything about every finding and note."""
    for one in findings:
        yield f"{one.place.shown}: {one.code} {'note: ' if one.note else ''}{CODES[one.code].title}"
        yield f"    {one.text}"
        for name, text in (("what", one.what), ("why", one.why), ("fix", one.fix)):
            first, *rest = textwrap.wrap(text, _WIDTH - 10) or [""]
            yield f"    {name:<5} {first}"
            yield from (f"          {line}" for line in rest)
        yield f"    seen by {', '.join(one.evidence)}"
        yield ""


def format_line(finding: Finding) -> str:
    """One line for a finding."""
    note = "note: " if finding.note else ""
    return f"{finding.place.shown}: {finding.code} {note}{CODES[finding.code].title}: {finding.what}"


def format_summary(found: Sequence[Finding], target: str) -> str:
    """One line for all findings and notes."""
    findings, notes = ([one for one in found if one.note is is_note] for is_note in (False, True))
    line = f"inspect: {_count(findings, 'finding') or 'nothing found'} for target={target}"
    line += f": {_list_codes(findings)}" if findings else ""
    line += f"; {_count(notes, 'note')}: {_list_codes(notes)}" if notes else ""
    return line + (" (docs/reference/inspect.md)" if found else "")


def _count(found: Sequence[Finding], what: str) -> str:
    return f"{len(found)} {what}{'s' * (len(found) > 1)}" if found else ""


def _list_codes(found: Sequence[Finding]) -> str:
    counts = collections.Counter(one.code for one in found)
    return ", ".join(f"{code} x{count}" if count > 1 else code for code, count in sorted(counts.items()))


def write_json(folder: Path, found: Sequence[Finding], target: str) -> None:
    """Writes findings and notes into a run folder."""
    kept = {"findings": [one for one in found if not one.note], "notes": [one for one in found if one.note]}
    content = {"target": target, **{name: [dataclasses.asdict(one) for one in part] for name, part in kept.items()}}
    (folder / FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
