"""The files that ``hostile.py`` damages, and what reads each."""

from __future__ import annotations

import contextlib
import gzip
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import hostile_images as images
import hostile_inputs as inputs
from fuzz_valid import DGCNN, IDX, OGB, PLAN, TINY, TU, make_valid
from hostile_inputs import Content
from hostile_methods import METHOD, method_files

SAME = ("--quiet", "--compile", "off", "--threads", "1")
EVALUATE = ("evaluate", "run", "--students", TINY, "--seeds", "1", "--epochs", "1", "--max-images", "50")
SCORED = (*EVALUATE, "--workers", "1", "--out", "scored.json", *SAME)
MADE = ("distill", "--dataset", "digits", "--ipc", "1", "--student", TINY, "--recipe", "none", *SAME)
GRAPH_MADE = ("distill", "--dataset", "graphs:made", *SAME)
KILLED = (*MADE, "--method", "dm", "--iterations", "6", "--checkpoint-every", "1", "--out", "killed")
GRAPHS = ("call", "graphs.read", "load_graphs")
DIFFUSION = ("--diffusions", "diffusions", "--batch", "10", "--quiet")
IMPORT = ("--dataset", "digits", "--out", "new", "--quiet")


@dataclass(frozen=True)
class Target:
    """A file and the command that reads it.

    Attributes:
        file: below the folder of a case; ``*`` where a name is made of a hash.
        command: that reads it there; ``call`` and a function of ddbench where no command reads such a file alone.
        changes: of its content, beside those that every file gets.
        odd: other contents of it, by name.
        small: files that the case needs beside it; folders are copied whole.
    """

    file: str
    command: tuple[str, ...]
    changes: dict[str, Content] = field(default_factory=dict)
    odd: tuple[tuple[str, bytes], ...] = ()
    small: tuple[str, ...] = ("run",)


BOARD = ("--leaderboard", "board")
CHECK = ("data", "check")


def targets(valid: Path) -> dict[str, Target]:
    """By the name of the reader; ``valid`` holds the valid files."""
    pictures = tuple(images.pictures())
    return {**_of_runs(), **_of_data(valid, pictures), **_of_exchange(pictures), **_of_graphs()}


def _of_runs() -> dict[str, Target]:
    """What runs, experts and boards are made of, and what a user writes for them."""
    teacher, expert = "teachers/*/*/*.safetensors", "experts/*/*/*/expert_*.safetensors"
    mtt = ("--method", "mtt", "--buffers", "experts", "--iterations", "1", "--out", "new", "--max-start-epoch", "1")
    return {
        "synset": Target("run/synset.safetensors", SCORED, inputs.TENSORS),
        "stored labels": Target("run/labels.safetensors", (*SCORED, "--protocol", "fkd"), inputs.TENSORS),
        "teacher": Target(
            teacher,
            (*SCORED, "--protocol", "kd-v1", "--teachers", "teachers"),
            inputs.TENSORS,
            small=("run", "teachers"),
        ),
        "trajectory": Target(expert, ("buffer", "verify", "experts"), inputs.TENSORS, small=("experts",)),
        "trajectory store": Target("experts/*/*/*/manifest.json", (*MADE, *mtt), inputs.JSON, small=("experts",)),
        "old buffers": Target(
            "buffer.pt",
            *(("buffer", "import", "buffer.pt", "--dataset", "digits", "--student", TINY, "--preprocess", "meanstd"),),
            inputs.ARCHIVE,
            small=("buffer.pt",),
        ),
        "evaluation": Target("run/evaluations/hard-v1.json", ("submit", "run", *BOARD), inputs.JSON),
        "cost": Target("run/evaluations/hard-v1.cost.json", ("submit", "run", *BOARD), inputs.JSON),
        "configuration": Target("run/config.json", ("submit", "run", *BOARD), inputs.JSON),
        "row": Target(
            "board/results/*/*/*/????????????????.json", ("leaderboard", "build", *BOARD), inputs.JSON, small=("board",)
        ),
        "plan": Target("plan.toml", ("reproduce", "plan.toml", "--dry-run"), inputs.TOML, small=("plan.toml",)),
        "protocol": Target("mine.toml", (*SCORED, "--protocol", "mine.toml"), inputs.TOML, small=("run", "mine.toml")),
        "method file": Target(
            "mine.py",
            (*MADE, "--method", "mine", "--method-file", "mine.py", "--out", "new"),
            odd=tuple(method_files()),
            small=("mine.py",),
        ),
        "checkpoint": Target("killed/checkpoint.safetensors", KILLED, inputs.TENSORS, small=("killed",)),
        "metrics of a killed run": Target(
            "killed/metrics.jsonl", KILLED, {**inputs.LINES, **inputs.STEPS}, small=("killed",)
        ),
        "configuration of a killed run": Target("killed/config.json", KILLED, inputs.JSON, small=("killed",)),
    }


def _of_data(valid: Path, pictures: tuple[tuple[str, bytes], ...]) -> dict[str, Target]:
    """Real images."""
    test_images = valid / "mnist" / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    return {
        "picture": Target(
            "pictures/0003_3/00000.png",
            (*CHECK, "folder:pictures", "--size", "8", "--data", "data"),
            odd=pictures,
            small=("pictures",),
        ),
        "kept look": Target(
            "looked/decoded/*.look.json",
            (*CHECK, "folder:pictures", "--size", "8", "--data", "looked"),
            inputs.JSON,
            small=("pictures", "looked"),
        ),
        "decoded images": Target(
            "looked/decoded/*/meta.json",
            (*CHECK, "folder:pictures", "--size", "8", "--data", "looked"),
            inputs.JSON,
            small=("pictures", "looked"),
        ),
        "decoded array": Target(
            "looked/decoded/*/train.npy",
            (*CHECK, "folder:pictures", "--size", "8", "--data", "looked"),
            small=("pictures", "looked"),
        ),
        "arrays": Target("own.npz", (*CHECK, "npz:own.npz"), {**inputs.ARCHIVE, **inputs.ARRAYS}, small=("own.npz",)),
        "idx": Target(
            "mnist/MNIST/raw/t10k-images-idx3-ubyte",
            (*CHECK, "mnist", "--data", "mnist"),
            odd=tuple(images.idx(test_images.read_bytes())),
            small=("mnist",),
        ),
        "parquet": Target(
            "faces/data/train*.parquet",
            (*CHECK, "hub:faces", "--size", "8"),
            odd=tuple(images.parquets()),
            small=("faces",),
        ),
    }


def _of_exchange(pictures: tuple[tuple[str, bytes], ...]) -> dict[str, Target]:
    """Synsets of others, and models."""
    return {
        "class order": Target(
            "order.txt",
            ("import", "pair.pt", "--class-order", "order.txt", *IMPORT),
            inputs.LINES,
            small=("order.txt", "pair.pt"),
        ),
        "import of pt": Target("pair.pt", ("import", "pair.pt", *IMPORT), inputs.ARCHIVE, small=("pair.pt",)),
        "import of npz": Target(
            "npz/synset.npz", ("import", "npz/synset.npz", *IMPORT), {**inputs.ARCHIVE, **inputs.ARRAYS}, small=("npz",)
        ),
        "import of pictures": Target("png/0003_3/00000.png", ("import", "png", *IMPORT), odd=pictures, small=("png",)),
        "hub description": Target("hub/synset.json", ("import", "hub", "--out", "new"), inputs.JSON, small=("hub",)),
        "hub parquet": Target(
            "hub/data/*.parquet", ("import", "hub", "--out", "new"), odd=tuple(images.parquets()), small=("hub",)
        ),
        "diffusion model": Target(
            "diffusions/digits/*/ddbench.json", ("diffusion", "info", "diffusions"), inputs.JSON, small=("diffusions",)
        ),
    }


def _of_graphs() -> dict[str, Target]:
    return {
        "trees": Target(
            "trees.safetensors",
            ("call", "graphs.store", "read_trees", "trees.safetensors"),
            inputs.TENSORS,
            small=("trees.safetensors",),
        ),
        "graphs in npz": Target(
            "graphs.npz",
            (*GRAPHS, "graphs:graphs.npz"),
            {**inputs.ARCHIVE, **inputs.ARRAYS},
            small=("graphs.npz",),
        ),
        "graphs in TU": Target("T/T_A.txt", (*GRAPHS, "graphs:T"), inputs.LINES, small=("T",)),
        "graphs in OGB": Target("ogb/raw/num-edge-list.csv.gz", (*GRAPHS, "graphs:ogb"), small=("ogb",)),
        "graphs in DGCNN": Target("dgcnn.txt", (*GRAPHS, "graphs:dgcnn.txt"), inputs.LINES, small=("dgcnn.txt",)),
    }


def make_all(root: Path, run: Callable[[tuple[str, ...], Path], object]) -> None:
    """The valid files: those of the fuzzer and a few more."""
    make_valid(root)
    if (root / "more").exists():
        return
    (root / "plan.toml").write_bytes(PLAN)
    (root / "mine.toml").write_text('name = "mine"\nbase = "hard-v1"\nepochs = 5\nlr = 0.01\n')
    (root / "mine.py").write_text(METHOD)
    (root / "order.txt").write_text("\n".join(map(str, range(10))) + "\n")
    (root / "dgcnn.txt").write_bytes(DGCNN)
    for folder, ending, files in (("T", "", TU), ("ogb", ".gz", OGB)):
        for name, content in files.items():
            path = root / folder / f"{name}{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(content, 1) if ending else content)
    raw = root / "mnist" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    count = 20
    for split in ("train", "t10k"):
        head = IDX[:4] + bytes((0, 0, 0, count, 0, 0, 0, 28, 0, 0, 0, 28))
        (raw / f"{split}-images-idx3-ubyte").write_bytes(head + bytes(range(56)) * 14 * count)
        labels = bytes(number % 10 for number in range(count))
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(bytes((0, 0, 8, 1, 0, 0, 0, count)) + labels)
    run(("diffusion", "train", "--dataset", "digits", "--steps", "1", "--widths", "8", "8", *DIFFUSION), root)
    faces = root / "faces" / "data"
    faces.mkdir(parents=True)
    for split in ("train", "test"):
        paths = sorted((root / "png").glob("*/00000.png")) * 2
        (faces / f"{split}-00000-of-00001.parquet").write_bytes(
            images.table(image=images.picture(*(path.read_bytes() for path in paths)), label=list(range(10)) * 2)
        )
    shutil.copytree(root / "png", root / "pictures")
    for path in sorted((root / "pictures").glob("*/*.png")):
        shutil.copy(path, path.with_name("second.png"))
    run(("data", "check", "folder:pictures", "--size", "8", "--data", "looked"), root)
    _kill(root, run)
    run((*GRAPH_MADE, "--method", "random", "--max-bytes", "500", "--out", "graphs"), root)
    (root / "more").touch()


def _kill(root: Path, run: Callable[[tuple[str, ...], Path], object]) -> None:
    """A run that was stopped at its fourth step."""
    from ddbench.methods.dm import DM

    step, calls = DM.step, []

    def end(self: DM, iteration: int) -> dict[str, float]:
        calls.append(iteration)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return step(self, iteration)

    DM.step = end  # type: ignore[method-assign]
    with contextlib.suppress(SystemExit):
        run(KILLED, root)
    DM.step = step  # type: ignore[method-assign]
