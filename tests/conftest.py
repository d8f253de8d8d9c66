"""What several test folders share: the command line in this process, tiny experts recorded once, a finished run."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torch import Tensor

    from ddbench.data.dataset import Dataset
    from ddbench.experts.recipe import ExpertRecipe
    from ddbench.experts.store import TrajectoryStore
    from ddbench.methods.base import Context

TINY = "convnet-d1-w4-in"
TINY_EPOCHS = 4
TINY_EXPERTS = 2
TINY_DIFFUSION: dict[str, Any] = {"widths": (8, 8), "steps": 4, "batch": 8, "warmup": 1}
EAGER = ("--compile", "off", "--threads", "1")
PATIENCE = 600.0
"""Seconds after which a process is said to hang: far beyond what any takes on a slow and busy machine."""


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


def listing(folder: Path) -> dict[str, tuple[str, int]]:
    """Every path below a folder, with the hash of its bytes (``dir`` for folders) and its modification time."""
    found = {}
    for path in sorted(folder.rglob("*")):
        content = "dir" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path.relative_to(folder))] = (content, path.stat().st_mtime_ns)
    return found


def contents(folder: Path, *skip: str) -> dict[str, bytes]:
    """Bytes of every file below a folder, by relative path; names that end in one of ``skip`` are left out."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(skip or ("\0",))
    }


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, as in a terminal: a shell's background jobs begin with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def light_workers(monkeypatch: pytest.MonkeyPatch) -> str:
    """A target of jobs whose module the workers find; it imports no torch."""
    import ddbench

    places = [Path(ddbench.__file__).parents[1], Path(__file__).parent / "cli"]
    monkeypatch.syspath_prepend(str(places[1]))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, places)))
    return "workers:job"


@contextlib.contextmanager
def no_children_left() -> Iterator[None]:
    """After the block no child process is left."""
    import psutil

    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    servers = ("resource_tracker", "forkserver")  # one each for the life of a process
    left = [child for child in left if not any(name in " ".join(child.cmdline()) for name in servers)]
    assert not left


@pytest.fixture(scope="session", autouse=True)
def board_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What is kept of boards, away from the user's own; on in all tests, which so try that it hides nothing."""
    folder = tmp_path_factory.mktemp("boards")
    before = os.environ.get("DDBENCH_BOARD_CACHE")
    os.environ["DDBENCH_BOARD_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["DDBENCH_BOARD_CACHE"]
    else:
        os.environ["DDBENCH_BOARD_CACHE"] = before


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty data folder: the tests use the embedded digits only."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def ddb(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, data_root: Path) -> Callable[..., Outcome]:
    """``ddb("distill", "--method", ...)``: run a command in this process."""
    from ddbench.cli.main import run

    monkeypatch.setenv("DDBENCH_DATA", str(data_root))

    def call(*argv: object) -> Outcome:
        capsys.readouterr()
        code = 0
        try:
            run([str(part) for part in argv])
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture
def refused(ddb: Callable[..., Outcome], tmp_path: Path) -> Callable[..., str]:
    """``refused(argv, *needles)``: the command says one line that holds the needles, exits 2 and writes nothing."""

    def call(argv: Sequence[object], *needles: str, root: Path = tmp_path) -> str:
        before = listing(root)
        result = ddb(*argv)
        assert result.code == 2, f"exit code {result.code}: {result.err}"
        lines = result.err.splitlines()
        assert len(lines) == 1, result.err
        assert lines[0].startswith("ddbench: error: "), result.err
        assert "Traceback" not in result.err
        for needle in needles:
            assert needle in lines[0], f"{needle!r} is not in: {lines[0]}"
        assert result.out == ""
        assert listing(root) == before, "the refused command changed files"
        return lines[0]

    return call


@contextlib.contextmanager
def _tables_kept() -> Iterator[None]:
    """What is registered in the block, by a file or in Python, is gone after it."""
    from ddbench.data.specs import DATASETS
    from ddbench.decoders import DECODERS
    from ddbench.methods import METHODS
    from ddbench.modalities import MODALITIES
    from ddbench.networks.names import REGISTERED
    from ddbench.protocols.protocol import PROTOCOLS
    from ddbench.tasks import TASKS

    with pytest.MonkeyPatch.context() as patch:
        for table in (DATASETS, DECODERS, METHODS, MODALITIES, REGISTERED, PROTOCOLS, TASKS):
            list(table)  # it is filled at its first use, which would be undone with the rest
            patch.setattr(table, "_table", dict(table._table))
            patch.setattr(table, "_objects", dict(table._objects))
        yield


@pytest.fixture(scope="module", autouse=True)
def tables_of_module() -> Iterator[None]:
    """No module registers anything for the next one, which would fail with some orders of the tests only."""
    with _tables_kept():
        yield


@pytest.fixture
def tables_kept() -> Iterator[None]:
    """What the test registers is gone after it: the next test may use the name."""
    with _tables_kept():
        yield


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch computes with one thread; a module of tests asks for it by ``pytestmark``."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def digits_context(data_root: Path, folder: Path, **changes: Any) -> Context:
    """What the runner gives to a method, for digits; ``changes`` are fields of it."""
    import torch

    from ddbench.data.dataset import holdout_split
    from ddbench.data.load import load_dataset
    from ddbench.data.preprocess import fit_preprocess
    from ddbench.methods.base import Context
    from ddbench.runtime.progress import Console

    dataset = load_dataset("digits", data_root)
    train, held_out = holdout_split(dataset.train, 0.1, dataset.spec.classes)
    settings = {
        "dataset": dataset,
        "train": train,
        "held_out": held_out,
        "preprocess": fit_preprocess(dataset, "meanstd"),
        "ipc": 2,
        "student": TINY,
        "seed": 0,
        "device": torch.device("cpu"),
        "folder": folder,
        "compile": "off",
        "console": Console(quiet=True),
    }
    return Context(**{**settings, **changes})


def negative(dataset: Dataset, train: Tensor | None = None, *, test: bool = False) -> Dataset:
    """The dataset with some images as their negatives; its name and fingerprint are the same.

    Args:
        train: which training images, a mask ``(N,)``; None: none of them.
        test: all test images, and their labels in another order.
    """
    images, tested = dataset.train.images.clone(), dataset.test
    if train is not None:
        images[train] = 255 - images[train]
    if test:
        tested = replace(tested, images=255 - tested.images, labels=tested.labels.flip(0))
    return replace(dataset, train=replace(dataset.train, images=images), test=tested)


def held_out_mask(dataset: Dataset) -> Tensor:
    """Which training images of digits are held out by default, a mask ``(N,)``."""
    from ddbench.data.dataset import stratified

    return stratified(dataset.train.labels, dataset.spec.classes, 0.1, "holdout")


def record_digits(
    root: Path,
    data_root: Path,
    recipe: ExpertRecipe,
    dataset: Dataset | None = None,
    *,
    experts: int = TINY_EXPERTS,
    student: str = TINY,
) -> TrajectoryStore:
    """Record tiny experts of digits, or of a dataset made from them."""
    from ddbench.data.load import load_dataset
    from ddbench.experts.record import record
    from ddbench.runtime.progress import Console

    return record(
        root=root,
        dataset=dataset or load_dataset("digits", data_root),
        data=data_root,
        student=student,
        recipe=recipe,
        experts=experts,
        workers=1,
        threads=1,
        device="cpu",
        compile="off",
        console=Console(quiet=True),
        by_name=dataset is None,
    )


@pytest.fixture(scope="session")
def tiny_experts(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """Root of a store with two tiny experts of digits; copy it before changing it (``buffers``)."""
    from ddbench.data.specs import resolve_augmentation
    from ddbench.experts.recipe import ExpertRecipe

    root = tmp_path_factory.mktemp("experts") / "buffers"
    recipe = ExpertRecipe(epochs=TINY_EPOCHS, augmentation=resolve_augmentation("dsa", False))
    record_digits(root, data_root, recipe)
    return root


@pytest.fixture
def buffers(tiny_experts: Path, tmp_path: Path) -> Path:
    """A copy of the tiny experts that a test may spoil."""
    return Path(shutil.copytree(tiny_experts, tmp_path / "buffers"))


@pytest.fixture
def store_folder(buffers: Path) -> Path:
    """The store folder (with ``manifest.json``) of the copy."""
    return next(buffers.glob("*/*/*/manifest.json")).parent


def distill_tiny(buffers: Path, out: Path, *more: object) -> list[object]:
    """A distill command of MTT that takes a fraction of a second."""
    return [
        *("distill", "--method", "mtt", "--dataset", "digits", "--ipc", 1, "--student", TINY, "--recipe", "none"),
        *("--iterations", 4, "--student-steps", 2, "--expert-epochs", 1, "--max-start-epoch", 2),
        *("--lr-images", 10, "--buffers", buffers, "--out", out, "--quiet", *EAGER, *more),
    ]


def random_tiny(out: Path, *more: object) -> list[object]:
    """A distill command of the random baseline."""
    return [
        *("distill", "--method", "random", "--dataset", "digits", "--ipc", 1, "--student", TINY),
        *("--out", out, "--quiet", *EAGER, *more),
    ]


def evaluate_tiny(run: Path, *more: object) -> list[object]:
    """An evaluate command that takes a fraction of a second."""
    return [
        *("evaluate", run, "--students", TINY, "--seeds", 2, "--epochs", 3, "--workers", 1),
        *("--max-images", 100, "--quiet", *EAGER, *more),
    ]


@pytest.fixture(scope="session")
def finished_runs(tmp_path_factory: pytest.TempPathFactory, tiny_experts: Path, data_root: Path) -> Path:
    """A folder with a finished run of ``random`` and one of ``mtt``, each evaluated; copy before changing."""
    import contextlib
    import io

    from ddbench.cli.main import run

    root = tmp_path_factory.mktemp("runs")
    with contextlib.redirect_stdout(io.StringIO()):
        for command in (
            random_tiny(root / "random", "--data", data_root),
            distill_tiny(tiny_experts, root / "mtt", "--data", data_root),
            evaluate_tiny(root / "random", "--data", data_root),
        ):
            run([str(part) for part in command])
    return root


@pytest.fixture
def random_run(finished_runs: Path, tmp_path: Path) -> Path:
    """A copy of the finished and evaluated run of ``random``."""
    return Path(shutil.copytree(finished_runs / "random", tmp_path / "random"))


@pytest.fixture
def mtt_run(finished_runs: Path, tmp_path: Path) -> Path:
    """A copy of the finished run of ``mtt``."""
    return Path(shutil.copytree(finished_runs / "mtt", tmp_path / "mtt"))


def few_plain_samples(patch: pytest.MonkeyPatch) -> None:
    """A diffusion model's picture of itself is most of the cost of a training of a few steps."""
    from ddbench.diffusion import train

    patch.setattr(train, "sample_grid", partial(train.sample_grid, count=1, steps=2))


@pytest.fixture(scope="session")
def tiny_diffusions(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """Root of a store with a tiny diffusion model of digits, trained for a moment; copy it before changing it."""
    pytest.importorskip("diffusers")
    from ddbench.data.load import load_dataset
    from ddbench.diffusion import train
    from ddbench.diffusion.recipe import DiffusionRecipe
    from ddbench.runtime.progress import Console

    root = tmp_path_factory.mktemp("diffusions")
    with pytest.MonkeyPatch.context() as patch:
        few_plain_samples(patch)
        train.train_model(
            root=root,
            dataset=load_dataset("digits", data_root),
            recipe=DiffusionRecipe(**TINY_DIFFUSION),
            device="cpu",
            threads=1,
            console=Console(quiet=True),
        )
    return root


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A context in which this process has a CUDA device that is not there."""
    root = Path(__file__).parents[1]
    if not (root / "benchmarks" / "gpu").is_dir():
        pytest.skip("the benchmarks are not here")
    monkeypatch.syspath_prepend(str(root))
    from benchmarks.gpu.pretended import pretended_cuda

    return pretended_cuda


@pytest.fixture
def gpu(pretended: Any) -> Iterator[None]:
    """It is there for the test."""
    with pretended():
        yield
