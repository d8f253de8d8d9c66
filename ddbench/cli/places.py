"""What ``ddbench info`` knows by its name or layout: exports, and what lies in a run beside its synset. No torch.

And the commands that distil with what a store or a model says of itself.
"""

from __future__ import annotations

import re
import shlex
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ddbench.data.specs import dataset_flags, is_own, own_form
from ddbench.experts.recipe import ExpertRecipe
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import read_json
from ddbench.runtime.numbers import exact

IN_RUN = {
    "config.json": "settings of a run",
    "cost.json": "what a run took",
    "metrics.jsonl": "metrics of a run's steps",
    "preview.png": "picture of a run's synset",
    "parts": "parts of a run that is not finished",
    "units": "who is at which part of a run",
}
HUB = ("synset.json", "ddbench-hub")

MATCHING = {"gsam": "ftd", "smooth": "ast"}
"""Kind of experts -> a method that matches their trajectories; of all others MTT."""
EPOCHS = 21
"""Epochs of experts with which these methods need no other window than their default: T+ - 1 + M."""


class Place(NamedTuple):
    """What a place is.

    Attributes:
        what: title.
        settings: what is told of it.
        header: of the synset in it, of which more is told; empty: it has none.
        next: commands.
    """

    what: str
    settings: dict[str, Any]
    header: Mapping[str, Any]
    next: list[str]


def part_of_a_run(place: Path) -> Place | None:
    """A file or folder that has its name from a run and lies in one; or what something took, beside it."""
    folder = place.absolute().parent
    shown = place.parent if place.parent.name else folder
    if place.name in IN_RUN and (
        (folder / "synset.safetensors").is_file() or _json(folder / "config.json").get("kind") == "ddbench-run"
    ):
        return Place(IN_RUN[place.name], {}, {}, [_info(shown)])
    if place.name.endswith(".cost.json"):
        subject = place.with_name(f"{place.name.removesuffix('.cost.json')}.json")
        for one in (subject, subject.with_suffix(".safetensors")):
            if one.is_file():
                return Place(f"what {one.name} took", {}, {}, [_info(one)])
    return None


def export(place: Path) -> Place | None:
    """What ``ddbench export`` wrote: the folder, or the file in it."""
    if place.is_file():
        return _archive(place) if place.suffix == ".npz" else None
    if (place / HUB[0]).is_file():
        info = _json(place / HUB[0])
        if info.get("kind") == HUB[1]:
            header = _table(info.get("synset"))
            dataset = str(header.get("dataset"))
            own = ["--dataset", own_form(dataset)] if is_own(dataset) else []
            commands = (["import", str(place), *own, "--out", "runs/NAME"], ["push", str(place), "OWNER/NAME"])
            following = [shlex.join(["ddbench", *command]) for command in commands]
            return Place("export of form hub", {}, header, following)
    if (place / "synset.npz").is_file():
        return _archive(place / "synset.npz")
    classes = [path.parent for path in place.glob("*/00000.png") if re.match(r"\d{4}(_|$)", path.parent.name)]
    if classes:
        images = sum(1 for folder in classes for _ in folder.glob("*.png"))
        return Place("export of form png", {"classes": len(classes), "images": images}, {}, [_inspect(place)])
    if (place / "grid.png").is_file():
        return Place("export of form grid", {"picture": "grid.png"}, {}, [])
    return None


def submission(evaluation: Path) -> list[str]:
    """The command that submits an evaluation by its file's name; none where it lies in no run, which submit takes."""
    folder = evaluation.absolute().parent
    run = folder.parent
    if folder.name != "evaluations" or not (run / "synset.safetensors").is_file():
        return []
    shown = evaluation.parent.parent if evaluation.parent.name else run
    return [shlex.join(["ddbench", "submit", str(shown), "--protocol", evaluation.stem])]


def with_experts(store: Path, header: Mapping[str, Any]) -> str:
    """The command that distils with the experts of a store, by a method that takes such ones."""
    recipe = _table(header.get("recipe"))
    method, epochs = MATCHING.get(str(recipe.get("kind")), "mtt"), recipe.get("epochs")
    command = ["ddbench", "distill", "--method", method, *_data(header, header.get("size"), recipe), "--ipc", "1"]
    command += ["--student", str(header.get("student")), "--recipe", "none", "--buffers", str(store)]
    if isinstance(epochs, int) and epochs < EPOCHS:
        command += ["--max-start-epoch", str(max(1, epochs - 1)), *(["--expert-epochs", "1"] if epochs < 2 else [])]
    return shlex.join(command)


def with_model(model: Path, header: Mapping[str, Any]) -> str:
    """The command that distils with a diffusion model."""
    shape = header.get("shape")
    side = shape[-1] if isinstance(shape, list) and shape else None
    data = _data(header, side, _table(header.get("recipe")))
    command = ["ddbench", "distill", "--method", "d3hr", *data, "--ipc", "1", "--recipe", "none"]
    return shlex.join([*command, "--diffusion-model", str(model)])


def _data(header: Mapping[str, Any], side: Any, recipe: Mapping[str, Any]) -> list[str]:
    """The flags by which a run has the very images that something was trained on, as far as they are no defaults."""
    usual = ExpertRecipe()
    flags = dataset_flags(str(header.get("dataset")), side if isinstance(side, int) else None)
    preprocess, holdout = (recipe.get(one, getattr(usual, one)) for one in ("preprocess", "holdout"))
    flags += [] if preprocess == usual.preprocess else ["--preprocess", str(preprocess)]
    if isinstance(holdout, float) and holdout != usual.holdout:
        flags += ["--holdout", exact(holdout)]
    return flags


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _archive(path: Path) -> Place | None:
    """The archive of form npz; None: another one."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return None
    if not {"header.npy", "labels.npy", "pixels.npy"} <= names:
        return None
    arrays = ", ".join(sorted(name.removesuffix(".npy") for name in names))
    return Place("export of form npz", {"arrays": arrays}, {}, [_inspect(path)])


def _json(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path, "file of ddbench")
    except UserError:
        return {}
    return found if isinstance(found, dict) else {}


def _info(place: Path) -> str:
    return shlex.join(["ddbench", "info", str(place)])


def _inspect(place: Path) -> str:
    return shlex.join(["ddbench", "import", str(place), "--inspect"])
