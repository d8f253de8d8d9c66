"""Citations made of the methods' facts: BibTeX, and ``CITATION.cff`` of this project. Imports no torch.

``python -m ddbench.methods.citation > CITATION.cff`` writes the file anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import takewhile

from ddbench import __version__, methods
from ddbench.methods import facts_of, shipped
from ddbench.methods.facts import Facts

VENUES = {
    "AAAI": "AAAI Conference on Artificial Intelligence",
    "CVPR": "IEEE/CVF Conference on Computer Vision and Pattern Recognition",
    "ICCV": "IEEE/CVF International Conference on Computer Vision",
    "ICLR": "International Conference on Learning Representations",
    "ICML": "International Conference on Machine Learning",
    "NeurIPS": "Advances in Neural Information Processing Systems",
    "TIP": "IEEE Transactions on Image Processing",
    "TMLR": "Transactions on Machine Learning Research",
    "WACV": "IEEE/CVF Winter Conference on Applications of Computer Vision",
}
"""Venues in full; one that is not here is printed as it is."""


def cited() -> dict[str, list[str]]:
    """Paper -> the methods that come from it, in the order of the methods."""
    found: dict[str, list[str]] = {}
    for name in methods.METHODS:
        facts = facts_of(name)
        if facts is not None and facts.paper:
            found.setdefault(facts.paper, []).append(name)
    return found


def bibliography() -> str:
    """The entries of all papers, one each."""
    known = [(facts_of(names[0]), names) for names in cited().values()]
    return "\n\n".join(bibtex(facts, names) for facts, names in known if facts is not None)


def bibtex(facts: Facts, names: Sequence[str]) -> str:
    """The entry of a paper, keyed by first author, year and method without dashes: ``cazenavette2022mtt``; of several
    methods by what their names begin with: ``shin2023fred``.

    Args:
        facts: with a paper.
        names: the methods that come from it (:func:`cited`), told as keywords.
    """
    venue = VENUES.get(facts.venue, facts.venue)
    kind = ("article" if facts.journal else "inproceedings") if venue else "misc"
    parts = {
        "title": f"{{{_tex(facts.paper)}}}",  # braced twice: BibTeX keeps the capitals
        "author": " and ".join(f"{_tex(last)}, {_tex(given)}" for given, last in map(_names, facts.authors)),
        "journal" if facts.journal else "booktitle": _tex(venue),
        "year": str(facts.year),
        "eprint": facts.arxiv,
        "archiveprefix": "arXiv" if facts.arxiv else "",
        "doi": facts.doi,
        "url": facts.address,
        "keywords": ", ".join(names),
    }
    key = re.sub(r"[^a-z]", "", _names(facts.authors[0])[1].lower()) + f"{facts.year}{_common(names)}"
    lines = [f"  {field} = {{{text}}}," for field, text in parts.items() if text]
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])


def cff() -> str:
    """The text of ``CITATION.cff``: this project, and the papers of its methods as references."""
    head = [
        "# Made by `python -m ddbench.methods.citation > CITATION.cff`; the references are the methods' facts.",
        "cff-version: 1.2.0",
        "message: If you use ddbench, please cite it, and the papers of the methods that you ran.",
        "type: software",
        "title: ddbench",
        'abstract: "Benchmark suite for dataset distillation: record experts, distil, score fairly, publish."',
        "authors:",
        "  - name: The ddbench developers",
        f"version: {__version__}",
        "license: MIT",
        "repository-code: https://github.com/ddbench/ddbench",
        "references:",
    ]
    papers = {facts.paper: facts for _, facts in shipped().values() if facts.paper}
    return "\n".join([*head, *(line for facts in papers.values() for line in _reference(facts))]) + "\n"


def _reference(facts: Facts) -> list[str]:
    """Lines of YAML; texts are quoted as JSON, which YAML reads."""
    venue = VENUES.get(facts.venue, facts.venue)
    kind = ("article" if facts.journal else "conference-paper") if venue else "generic"
    lines = [f"type: {kind}", f"title: {json.dumps(facts.paper, ensure_ascii=False)}", "authors:"]
    for given, last in map(_names, facts.authors):
        names = {"family-names": last, "given-names": given}
        lines += [
            f"{'  - ' if i == 0 else '    '}{key}: {json.dumps(text, ensure_ascii=False)}"
            for i, (key, text) in enumerate(names.items())
        ]
    if facts.journal:
        lines.append(f"journal: {json.dumps(venue)}")
    elif venue:
        lines += ["conference:", f"  name: {json.dumps(venue)}"]
    lines.append(f"year: {facts.year}")
    if facts.doi:
        lines.append(f"doi: {facts.doi}")
    lines.append(f"url: {facts.address}")
    return [f"{'  - ' if i == 0 else '    '}{line}" for i, line in enumerate(lines)]


def _common(names: Sequence[str]) -> str:
    """The words that all names of methods begin with, as one; the first name where they share none. Those that ship
    decide: a method of another package does not change the key of a paper that is known here."""
    own = [name for name in names if name in shipped()] or list(names)
    words = takewhile(lambda some: len(set(some)) == 1, zip(*(name.split("-") for name in own), strict=False))
    return "".join(some[0] for some in words) or own[0].replace("-", "")


def _names(author: str) -> tuple[str, str]:
    given, _, last = author.rpartition(" ")
    return given, last


def _tex(text: str) -> str:
    return re.sub(r"([&%$#_{}])", r"\\\1", text)


if __name__ == "__main__":
    print(cff(), end="")
