"""A method's facts: read from the source without importing it, complete for all, the same in cards and citations."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from ddbench import __version__, methods, registry
from ddbench.distillation.recipes import content_folder
from ddbench.graphs.protocols import PROTOCOLS as GRAPH_PROTOCOLS
from ddbench.methods import METHODS, citation, description, facts_of, shipped
from ddbench.methods.facts import Facts, find_class, read_classes
from ddbench.protocols.protocol import PROTOCOLS

ROOT = Path(__file__).parents[2]
FACTS = {name: facts for name, (_, facts) in shipped().items()}
CITED = [name for name, facts in FACTS.items() if facts.paper]
SAID = {"title": "Mine", "line": "means of classes", "family": "means"}
PAPER = {"paper": "Means", "authors": ("Ada M. Example", "Bo Sample"), "year": 2020, "arxiv": "2001.00001"}


def one_line(text: str) -> str:
    return " ".join(text.split()).lower()


@pytest.mark.parametrize("name", FACTS)
def test_source_says_what_the_class_says(name: str) -> None:
    kind = METHODS.get(name)
    assert vars(kind)["facts"] == FACTS[name]
    assert kind.title == FACTS[name].title
    assert METHODS.origin(name) == f"ddbench.methods.{name.replace('-', '_')}:{kind.__name__}"


def test_one_method_a_file() -> None:
    for path in Path(methods.__file__).parent.glob("*.py"):
        assert sum(found.facts is not None for found in read_classes(path).values()) <= 1, path.name
    assert len(FACTS) >= 25


@pytest.mark.parametrize("name", FACTS)
def test_facts_are_complete(name: str) -> None:
    """Whoever has a paper says who, where and when; the protocol is one of ours."""
    facts = FACTS[name]
    assert facts.protocol in (*PROTOCOLS, *GRAPH_PROTOCOLS)
    if not facts.paper:
        assert facts.family == "reference" or "baseline" in facts.line, "published by nobody"
        return
    assert facts.address
    assert facts.venue or facts.arxiv
    assert facts.code or facts.licence is None


@pytest.mark.parametrize("name", FACTS)
def test_card_names_what_the_facts_name(name: str) -> None:
    folder = content_folder()
    assert folder is not None
    facts, card = FACTS[name], one_line((folder / name / "README.md").read_text(encoding="utf-8"))
    assert one_line(f"*{facts.paper}*" if facts.paper else "") in card
    for author in facts.authors:
        assert author.split()[-1].lower() in card
    for text in (facts.arxiv, facts.venue.lower(), facts.code.removeprefix("https://github.com/").lower()):
        assert text in card
    assert str(facts.year or "") in card or not facts.venue
    assert facts.protocol == "hard-v1" or f"--protocol {facts.protocol}" in card


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"line": ""}, "line is '', expected a text"),
        ({"line": "two\nlines"}, "one line of at most 100 letters"),
        ({"paper": "Means"}, "paper, authors and year together"),
        ({**PAPER, "authors": ("Example",)}, "given names and surname"),
        ({**PAPER, "authors": "Ada Example"}, "given names and surname"),
        ({**PAPER, "arxiv": "", "doi": ""}, "arxiv, doi or url"),
        ({**PAPER, "arxiv": "arXiv:2001.00001"}, "arxiv is 'arXiv:2001.00001', expected YYMM.NNNNN"),
        ({**PAPER, "year": 20}, "year is 20, expected a year"),
        ({**PAPER, "code": "github.com/a/b"}, "expected an https address"),
        ({"licence": "MIT"}, "licence is 'MIT', expected the code that it is of"),
    ],
)
def test_malformed_facts(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Facts(**{**SAID, **changed})


def test_citation_of_one_two_and_more_authors() -> None:
    facts = Facts(**SAID, **PAPER)
    assert (facts.citation, facts.described) == (
        "Example and Sample, 2020",
        "means of classes (Example and Sample, 2020)",
    )
    assert dataclasses.replace(facts, authors=("Ada Example",), venue="ICML").citation == "Example, ICML 2020"
    assert dataclasses.replace(facts, authors=("A B", "C D", "E F")).citation == "B et al., 2020"
    assert dataclasses.replace(facts, arxiv="", doi="10.1/2").address == "https://doi.org/10.1/2"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("title=str(1)", "title is no literal"),
        ("title='Mine', colour='red'", "unknown fact 'colour'"),
        ("title='Mine'", "missing"),
        ("title='Mine', line='', family='x'", "line is ''"),
        ("title='Mine', **papers.NOBODY", "**papers.NOBODY, expected facts or **papers.NAME"),
        ("title='Mine', **dict(line='x')", "**dict(line='x'), expected facts or **papers.NAME"),
    ],
)
def test_facts_that_cannot_be_read(said: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"class Mine:\n    facts = Facts({said})\n")
    with pytest.raises(ValueError, match=re.escape(message)):
        read_classes(path)
    path.write_text("class Mine(:\n")
    with pytest.raises(ValueError, match=r"mine\.py"):
        read_classes(path)


def test_method_of_another_package_is_described_without_its_code_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ddb: Callable
) -> None:
    package = tmp_path / "their_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')\n")
    said = ", ".join(f"{key}={value!r}" for key, value in {**SAID, **PAPER}.items())
    source = [f"class Known:\n    facts = Facts({said})", 'class Told:\n    """Says it here.\n\n    More."""']
    (package / "inner.py").write_text("\n".join([*source, "class Bare:\n    pass\n"]))
    points = {name.lower(): f"their_package.inner:{name}" for name in ("Known", "Told", "Bare")}
    points |= {"gone": "no_such_package:Gone"}
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "entry_points", lambda group: [EntryPoint(*item, group) for item in points.items()])
    monkeypatch.setattr(methods, "METHODS", registry.Registry("method", "ddbench.methods", {}))
    assert description("known") == "means of classes (Example and Sample, 2020)"
    assert description("told") == "Says it here"
    assert description("bare") == points["bare"]
    assert description("gone") == points["gone"]
    assert (facts_of("told"), find_class("no_such_package:Gone")) == (None, None)
    table = json.loads(ddb("list", "methods", "--json").out)
    assert table["known"]["arxiv"] == PAPER["arxiv"]
    assert table["known"]["card"] == ""
    assert table["told"] == {"line": "Says it here", "card": "", "origin": points["told"]}
    assert ddb("list", "methods", "--bibtex").out.startswith("@misc{example2020known,")


def test_json_has_all_facts(ddb: Callable) -> None:
    table = json.loads(ddb("list", "methods", "--json").out)
    fields = {item.name for item in dataclasses.fields(Facts)}
    assert set(FACTS) <= set(table)
    for name, facts in FACTS.items():
        assert fields <= set(table[name])
        assert table[name]["paper"] == facts.paper
        assert table[name]["card"].endswith(f"/methods/{name}/README.md")


def test_bibtex_parses(ddb: Callable, refused: Callable) -> None:
    text = ddb("list", "methods", "--bibtex").out
    entries = text.strip().split("\n\n")
    heads = [re.match(r"@(article|inproceedings|misc)\{([a-z0-9]+),\n", entry) for entry in entries]
    assert all(heads)
    assert len({head[2] for head in heads if head}) == len(entries) == len({FACTS[name].paper for name in CITED})
    titles = re.findall(r"^  title = .*$", text, re.MULTILINE)
    assert len(set(titles)) == len(titles), "a paper has one entry"
    keywords = re.findall(r"^  keywords = \{(.*)\},$", text, re.MULTILINE)
    assert sorted(", ".join(keywords).split(", ")) == sorted(CITED), "every method is found by its name"
    assert "@inproceedings{shin2023fred," in text
    for entry in entries:
        depths = list(itertools.accumulate({"{": 1, "}": -1}.get(letter, 0) for letter in entry))
        assert min(depths) == depths[-1] == 0
        fields = dict(re.findall(r"^  (\w+) = \{(.*)\},$", entry, re.MULTILINE))
        assert {"title", "author", "year", "url"} <= set(fields)
        assert ("booktitle" in fields) + ("journal" in fields) == (not entry.startswith("@misc"))
    assert "@inproceedings{cazenavette2022mtt," in text
    refused(["list", "datasets", "--bibtex"], "--bibtex", "ddbench list methods")


def test_bibtex_keeps_letters_of_tex() -> None:
    facts = Facts(**{**SAID, **PAPER, "paper": "100% of_it & more"})
    assert r"title = {{100\% of\_it \& more}}," in citation.bibtex(facts, ["mine"])


def test_a_method_of_another_package_does_not_change_the_key_of_a_paper() -> None:
    facts = FACTS["mtt"]
    assert citation.bibtex(facts, ["my-own", "mtt"]).startswith("@inproceedings{cazenavette2022mtt,")
    assert citation.bibtex(facts, ["my-own", "other"]).startswith("@inproceedings{cazenavette2022myown,")


def test_citation_file_is_up_to_date() -> None:
    path = ROOT / "CITATION.cff"
    text = path.read_text(encoding="utf-8")
    assert text == citation.cff(), "run `python -m ddbench.methods.citation > CITATION.cff`"
    assert f"\nversion: {__version__}\n" in text
    assert text.count("  - type: ") == len({FACTS[name].paper for name in CITED})


TIMED = """
import sys, time
from ddbench.cli.main import run
try:
    run(sys.argv[1:])
except SystemExit:
    pass
print(time.process_time(), "torch" in sys.modules, "ddbench.methods" in sys.modules)
"""


@pytest.mark.parametrize(("argv", "bound", "scans"), [(["--help"], 0.3, False), (["list", "methods"], 0.5, True)])
def test_time(argv: list[str], bound: float, scans: bool) -> None:
    """CPU seconds of the whole process, best of three; the overview looks at no method."""
    best = 9.0
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", TIMED, *argv], capture_output=True, text=True, check=True, cwd=ROOT
        )
        seconds, torch, methods_there = done.stdout.splitlines()[-1].split()
        assert (torch, methods_there) == ("False", str(scans))
        best = min(best, float(seconds))
    assert best < bound
