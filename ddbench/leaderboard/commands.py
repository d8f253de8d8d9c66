"""From the run configuration in a row back to the commands behind its synset. Imports no torch."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path, PurePosixPath
from typing import Any

from ddbench.config import apply_config
from ddbench.data.specs import DATASETS, STATISTICS, Statistics, is_own, preprocess_kind
from ddbench.diffusion.recipe import LATENT, DiffusionRecipe, model_folder
from ddbench.experts.recipe import ExpertRecipe
from ddbench.leaderboard.attachments import TEACHER, address, beside
from ddbench.leaderboard.result import Result
from ddbench.leaderboard.schema import result_path
from ddbench.modalities import modality
from ddbench.runtime.errors import UserError

BOARD = PurePosixPath("leaderboard")
"""The board's folder, as verbs have it where none is named."""

PROTOCOL_FLAGS = ("epochs", "lr", "augmentation", "label_smoothing", "focal_gamma", "max_images")
"""Protocol settings that ``ddbench evaluate`` can alter by a flag of the same name."""

EXPERT_FLAGS = tuple(item.name for item in fields(ExpertRecipe) if item.name != "options")
"""Settings of an expert's recipe that are one value each; ``ddbench buffer`` has a flag of the same name for all."""


def expert_command(result: Result) -> str | None:
    """The ``ddbench buffer`` command that records a row's experts; None: it had none, or they were imported."""
    experts = (result.recipe or {}).get("experts")
    recipe = experts.get("recipe") if isinstance(experts, dict) else None
    if not isinstance(experts, dict) or not isinstance(recipe, dict) or recipe.get("kind") == "imported":
        return None
    synset = result.synset
    command = ["ddbench", "buffer", "--dataset", synset.dataset, *_size(result)]
    if synset.student:
        command += ["--student", synset.student]
    command += ["--experts", str(experts.get("count"))]
    for name in EXPERT_FLAGS:
        if name in recipe:
            command += _flag(name, recipe[name])
    options = recipe.get("options")
    if isinstance(options, dict) and options:
        command += ["--options", *(f"{name}={value!r}" for name, value in sorted(options.items()))]
    return shlex.join(command)


def model_command(result: Result) -> tuple[str | None, str | None]:
    """The ``ddbench diffusion train`` command of a row's diffusion model, and where the model then is: ``MODEL`` where
    others trained it; None: it had none, or nothing says how it was trained.
    """
    model = (result.recipe or {}).get("diffusion")
    if not isinstance(model, dict):
        return None, None
    if model.get("kind") == LATENT:  # its hash is in the row; nothing says its place
        return None, "MODEL"
    try:
        recipe: DiffusionRecipe = apply_config(DiffusionRecipe, model.get("recipe"), "recipe")
    except UserError:  # a row of before they were kept, or one that says what it likes
        return None, None
    synset, usual = result.synset, DiffusionRecipe().to_json()
    command = ["ddbench", "diffusion", "train", "--dataset", synset.dataset, *_size(result)]
    for name, value in recipe.to_json().items():
        command += _flag(name, value) if value != usual[name] else []
    folder = model_folder(Path("diffusions"), synset.dataset, recipe.key(synset.dataset_fingerprint))
    return shlex.join(command), folder.as_posix()


def _size(result: Result) -> list[str]:
    """``--size``, where a dataset comes in several sizes and the row's is not what it has without the flag."""
    dataset, side = result.synset.dataset, modality(result.synset.modality).side_of_row(result.synset)
    if side is None:
        return []
    usual = DATASETS[dataset].size if dataset in DATASETS else side
    return ["--size", str(side)] if is_own(dataset) or side != usual else []


def run_flags(result: Result) -> list[str]:
    """Flags of ``ddbench distill`` that are in no config but decide the last bits of a synset."""
    recipe = result.recipe or {}
    flags = []
    anywhere = modality(result.synset.modality).device("auto", "auto") == "auto"
    for name in ("threads", "compile", "device") if anywhere else ("threads",):
        if isinstance(recipe.get(name), str | int):
            flags += [f"--{name}", str(recipe[name])]
    return flags


def _flag(name: str, value: object) -> list[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    if isinstance(value, list):
        words = ["=".join(map(str, one)) if isinstance(one, list) else str(one) for one in value]
        return [f"--{flag}", *words] if words else []
    return [] if value is None or isinstance(value, dict) else [f"--{flag}", str(value)]


def commands(result: Result) -> list[str]:
    """The commands that make this row again; of a synset made elsewhere, the one that trains students on it again.

    ``RUN`` and ``MODEL`` (a pretrained one) stand for folders, ``TEACHER`` for a file that does not lie on the board.
    Protocols that do not come with ddbench have a name only: their evaluations are left to ``leaderboard verify``,
    which has the settings of the row.
    """
    again = ["ddbench", "leaderboard", "verify", result.id]
    if not _made_here(result):
        return [shlex.join(again)]
    if result.measured or result.tasks:
        again.append("--measured")
    model, place = model_command(result)
    found = [*filter(None, (expert_command(result), model)), shlex.join(_distill(result, place))]
    if _is_known(result, result.protocol.name):
        found += [*_relabel(result), *(shlex.join([*_evaluate(result), *flags]) for flags in _measurements(result))]
    return [*found, *_tasks(result), shlex.join(again)]


def _distill(result: Result, model: str | None) -> list[str]:
    """With the place of its diffusion model, where it had one."""
    synset = result.synset
    command = ["ddbench", "distill", "--method", synset.method, "--dataset", synset.dataset, *_size(result)]
    if synset.budget.unit == "ipc":  # others are in the config
        command += ["--ipc", str(synset.budget.value)]
    if synset.student:
        command += ["--student", synset.student]
    command += [
        *_preprocess(result),
        "--seed",
        str(synset.seed),
        "--recipe",
        "none",
        *_networks((result.recipe or {}).get("teacher")),
    ]
    for name, value in sorted(synset.config.items()):
        command += _flag(name, value)
    command += ["--diffusion-model", model] if model else []
    return [*command, *run_flags(result), "--out", "RUN"]


def _preprocess(result: Result) -> list[str]:
    """The flag for a preprocess by other numbers than the dataset's own: those without a name are of images of one's
    own, which have them by default. Of two names the one that the experts were recorded under finds them again.
    """
    synset, experts = result.synset, (result.recipe or {}).get("experts")
    own: Statistics = ((), ())
    if synset.dataset in DATASETS:
        own = (DATASETS[synset.dataset].mean, DATASETS[synset.dataset].std)
    kind = preprocess_kind(synset.preprocess, own)
    if kind is None or kind == "meanstd":
        return []
    recipe = experts.get("recipe") if isinstance(experts, dict) else None
    said = recipe.get("preprocess") if isinstance(recipe, dict) else None
    same = isinstance(said, str) and said in STATISTICS and STATISTICS[said] == STATISTICS.get(kind)
    return ["--preprocess", str(said) if same else kind]


def _networks(teacher: object) -> list[str]:
    """The flag that names the networks of teachers, of their description in a row."""
    if not isinstance(teacher, dict):
        return []
    members = teacher.get("members") or [teacher]
    said = [one.get("student") for one in members if isinstance(one, dict)] if isinstance(members, list) else []
    names = [name for name in said if isinstance(name, str)]
    return ["--teacher-student", ",".join(names)] if names else []


def _relabel(result: Result) -> list[str]:
    """The command that stores the labels that students replay."""
    if result.labels is None:
        return []
    command = ["ddbench", "relabel", "RUN", "--protocol", result.protocol.name]
    command += _networks(result.labels.get("teacher"))
    for name in ("epochs", "seed"):
        command += _flag(name, result.labels.get(name))
    return [shlex.join([*command, "--threads", str(result.threads)])]


def _evaluate(result: Result) -> list[str]:
    """Without the flags of extra measurements."""
    command = ["ddbench", "evaluate", "RUN", "--protocol", result.protocol.name, *_size(result)]
    if result.teacher is not None:
        elsewhere = address(result, TEACHER) is not None
        place = BOARD / beside(result_path(result), TEACHER)
        command += ["--teacher", "TEACHER" if elsewhere else place.as_posix()]
    seeds = max(run.seed for run in result.runs) + 1
    command += ["--threads", str(result.threads), "--students", ",".join(result.students), "--seeds", str(seeds)]
    if result.precision != "float32":
        command += ["--precision", result.precision]
    if result.at_once != 1:
        command += ["--at-once", str(result.at_once)]
    return [*command, *_protocol_flags(result.protocol.changed, result.protocol.settings)]


def _is_known(result: Result, protocol: object) -> bool:
    """Whether a command can name a protocol; one of a TOML file it cannot."""
    return isinstance(protocol, str) and modality(result.synset.modality).standard(protocol) is not None


def _protocol_flags(changed: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """The flags that alter a protocol so; a rate that is given says its own source, ``--mixup`` its augmentation.

    Args:
        settings: of the altered protocol.
    """
    altered = dict(changed)
    flags = []
    if "mix_alpha" in altered:
        plain = str(altered.pop("augmentation", "")).removesuffix("mixup").removesuffix("+")
        altered |= {"augmentation": plain} if plain else {}
        flags = ["--mixup", str(altered["mix_alpha"])]
    if "full_epochs" in altered:
        altered.setdefault("epochs", altered["full_epochs"])
    if "lr_students" in altered and "lr" in settings:  # one rate for all, also where it is the protocol's own
        altered.setdefault("lr", settings["lr"])
    if "lr_source" in altered and "lr" not in altered:
        flags += ["--lr-source", str(altered["lr_source"])]
    for name in PROTOCOL_FLAGS:
        if name in altered:
            flags += [f"--{name.replace('_', '-')}", str(altered[name])]
    return flags


def _tasks(result: Result) -> list[str]:
    """The commands of the row's tasks, where their protocol is known."""
    found = []
    for name, task in sorted((result.tasks or {}).items()):
        question = task.question
        protocol = question["protocol"] if isinstance(question["protocol"], dict) else {}
        if "name" in protocol and not _is_known(result, protocol["name"]):
            continue
        command = ["ddbench", "task", name, "RUN", *_size(result)]
        for key in ("student", "seeds"):
            command += _flag(key, question[key])
        command += _flag("protocol", protocol.get("name"))
        changed = protocol.get("changed")
        if isinstance(changed, dict):
            command += _flag("epochs", changed.get("epochs") or changed.get("full_epochs"))
        for key, value in sorted(question["config"].items() if isinstance(question["config"], dict) else ()):
            command += [f"--{key.replace('_', '-')}="] if value == "" else _flag(key, value)
        found.append(shlex.join([*command, "--threads", str(task.threads)]))
    return found


def _measurements(result: Result) -> list[list[str]]:
    """The flags of the extra measurements, for as many commands as there are numbers of test images."""
    measured = result.measured or {}
    first = ["--calibration"] if "calibration" in measured else []
    counted: dict[str, list[str]] = {}
    for kind, setting in (("robustness", "budget"), ("corruptions", ""), ("ood", "other")):
        if kind in measured:
            value = [str(measured[kind].get(setting, ""))] if setting else []
            counted.setdefault(str(measured[kind].get("images", "")), []).extend([f"--{kind}", *filter(None, value)])
    found = [[*flags, *(["--max-images", count] if count else [])] for count, flags in counted.items()] or [[]]
    return [[*first, *found[0]], *found[1:]]


def _made_here(result: Result) -> bool:
    """Whether a method of ddbench made the synset, so that its config is a list of flags."""
    from ddbench.methods import METHODS

    config = result.synset.config
    return result.synset.method in METHODS and isinstance(config, dict) and "imported_from" not in config
