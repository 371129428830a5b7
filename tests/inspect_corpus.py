"""The score of `inspect` on the corpus: `python -m tests.inspect_corpus [Name ...]` prints it, and every miss."""

from __future__ import annotations

import collections
import dataclasses
import importlib
import re
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "corpus"
DEFECTS = ("side_effects", "state", "frozen", "values_asked", "shapes", "dropped", "between_steps", "shared", "pipelines")
_EXPECT = re.compile(r"# expect (?P<codes>MT\d+(?: MT\d+)*)(?: \((?P<case>\w+)\))?")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A recipe, and the (code, file, line) that shall be found; several codes at a line are alternatives."""

    name: str
    cls: type
    expected: tuple[tuple[frozenset[str], str, int], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a case."""

    case: Case
    findings: list
    found: bool
    right_line: bool

    @property
    def alarm(self) -> bool:
        """Whether something was said of a clean step."""
        return not self.case.expected and bool(self.findings)


def cases(*names: str) -> list[Case]:
    """The cases of these files of the corpus."""
    from tests.corpus.base import Tiny

    found = []
    for name in names:
        module = importlib.import_module(f"tests.corpus.{name}")
        for cls in vars(module).values():
            if isinstance(cls, type) and issubclass(cls, Tiny) and cls.__module__ == module.__name__ and cls.__name__ != "Shared":
                found.append(Case(name=cls.__name__, cls=cls, expected=tuple(_expected(cls.__name__))))
    return found


def _expected(case: str):
    for file in sorted(FOLDER.glob("*.py")):
        within = None
        for number, line in enumerate(file.read_text().splitlines(), 1):
            if opened := re.match(r"class (\w+)|def ", line):
                within = opened[1]
            marked = _EXPECT.search(line)
            if marked and (marked["case"] or within) == case:
                yield frozenset(marked["codes"].split()), str(file), number


def run(case: Case) -> Result:
    """Looks at a case."""
    import modetrain
    from tests.corpus.base import batches, made

    findings = modetrain.inspect(made(case.cls), batches(), modes=case.cls.modes)
    codes = {one.code for one in findings}
    places = {(one.code, one.file, one.line) for one in findings}
    primary = [one for one in case.expected if one[0] != {"MT405"}] or list(case.expected)
    return Result(
        case=case,
        findings=findings,
        found=all(expected & codes for expected, _, _ in case.expected),
        right_line=all(any((code, file, line) in places for code in expected) for expected, file, line in primary),
    )


def score(results: list[Result]) -> str:
    """The three shares."""
    planted = [one for one in results if one.case.expected]
    clean = [one for one in results if not one.case.expected]
    found, right = sum(one.found for one in planted), sum(one.right_line for one in planted)
    alarms = sum(one.alarm for one in clean)
    lines = [f"{len(planted)} planted: {found / max(len(planted), 1):.1%} found, {right / max(len(planted), 1):.1%} at the right line"]
    return "\n".join([*lines, f"{len(clean)} clean: {alarms / max(len(clean), 1):.1%} false alarms"])


def main() -> None:
    """Prints what was missed, then the score."""
    names = sys.argv[1:]
    everything = [case for case in cases(*DEFECTS, "clean") if not names or case.name in names]
    results = []
    extra: collections.Counter[str] = collections.Counter()
    for case in everything:
        try:
            result = run(case)
        except Exception as error:
            print(f"CRASH {case.name}: {type(error).__name__}: {error}"[:500])
            if names:
                raise
            results.append(Result(case=case, findings=[], found=False, right_line=False))
            continue
        results.append(result)
        lines = {(file, line) for _, file, line in case.expected}
        others = [one for one in result.findings if (one.file, one.line) not in lines]
        if names or result.alarm or (case.expected and not (result.found and result.right_line)) or others:
            verdict = "ALARM" if result.alarm else "ok but" if result.found and result.right_line else "MISS"
            print(f"{verdict} {case.name}: expected {[(sorted(c), line) for c, _, line in case.expected]}")
            for one in result.findings:
                print(f"    {one.code} {Path(one.file).name}:{one.line} {one.text[:60]} | {one.what[:110]} | {one.evidence}")
            extra.update(one.code for one in others)
    print("besides what was planted:", dict(extra))
    print(score(results))


if __name__ == "__main__":
    main()
