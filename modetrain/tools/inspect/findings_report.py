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
    """Lines that say everything about every finding."""
    for one in findings:
        yield f"{one.place.shown}: {one.code} {CODES[one.code].title}"
        yield f"    {one.text}"
        for name, text in (("what", one.what), ("why", one.why), ("fix", one.fix)):
            first, *rest = textwrap.wrap(text, _WIDTH - 10) or [""]
            yield f"    {name:<5} {first}"
            yield from (f"          {line}" for line in rest)
        yield f"    seen by {', '.join(one.evidence)}"
        yield ""


def format_line(finding: Finding) -> str:
    """One line for a finding."""
    return f"{finding.place.shown}: {finding.code} {CODES[finding.code].title}: {finding.what}"


def format_summary(findings: Sequence[Finding], target: str) -> str:
    """One line for all of them."""
    if not findings:
        return f"inspect: nothing found for target={target}"
    counts = collections.Counter(one.code for one in findings)
    listed = ", ".join(f"{code} x{count}" if count > 1 else code for code, count in sorted(counts.items()))
    several = "s" * (len(findings) > 1)
    return f"inspect: {len(findings)} finding{several} for target={target}: {listed} (docs/reference/inspect.md)"


def write_json(folder: Path, findings: Sequence[Finding], target: str) -> None:
    """Writes the findings into a run folder."""
    content = {"target": target, "findings": [dataclasses.asdict(one) for one in findings]}
    (folder / FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
