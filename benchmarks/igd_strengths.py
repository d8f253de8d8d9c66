"""Which strengths of IGD's two pushes help? Held-out accuracy on digits, never that of the test set; not a timing.

Sets of a grid of ``--influence`` and ``--deviation`` from the same noise, one diffusion model and one expert, all of
the training images that are not held out; strengths 0 are plain samples of the model. Each set is scored by students
on the held-out images. Work is kept in ``--work``: the command goes on where it was.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import common

HOLDOUT = 0.3
STUDENT = "convnet-d2-w32-in"
EPOCHS = 300
"""Of a student under hard-v1, which has 1,000."""


@dataclass(frozen=True)
class Grid:
    """What is tried at one IPC."""

    ipc: int
    seeds: int
    students: int
    strengths: tuple[tuple[float, float], ...]


GRIDS = (
    # One image a class has no other to keep away from.
    Grid(1, 5, 2, tuple((k, 0.0) for k in (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05))),
    # Each push alone, both, and both as strong as the defaults once were.
    Grid(10, 3, 2, ((0.0, 0.0), (0.0, 0.01), (0.005, 0.0), (0.005, 0.01), (0.05, 0.02))),
)


def run(work: Path, *arguments: object) -> None:
    """A ddbench command in the work folder, quiet."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(
        [sys.executable, "-m", "ddbench", *map(str, arguments), "--quiet"], cwd=work, env=environment, check=True
    )


def synset(work: Path, ipc: int, seed: int, influence: float, deviation: float) -> Path:
    """A run of IGD, made where it is not there."""
    out = work / "runs" / f"ipc{ipc}-s{seed}-i{influence:g}-d{deviation:g}"
    if not (out / "synset.safetensors").exists():
        strengths = ("--influence", influence, "--deviation", deviation)
        shared = ("--dataset", "digits", "--ipc", ipc, "--student", STUDENT, "--holdout", HOLDOUT)
        run(work, "distill", "--method", "igd", *shared, *strengths, "--seed", seed, "--threads", 1, "--out", out)
    return out


def score(folder: Path, students: int) -> float:
    """Held-out accuracy in % of a run's synset, the students' mean; kept beside it."""
    from ddbench.data.dataset import holdout_split
    from ddbench.data.load import load_dataset
    from ddbench.data.preprocess import Preprocess
    from ddbench.protocols.plan import Plan
    from ddbench.protocols.protocol import PROTOCOLS, changed
    from ddbench.protocols.training import Settings, train_student
    from ddbench.synset import read_synset

    kept = folder / f"held-out-{students}.json"
    if not kept.exists():
        made = read_synset(folder / "synset.safetensors")
        dataset = load_dataset("digits", None)
        _, held_out = holdout_split(dataset.train, HOLDOUT, 10)
        protocol, _ = changed(PROTOCOLS["hard-v1"], epochs=EPOCHS)
        preprocess = Preprocess.from_json(made.preprocess, dataset)
        plan = Plan(synset=made, protocol=protocol, preprocess=preprocess, flip=False)
        how = Settings(device="cpu", threads=1)
        found = [100 * train_student(plan, held_out, STUDENT, seed, how)["accuracy"] for seed in range(students)]
        kept.write_text(json.dumps(sum(found) / len(found)))
    return float(json.loads(kept.read_text()))


def table(grid: Grid, found: dict[tuple[float, float], list[float]]) -> list[str]:
    """One IPC: the mean of the seeds, and the paired difference from plain samples."""
    from ddbench.statistics import summarise

    plain = found[0.0, 0.0]
    rows = [
        f"{grid.seeds} runs:",
        "",
        "| `--influence` | `--deviation` | accuracy | less plain samples |",
        "|---|---|---|---|",
    ]
    for (influence, deviation), values in found.items():
        apart = summarise([a - b for a, b in zip(values, plain, strict=True)])
        difference = f"{apart['mean']:+.1f} ({apart['low']:+.1f} to {apart['high']:+.1f})"
        mean = sum(values) / len(values)
        rows.append(f"| {influence:g} | {deviation:g} | {mean:.1f} | {difference if values is not plain else ''} |")
    return [*rows, ""]


def measured(work: Path, grid: Grid) -> dict[tuple[float, float], list[float]]:
    """Accuracies of every pair of strengths, a value a seed."""
    found: dict[tuple[float, float], list[float]] = {pair: [] for pair in grid.strengths}
    for seed in range(grid.seeds):
        for pair, values in found.items():
            values.append(score(synset(work, grid.ipc, seed, *pair), grid.students))
            print(f"IPC {grid.ipc} seed {seed} influence {pair[0]:g} deviation {pair[1]:g}: {values[-1]:.1f}")
    return found


def main() -> None:
    """Make, score, print, and with --write store the table."""
    from ddbench.runtime import device

    parsed = common.parser(str(__doc__))
    parsed.add_argument("--work", type=Path, default=Path("igd-strengths"), help="where runs and models are kept")
    parsed.add_argument("--ipc", type=int, choices=[grid.ipc for grid in GRIDS], help="one alone; default: all")
    arguments = parsed.parse_args()
    device.prepare(1)
    work = arguments.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "expert_trajectories").exists():
        run(work, "buffer", "--recipe", "igd/digits-ipc1", "--holdout", HOLDOUT)
    head = [
        f"Mean held-out accuracy (%) of two students `{STUDENT}` of {EPOCHS} epochs on digits, {HOLDOUT:.0%} of "
        "the training images held out, from the diffusion model and the expert too.",
        "Last column: paired by seed, with its 95 % interval.",
        "",
    ]
    for grid in GRIDS:
        if arguments.ipc in (None, grid.ipc):
            lines = head + table(grid, measured(work, grid))
            command = f"python benchmarks/igd_strengths.py --ipc {grid.ipc}"
            place = str(Path(__file__).with_stem(f"igd_strengths_ipc{grid.ipc}"))
            common.report(place, f"IGD's strengths on digits, IPC {grid.ipc}", lines, command)


if __name__ == "__main__":
    main()
