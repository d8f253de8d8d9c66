"""The files that ``hostile.py`` damages, what reads each, and the commands and method files that it makes up."""

from __future__ import annotations

import contextlib
import gzip
import io
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import hostile_inputs as inputs
from fuzz_readers import DGCNN, IDX, OGB, PLAN, TINY, TU, make_valid
from hostile_inputs import Content

SAME = ("--quiet", "--compile", "off", "--threads", "1")
EVALUATE = ("evaluate", "run", "--students", TINY, "--seeds", "1", "--epochs", "1", "--max-images", "50")
SCORED = (*EVALUATE, "--workers", "1", "--out", "scored.json", *SAME)
MADE = ("distill", "--dataset", "digits", "--ipc", "1", "--student", TINY, "--recipe", "none", *SAME)
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


def targets(valid: Path) -> dict[str, Target]:
    """By the name of the reader; ``valid`` holds the valid files."""
    teacher, expert = "teachers/*/*/*.safetensors", "experts/*/*/*/expert_*.safetensors"
    mtt = ("--method", "mtt", "--buffers", "experts", "--iterations", "1", "--out", "new", "--max-start-epoch", "1")
    check, board = ("data", "check"), ("--leaderboard", "board")
    images = valid / "mnist" / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    pictures = tuple(inputs.pictures())
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
        "evaluation": Target("run/evaluations/hard-v1.json", ("submit", "run", *board), inputs.JSON),
        "cost": Target("run/evaluations/hard-v1.cost.json", ("submit", "run", *board), inputs.JSON),
        "configuration": Target("run/config.json", ("submit", "run", *board), inputs.JSON),
        "row": Target(
            "board/results/*/*/*/????????????????.json", ("leaderboard", "build", *board), inputs.JSON, small=("board",)
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
        "configuration of a killed run": Target("killed/config.json", KILLED, inputs.JSON, small=("killed",)),
        "picture": Target(
            "pictures/0003_3/00000.png",
            (*check, "folder:pictures", "--size", "8", "--data", "data"),
            odd=pictures,
            small=("pictures",),
        ),
        "kept look": Target(
            "looked/decoded/*.look.json",
            (*check, "folder:pictures", "--size", "8", "--data", "looked"),
            inputs.JSON,
            small=("pictures", "looked"),
        ),
        "decoded images": Target(
            "looked/decoded/*/meta.json",
            (*check, "folder:pictures", "--size", "8", "--data", "looked"),
            inputs.JSON,
            small=("pictures", "looked"),
        ),
        "decoded array": Target(
            "looked/decoded/*/train.npy",
            (*check, "folder:pictures", "--size", "8", "--data", "looked"),
            small=("pictures", "looked"),
        ),
        "arrays": Target("own.npz", (*check, "npz:own.npz"), {**inputs.ARCHIVE, **inputs.ARRAYS}, small=("own.npz",)),
        "idx": Target(
            "mnist/MNIST/raw/t10k-images-idx3-ubyte",
            (*check, "mnist", "--data", "mnist"),
            odd=tuple(inputs.idx(images.read_bytes())),
            small=("mnist",),
        ),
        "parquet": Target(
            "faces/data/train*.parquet",
            (*check, "hub:faces", "--size", "8"),
            odd=tuple(parquets()),
            small=("faces",),
        ),
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
            "hub/data/*.parquet", ("import", "hub", "--out", "new"), odd=tuple(parquets()), small=("hub",)
        ),
        "diffusion model": Target(
            "diffusions/digits/*/ddbench.json", ("diffusion", "info", "diffusions"), inputs.JSON, small=("diffusions",)
        ),
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
            table(image=picture(*(path.read_bytes() for path in paths)), label=list(range(10)) * 2)
        )
    shutil.copytree(root / "png", root / "pictures")
    for path in sorted((root / "pictures").glob("*/*.png")):
        shutil.copy(path, path.with_name("second.png"))
    run(("data", "check", "folder:pictures", "--size", "8", "--data", "looked"), root)
    _kill(root, run)
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


METHOD = """from dataclasses import dataclass
from ddbench.methods.base import Distilled, Method, State

@dataclass(frozen=True, kw_only=True)
class MineConfig:
    steps: int = 2

class Mine(Method[MineConfig]):
    config_class = MineConfig
    title = "Mine"
    iterations = 2

    def setup(self):
        self.images = self.context.preprocess.apply(self.context.random_images("mine"))

    def step(self, iteration):
        return {"loss": 1.0}

    def distilled(self):
        return Distilled(images=self.images, labels=self.context.hard_labels())

    def state(self):
        return State(tensors={"images": self.images})

    def load_state(self, state):
        self.images = state.tensors["images"]
"""


def method_files() -> list[tuple[str, bytes]]:
    """Files that are no method, or one that gives what a method must not give."""

    def other(old: str, new: str) -> bytes:
        assert old in METHOD
        return METHOD.replace(old, new).encode()

    labels = "labels=self.context.hard_labels()"
    return [
        ("a mistake of syntax", METHOD.encode() + b"\ndef (:\n"),
        ("an error at import", METHOD.encode() + b"\n1 / 0\n"),
        ("an end at import", METHOD.encode() + b"\nraise SystemExit(0)\n"),
        ("an import that is missing", b"import no_such_module\n" + METHOD.encode()),
        ("no class", b"x = 1\n"),
        ("a class that is no method", b"class Mine:\n    pass\n"),
        ("two classes", METHOD.encode() + METHOD.replace("class Mine(", "class Mine2(").encode()),
        ("an unknown coding", b"# coding: nothing\n" + METHOD.encode()),
        ("a zero byte", METHOD.encode() + b"\0"),
        ("no config", other("    config_class = MineConfig\n", "")),
        ("a config that is no dataclass", other("@dataclass(frozen=True, kw_only=True)\n", "")),
        ("a config that can be changed", other("frozen=True, ", "")),
        ("a config with a default that is no int", other("steps: int = 2", 'steps: int = "x"')),
        ("a config of a type that is no flag", other("steps: int = 2", "steps: object = None")),
        ("no title", other('    title = "Mine"\n', "")),
        ("a title of megabytes", other('"Mine"', '"Mine" * 10**6')),
        ("negative iterations", other("iterations = 2", "iterations = -2")),
        ("iterations of text", other("iterations = 2", 'iterations = "two"')),
        ("metrics that are none", other('return {"loss": 1.0}', "return None")),
        ("metrics of NaN", other('{"loss": 1.0}', '{"loss": float("nan")}')),
        ("metrics of tensors", other('{"loss": 1.0}', '{"loss": self.images}')),
        ("images of NaN", other("images=self.images, ", "images=self.images * float('nan'), ")),
        ("images of another shape", other("images=self.images, ", "images=self.images[:, :, :4], ")),
        ("images of another type", other("images=self.images, ", "images=self.images.double(), ")),
        ("images that are too few", other("images=self.images, ", "images=self.images[:3], ")),
        ("no images", other("images=self.images, ", "images=self.images[:0], ")),
        ("labels out of range", other(labels, "labels=self.context.hard_labels() + 100")),
        ("labels of floats", other(labels, "labels=self.context.hard_labels().float()")),
        ("labels that are none", other(labels, "labels=None")),
        ("a state that is none", other('State(tensors={"images": self.images})', "None")),
        ("a state of numbers", other('tensors={"images": self.images}', 'tensors={"images": 1}')),
        ("a product that is none", other(f"return Distilled(images=self.images, {labels})", "return None")),
    ]


def table(**columns: object) -> bytes:
    """A parquet file of some columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = io.BytesIO()
    pq.write_table(pa.table(columns), found)
    return found.getvalue()


def picture(*contents: bytes | None) -> object:
    """A column of image files."""
    import pyarrow as pa

    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([{"bytes": content, "path": None} for content in contents], kind)


def parquets() -> list[tuple[str, bytes]]:
    """Parquet files of other columns than a dataset of pictures has."""
    import pyarrow as pa

    labels = pa.array([0, 1, 0, 1])
    some, none = picture(*[b"x"] * 4), picture(*[None] * 4)
    deep: list[object] = [1]
    for _ in range(60):
        deep = [deep]
    return [
        ("no columns", table()),
        ("no rows", table(image=picture(), label=labels[:0])),
        ("images of numbers", table(image=labels, label=labels)),
        ("images that are empty", table(image=picture(*[b""] * 4), label=labels)),
        ("images that are missing", table(image=none, label=labels)),
        ("images that are text", table(image=picture(*[b"<svg/>"] * 4), label=labels)),
        ("paths for images", table(image=pa.array(["/etc/passwd"] * 4), label=labels)),
        ("labels of text", table(image=some, label=pa.array(["a", "b", "\x1b[2J", "\u202e"]))),
        ("labels that are missing", table(image=some, label=pa.array([None] * 4, pa.int64()))),
        ("labels beyond 64 bits", table(image=some, label=pa.array([2**64 - 1] * 4, pa.uint64()))),
        ("labels of floats", table(image=some, label=pa.array([0.5, float("nan"), 1e300, -1.0]))),
        ("negative labels", table(image=some, label=pa.array([-1, -(2**62), 0, 1]))),
        ("labels in lists", table(image=some, label=pa.array([[0, 1]] * 4))),
        ("lists 60 deep", table(image=pa.array([deep]), label=labels[:1])),
    ]


FLAGS = r"""
evaluate
evaluate ''
evaluate {zero}
evaluate {long}
evaluate /dev/zero
evaluate run --seeds 0
evaluate run --seeds -1
evaluate run --seeds 1e3
evaluate run --seeds {nines}
evaluate run --seeds {three}
evaluate run --epochs 0
evaluate run --lr nan
evaluate run --lr -inf
evaluate run --students ''
evaluate run --students ,
evaluate run --students convnet-d99999999-w4-in
evaluate run --students mlp-d3-w{nines}
evaluate run --students mlp-d2-w9999999999
evaluate run --students vit-d2-w31
evaluate run --protocol ../../etc/passwd
evaluate run --protocol {escape}
evaluate run --protocol run
evaluate run --out /dev/full
evaluate run --out run
evaluate run --out /proc/x
evaluate run --workers -1
evaluate run --threads 0
evaluate run --threads 10000000
evaluate run --shard 2/2
evaluate run --shard -1/2
evaluate run --shard 0/0
evaluate run --shard a/b
evaluate run --shard 0/{nines}
evaluate run --shard NOTHING/2
evaluate run --device cuda:99
evaluate run --device tpu
evaluate run --max-images -5
evaluate run --engine slurm
evaluate run --engine ray --ray-address {long}
evaluate run --seeds
evaluate run --seeds 1 --seeds 2x
evaluate run run run
distill
distill --method mtt
distill --method mtt --dataset nothing --ipc 1
{made} --method random --ipc 0
{made} --method random --ipc -3
{made} --method random --ipc 1000000000
{made} --method random --ipc {nines}
{made} --method random --out /dev/null
{made} --method random --out ''
{made} --method random --out {long}
{made} --method dm --iterations -1
{made} --method dm --lr-images nan
{made} --method dm --lr-images 1e999
{made} --method dm --batch-real 0
{made} --method random --holdout 2
{made} --method random --holdout nan
{made} --method random --seed -1
{made} --method random --seed {nines}
{made} --method random --size 0
{made} --method random --size 100000
{made} --method random --student convnet-d9-w4-in
{made} --method random --student {escape}
{made} --method {zero}
{made} --method random --preprocess {escape}
buffer --dataset digits --experts 0
buffer --dataset digits --experts {nines}
buffer --dataset digits --epochs -1
buffer --dataset digits --batch 0
buffer --dataset digits --lr 0
buffer verify /dev/zero
buffer info {zero}
data check folder:
data check npz:/dev/zero
data check npz:{zero}
data check graphs:
data check hub:///
data check hub:{long}
data check folder:run --size -1
data check folder:run --size {nines}
reproduce plan.toml --budget -1m
reproduce plan.toml --budget {nines}h
reproduce plan.toml --budget soon
reproduce plan.toml --only [ --dry-run
reproduce /dev/zero
leaderboard show --leaderboard /dev/null
leaderboard show --ipc x
leaderboard verify {zero}
leaderboard export --format exe
leaderboard {escape}
import /dev/zero
import ''
import run --lr -1 --out n
export run --format png --out /dev/full
export run --format ''
info /proc/self/mem
info {long}
slurm --array -1 evaluate run
slurm --array {nines} evaluate run
slurm --time soon evaluate run
slurm --array
slurm --gpus '{line}' evaluate run
slurm --name '{line}' evaluate run
task transfer
task nothing run
task transfer run --to {zero}
plan plan plan
plan --workers 0 evaluate run
plan --seconds nan evaluate run
scores run --repeats -1
scores run --student {escape}
completion csh
list {zero}
list methods --json --bibtex
teacher --dataset digits --epochs 0
teacher --dataset digits --lr inf
diffusion train --dataset digits --steps -1
diffusion sample {zero}
submit run --claim x=nan
submit run --claim =
submit run --leaderboard /dev/null
push run no-owner
pull ../x/y
pull {long}/x
-- evaluate
-x
{half}
"""
"""Commands that cannot be done, a line each."""

WORDS = {
    "zero": "\0",
    "long": "x" * 5000,
    "nines": "9" * 400,
    "three": "\u0663",
    "escape": "\x1b[2J\u202e",
    "line": "\n#SBATCH --x",
    "half": "\ud800",
}


def commands() -> list[tuple[str, tuple[str, ...]]]:
    """Name and words of each."""
    lines = FLAGS.strip().splitlines()
    words = {**WORDS, "made": ""}
    found = []
    for line in lines:
        argv = [word.format(**words) for word in shlex.split(line)]
        if line.startswith("{made}"):
            argv = [*MADE, *(() if "--out" in argv else ("--out", "new")), *argv[1:]]
        found.append((line, tuple(argv)))
    return found
