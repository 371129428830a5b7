"""Data flows one way: no files import each other in a circle, and what runs steps knows nothing of what looks at them."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import pytest

import modetrain

ROOT = Path(modetrain.__file__).parent.parent
FILES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for file in (ROOT / "modetrain").rglob("*.py")
}


def imported(module: str) -> set[str]:
    """What is imported with a module: neither within its functions, nor for its annotations alone."""
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(FILES[module].read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef) or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)):
            continue
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{one.name}" for one in node.names]
            found.update(name if name in FILES else str(node.module) for name in names)
        elif isinstance(node, ast.Import):
            found.update(one.name for one in node.names)
        waiting.extend(ast.iter_child_nodes(node))
    return found & set(FILES)


def with_all_of_theirs(module: str) -> set[str]:
    found, waiting = set(), [module]
    while waiting:
        new = imported(waiting.pop()) - found
        found |= new
        waiting.extend(new)
    return found


def test_no_files_import_each_other_in_a_circle():
    graphlib.TopologicalSorter({module: imported(module) for module in FILES}).prepare()  # CycleError names a circle


@pytest.mark.parametrize("module", ["data.dataset", "recipe", "engine.program", "trainer", "training.step_errors"])
def test_what_runs_steps_knows_nothing_of_what_looks_at_them(module):
    packages = {name.split(".")[1] for name in with_all_of_theirs(f"modetrain.{module}")}
    assert not packages & {"tools", "app", "__main__"}
