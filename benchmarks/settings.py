"""Settings of methods, changed one at a time on digits and on made graphs: does each one act?

The base of a method is its ``smoke.toml``; a setting of a variant (``of=``, ``unless=``) is tried on a base of that
variant. Compared are the product's tensors and header, but for what the header repeats of the settings. A number acts
where one of the tried values does, of words each one must. What does not act is a fault, unless :data:`SILENT` has a
reason; an entry of it that does act everywhere is told, and so is a setting of which every value was refused.

    python benchmarks/settings.py --out FOLDER                      # all methods; what lies in FOLDER is not done again
    python benchmarks/settings.py --out FOLDER --methods mtt,dm     # some
    python benchmarks/settings.py --out FOLDER --write              # and the table
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import common

Values = dict[str, Any]
Tried = dict[str, list[tuple[str, str]]]

ROOT = Path(__file__).resolve().parent.parent
TINY, NORMED = "convnet-d1-w4-in", "convnet-d1-w4-bn"
EAGER = ("--compile", "off")
ROOTS = {"experts": "buffers", "teacher": "teachers", "diffusion": "diffusions"}
"""Flag of the root of what a method needs, by the need's key."""

PENALTY = ("--penalty", "--penalty-weight", "--penalty-step")
TEACHERS: tuple[tuple[object, ...], ...] = (
    (TINY,),
    (NORMED,),
    (NORMED, "curvature", 100, 3),
    (NORMED, "loss-gap", 1e-4, 3),
)
TEACHERS += ((NORMED, "curvature", 50, 3), (NORMED, "curvature", 100, 1.5))
"""Student and penalty of the teachers that are there, those of the tried settings of GUARD among them."""

IMAGES: Values = {"dataset": "digits", "ipc": 2, "student": TINY, "device": "cpu", "compile": "off"}
GRAPHS: Values = {"dataset": "graphs:made"}
ACTS, SAME, REFUSED = "acts", "same", "refused"
REPEATED = ("augmentation", "config", "parents", "teacher", "versions")
"""What the header says of how the product was made, not what it is."""

VALUES: dict[str, tuple[Any, ...]] = {
    "augmentation": ("none", "crop", "color"),
    "base": ("datm", "tesla"),
    "batch": (7,),
    "base_options": ("inner=truncated",),
    "batch_net": (8,),
    "batch_pool": (5,),
    "batch_student": (3,),
    "batch_syn": (3,),
    "cudd.joint": (True,),
    "d3hr.start": (400, 800),
    "d3hr.skew_weight": (0.0, 50.0),
    "decay_every": (1,),
    "depth": (1, 3),
    "density": (100.0,),
    "doscond.batch_real": (4,),
    "drop_at": (2,),
    "flatness": (1e5,),
    "guidance": (50.0,),
    "guide_batch": (4,),
    "guide_lr_again": (0.1,),
    "igd.guide_to": (0.65, 1.0),
    "igd.memory": (1,),
    "igd.similarity": (1.0, -1.0),
    "images_at_once": (3,),
    "max_bytes": (400, 700),
    "max_itemsets": (10**5,),
    "memory": ("10M",),
    "minimax.memory": (1,),
    "mipc": (20,),
    "mirage.max_bytes": (2000, 10**4),
    "oldest": (1,),
    "phases": ("2",),
    "sampler_images": (16,),
    "sampler_interval": (1,),
    "stages": (1,),
    "steps": (2, 4, 10),
    "support": ((0.2,), (0.9,)),
}
"""Tried values, where those that are made of the type do not fit or show nothing; of a setting, or of a method's."""

GROUNDS: dict[str, Values] = {
    "cudd.joint": {"phases": "2", "guide_epochs": 150},
    "d3hr.skew": {"ipc": 4},
    "d3hr.skew_weight": {"ipc": 4},
    "datm.min_start_epoch": {"max_start_epoch": 4, "first_end": 3},
    "decay": {"decay_every": 1},
    "doscond": {"lr_edges": 1.0, "lr_labels": 1.0, "sure": 0.1},
    "edc.densify": {"order": "class"},
    "exclusive": {"depth": 1},
    "form": {"student": "convnet-d2-w4-in"},
    "guard.curriculum": {"crop_scale": 0.4},
    "guide_lr_again": {"ipc": 3, "phases": "1,2,3"},
    "gvbsm.average": {"bn_weight": 10.0},
    "gvbsm.joint": {"ipc": 11},
    "igd.memory": {},
    "label_epoch": {"sweep_students": 3, "sweep_epochs": 300},
    "lr_hessian": {"solver": "adam"},
    "lr_inner": {"solver": "adam"},
    "memory": {"inner": "auto"},
    "minimax.memory": {},
    "phases": {"guide_epochs": 150},
    "pdd.batch_syn": {"lr_lr": 0.0},
    "stages": {"stage_epochs": 0},
}
"""What is set too, so that a setting, one of a method or all of a method can show what they do."""

SILENT: dict[str, str] = {
    "d3hr.skew": "auto is per_coordinate, but with --paper-code",
    "ddif-dc.momentum": "fields are learned by Adam",
    "ddif-dm.momentum": "fields are learned by Adam",
    "flip": "digits are never mirrored",
    "max_itemsets": "a limit that is refused above",
    "memory": "memory of --inner auto, which changes no number",
    "pdd.init": "the base mtt begins with real images as well",
    "sweep_students": "one of them finds the best epoch already",
    "precision": "of a pretrained transformer; the model here is one of pixels",
}
"""Why a setting, or a method's, may be without effect here, or refused whatever its value."""


def listed(table: Mapping[str, Any], method: str, name: str, default: Any) -> Any:
    """The entry of a method's setting, or of the setting."""
    return table.get(f"{method}.{name}", table.get(name, default))


def made_values(kind: Any, now: Any) -> Iterator[Any]:
    """Other values of a type, the nearest to the one that it has first."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        yield from parts
    elif origin in (Union, UnionType):
        for part in parts:
            yield from made_values(part, now)
    elif origin is tuple and isinstance(now, tuple):
        yield tuple(2 * one for one in now)
        yield tuple(one / 2 for one in now)
    elif kind is type(None):
        yield None
    elif kind is bool:
        yield not now
    elif kind is int:
        near = now if isinstance(now, int) else 0
        yield from (near + 1, 2 * near + 1, near - 1, 1, 2)
    elif kind is float:
        near = now if isinstance(now, int | float) and now else 1.0
        yield from (near / 2, near * 2, 0.5, 0.0)


def is_words(kind: Any) -> bool:
    """Whether each value means something of its own."""
    return kind in (bool, str) or get_origin(kind) is Literal


def values_of(method: str, item: dataclasses.Field[Any], kind: Any, now: Any) -> list[Any]:
    """What a setting is set to in turn: all words, three numbers."""
    from ddbench.config import setting_of

    said = setting_of(item)
    found = listed(VALUES, method, item.name, said.choices or tuple(made_values(kind, now)))
    other = [one for one in dict.fromkeys(found) if one != now]
    fitting = [one for one in other if isinstance(one, str | tuple | None) or said.holds(one)]
    return fitting if is_words(kind) else fitting[:3]


def ground_of(method: str, kind: Any, name: str, base: Values) -> Values:
    """The base with the variants that a setting is one of, and what it needs to show."""
    from ddbench.config import setting_of, types_of

    items = {item.name: item for item in dataclasses.fields(kind)}
    ground = {**base, **listed(GROUNDS, method, name, {})}
    said = setting_of(items[name])
    for pair, wanted in ((said.of, True), (said.unless, False)):
        if pair is None or ((now := ground.get(pair[0], items[pair[0]].default)) == pair[1] and wanted):
            continue
        if wanted:
            ground = {**ground_of(method, kind, pair[0], ground), pair[0]: pair[1]}
        elif now == pair[1]:
            other = values_of(method, items[pair[0]], types_of(kind)[pair[0]], now)[0]
            ground = {**ground_of(method, kind, pair[0], ground), pair[0]: other}
    return ground


class Bench:
    """Runs of methods, and what they need, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.number = folder, 0
        self.known: dict[str, dict[str, str]] = {}
        os.environ["DDBENCH_DATA"] = str(folder / "data")
        for kind in ("sgd", "gsam", "smooth"):
            self.do("buffer", "--buffers", "--student", TINY, "--experts", 2, "--epochs", 4, "--kind", kind, *EAGER)
        for student, *penalty in TEACHERS:
            flags = [word for name, value in zip(PENALTY, penalty, strict=False) for word in (name, value)]
            self.do("teacher", "--teachers", "--student", student, "--epochs", 2, *flags, *EAGER)
        small = ("--widths", 8, 8, "--steps", 4, "--batch", 8, "--warmup", 1)
        self.do("diffusion", "train", "--diffusions", *small)

    def do(self, *argv: object) -> None:
        """A command on digits; a flag of a root is given that in the folder."""
        from ddbench.cli.main import run

        roots = {f"--{name}": str(self.folder / name) for name in ROOTS.values()}
        words = [part for word in map(str, argv) for part in ((word, roots[word]) if word in roots else (word,))]
        with contextlib.redirect_stdout(io.StringIO()):
            run([*words, "--dataset", "digits", "--threads", "1", "--quiet"])

    def product(self, method: str, kind: Any, config: Values, run: Values) -> dict[str, str]:
        """Hashes of the parts of what a method makes.

        Raises:
            UserError: the settings are refused.
        """
        import ddbench

        made = kind.config_class(**config)
        key = repr((method, sorted(config.items()), sorted(run.items())))
        if key not in self.known:
            self.number += 1
            out = self.folder / "runs" / str(self.number)
            flags = {root: self.folder / root for root in (ROOTS[need.key] for need in kind.needs(made))}
            if "teachers" not in flags:
                run = {name: value for name, value in run.items() if name != "teacher_student"}
            how = {"recipe": "none", "threads": 1, "quiet": True, "out": out}
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                path = ddbench.distill(method, **how, **run, **flags, **config)
            self.known[key] = digest(path)
            shutil.rmtree(out)
        return self.known[key]


def digest(path: Path) -> dict[str, str]:
    """Hashes of the tensors and the header of a product."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:  # type: ignore[no-untyped-call]
        names = list(file.keys())
        found = {name: file.get_tensor(name).contiguous().numpy().tobytes() for name in names}
        header = json.loads(file.metadata()["ddbench"])
    kept = {name: value for name, value in header.items() if name not in REPEATED}
    found["header"] = json.dumps(kept, sort_keys=True).encode()
    return {name: hashlib.sha256(data).hexdigest() for name, data in found.items()}


def sweep(bench: Bench, method: str) -> Tried:
    """Every setting of a method: values that were tried, and what came of each."""
    from ddbench.config import types_of
    from ddbench.methods import METHODS
    from ddbench.runtime.errors import UserError

    kind = METHODS.get(method)
    smoke = ROOT / "methods" / method / "smoke.toml"
    said = tomllib.loads(smoke.read_text()) if smoke.is_file() else {}
    run = {**(IMAGES if "image" in kind.modalities else GRAPHS)}
    run |= {name: said[name] for name in ("student",) if name in said}
    run["teacher_student"] = said.get("teacher_student", TINY)
    base = {name: tuple(value) if isinstance(value, list) else value for name, value in said.get("config", {}).items()}
    base |= GROUNDS.get(method, {})
    found: Tried = {}
    for item in dataclasses.fields(kind.config_class):
        ground = ground_of(method, kind.config_class, item.name, base)
        own = {**run, **{name: ground.pop(name) for name in list(ground) if name in ("ipc", "student")}}
        now, annotation = ground.get(item.name, item.default), types_of(kind.config_class)[item.name]
        found[item.name] = []
        for value in values_of(method, item, annotation, now):
            try:
                before = bench.product(method, kind, ground, own)
                after = bench.product(method, kind, {**ground, item.name: value}, own)
            except UserError as error:
                found[item.name].append((str(value), f"{REFUSED}: {error}"))
                continue
            found[item.name].append((str(value), SAME if after == before else ACTS))
            if after != before and not is_words(annotation):
                break
    return found


def judged(method: str, tried: Tried) -> tuple[dict[str, str], list[str]]:
    """Of a method the settings, or words, that do not act, and the settings of which every value was refused."""
    from ddbench.config import types_of
    from ddbench.methods import METHODS

    types = types_of(METHODS.get(method).config_class)
    idle, refused = {}, []
    for name, outcomes in tried.items():
        taken = [(value, what) for value, what in outcomes if not what.startswith(REFUSED)]
        same = [value for value, what in taken if what == SAME]
        if not taken:
            refused.append(name)
        elif same and (is_words(types[name]) or len(same) == len(taken)):
            idle[name] = ", ".join(same)
    return idle, refused


def table(found: dict[str, Tried]) -> tuple[list[str], list[str]]:
    """Lines of the table, and what is wrong."""
    from ddbench.methods import METHODS

    lines = ["| method | settings | values | without effect | refused |", "| --- | ---: | ---: | --- | --- |"]
    faults, used = [], set()
    for method, tried in found.items():
        idle, refused = judged(method, tried)
        told = {name: f"{name} has no effect ({values})" for name, values in idle.items()}
        told |= {name: f"every tried value of {name} is refused" for name in refused}
        for name, text in told.items():
            keys = {name, f"{method}.{name}"} & set(SILENT)
            used |= keys
            faults += [] if keys else [f"{method}: {text}"]
        words = [f"{name} ({', '.join(said)})" for name, said in _refusals(tried).items()]
        shown = [f"{name} ({value}): {listed(SILENT, method, name, '**no reason**')}" for name, value in idle.items()]
        count = sum(map(len, tried.values()))
        lines.append(f"| {method} | {len(tried)} | {count} | {'; '.join(shown)} | {'; '.join(words)} |")
    if set(found) >= set(METHODS):
        faults += [f"SILENT has {key}, which acts" for key in SILENT if key not in used]
    return lines, faults


def _refusals(tried: Tried) -> dict[str, list[str]]:
    found = {name: [value for value, what in outcomes if what.startswith(REFUSED)] for name, outcomes in tried.items()}
    return {name: values for name, values in found.items() if values}


def main() -> None:
    """Sweep what is not in the folder, and print the table of all that is."""
    from ddbench.methods import METHODS

    parser = common.parser(str(__doc__))
    parser.add_argument("--methods", default="", help="with commas; default: all")
    parser.add_argument("--out", type=Path, required=True, help="a JSON file a method lies there")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    names = list(filter(None, args.methods.split(","))) or list(METHODS)
    left = [name for name in names if not (args.out / f"{name}.json").exists()]
    if left:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(Path(folder))
            for name in left:
                print(f"{name} ...", file=sys.stderr, flush=True)
                text = json.dumps(sweep(bench, name), indent=1)
                (args.out / f"{name}.json").write_text(text + "\n")
    paths = {name: args.out / f"{name}.json" for name in METHODS}
    found = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    lines, faults = table(found)
    common.report(__file__, "Settings of methods", lines, "python benchmarks/settings.py")
    if faults:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
