"""``ddbench list``: what names are known. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import tyro

from ddbench.cli.parse import parse
from ddbench.data.specs import DatasetSpec
from ddbench.registry import unknown
from ddbench.runtime.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Args:
    """List the names that ddbench knows."""

    what: tyro.conf.Positional[str]
    """methods, datasets, students, protocols, tasks, decoders, recipes or plans."""
    json: bool = False
    """Print JSON for other programs; of methods all that is known: family, protocol, paper, code, licence, card."""
    bibtex: bool = False
    """Print the papers of the methods as BibTeX, with the methods of each as its keywords."""


EXAMPLES = """  ddbench list methods
  ddbench list methods --bibtex
  ddbench list recipes --json"""


def _methods() -> dict[str, str]:
    from ddbench.methods import METHODS, description

    return {name: description(name) for name in METHODS}


def _facts() -> dict[str, dict[str, Any]]:
    """Everything that is known of every method; of one without facts its line and where its code is."""
    from ddbench.methods import METHODS, description, facts_of, shipped
    from ddbench.methods.facts import CARDS

    table = {}
    for name in METHODS:
        facts = facts_of(name)
        table[name] = {
            **({"line": description(name)} if facts is None else {**asdict(facts), "citation": facts.citation}),
            "card": f"{CARDS}/{name}/README.md" if name in shipped() else "",
            "origin": METHODS.origin(name),
        }
    return table


def _datasets() -> dict[str, str]:
    from ddbench.data.specs import DATASETS

    table = {name: f"{_shape(spec)}, {spec.classes} classes; {spec.source}" for name, spec in DATASETS.items()}
    own = {
        "folder:PATH": "your own images: PATH/CLASS/*.png or PATH/{train,test}/CLASS/*.png, with --size",
        "npz:PATH": "your own arrays: train_images, train_labels, test_images, test_labels, or images and labels",
        "hub:OWNER/NAME": "images in parquet files, on the Hugging Face hub (--download) or in a folder, with --size",
        "graphs:PATH": "your own graphs: a TU or OGB folder, DGCNN text or npz; graphs:made: 160 made ones",
    }
    return {**table, **own}


def _shape(spec: DatasetSpec) -> str:
    return f"{spec.channels}x{spec.size}x{spec.size}" if spec.modality == "image" else f"{spec.modality}s"


def _students() -> dict[str, str]:
    from ddbench.networks.names import ACTIVATIONS, GROUPS, NORMS, POOLINGS, REGISTERED, SMALLEST_EXTERNAL, STUDENTS

    endings = "|".join(f"-{name}" for name in (*ACTIVATIONS[1:], *POOLINGS[1:]))
    forms = {
        "convnet-dD-wW-NORM": f"other depths and widths; norm {'|'.join(NORMS)}, then {endings} if wanted",
        "mlp-dD-wW, vit-dD-wW": "other depths and widths",
        "tv-NAME": f"any other network of torchvision, for {SMALLEST_EXTERNAL} px and more",
        "timm-NAME": f'any network of timm (pip install ".[timm]"), for {SMALLEST_EXTERNAL} px and more',
    }
    forms["gin|gcn|gat-dD-wW-mean|sum"] = "for graphs: layers, width, pooling, then -bn|-ln if wanted"
    forms["on grey 28 px"] = (
        "as MNIST's, and there only: the first convolution of convnet, lenet, alexnet, vgg11 pads by more, to see "
        "32 px, as in the public code"
    )
    groups = {f"{name} (group)": ", ".join(members) for name, members in GROUPS.items()}
    registered = {name: spec.title or REGISTERED.origin(name) for name, spec in REGISTERED.items()}
    return {**STUDENTS, **registered, **forms, **groups}


def _protocols() -> dict[str, str]:
    from ddbench.graphs.protocols import DESCRIPTIONS as GRAPHS
    from ddbench.protocols.protocol import DESCRIPTIONS, PROTOCOLS

    own = {"FILE.toml": "a protocol of your own: its name, a base, and the settings that differ (docs/protocols.md)"}
    return {**{name: DESCRIPTIONS.get(name, PROTOCOLS.origin(name)) for name in PROTOCOLS}, **GRAPHS, **own}


def _tasks() -> dict[str, str]:
    from ddbench.tasks import TASKS, description

    return {name: description(name) for name in TASKS}


def _decoders() -> dict[str, str]:
    from ddbench.decoders import DECODERS, description

    return {name: description(name) for name in DECODERS}


def _recipes() -> dict[str, str]:
    from ddbench.distillation.recipes import all_recipes

    return {
        f"{recipe.method}/{recipe.name}": f"{recipe.run.get('student', '')}; {recipe.source}"
        for recipe in all_recipes()
    }


def _plans() -> dict[str, str]:
    from ddbench.leaderboard.plans import read_plan, shipped_plans

    plans = {name: read_plan(path) for name, path in shipped_plans().items()}
    return {name: f"{len(plan.cells)} cells; {plan.title}" for name, plan in plans.items()}


TABLES: dict[str, Callable[[], dict[str, str]]] = {
    "methods": _methods,
    "datasets": _datasets,
    "students": _students,
    "protocols": _protocols,
    "tasks": _tasks,
    "decoders": _decoders,
    "recipes": _recipes,
    "plans": _plans,
}


def main(argv: list[str]) -> None:
    """Run the verb."""
    if not argv:
        argv = ["--help"]
    args = parse(Args, argv, "ddbench list", str(Args.__doc__), EXAMPLES)
    if args.what not in TABLES:
        raise unknown("list", args.what, TABLES)
    if args.bibtex:
        if args.what != "methods" or args.json:
            raise UserError("--bibtex is for `ddbench list methods`, without --json")
        from ddbench.methods.citation import bibliography

        print(bibliography())
        return
    if args.json and args.what == "methods":
        print(json.dumps(_facts(), indent=1, ensure_ascii=False))
        return
    table = TABLES[args.what]()
    if args.json:
        print(json.dumps(table, indent=1, ensure_ascii=False))
        return
    width = max(map(len, table))
    for name, text in table.items():
        print(f"{name:<{width}}  {text}")
