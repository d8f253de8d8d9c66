"""The readers of foreign files and texts that ``fuzz.py`` tries."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import fuzz_calls as calls
import fuzz_inputs as inputs
from fuzz_calls import lazy
from fuzz_inputs import Change, Draws
from fuzz_valid import DGCNN, IDX, LOOK, METRICS, OGB, PLAN, SIGN, TU

Reader = Callable[[bytes], object]


@dataclass(frozen=True)
class Form:
    """A file that is given to a reader.

    Attributes:
        file: its name; what is before the last ``/`` are folders.
        read: is given its path.
        valid: files to start from, below the folder of valid files, or their bytes.
        change: how the first of these is damaged by a structured input; None: bytes only.
        beside: file or folder below the folder of valid files that is copied into the folder first.
    """

    file: str
    read: Callable[[Path], object]
    valid: tuple[str | bytes, ...]
    change: Change | None = None
    beside: str = ""


def _bzipped(valid: bytes, draws: Draws) -> bytes:
    return bz2.compress(inputs.bytes_changed(bz2.decompress(valid), draws))


def _gzipped(valid: bytes, draws: Draws) -> bytes:
    return gzip.compress(inputs.bytes_changed(gzip.decompress(valid), draws), 1)


MADE: dict[str, Form] = {
    "synset": Form("x.safetensors", calls.synset, ("run/synset.safetensors",), inputs.safetensors_file),
    "labels": Form(
        "x.safetensors",
        lambda path: lazy("protocols.labels", "read_labels")(path).verify(),
        ("run/labels.safetensors",),
        inputs.safetensors_file,
    ),
    "teacher": Form("x.safetensors", calls.teacher, ("teachers/*/*/*.safetensors",), inputs.safetensors_file),
    "expert": Form(
        "store/expert_00000.safetensors",
        calls.expert,
        ("experts/*/*/*/expert_*.safetensors",),
        inputs.safetensors_file,
        "experts/*/*/*/manifest.json",
    ),
    "checkpoint": Form("x.safetensors", calls.checkpoint, ("half.safetensors",), inputs.safetensors_file),
    "metrics": Form("metrics.jsonl", calls.metrics, (METRICS,), inputs.bytes_changed),
    "manifest": Form("store/manifest.json", calls.manifest, ("experts/*/*/*/manifest.json",), inputs.json_file),
    "trees": Form(
        "x.safetensors",
        lambda path: lazy("graphs.store", "read_trees")(path),
        ("trees.safetensors",),
        inputs.safetensors_file,
    ),
    "info": Form("x.safetensors", calls.info, ("run/synset.safetensors",), inputs.safetensors_file),
    "evaluation": Form(
        "run/evaluations/hard-v1.json", calls.evaluation, ("run/evaluations/hard-v1.json",), inputs.json_file, "run"
    ),
    "cost": Form(
        "run/evaluations/hard-v1.cost.json",
        lambda path: calls.evaluation(path.with_name("hard-v1.json")),
        ("run/evaluations/hard-v1.cost.json",),
        inputs.json_file,
        "run",
    ),
    "config": Form(
        "run/config.json",
        lambda path: calls.evaluation(path.parent / "evaluations" / "hard-v1.json"),
        ("run/config.json",),
        inputs.json_file,
        "run",
    ),
    "row": Form("x.json", calls.row, ("board/results/*/*/*/????????????????.json",), inputs.json_file),
    "verification": Form(
        "random/x.verified.json",
        calls.verification,
        ("board/results/*/*/*/*.verified.json",),
        inputs.json_file,
        "board/results/digits/ipc1/random",
    ),
    "plan": Form("x.toml", calls.plan, (PLAN,), inputs.toml_file),
    "protocol": Form(
        "x.toml",
        lambda path: lazy("protocols.protocol", "read_protocol")(path),
        (b'name = "mine"\nbase = "hard-v1"\nepochs = 5\nlr = 0.01\naugmentation = "crop+flip"\n',),
        inputs.toml_file,
    ),
    "recipe": Form(
        "x.toml",
        lambda path: lazy("distillation.recipes", "read_recipes")(path, "mtt"),
        (b"[one]\ndataset = 'digits'\nipc = 1\n[one.config]\niterations = 5\n[one.experts]\nepochs = 3\n",),
        inputs.toml_file,
    ),
    "pt": Form("x.pt", calls.take, ("pair.pt", "res.pt", "dict.pt", "tensor.pt"), inputs.zip_file),
    "buffers": Form("x.pt", calls.buffers, ("buffer.pt",), inputs.zip_file),
    "npz": Form("x.npz", calls.take, ("npz/*.npz",), inputs.zip_file),
    "npy": Form(
        "x.npy",
        calls.take,
        (
            b"\x93NUMPY\x01\0v\0{'descr': '<f4', 'fortran_order': False, 'shape': (10, 1, 8, 8), }"
            + b" " * 53
            + b"\n"
            + bytes(2560),
        ),
    ),
    "hub description": Form("hub/synset.json", calls.hub, ("hub/synset.json",), inputs.json_file, "hub"),
    "hub parquet": Form(
        "hub/data/train-00000-of-00001.parquet", calls.hub, ("hub/data/*.parquet",), inputs.bytes_changed, "hub"
    ),
    "picture": Form("x.png", calls.picture, ("picture.*", "palette.png"), inputs.bytes_changed),
    "picture folder": Form(
        "png/0000_0/00000.png",
        lambda path: calls.take(path.parents[1]),
        ("png/0000_0/*.png",),
        inputs.bytes_changed,
        "png",
    ),
    "idx": Form("x-ubyte", calls.idx, (IDX, IDX[:3] + b"\1" + IDX[4:8] + b"ab")),
    "idx gz": Form("x-ubyte.gz", lambda path: lazy("data.idx", "read_idx")(path, 3), (gzip.compress(IDX),), _gzipped),
    "annotations": Form("val/val_annotations.txt", calls.annotated, (b"a.png\tn01\t0\t0\n",), beside="val"),
    "class order": Form("x.txt", calls.class_order, (b"\n".join(b"%d" % k for k in range(10)),)),
    "look": Form("x.json", calls.look, (LOOK,), inputs.json_file),
    "sign of life": Form("x.sign", calls.signs, (SIGN,), inputs.json_file),
    "diffusion": Form("model/ddbench.json", calls.diffusion, ("model/ddbench.json",), inputs.json_file, "model"),
    "diffusion network": Form(
        "model/unet/config.json",
        lambda path: calls.rehashed(path.parents[1], path),
        ("model/unet/config.json",),
        inputs.json_file,
        "model",
    ),
    "diffusion pipeline": Form(
        "pipeline/transformer/config.json",
        lambda path: lazy("diffusion.store", "read_model")(path.parents[1]),
        ("pipeline/transformer/config.json",),
        inputs.json_file,
        "pipeline",
    ),
    "data npz": Form("x.npz", calls.own, ("own.npz",), inputs.zip_file),
    "data usps": Form("USPS/usps.bz2", calls.usps, (bz2.compress(b"1 1:0.5 2:-1\n2 256:1\n"),), _bzipped),
    "data parquet": Form(
        "own/data/train-00000-of-00001.parquet", calls.parquet, ("own.parquet",), inputs.bytes_changed
    ),
    "graphs dgcnn": Form("x.txt", calls.graphs, (DGCNN,)),
    "graphs npz": Form("x.npz", calls.graphs, ("graphs.npz",), inputs.zip_file),
}
"""Reader -> the file that it is given."""

SEVERAL = {"graphs tu": (TU, ""), "graphs ogb": (OGB, ".gz")}
"""Readers of several files: what is in them, and the ending of packed ones. An input has them in turn, cut by zeros."""


def _student(text: str) -> None:
    for name in lazy("networks.names", "expand_students")(text):
        for channels, size in ((1, 8), (3, 32)):
            lazy("networks.check", "check_student")(name, channels, size)


def _texts() -> dict[str, tuple[Callable[[str], object], list[str]]]:
    def strategies(text: str) -> None:
        for parse in (lazy("data.augment", "parse_strategy"), lazy("data.policy", "parse_policy")):
            with contextlib.suppress(lazy("runtime.errors", "UserError")):
                parse(text)
        lazy("data.specs", "resolve_augmentation")(text, True)

    def names(text: str) -> None:
        for call in (
            lambda: lazy("data.specs", "dataset_spec")(text),
            lambda: lazy("protocols.protocol", "protocol")(text),
            lambda: lazy("distillation.recipes", "choose_recipe")(text, "mtt", {}),
            lambda: lazy("leaderboard.plans", "find_plan")(text),
            lambda: lazy("runtime.shards", "parse_shard")(text, {}),
            lambda: lazy("leaderboard.submit", "parse_claim")(text),
            lambda: lazy("cli.parse", "options_from_text")([text]),
            lambda: lazy("exchange.importer", "learned_lr")(text),
            lambda: lazy("graphs.read", "load_graphs")(text),
        ):
            with contextlib.suppress(lazy("runtime.errors", "UserError"), OSError):
                call()

    def flags(text: str) -> None:
        verb, *argv = text.split("\n")
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
            if verb in ("evaluate", "distill", "buffer", "plan", "reproduce", "import", "leaderboard", "info", "list"):
                # a run that is not there: everything but the flags ends there
                lazy("cli.main", "dispatch")([verb, *argv, "--nothing-of-this-name"])

    return {
        "student names": (_student, ["convnet-d2-w32-in", "mlp-d3-w128,resnet18-bn", "all-small", "vit-d2-w32"]),
        "strategies": (strategies, ["color_crop_cutout_flip_scale_rotate", "rrc+flip+cutmix", "dsa", "none"]),
        "names": (names, ["digits", "0/4", "folder:x", "eps=1e-8", "convnet-d2-w32-in=0.5", "hard-v1", "graphs:x"]),
        "flags": (flags, ["evaluate\nx\n--students\nmlp-d3-w128", "distill\n--method\nmtt\n--ipc\n1", "list\nplans"]),
    }


TEXTS = ("student names", "strategies", "names", "flags")
READERS = (*MADE, *SEVERAL, *TEXTS)

TAKE_NOTHING = ("metrics", "recipe", "look", "sign of life", "strategies", "names", "flags")
"""Readers that an empty file or text is right for, or which pass over what they cannot read."""


def check_reader(name: str, read: Reader, valid: bytes) -> None:
    """Refuse a reader that does not come to its file, or not beyond the first check: nothing would be tried.

    Args:
        valid: the first of its inputs.

    Raises:
        UserError: what is wrong with the valid file.
        AssertionError: an empty file is as good.
    """
    if name != "flags":  # they end at a run that is not there
        read(valid)
    if name not in TAKE_NOTHING:
        try:
            read(b"" if name in (*SEVERAL, *TEXTS) else b"\0")
        except lazy("runtime.errors", "UserError"):
            return
        raise AssertionError(f"{name}: takes an empty file: it does not read what it is given")


def make_reader(name: str, valid: Path) -> tuple[Reader, list[bytes]]:
    """A function of the bytes of an input, and inputs to start from. Works in a folder of its own."""
    folder = Path(tempfile.mkdtemp())
    os.environ["DDBENCH_DATA"] = str(folder / "data")
    if name in TEXTS:
        call, texts = _texts()[name]
        return lambda data: call(data.decode("utf-8", "replace")), [text.encode() for text in texts]
    if name in SEVERAL:
        files, ending = SEVERAL[name]
        return lambda data: _read_several(folder, files, ending, data), [b"\0".join(files.values())]
    form = MADE[name]
    seeds = [
        part
        for one in form.valid
        for part in ([one] if isinstance(one, bytes) else [path.read_bytes() for path in sorted(valid.glob(one))[:9]])
    ]
    assert seeds, f"{name}: no valid file"
    path = folder / form.file
    path.parent.mkdir(parents=True, exist_ok=True)
    if form.beside:
        (source,) = valid.glob(form.beside)
        if source.is_dir():
            shutil.copytree(source, folder / source.name, dirs_exist_ok=True)
        else:
            shutil.copy(source, path.with_name(source.name))
    return lambda data: form.read(_filled(path, _content(form, seeds, data))), [b"\0" + seed for seed in seeds] + [
        b"\1" + bytes(range(40)),
        b"\1" + bytes(range(200, 100, -1)),
    ]


def _content(form: Form, seeds: list[bytes], data: bytes) -> bytes:
    """The file of an input: its bytes, or a valid file that they damage."""
    if form.change is None or data[:1] < b"\1":
        return data[1:]
    return form.change(seeds[data[0] % len(seeds)], Draws(data[1:]))


def _filled(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _read_several(folder: Path, files: dict[str, bytes], ending: str, data: bytes) -> None:
    place = folder / "set"
    parts = data.split(b"\0")
    for number, name in enumerate(files):
        path = place / f"{name}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = parts[number] if number < len(parts) else b""
        if content == b"-":
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(gzip.compress(content, 1) if ending else content)
    calls.graphs(place)
