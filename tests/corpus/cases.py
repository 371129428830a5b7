"""The cases of the corpus: each recipe with the lines that `inspect` or `compare` must name.

`MT*.py` hold planted defects, `numeric/` steps whose numbers differ between modes, `clean/` steps without a finding.
A line to be found carries `# expect MT101`, or outside of the recipe's class `# expect MT101 (NameOfTheClass)`; several codes are
alternatives. `# compare graph xla` marks the operation whose numbers differ, and the modes in which they do.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import re
from pathlib import Path

from tests.corpus.base import Tiny

FOLDER = Path(__file__).parent
_MARK = re.compile(
    r"# (?P<tool>expect|compare) (?P<words>(?:MT\d+|graph|xla)(?: (?:MT\d+|graph|xla))*)(?: \((?P<case>\w+)\))?"
)
_TOOLS = {"expect": "inspect", "compare": "compare"}
# The clean steps that `compare` looks at too, which takes it four times as long as `inspect`.
COMPARED = ("clean/numbers", "clean/random_numbers")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mark:
    """A line that a tool must name.

    Attributes:
      tool: `inspect` or `compare`.
      words: the codes that are right, or the modes that differ.
      case: name of the recipe.
      path, line: the marked line.
    """

    tool: str
    words: frozenset[str]
    case: str
    path: str
    line: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A recipe of the corpus, and a tool to look at it with.

    Attributes:
      tool: `inspect` or `compare`.
      file: the file's path in the corpus, without its ending.
      name: of the class.
      recipe: the class.
      marks: what the tool must find; none for a clean step.
    """

    tool: str
    file: str
    name: str
    recipe: type[Tiny]
    marks: tuple[Mark, ...]

    @property
    def key(self) -> str:
        """What the baseline calls it."""
        return f"{self.file}.{self.name} {self.tool}"


def cases() -> list[Case]:
    """All cases: planted and clean ones for `inspect`, numeric ones and `COMPARED` for `compare`."""
    found = []
    for file in files():
        tools = (
            ("compare",)
            if file.startswith("numeric/")
            else ("inspect", "compare")
            if file in COMPARED
            else ("inspect",)
        )
        for tool in tools:
            for recipe in _recipes(file):
                marks = tuple(one for one in marked() if (one.tool, one.case) == (tool, recipe.__name__))
                found.append(Case(tool=tool, file=file, name=recipe.__name__, recipe=recipe, marks=marks))
    return found


def files() -> list[str]:
    """The files with cases, by their paths in the corpus without the ending."""
    paths = [*FOLDER.glob("MT*.py"), *FOLDER.glob("numeric/[a-z]*.py"), *FOLDER.glob("clean/[a-z]*.py")]
    return sorted(str(path.relative_to(FOLDER).with_suffix("")) for path in paths)


def _recipes(file: str) -> list[type[Tiny]]:
    module = importlib.import_module(f"{__package__}.{file.replace('/', '.')}")
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Tiny)
        and value.__module__ == module.__name__
        and not value.__name__.startswith("Base")
    ]


@functools.cache
def marked() -> tuple[Mark, ...]:
    """Every mark of the corpus."""
    found = []
    for path in sorted(FOLDER.rglob("*.py")):
        if path.name in ("cases.py", "score.py"):
            continue
        within = ""
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if opened := re.match(r"class (\w+)|def ", line):
                within = opened[1] or ""
            if found_here := _MARK.search(line):
                found.append(
                    Mark(
                        tool=_TOOLS[found_here["tool"]],
                        words=frozenset(found_here["words"].split()),
                        case=found_here["case"] or within,
                        path=str(path),
                        line=number,
                    )
                )
    return tuple(found)
