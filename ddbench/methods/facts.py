"""What is known of a method besides its code: said once, on its class, as literals. Imports no torch.

A class says ``facts = Facts(title="MTT", ...)``. The arguments are literals, so that lists, pages and citations read
them from the source (:func:`read_classes`) and nothing that computes has to be imported. ``**papers.NAME`` stands for
those of :mod:`ddbench.methods.papers`.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ddbench.methods import papers

CARDS = "https://github.com/ddbench/ddbench/blob/main/methods"
"""Where the cards are read on line: ``CARDS/NAME/README.md``."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A method's facts; a reference that nobody published (random images) has no paper.

    Attributes:
        title: its name as it is written.
        line: what it does, in one line without a citation.
        family: kin of methods that share their idea, e.g. ``trajectory matching``.
        protocol: the protocol that it is meant to be evaluated by.
        student: whether the run's student takes part in making the images. Headers of some name it where it does not.
        paper: title of the paper, else empty.
        authors: given names and surname of each; the last word is the surname.
        venue: conference or journal (:data:`ddbench.methods.citation.VENUES` spells the known ones out); empty: a
            preprint.
        journal: whether the venue is a journal.
        year: of the venue, else of the preprint.
        arxiv: its number, ``2203.11932``.
        doi: without the address, ``10.1145/...``.
        url: the paper's page where there is neither, or a better one.
        code: https address of the public code; empty: none.
        licence: of the public code (SPDX), ``none stated`` where its repository has no licence; None: not checked.

    Raises:
        ValueError: a fact is missing or malformed.
    """

    title: str
    line: str
    family: str
    protocol: str = "hard-v1"
    student: bool = True
    paper: str = ""
    authors: tuple[str, ...] = ()
    venue: str = ""
    journal: bool = False
    year: int | None = None
    arxiv: str = ""
    doi: str = ""
    url: str = ""
    code: str = ""
    licence: str | None = None

    def __post_init__(self) -> None:
        for name in ("title", "line", "family", "protocol"):
            _demand(isinstance(getattr(self, name), str) and getattr(self, name).strip(), name, self, "a text")
        _demand("\n" not in self.line and len(self.line) <= 100, "line", self, "one line of at most 100 letters")
        cited = {name for name in ("paper", "authors", "year") if getattr(self, name)}
        _demand(len(cited) in (0, 3), "paper", self, "paper, authors and year together")
        _demand(
            isinstance(self.authors, tuple) and all(len(str(author).split()) > 1 for author in self.authors),
            "authors",
            self,
            "a tuple of given names and surname each",
        )
        _demand(self.year is None or 1900 < self.year < 2100, "year", self, "a year")
        _demand(not self.paper or self.address, "paper", self, "arxiv, doi or url of the paper")
        _demand(not self.arxiv or re.fullmatch(r"\d{4}\.\d{4,5}", self.arxiv), "arxiv", self, "YYMM.NNNNN")
        _demand(not self.doi or self.doi.startswith("10."), "doi", self, "10....")
        for name in ("url", "code"):
            address = getattr(self, name)
            _demand(not address or re.fullmatch(r"https://[^\s\"<>]+", address), name, self, "an https address")
        _demand(self.code or self.licence is None, "licence", self, "the code that it is of")

    @property
    def address(self) -> str:
        """Where the paper is read; empty without one."""
        if self.url:
            return self.url
        if self.arxiv:
            return f"https://arxiv.org/abs/{self.arxiv}"
        return f"https://doi.org/{self.doi}" if self.doi else ""

    @property
    def citation(self) -> str:
        """``Cazenavette et al., CVPR 2022``; empty without a paper."""
        if not self.paper:
            return ""
        names = [author.split()[-1] for author in self.authors]
        who = f"{names[0]} et al." if len(names) > 2 else " and ".join(names)
        return f"{who}, {self.venue} {self.year}" if self.venue else f"{who}, {self.year}"

    @property
    def described(self) -> str:
        """The line, with the citation."""
        return f"{self.line} ({self.citation})" if self.paper else self.line


def _demand(holds: object, name: str, facts: Facts, expected: str) -> None:
    if not holds:
        raise ValueError(f"facts of {facts.title!r}: {name} is {getattr(facts, name)!r}, expected {expected}")


@dataclass(frozen=True)
class Found:
    """A class as its source says it: its facts, and the first line of its docstring."""

    facts: Facts | None
    doc: str


def read_classes(path: Path) -> dict[str, Found]:
    """The classes of a Python file, without importing it.

    Raises:
        ValueError: not Python, or ``facts`` of a class are not literal or malformed.
        OSError: the file cannot be read.
    """
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise ValueError(f"{path}: {error}") from None
    return {node.name: Found(_facts(node, path), _doc(node)) for node in tree.body if isinstance(node, ast.ClassDef)}


def _doc(node: ast.ClassDef) -> str:
    return (ast.get_docstring(node) or "").partition("\n")[0].rstrip(".")


def _facts(node: ast.ClassDef, path: Path) -> Facts | None:
    for statement in node.body:
        match statement:
            case ast.Assign(
                targets=[ast.Name(id="facts")],
                value=ast.Call(func=ast.Name(id="Facts") | ast.Attribute(attr="Facts"), args=[], keywords=said),
            ):
                break
    else:
        return None
    known = {item.name for item in fields(Facts)}
    values = {}
    for keyword in said:
        if keyword.arg is None:
            values.update(_shared(keyword.value, node, path))
            continue
        if keyword.arg not in known:
            raise ValueError(f"{path}: facts of {node.name}: unknown fact {keyword.arg!r}")
        try:
            values[keyword.arg] = ast.literal_eval(keyword.value)
        except ValueError:
            raise ValueError(f"{path}: facts of {node.name}: {keyword.arg} is no literal") from None
    try:
        return Facts(**values)
    except TypeError as error:
        raise ValueError(f"{path}: facts of {node.name}: {error}") from None


def _shared(said: ast.expr, node: ast.ClassDef, path: Path) -> dict[str, Any]:
    """What ``**papers.NAME`` stands for."""
    match said:
        case ast.Attribute(value=ast.Name(id="papers"), attr=name) if isinstance(vars(papers).get(name), dict):
            return dict(vars(papers)[name])
    raise ValueError(f"{path}: facts of {node.name}: **{ast.unparse(said)}, expected facts or **papers.NAME")


def find_class(target: str) -> Found | None:
    """What the source of ``module:Class`` says, without importing the module; None where it cannot be read."""
    module, _, name = target.partition(":")
    top, *inner = module.split(".")
    try:
        spec = importlib.util.find_spec(top)  # of a top-level module: imports nothing
        if spec is None:
            return None
        roots = spec.submodule_search_locations if inner else [spec.origin or ""]
        for root in roots or ():
            path = Path(root, *inner)
            for file in (path if not inner else path.with_suffix(".py"), path / "__init__.py"):
                if file.is_file():
                    return read_classes(file).get(name)
    except (ValueError, OSError):
        return None
    return None
