"""Methods: what makes a synset. One file a method. Imports no torch.

A file of this folder is a method when it has a class with ``facts`` (:mod:`ddbench.methods.facts`); its name is the
file's, with dashes. They are found by reading the sources, when the first of them is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ddbench.methods.facts import Facts, find_class, read_classes
from ddbench.registry import Registry

USUAL_PROTOCOL = "hard-v1"
"""What `ddbench evaluate` does without --protocol."""


@cache
def shipped() -> dict[str, tuple[str, Facts]]:
    """The methods of this package by name: ``module:Class``, and facts."""
    return {
        path.stem.replace("_", "-"): (f"{__name__}.{path.stem}:{kind}", found.facts)
        for path in sorted(Path(__file__).parent.glob("*.py"))
        for kind, found in read_classes(path).items()
        if found.facts is not None
    }


OF_A_FILE = (
    "one of a --method-file is known here once a package of yours gives it as an entry point, see CONTRIBUTING.md"
)
"""Advice where a method is looked for by name and no file can be given."""

METHODS = Registry("method", "ddbench.methods", lambda: {name: target for name, (target, _) in shipped().items()})


def facts_of(name: str) -> Facts | None:
    """Facts of a method, also of other packages'; None where its class says none or its source cannot be read."""
    if name in shipped():
        return shipped()[name][1]
    found = find_class(METHODS.origin(name))
    return found.facts if found else None


def distilled_on(method: str, student: str | None) -> str | None:
    """The student that a synset's header names, where it took part in making it: methods of this package in which none
    does leave that of the run in the header.
    """
    known = shipped().get(method)
    return student if known is None or known[1].student else None


def meant_protocol(name: str) -> str:
    """The protocol that a method is meant to be evaluated by; of one that says none the usual one."""
    facts = facts_of(name) if name in METHODS else None
    return facts.protocol if facts is not None else USUAL_PROTOCOL


def fitting_protocol(method: str, header: Mapping[str, Any]) -> str:
    """The protocol that a method is meant for; for a synset that lacks what that needs, or whose method is not known
    here, the one that its form asks for.
    """
    labels, meant, decoder = header.get("label_kind"), meant_protocol(method), header.get("decoder")
    needed = {
        "dd-recipe": bool(header.get("schedule")),
        "mse-v1": labels == "targets",
        "pdd": bool(header.get("staged", method == "pdd")),
        "soft-v1": labels == "soft",
    }
    if method in METHODS and needed.get(meant, True):
        return meant
    tiled = isinstance(decoder, Mapping) and "factor" in decoder
    asked = {**needed, "idc": tiled, "rded": header.get("patches", 1) != 1}
    return next((name for name, there in asked.items() if there), USUAL_PROTOCOL)


def description(name: str) -> str:
    """A method in one line: what its facts say, else its docstring, else where it is."""
    facts = facts_of(name)
    if facts is not None:
        return facts.described
    found = find_class(METHODS.origin(name))
    return found.doc if found and found.doc else METHODS.origin(name)
