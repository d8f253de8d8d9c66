"""What commands say and record on a GPU, seen on one that is not there; what they say where memory is not enough."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import EAGER, TINY, Outcome, evaluate_tiny, random_tiny

from ddbench.data.dataset import Split
from ddbench.distillation import folder
from ddbench.evaluation import forecast
from ddbench.evaluation.ddranking import file, trainings
from ddbench.leaderboard.pages.details import cost_text
from ddbench.leaderboard.pages.view import bytes_text
from ddbench.leaderboard.recorded import read_cost
from ddbench.leaderboard.result import Cost
from ddbench.methods.dm import DM
from ddbench.networks.build import build_student
from ddbench.runtime import device as devices
from ddbench.runtime import jobs, ray_jobs
from ddbench.runtime.errors import OutOfMemory, UserError
from ddbench.runtime.ranks import Joined
from ddbench.runtime.resources import Meter
from ddbench.teachers import train
from ddbench.training import twice
from ddbench.training.optimizers import (
    OptimizerSettings,
    check_optimizer,
)

Command = Callable[..., Outcome]
ROOT = Path(__file__).parents[2]
NO_ROOM = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 79.15 GiB of which 1.00 GiB is free. Including ..."

if not (ROOT / "benchmarks" / "gpu").is_dir():
    pytest.skip("the benchmarks are not here", allow_module_level=True)


@pytest.fixture
def run(ddb: Command, tmp_path: Path) -> Path:
    assert ddb(*random_tiny(tmp_path / "run")).code == 0
    return tmp_path / "run"


# Names and workers


@pytest.mark.usefixtures("gpu")
def test_names_of_devices() -> None:
    assert str(devices.resolve_device("cuda")) == "cuda"
    assert {str(devices.resolve_device(name)) for name in ("cuda:0", "cuda:00")} == {"cuda:0"}
    for name in ("cuda:", "cuda:1", "cuda:x"):
        with pytest.raises(UserError, match="--device"):
            devices.resolve_device(name)


def test_a_gpu_has_one_worker(pretended: Any, ddb: Command, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as cores, each with a context and a dataset of its own there, would not fit."""
    monkeypatch.setattr(devices, "cores", lambda: 64)
    assert devices.worker_count(0, 0, "auto") == (64, 1)
    plan = ("plan", "--seconds", 0.01, "evaluate", run, "--students", TINY, "--epochs", 1, "--threads", 1, "--device")
    with pretended():
        assert devices.worker_count(0, 0, "auto") == (1, 64)
        assert devices.worker_count(0, 0, "cpu") == (64, 1)
        assert devices.worker_count(3, 1, "cuda:0") == (3, 1)
        there = ddb(*plan, "cuda")
    assert "with 1 worker (this command here)" in there.out
    assert "1.0 MiB a worker; 8.0 GiB are free on the GPU" in there.out
    assert "with 64 workers (this command here)" in ddb(*plan, "cpu").out


def test_more_processes_of_torchrun_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = Joined(rank=1, world=4, local=1, beside=4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("cuda", "auto"):
        with pytest.raises(UserError, match=r"4 processes .* 2 CUDA device\(s\).*--nproc-per-node 2"):
            ranks.device(name)
    assert ranks.device("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert ranks.device("auto") == "cuda:1"


def test_workers_on_one_gpu_are_told(ddb: Command, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All take the first one, however many there are."""
    said: list[str] = []
    for count in (1, 4):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        for workers, name in ((3, "auto"), (3, "cpu"), (1, "cuda")):
            devices.tell_shared(workers, name, said.append)
    shared = "--workers 3: all on one GPU, each with the data and a network there; 1 may be as fast"
    assert said == [shared, f"{shared}; for all 4 GPUs: --engine ray, or a shard each (docs/scale.md)"]
    monkeypatch.undo()
    told: list[tuple[int, str]] = []
    monkeypatch.setattr(devices, "tell_shared", lambda workers, name, say: told.append((workers, name)))
    assert ddb(*evaluate_tiny(run, "--device", "cpu")).code == 0
    buffer = ("buffer", "--dataset", "digits", "--student", TINY, "--experts", 1, "--epochs", 1, "--workers", 1)
    assert ddb(*buffer, "--buffers", run / "experts", "--quiet", *EAGER).code == 0
    two = ("distill", "--method", "random", "--dataset", "digits", "--ipc", 2, "--student", TINY)
    assert ddb(*two, "--out", run / "two", "--quiet", *EAGER).code == 0
    task = ("task", "transfer", run / "two", "--parts", 2, "--seeds", 1, "--epochs", 1, "--workers", 1, "--student")
    assert ddb(*task, TINY, "--out", run / "task.json", "--quiet", *EAGER).code == 0
    assert told == [(1, "cpu"), (1, "auto"), (1, "auto")]


# Jobs on machines with a GPU, begun on one without


class Cluster:
    """A stand-in for Ray's: jobs have a GPU of their own kind, pretended, or none; the process that waits has none."""

    def __init__(self, kind: str, pretended: Any) -> None:
        self.kind, self._pretended = kind, pretended

    def run(self, target: str, shared: Any, payloads: Any, *_: Any, survive: bool = False) -> Iterator[tuple[int, Any]]:
        with self._pretended(), devices.auto_is(self.kind, elsewhere=False):
            found = [jobs.answer(jobs.resolve(target), shared, payload) for payload in payloads]
        yield from enumerate(jobs.unwrapped(*one) for one in found)


@pytest.fixture
def on_cluster(pretended: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Say of which kind the jobs' devices are."""

    def take(kind: str) -> None:
        monkeypatch.setattr(ray_jobs, "cluster", lambda *_, **__: contextlib.nullcontext(Cluster(kind, pretended)))

    return take


@pytest.mark.parametrize(("kind", "device"), [("cuda", "auto"), ("cuda", "cuda"), ("cpu", "auto"), ("cuda", "cpu")])
def test_an_evaluation_on_ray_is_of_the_jobs_device(
    kind: str, device: str, on_cluster: Callable[[str], None], ddb: Command, run: Path
) -> None:
    """It was of the device where it was begun; and ``--device cuda`` was refused there."""
    on_cluster(kind)
    out, used = run / "evaluation.json", "cpu" if "cpu" in (kind, device) else "cuda"
    made = ddb(*evaluate_tiny(run, "--out", out, "--device", device, "--engine", "ray"))
    assert made.code == 0, made.err
    assert json.loads(out.read_text()).get("device", "cpu") == used
    cost = json.loads(out.with_name("evaluation.cost.json").read_text())
    assert cost["device"].startswith(f"{used}: ")
    assert ("peak_gpu_memory_bytes" in cost) == (used == "cuda")
    assert ddb(*evaluate_tiny(run, "--out", out)).code == (0 if used == "cpu" else 2)


def test_a_run_on_ray_is_of_the_jobs_device(on_cluster: Callable[[str], None], ddb: Command, tmp_path: Path) -> None:
    """Its jobs refused the folder that was begun on a CPU."""
    on_cluster("cuda")
    parts = ("distill", "--method", "kcenter", "--dataset", "digits", "--ipc", 1, "--student", TINY)
    made = ddb(*parts, "--out", tmp_path / "run", "--quiet", *EAGER, "--engine", "ray")
    assert made.code == 0, made.err
    assert json.loads((tmp_path / "run" / "config.json").read_text())["device"] == "cuda"
    cost = json.loads((tmp_path / "run" / "cost.json").read_text())
    assert (cost["device"], cost["peak_gpu_memory_bytes"]) == ("cuda: of other machines", 0)


def test_a_gpu_that_no_job_has_is_refused(on_cluster: Callable[[str], None], refused: Callable, run: Path) -> None:
    on_cluster("cpu")
    refused(evaluate_tiny(run, "--device", "cuda", "--engine", "ray"), "--device cuda: this machine has 0 CUDA device")


# What decides the last bits


def test_an_evaluation_is_of_one_kind_of_device(pretended: Any, ddb: Command, run: Path) -> None:
    here, there = run / "cpu.json", run / "cuda.json"
    assert ddb(*evaluate_tiny(run, "--out", here)).code == 0
    with pretended():
        again = ddb(*evaluate_tiny(run, "--out", here, "--seeds", 3))
        assert "(device differs); give --device cpu as there" in again.err
        assert ddb(*evaluate_tiny(run, "--out", here, "--device", "cpu", "--seeds", 3)).code == 0
        assert ddb(*evaluate_tiny(run, "--out", there, "--device", "cuda")).code == 0
        assert ddb(*evaluate_tiny(run, "--out", there, "--device", "cuda:0", "--seeds", 3)).code == 0
    assert "(device differs); give --device cuda as there" in ddb(*evaluate_tiny(run, "--out", there)).err
    one, two = (json.loads(path.read_text()) for path in (here, there))
    assert "device" not in one
    assert two.pop("device") == "cuda"
    assert one == two


def test_scores_are_of_one_kind_of_device(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their trainings are kept for others, who must not take those of another kind."""
    protocol = SimpleNamespace(name="hard-v1", hash="0", needs_teacher=False)
    leg: Any = SimpleNamespace(base=protocol, protocol=protocol, difference={})
    how: dict[str, Any] = {"student": TINY, "data": None, "size": None, "threads": 1, "compile": "off", "teacher": None}
    places = []
    for name in ("cpu", "cuda"):
        for module in (file, trainings):
            monkeypatch.setattr(module, "recorded_kind", lambda name: {} if name == "cpu" else {"device": name})
        work = trainings.Work(**how, device=name, versions={})
        places.append(trainings._place(work, leg, run / "synset.safetensors"))
    assert places[0] != places[1]


def test_a_teacher_that_goes_on_elsewhere_says_so(
    pretended: Any, ddb: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0.0)
    teacher = ("teacher", "--dataset", "digits", "--student", "convnet-d1-w4-bn", "--epochs", 2, *EAGER)
    taken = train._Progress.take

    def killed(self: Any, epoch: Any, held_out: Any) -> str:
        taken(self, epoch, held_out)
        raise KeyboardInterrupt

    monkeypatch.setattr(train._Progress, "take", killed)
    assert ddb(*teacher, "--teachers", tmp_path / "one").code == 130
    with pretended():
        assert ddb(*teacher, "--teachers", tmp_path / "two").code == 130
    monkeypatch.setattr(train._Progress, "take", taken)
    with pretended():
        said = ddb(*teacher, "--teachers", tmp_path / "one").err
    assert "warning: begun with --device cpu, going on with cuda" in said
    assert "warning: begun with --device cuda, going on with cpu" in ddb(*teacher, "--teachers", tmp_path / "two").err


# Speed and memory


def test_compiling_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes a GPU seconds is not compiled for half a minute; without what it needs nothing is."""
    cpu, gpu, said = torch.device("cpu"), torch.device("cuda"), []
    monkeypatch.setattr(devices, "compiler_available", lambda device: True)
    limit = devices.AUTO_COMPILE_FLOPS["cpu"]
    assert devices.choose_compiler("auto", 2 * limit, cpu, said.append) is not None
    assert devices.choose_compiler("auto", 2 * limit, gpu, said.append) is None
    assert devices.choose_compiler("auto", 100 * limit, gpu, said.append) is not None
    monkeypatch.undo()
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None)
    assert devices.choose_compiler("on", 1, gpu, said.append) is None
    assert said == ["no Triton and C compiler found: running eagerly (slower, same method)"]


@pytest.mark.usefixtures("gpu")
def test_the_doctor_and_costs_tell_the_memory_of_a_gpu(ddb: Command) -> None:
    found = json.loads(ddb("doctor", "--json").out)
    assert (found["cuda_memory_bytes"], found["cuda_memory_available_bytes"]) == (2**33, 2**33)
    assert "GPU       8.0 GiB of memory, available 8.0 GiB" in ddb("doctor").out
    assert Meter().report("cuda: a GPU")["peak_gpu_memory_bytes"] == 0
    assert "peak_gpu_memory_bytes" not in Meter().report("cpu: a core")


def test_evaluations_tell_the_memory_of_a_gpu(
    pretended: Any, ddb: Command, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each training and probe, all together, a row and its page; the process's own tells nothing of it."""
    taken = iter(range(2**20, 2**30, 2**20))
    with pretended():
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device=None: next(taken))
        for more in ((), ("--calibration",)):
            made = ddb(*evaluate_tiny(run, "--out", run / "one.json", "--keep-weights", *more))
            assert made.code == 0, made.err
    monkeypatch.undo()
    cost = json.loads((run / "one.cost.json").read_text())
    peaks = [entry["peak_gpu_memory_bytes"] for entry in cost["runs"]]
    assert len(peaks) == 4
    assert cost["peak_gpu_memory_bytes"] == max(peaks) > min(peaks) > 0
    row = Cost.from_json(read_cost(run / "one.cost.json"))
    assert row is not None
    assert row.peak_gpu_memory_bytes == max(peaks)
    assert cost_text(row).endswith(f", of the GPU {bytes_text(max(peaks))}")


def test_what_stacked_networks_load_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first training of several networks at once imports, and loads kernels: no part of each epoch."""
    import time

    protocol = SimpleNamespace(replay=False)
    plan: Any = SimpleNamespace(protocol=protocol, stages=1, synset=None, epochs=1000)
    begun: list[int] = []

    def trained(short: Any, student: str, seeds: Any, settings: Any) -> Any:
        first = len(seeds) > 1 and not begun
        begun.extend([1] * (len(seeds) > 1))
        time.sleep(0.5 if first else 0.0)
        return [torch.nn.Linear(1, 1)], None

    monkeypatch.setattr(forecast, "trained_students", trained)
    monkeypatch.setattr(forecast, "replace", lambda one, **_: one)
    monkeypatch.setattr(forecast, "tested_students", lambda *_: None)
    monkeypatch.setattr(forecast, "forward_flops", lambda net, shape: 0.0)
    test = Split(torch.zeros(2, 1, 1, 1), torch.zeros(2))
    settings: Any = SimpleNamespace(device="cpu")
    _, seconds, _, _ = forecast._student(plan, test, TINY, settings, 2, 0.1)
    assert seconds < 30


# Memory that is not enough


def no_room(*_: object, **__: object) -> Any:
    raise torch.OutOfMemoryError(NO_ROOM)


@pytest.mark.parametrize(
    ("verb", "module", "advice"),
    [
        ("buffer", "buffer", "a smaller --batch or --at-once, fewer --workers"),
        ("distill", "distill", "smaller batches (--batch-real, --batch-syn"),
        ("evaluate", "evaluate", "a smaller --at-once, fewer --workers"),
        ("teacher", "teacher", "a smaller --batch"),
        ("list", "listing", "smaller numbers, fewer --workers"),
    ],
)
def test_a_gpu_without_room(
    verb: str, module: str, advice: str, refused: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"ddbench.cli.{module}.main", no_room)
    told = "out of memory (CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 79.15 GiB of which 1.00 GiB is"
    refused((verb,), told, f"; give {advice}")
    monkeypatch.setattr(f"ddbench.cli.{module}.main", lambda _: jobs.unwrapped(*jobs.answer(no_room)))  # of a worker
    refused((verb,), told, f"; give {advice}")


def test_a_worker_without_room_is_no_traceback() -> None:
    assert jobs.answer(no_room) == ("out-of-memory", f"out of memory ({NO_ROOM.removesuffix('. Including ...')})")
    with pytest.raises(OutOfMemory, match=r"1\.00 GiB is free\); give smaller numbers, fewer --workers"):
        jobs.unwrapped(*jobs.answer(no_room))
    assert jobs.answer(lambda: torch.zeros(2) @ torch.zeros(3))[0] == "error"


def test_what_is_kept_is_not_blamed(ddb: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint that did not fit on the GPU is none that should be removed."""
    distill = ("distill", "--method", "dm", "--dataset", "digits", "--ipc", 1, "--student", TINY, "--recipe", "none")
    distill += ("--iterations", 4, "--checkpoint-every", 1, "--out", tmp_path / "run", "--quiet", *EAGER)
    with monkeypatch.context() as patch:
        patch.setattr(DM, "step", lambda self, iteration: {"loss": 1.0} if iteration < 2 else no_room())
        assert ddb(*distill).code == 2
    assert (tmp_path / "run" / folder.CHECKPOINT).exists()
    with monkeypatch.context() as patch:
        patch.setattr(DM, "load_state", no_room)
        said = ddb(*distill).err
    assert "out of memory (" in said
    assert "remove it" not in said
    assert ddb(*distill).code == 0


def test_a_student_is_not_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    net = build_student(TINY, channels=1, size=8, classes=2, seed=0)
    with monkeypatch.context() as patch:
        patch.setattr(twice.FlatNet, "__call__", no_room)
        with pytest.raises(torch.OutOfMemoryError):
            twice.check_twice(net, (1, 8, 8), 2, TINY, "MTT")
    monkeypatch.setattr("ddbench.training.optimizers.make_optimizer", no_room)
    with pytest.raises(torch.OutOfMemoryError):
        check_optimizer(net.parameters(), OptimizerSettings(lr=0.1))
