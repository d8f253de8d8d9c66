"""``python -m benchmarks.gpu``: rehearsed on the CPU, piece by piece and as a whole."""

from __future__ import annotations

import importlib.util
import io
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from conftest import PATIENCE
from PIL import Image
from scipy import special, stats

ROOT = Path(__file__).parents[2]
PARTS = ("tests", "smoke", "speed", "figures")
HOUR = 3600.0

if not (ROOT / "benchmarks" / "gpu").is_dir():
    pytest.skip("the benchmarks are not here", allow_module_level=True)


@pytest.fixture(autouse=True)
def checkout_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def world(scratch: Path, device: str = "cpu"):
    from benchmarks.gpu.world import World

    return World(device=device, rehearse=True, data=None, scratch=scratch)


def report(folder: Path):
    from benchmarks.gpu.report import Report

    return Report(folder / "part.md", "A part", "a machine")


def standin(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("standin", ROOT / "benchmarks" / "gpu" / "standins" / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_table_is_on_the_disk_after_every_line(tmp_path: Path) -> None:
    own = report(tmp_path)
    own.table("Numbers", ("name", "seconds"))
    own.row("one", 1 / 3)
    assert (tmp_path / "part.md").read_text() == (
        "# A part\n\n## Numbers\n\nOn a machine.\n\n| name | seconds |\n| --- | --- |\n| one | 0.3333 |\n"
    )


def test_a_part_that_is_out_of_time_keeps_its_lines(tmp_path: Path) -> None:
    from benchmarks.gpu.__main__ import _part

    own = report(tmp_path)

    def work() -> None:
        own.table("Numbers", ("name",))
        own.row("first")
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= HOUR
        signal.setitimer(signal.ITIMER_REAL, 0.001)  # the hour is over
        while True:
            time.sleep(1)

    assert _part(work, time.monotonic() + HOUR) == "out of time"
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert "| first |" in (tmp_path / "part.md").read_text()
    assert _part(work, time.monotonic() - 1) == "no time left"
    assert _part(lambda: 1 / 0, time.monotonic() + HOUR).startswith("FAILED: ZeroDivisionError")


def test_an_import_is_not_torn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is over in the middle of one: it is finished first, since its half would fail the parts that follow."""
    from benchmarks.gpu.__main__ import _part

    bell = "import signal, time\nsignal.setitimer(signal.ITIMER_REAL, 0.001)\ntime.sleep(0.02)\nwhole = True\n"
    (tmp_path / "slowly_imported.py").write_text(bell)
    monkeypatch.syspath_prepend(tmp_path)

    def work() -> None:
        importlib.import_module("slowly_imported")
        while True:
            time.sleep(1)

    assert _part(work, time.monotonic() + HOUR) == "out of time"
    assert sys.modules.pop("slowly_imported").whole


@pytest.mark.parametrize("degrees", [1.0, 2.5, 4.0, 19.0, 200.0, float("inf")])
def test_the_stand_in_for_scipy_gives_its_quantiles(degrees: float) -> None:
    own = standin("scipy/special.py")
    for p in (0.025, 0.5, 0.9, 0.975, 0.999):
        assert own.stdtrit(degrees, p) == pytest.approx(special.stdtrit(degrees, p), rel=1e-4, abs=1e-6)


def test_the_stand_in_for_psutil_knows_processes_and_memory() -> None:
    own = standin("psutil.py")
    assert own.pid_exists(os.getpid())
    assert not own.pid_exists(2**22 + 1)
    assert 0 < own.virtual_memory().available <= own.virtual_memory().total


@pytest.mark.parametrize("values", [[3.0, 1.0, 2.0], [1.0, 1.0, 5.0, 1.0, 5.0], [2.0]])
def test_the_stand_in_for_scipy_gives_its_ranks(values: list[float]) -> None:
    assert standin("scipy/stats.py").rankdata(values).tolist() == stats.rankdata(values).tolist()


@pytest.mark.parametrize("shape", [(3, 5), (4, 2, 3)])
def test_the_stand_in_for_pillow_writes_what_it_reads(shape: tuple[int, ...]) -> None:
    """Without it no run gets its preview, and nothing after a run would be tried."""
    array = np.arange(math.prod(shape), dtype=np.uint8).reshape(shape)
    standin("PIL/Image.py").fromarray(array).save(stream := io.BytesIO(), "PNG", optimize=True)
    assert np.array_equal(np.array(Image.open(stream)), array)
    with pytest.raises(ModuleNotFoundError):
        standin("PIL/Image.py").fromarray(array).save(stream, "JPEG")


def test_a_chaotic_method_is_told_from_a_wrong_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the CPU's own set is another one with kernels that round otherwise."""
    import torch

    from benchmarks.gpu import smoke

    one, two = torch.ones(2), torch.zeros(2)
    chaotic = {"dm": False, "mtt": True}

    def made(world: object, name: str, device: str) -> tuple[object, float]:
        plain = device == "cpu" and not (chaotic[name] and not torch.backends.mkldnn.enabled)
        return (one if plain else two), 0.0

    monkeypatch.setattr(smoke, "synset", made)
    assert smoke._otherwise(world(tmp_path), "dm", one) == "NO"
    assert smoke._otherwise(world(tmp_path), "mtt", one) == "NO, nor on the CPU with other kernels (1 apart)"


def test_warnings_do_not_fail_the_tests_of_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch that warns of what is new is no failure of ours; in CI it is."""
    from benchmarks.gpu import __main__ as gpu

    asked: list[list[str]] = []
    done = SimpleNamespace(stdout="4 passed", stderr="", returncode=0)
    monkeypatch.setattr(gpu.subprocess, "run", lambda command, **_: (asked.append(command), done)[1])
    gpu.tests(report(tmp_path), time.monotonic() + HOUR)
    assert "-W default" in " ".join(asked[0])
    assert "| passed | 4 passed |" in (tmp_path / "part.md").read_text()


@pytest.mark.parametrize("name", ["dm", "random", "rded"])
def test_a_method_is_compared_with_itself_on_the_cpu(tmp_path: Path, name: str) -> None:
    from benchmarks.gpu.smoke import synset

    one, two = (synset(world(tmp_path), name, "cpu")[0] for _ in range(2))
    assert one.equal(two)


def test_the_lines_of_speed(tmp_path: Path) -> None:
    """On a GPU that is not there, as the figures below."""
    from benchmarks.gpu import speed
    from benchmarks.gpu.pretended import pretended_cuda

    own = report(tmp_path)
    with pretended_cuda():
        for table in (speed.inner_loop, speed.training, speed.methods, speed.selection):
            table(world(tmp_path, "cuda:0"), own)
    text = (tmp_path / "part.md").read_text()
    assert "FAILED" not in text
    for words in (
        "| truncated | 3 | TF32 |",
        "| at once | 2 | bfloat16 |",
        "| datadam | ddbench |",
        "| rded | ddbench |",
    ):
        assert words in text


def test_a_published_figure_is_measured_and_not_judged_in_a_rehearsal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.gpu import figures
    from benchmarks.gpu.pretended import pretended_cuda

    monkeypatch.setattr(figures, "ORDER", figures.ORDER[:1])
    with pretended_cuda():
        figures.run(world(tmp_path, "cuda:0"), report(tmp_path), time.monotonic() + HOUR)
    (line,) = [one for one in (tmp_path / "part.md").read_text().splitlines() if one.startswith("| dc IPC 1")]
    assert "70.5 | not comparable: a rehearsal |" in line


def test_every_wanted_figure_is_a_cell_of_its_plan() -> None:
    from benchmarks.gpu.figures import ORDER
    from ddbench.leaderboard.plans import find_plan

    for wanted in ORDER:
        cells = find_plan(wanted.plan).cells
        assert any(
            (one.method, one.ipc, one.protocol) == (wanted.method, wanted.ipc, wanted.protocol) for one in cells
        ), wanted


def test_a_pack_is_not_made_over_other_things(tmp_path: Path) -> None:
    from benchmarks.gpu.pack import pack

    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit, match="holds other things"):
        pack(tmp_path, ROOT, None)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_the_whole_run_ends_in_time_and_names_the_machine_in_every_table(tmp_path: Path) -> None:
    """Rehearsed is the checkout, which is what the machine with the GPU gets: hence its path, not the wheel's."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--rehearse", "--minutes", "0.3", "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DDBENCH_DATA": str(tmp_path)}
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    files = {path.stem: path.read_text() for path in (tmp_path / "out").glob("*.md")}
    assert all(f"| {part} |" in files["parts"] for part in PARTS)
    for name, text in files.items():
        assert "FAILED" not in text, name
        assert text.count("\n## ") == text.count("\nOn cpu: "), name
