"""The house: imports point one way and in no circle, methods stay apart, files and functions are short.

The package is read, not imported. A room is a package or module directly under ``ddbench``; floors are said once, here,
bottom first, as ``docs/architecture.md`` tells them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import ddbench

PACKAGE = Path(ddbench.__file__).resolve().parent

FLOORS = (
    ("runtime",),
    ("registry", "statistics"),
    ("config",),
    ("data",),
    ("graphs",),
    ("networks", "provenance"),
    ("decoders", "schedule"),
    ("synset",),
    ("preview",),
    ("exchange",),
    ("training",),
    ("experts", "teachers", "diffusion"),
    ("protocols",),
    ("methods", "measurements"),
    ("modalities",),
    ("evaluation",),
    ("distillation",),
    ("tasks",),
    ("leaderboard",),
    ("hub",),
    ("loaded",),
    ("api",),
    ("cli",),
    ("__main__",),
)
"""Rooms by floor, bottom first: one imports only from floors below its own."""

APART = {("evaluation", "methods")}
"""Rooms that do not import each other though they stand on different floors: the first would import the second."""

BESIDE_METHODS = {"families", "parts", "needs", "base", "facts", "citation", "papers"}
"""What stands in ``methods/`` and is no method: a method imports these, never another method."""

LONGEST_FILE = 450
LONGEST_FUNCTION = 70

LONGER: set[str] = set()
"""Files and functions that are longer than that. It only shrinks: an entry that is short now must go."""


@dataclass(frozen=True)
class Import:
    """One module of the package takes something from another.

    Attributes:
        source, target: dotted names below the package.
        when: ``loading``, ``calling`` (within a function) or ``typing`` (for type checkers only).
    """

    source: str
    target: str
    line: int
    when: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line} imports {self.target} ({self.when})"


def modules(package: Path) -> dict[str, ast.Module]:
    """Every module below a package by its dotted name; packages by theirs, the top one left out."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


def imports(package: Path) -> list[Import]:
    """Every import of one module of a package by another one."""
    trees = modules(package)
    prefix = f"{package.name}."
    found = []
    for source, tree in trees.items():
        for node, when in _walk(tree, "loading"):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                assert not node.level, f"{source}:{node.lineno}: a relative import"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                if name.startswith(prefix):
                    inner = name.removeprefix(prefix)
                    # of a name in a module, the module
                    target = inner if inner in trees else inner.rpartition(".")[0]
                    if target and target != source:
                        found.append(Import(source, target, node.lineno, when))
    return found


def _walk(node: ast.AST, when: str) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, when
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _walk(child, "calling")
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from _walk(child, "typing")
        else:
            yield from _walk(child, when)


def upward(found: list[Import]) -> list[Import]:
    """Imports of a room from its own floor, from a floor above, or from one that it must not know."""
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    wrong = []
    for one in found:
        source, target = (name.partition(".")[0] for name in (one.source, one.target))
        if source != target and (floor[target] >= floor[source] or (source, target) in APART):
            wrong.append(one)
    return wrong


def circles(found: list[Import]) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others, whenever they do so."""
    graph: dict[str, set[str]] = {}
    for one in found:
        graph.setdefault(one.source, set()).add(one.target)
    reached = {}
    for start in graph:
        seen, waiting = set(), [start]
        while waiting:
            new = graph.get(waiting.pop(), set()) - seen
            seen |= new
            waiting += new
        reached[start] = seen
    rings = {tuple(sorted(n for n in ends if start in reached.get(n, ()))) for start, ends in reached.items()}
    return [list(ring) for ring in sorted(rings) if ring]


def between_methods(found: list[Import], others: set[str]) -> list[Import]:
    """Imports of a method by another, or by what methods are made of; ``others`` of ``methods/`` are no methods."""
    methods = {
        name
        for one in found
        for name in (one.source, one.target)
        if name.count(".") == 1 and name.startswith("methods.") and name.partition(".")[2] not in others
    }
    return [one for one in found if one.target in methods and one.source.startswith("methods.")]


def long_ones(package: Path) -> dict[str, int]:
    """Lines of the files and functions of a package that have too many, by name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        name, text = path.relative_to(package).as_posix(), path.read_text(encoding="utf-8")
        lines = len(text.splitlines())
        if lines > LONGEST_FILE:
            found[name] = lines
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                lines = node.end_lineno - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    found[f"{name}: {node.name}"] = lines
    return found


def shown(found: list[Import]) -> str:
    return "\n".join(map(str, found))


@pytest.fixture(scope="module")
def found() -> list[Import]:
    return imports(PACKAGE)


def test_every_room_has_a_floor():
    rooms = {name.partition(".")[0] for name in modules(PACKAGE)}
    assert not rooms - {room for floor in FLOORS for room in floor}, "say in FLOORS where it stands"


@pytest.mark.parametrize("when", ["loading", "calling", "typing"])
def test_imports_point_down(found: list[Import], when: str):
    wrong = [one for one in upward(found) if one.when == when]
    assert not wrong, shown(wrong)


def test_no_circles(found: list[Import]):
    assert circles(found) == []


def test_methods_stay_apart(found: list[Import]):
    wrong = between_methods(found, BESIDE_METHODS)
    assert not wrong, shown(wrong)


def test_methods_are_made_of_parts(found: list[Import]):
    """Methods of families, families of parts, never the other way."""
    wrong = [
        one
        for one in found
        if (one.source.startswith("methods.parts.") and one.target.startswith("methods.families"))
        or (one.source == "methods.base" and one.target.startswith(("methods.families", "methods.parts")))
    ]
    assert not wrong, shown(wrong)


def test_files_and_functions_are_short():
    found = long_ones(PACKAGE)
    new = {name: lines for name, lines in found.items() if name not in LONGER}
    assert not new, f"more than {LONGEST_FILE} lines in a file or {LONGEST_FUNCTION} in a function"
    assert not LONGER - set(found), "short by now, or gone: take it out of LONGER"


def test_the_package_itself_loads_nothing():
    """``import ddbench`` comes before any other import of the package: what it loads, everything loads."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    own = [ast.unparse(node) for node, when in _walk(tree, "loading") if when == "loading"]
    assert not [line for line in own if "ddbench" in line]


def test_what_is_found(tmp_path: Path):
    """The readers above, on a package that does everything wrong."""
    house = tmp_path / "house"
    files = {
        "__init__.py": "",
        "runtime/__init__.py": "",
        "runtime/low.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.cli import high\n",
        "data.py": "import os\nimport house.networks\n\n\ndef f():\n    from house.registry import name\n",
        "registry.py": "from house.runtime import low\n",
        "networks.py": "def f():\n    import house.data\n",
        "evaluation.py": "from house.methods.parts.bit import thing\n",
        "methods/__init__.py": "",
        "methods/one.py": "from house.methods.parts import bit\nfrom house.methods import two\n",
        "methods/two.py": "",
        "methods/parts/__init__.py": "",
        "methods/parts/bit.py": "x = 0\n" * (LONGEST_FILE + 1),
        "cli/__init__.py": "",
        "cli/high.py": "def f():\n" + "    pass\n" * LONGEST_FUNCTION + "\n\nasync def g():\n    pass\n",
    }
    for name, text in files.items():
        path = house / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = imports(house)
    assert set(map(str, upward(found))) == {
        "runtime.low:3 imports cli.high (typing)",
        "data:2 imports networks (loading)",
        "evaluation:1 imports methods.parts.bit (loading)",
    }
    assert [str(one) for one in found if one.when == "calling"] == [
        "data:6 imports registry (calling)",
        "networks:2 imports data (calling)",
    ]
    assert circles(found) == [["data", "networks"]]
    assert list(map(str, between_methods(found, {"parts"}))) == ["methods.one:2 imports methods.two (loading)"]
    assert long_ones(house) == {"cli/high.py: f": LONGEST_FUNCTION + 1, "methods/parts/bit.py": LONGEST_FILE + 1}
