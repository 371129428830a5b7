"""Scores `inspect` and `compare` on the corpus: `python -m tests.corpus.score [name ...]`.

Exits with 1 when a case is worse than `baseline.json` says. A name is that of a case or of a file (`MT201_python_value`,
`clean/loops`); without names all cases are scored. `--sample` scores one case in twenty, always the same ones; `--write` keeps
what was found as the new baseline.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import dataclasses
import gc
import json
import multiprocessing
import re
import sys
from collections.abc import Iterable, Mapping

import keras

import modetrain
from tests.corpus.base import batches, made
from tests.corpus.cases import FOLDER, Case, Mark, cases

BASELINE = FOLDER / "baseline.json"
SAMPLE = 20
# From worst to best: of a planted case, and of a clean one.
VERDICTS = ("failed", "missed", "other line", "right line", "alarm", "silent")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What a tool found in a case.

    Attributes:
      verdict: one of `VERDICTS`.
      findings: each the code or the mode, and the text of the line.
      strays: those of them that no mark asks for.
    """

    verdict: str
    findings: tuple[str, ...]
    strays: tuple[str, ...] = ()


def look(case: Case) -> Result:
    """Runs the tool on a case; an exception is the verdict `failed`."""
    try:
        return _inspected(case) if case.tool == "inspect" else _compared(case)
    except Exception as error:
        return Result(verdict="failed", findings=(f"{type(error).__name__}: {error}"[:100],))


def _inspected(case: Case) -> Result:
    # A planted case may be worth a note alone; a clean one may have notes.
    findings = modetrain.inspect(made(case.recipe), batches(), modes=case.recipe.modes, notes=bool(case.marks))
    places = {(one.code, one.file, one.line): f"{one.code} {_without_comment(one.text)}" for one in findings}
    codes = {code for code, _, _ in places}
    # Where a value is read (MT401) matters more than where it is changed (MT405).
    lines = [mark for mark in case.marks if mark.words != {"MT405"}] or case.marks
    return _result(
        case,
        found=all(mark.words & codes for mark in case.marks),
        right_line=all(any((code, mark.path, mark.line) in places for code in mark.words) for mark in lines),
        findings=places.values(),
        strays=[text for place, text in places.items() if not any(_asks_for(mark, *place) for mark in case.marks)],
    )


def _compared(case: Case) -> Result:
    def build():
        keras.utils.set_random_seed(0)
        return made(case.recipe)

    modes = ["graph", "xla"] if "xla" in case.recipe.modes else ["graph"]
    comparison = modetrain.compare(build, batches() * 2, modes=modes)
    places = {
        (one.mode, one.place and one.place.file, one.place and one.place.line): (
            f"{one.mode} {_without_comment(one.place.text) if one.place else '(no line)'}"
        )
        for one in comparison.findings
    }
    wanted = {(mode, mark.path, mark.line) for mark in case.marks for mode in mark.words}
    return _result(
        case,
        found={mode for mode, _, _ in wanted} == {mode for mode, _, _ in places},
        right_line=wanted == set(places),
        findings=places.values(),
        strays=[text for place, text in places.items() if place not in wanted],
    )


def _result(case: Case, *, found: bool, right_line: bool, findings: Iterable[str], strays: Iterable[str]) -> Result:
    if case.marks:
        verdict = "right line" if found and right_line else "other line" if found else "missed"
    else:
        verdict = "alarm" if list(findings) else "silent"
    return Result(verdict=verdict, findings=tuple(sorted(set(findings))), strays=tuple(sorted(set(strays))))


def _asks_for(mark: Mark, code: str, path: str, line: int) -> bool:
    return code in mark.words and (path, line) == (mark.path, mark.line)


def _without_comment(text: str) -> str:
    return re.sub(r"\s+# (expect|compare|noqa).*", "", text)


def worse(before: Result | None, now: Result) -> str | None:
    """Says in what a case is worse than its baseline; None where it is not.

    It is worse with a lower verdict, and with a finding that the baseline has not and no mark asks for.
    """
    if before is None:
        return "is not in the baseline (--write adds it)"
    if VERDICTS.index(now.verdict) < VERDICTS.index(before.verdict):
        return f"was '{before.verdict}' and is '{now.verdict}': {', '.join(now.findings) or 'nothing found'}"
    if added := [one for one in now.strays if one not in before.findings]:
        return f"also finds {', '.join(added)}"
    return None


def totals(results: Mapping[str, Result]) -> dict[str, dict[str, int]]:
    """Counts the verdicts of each tool."""
    counted = {tool: collections.Counter() for tool in ("inspect", "compare")}
    for key, result in results.items():
        counted[key.rpartition(" ")[2]][result.verdict] += 1
    return {tool: {verdict: counts[verdict] for verdict in reversed(VERDICTS)} for tool, counts in counted.items()}


def read_baseline() -> dict[str, Result]:
    """Reads the baseline, by case."""
    if not BASELINE.exists():
        return {}
    kept = json.loads(BASELINE.read_text())["cases"]
    return {key: Result(verdict=verdict, findings=tuple(findings)) for key, (verdict, *findings) in kept.items()}


def write_baseline(results: Mapping[str, Result]) -> None:
    """Writes the baseline, with one line a case."""
    rows = [
        f"    {json.dumps(key)}: {json.dumps([one.verdict, *one.findings])}" for key, one in sorted(results.items())
    ]
    heads = [f"    {json.dumps(tool)}: {json.dumps(counts)}" for tool, counts in totals(results).items()]
    text = '{{\n  "totals": {{\n{}\n  }},\n  "cases": {{\n{}\n  }}\n}}\n'
    BASELINE.write_text(text.format(",\n".join(heads), ",\n".join(rows)))


def score(chosen: list[Case], processes: int) -> dict[str, Result]:
    """Looks at cases, divided evenly among processes."""
    keys = [case.key for case in chosen]
    if processes == 1:
        return _look_at(keys)
    with concurrent.futures.ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        parts = pool.map(_look_at, [keys[number::processes] for number in range(processes)])
        return {key: result for part in parts for key, result in part.items()}


def _look_at(keys: list[str]) -> dict[str, Result]:
    by_key = {case.key: case for case in cases()}
    # Each case leaves graphs behind: without these, going through all objects for garbage takes half of the time.
    gc.freeze()
    gc.set_threshold(700, 10, 10_000)
    return {key: look(by_key[key]) for key in keys}


def main() -> int:
    """Scores the chosen cases, prints those that changed, then the totals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="cases or files")
    parser.add_argument("--sample", action="store_true", help="one case in twenty")
    parser.add_argument("--write", action="store_true", help="keep the results as the baseline")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    everything = cases()
    names = set(options.names)
    if unknown := names - {name for case in everything for name in (case.name, case.file)}:
        parser.error(f"no case and no file of the corpus: {', '.join(sorted(unknown))}")
    chosen = [case for case in everything if not names or names & {case.name, case.file}]
    if options.sample:
        chosen = chosen[SAMPLE // 2 :: SAMPLE]

    results = score(chosen, options.processes)
    baseline = read_baseline()
    failed = 0
    for key, result in results.items():
        reason = worse(baseline.get(key), result)
        failed += reason is not None
        if reason:
            print(f"WORSE {key}: {reason}")
        elif names or result.findings != baseline[key].findings:
            print(f"{key}: {result.verdict}: {', '.join(result.findings)}")
    for key in baseline.keys() - {case.key for case in everything}:
        print(f"GONE {key}: in the baseline and not in the corpus (--write removes it)")
        failed += 1
    if options.write:
        known = {case.key for case in everything}
        write_baseline({key: one for key, one in (baseline | results).items() if key in known})
    for tool, counts in totals(results).items():
        print(f"{tool}: {', '.join(f'{count} {verdict}' for verdict, count in counts.items())}")
    print(f"{len(results)} cases scored, {failed} worse than the baseline")
    return 1 if failed and not options.write else 0


if __name__ == "__main__":
    sys.exit(main())
