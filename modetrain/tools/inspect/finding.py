"""A finding: what a compiled run does differently from what the user's Python says, at one of the user's lines.

Findings are plain data, so that tests can compare them and `inspect.json` can hold them; `codes.py` says what each code means.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

from modetrain.diagnostics.location import Location
from modetrain.tools.inspect.codes import CODES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One diagnosis.

    Attributes:
      code: `MT101` and so on; stable from version to version.
      file, line, text: the user's line, and what stands there.
      what: what was seen, with names and values.
      why: why it matters.
      fix: what to write instead.
      evidence: how it is known: a word for each kind of evidence that saw it.
      mode: in which mode it changes what a run does: `graph` (a traced step, and so `xla` too), `graph only`, `xla`, `tpu`,
        `replicas`, `every` (eager too: micro-batches and evaluation batches) or `data`.
      note: whether it is worth knowing and no mistake: the modes do the same, up to the numbers that they draw.
    """

    code: str
    file: str
    line: int
    text: str
    what: str
    why: str
    fix: str
    evidence: tuple[str, ...]
    mode: str = "graph"
    note: bool = False

    def __repr__(self) -> str:
        """Short, for a test that fails: pytest cuts the middle out of what is long."""
        return f"<{self.code} {self.place.shown}: {self.what}>"

    def __str__(self) -> str:
        return f"{self.code} {self.place}: {self.what}. {self.fix}"

    @property
    def place(self) -> Location:
        """Where it is."""
        return Location(file=self.file, line=self.line)

    @property
    def key(self) -> tuple[str, int, str]:
        """What findings are sorted by; two with one key are the same finding."""
        return self.file, self.line, self.code


def make_finding(
    code: str,
    place: Location,
    what: str,
    *,
    evidence: str,
    mode: str | None = None,
    fix: str | None = None,
    note: bool | None = None,
) -> Finding:
    """A finding with the texts of its code.

    Args:
      code: see `codes.CODES`.
      place: the user's line.
      what: what was seen there.
      evidence: the kind of evidence.
      mode: by default that of the code.
      fix: by default that of the code.
      note: by default that of the code.
    """
    known = CODES[code]
    return Finding(
        code=code,
        file=place.file,
        line=place.line,
        text=place.text,
        what=what,
        why=known.why,
        fix=fix or known.fix,
        evidence=(evidence,),
        mode=mode or known.mode,
        note=known.note if note is None else note,
    )


def merge_evidence(findings: Iterable[Finding]) -> list[Finding]:
    """One finding for each code and line, with all the evidence for it; in the order of files and lines."""
    found: dict[tuple[str, int, str], Finding] = {}
    for one in findings:
        first = found.setdefault(one.key, one)
        if first is not one:
            evidence = tuple(dict.fromkeys((*first.evidence, *one.evidence)))
            found[one.key] = dataclasses.replace(first, evidence=evidence)
    return [found[key] for key in sorted(found)]


def first_per_line(findings: Iterable[Finding]) -> list[Finding]:
    """The first of several findings with one code and line; in the order of files and lines."""
    found: dict[tuple[str, int, str], Finding] = {}
    for one in findings:
        found.setdefault(one.key, one)
    return [found[key] for key in sorted(found)]


# Waives the findings at a line: `x = time.time()  # modetrain: ignore MT302`, or all of them where no code is given.
_WAIVER = re.compile(r"#\s*modetrain:\s*ignore(?P<codes>(?:[\s,:]+MT\d+)*)")


def is_waived(finding: Finding) -> bool:
    """Whether the user has waived it at its line."""
    waiver = _WAIVER.search(finding.text)
    if waiver is None:
        return False
    codes = re.findall(r"MT\d+", waiver["codes"])
    return not codes or finding.code in codes
