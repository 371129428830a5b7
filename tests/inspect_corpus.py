"""The score of `inspect` on the corpus: `python -m tests.inspect_corpus [Name ...]` prints it, and every miss.

A name is that of a case or of a file of the corpus.

`--quick --part 0/2 --json FILE` takes one in forty, looks at every second case and keeps the counts, for the test that has two
processes share the work.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib
import json
import re
from pathlib import Path

FOLDER = Path(__file__).parent / "corpus"
DEFECTS = (
    "side_effects",
    "state",
    "frozen",
    "values_asked",
    "shapes",
    "dropped",
    "between_steps",
    "shared",
    "pipelines",
    "unseen",
    "unseen2_python",
    "unseen2_graph",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "ninth",
)
CLEAN = (
    "clean",
    "unseen_clean",
    "unseen2_clean",
    "third_clean",
    "fourth_clean",
    "fifth_clean",
    "sixth_clean",
    "seventh_clean",
    "eighth_clean",
    "ninth_clean",
    "ninth_near",
)
# Of every file a quick look takes each so-many-th case, of each file from another one on: always the same ones.
QUICK = 40
_EXPECT = re.compile(r"# expect (?P<codes>MT\d+(?: MT\d+)*)(?: \((?P<case>\w+)\))?")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A recipe, and the (code, file, line) that shall be found; several codes at a line are alternatives."""

    name: str
    file: str
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
            if (
                isinstance(cls, type)
                and issubclass(cls, Tiny)
                and cls.__module__ == module.__name__
                and cls.__name__ not in ("Shared", "Varied")
                and not cls.__name__.startswith("Base")
            ):
                found.append(Case(name=cls.__name__, file=name, cls=cls, expected=tuple(_expected(cls.__name__, name))))
    return found


def _expected(case: str, own: str):
    for marked, within, file, number in _marks():
        if marked["case"] == case or (marked["case"] is None and within == case and file.stem == own):
            yield frozenset(marked["codes"].split()), str(file), number


@functools.cache
def _marks():
    """Every mark, with the class that it stands in, its file and line."""
    found = []
    for file in sorted(FOLDER.glob("*.py")):
        within = None
        for number, line in enumerate(file.read_text().splitlines(), 1):
            if opened := re.match(r"class (\w+)|def ", line):
                within = opened[1]
            if marked := _EXPECT.search(line):
                found.append((marked, within, file, number))
    return found


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


def quick(everything: list[Case]) -> list[Case]:
    """A fixed part of the cases, with some of every file."""
    files = list(dict.fromkeys(case.file for case in everything))
    by_file = [[case for case in everything if case.file == file] for file in files]
    return [
        case for number, of_file in enumerate(by_file) for case in of_file[number % min(QUICK, len(of_file)) :: QUICK]
    ]


def counts(results: list[Result]) -> dict[str, int]:
    """What the score is made of."""
    planted = [one for one in results if one.case.expected]
    return {
        "planted": len(planted),
        "found": sum(one.found for one in planted),
        "right_line": sum(one.right_line for one in planted),
        "clean": len(results) - len(planted),
        "alarms": sum(one.alarm for one in results),
    }


def score(of: dict[str, int]) -> str:
    """The three shares in words."""
    found, right = of["found"] / max(of["planted"], 1), of["right_line"] / max(of["planted"], 1)
    return (
        f"{of['planted']} planted: {found:.1%} found, {right:.1%} at the right line\n"
        f"{of['clean']} clean: {of['alarms'] / max(of['clean'], 1):.1%} false alarms"
    )


def main() -> None:
    """Looks at the cases, prints what was missed and what was found besides, then the score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--part", default="0/1")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    index, parts = map(int, options.part.split("/"))
    asked = set(options.names)
    everything = [case for case in cases(*DEFECTS, *CLEAN) if not asked or asked & {case.name, case.file}]
    if options.quick:
        everything = quick(everything)
    results = []
    for case in everything[index::parts]:
        results.append(run(case))
        _print(results[-1], always=bool(options.names))
    print(score(counts(results)))
    if options.json:
        options.json.write_text(json.dumps(counts(results)))


def _print(result: Result, *, always: bool) -> None:
    case = result.case
    lines = {(file, line) for _, file, line in case.expected}
    others = [one for one in result.findings if (one.file, one.line) not in lines]
    right = not result.alarm and (not case.expected or (result.found and result.right_line))
    if right and not others and not always:
        return
    verdict = "ok, and more" if right else "ALARM" if result.alarm else "MISS"
    print(f"{verdict} {case.name}: expected {[(sorted(codes), line) for codes, _, line in case.expected]}")
    for one in result.findings:
        print(f"    {one.code} {Path(one.file).name}:{one.line} {one.text[:60]} | {one.what[:110]} | {one.evidence}")


if __name__ == "__main__":
    main()
