"""The whole pipeline on the embedded digits, small enough to be watched: experts, MTT, scores against random, a page.

Loads torch when it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddbench.runtime.progress import Console
from ddbench.statistics import Difference, count_words, paired_difference, summarise, summarise_groups

STUDENTS = ("convnet-d2-w32-in", "convnet-d1-w32-nn", "mlp-d3-w128")
IPCS = (10, 1)  # the longer one first, so that two workers end together
SUBSETS = 3
SEEDS = 5
PROTOCOL = "hard-v1"


@dataclass(frozen=True, kw_only=True)
class Task:
    """One synset of the demo: a method with its seed, at an IPC."""

    out: Path
    method: str
    ipc: int
    seed: int = 0
    quiet: bool = False

    @property
    def console(self) -> Console:
        """Where it tells its own progress."""
        return Console(self.quiet, self.run.name)

    @property
    def run(self) -> Path:
        """Its run folder."""
        budget = "full" if self.method == "full" else f"ipc{self.ipc}"
        return self.out / "runs" / f"digits-{budget}-{self.method}-s{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Mean test accuracies (fractions) of a student at an IPC, and MTT less random, paired by seed."""

    ipc: int
    student: str
    mtt: float
    random: float
    full: float
    gap: Difference


@dataclass(frozen=True)
class Demonstration:
    """What the demo made: a line for each IPC and student, and the page."""

    lines: tuple[Compared, ...]
    page: Path
    runs: Path


def tasks_of(out: Path, quiet: bool) -> list[Task]:
    """The synsets of the demo."""
    chosen = [("mtt", ipc, 0) for ipc in IPCS]
    chosen += [("random", ipc, seed) for ipc in IPCS for seed in range(SUBSETS)]
    chosen += [("full", 0, 0)]
    return [Task(out=out, method=method, ipc=ipc, seed=seed, quiet=quiet) for method, ipc, seed in chosen]


def announcement(tasks: list[Task], workers: int) -> Iterator[str]:
    """What will be done, and where it will lie."""
    out = tasks[0].out
    yield f"everything goes to {out.resolve()}; killed at any moment, the same command goes on"
    yield f"  {out / 'expert_trajectories'}: ten experts, recorded first"
    for number, task in enumerate(tasks, 1):
        yield f"  {task.run}: job {number} of {len(tasks)}, distilled, then scored"
    yield f"  {out / 'leaderboard'}: the page, at the end"
    yield f"{count_words(workers, 'worker')}; each job tells its own progress"


def demonstrate(out: Path, workers: int, console: Console) -> Demonstration:
    """Run the pipeline; what is there already is not done again.

    Args:
        out: folder for everything.
        workers: processes.

    Raises:
        UserError: ``out`` holds something else, or cannot be written to.
    """
    tasks = tasks_of(out, console.quiet)
    for line in announcement(tasks, workers):
        console.say(line)
    _experts(out, workers, console)
    _stage("distill", tasks, workers, console)
    _stage("evaluate", tasks, workers, console)
    return Demonstration(page=_board(out, tasks), lines=tuple(_compared(tasks)), runs=out / "runs")


def _experts(out: Path, workers: int, console: Console) -> None:
    from ddbench.data.load import load_dataset
    from ddbench.distillation.recipes import method_recipes
    from ddbench.experts.record import record

    recipe = method_recipes("mtt")["digits-ipc1"]
    record(
        root=out / "expert_trajectories",
        dataset=load_dataset("digits"),
        data=None,
        student=STUDENTS[0],
        recipe=recipe.expert_recipe(),
        experts=recipe.experts["experts"],
        workers=workers,
        threads=1,
        device="cpu",
        compile="off",
        console=console,
    )


def _stage(name: str, tasks: list[Task], workers: int, console: Console) -> None:
    """Do one stage of all tasks, several at once; each is resumable by itself."""
    from ddbench.runtime.jobs import run_jobs

    jobs = run_jobs(f"ddbench.leaderboard.demonstration:{name}_task", None, tasks, workers)
    for done, (index, note) in enumerate(jobs, 1):
        console.say(f"{name}: {done} of {len(tasks)} jobs done, {tasks[index].run.name} {note}".rstrip())


def distill_task(_: None, task: Task) -> str:
    """Make the synset of a task; run by a worker."""
    from ddbench.config import apply_config
    from ddbench.data.load import load_dataset
    from ddbench.distillation.recipes import method_recipes
    from ddbench.distillation.runner import RunSettings, distill
    from ddbench.methods import METHODS
    from ddbench.methods.needs.flags import ExpertsFlags

    kind = METHODS.get(task.method)
    recipe = method_recipes("mtt")[f"digits-ipc{task.ipc}"] if task.method == "mtt" else None
    distill(
        task.method,
        kind,
        apply_config(kind.config_class, recipe.config if recipe else {}, "demo"),
        dataset=load_dataset("digits"),
        data=None,
        settings=RunSettings(
            ipc=task.ipc,
            student=STUDENTS[0],
            seed=task.seed,
            preprocess="meanstd",
            holdout=0.1,
            validate_every=recipe.run["validate_every"] if recipe else 0,
            validate_epochs=300,
            track="jsonl",
            checkpoint_every=0,
            device="cpu",
            threads=1,
            compile="off",
            flags=(ExpertsFlags(buffers=task.out / "expert_trajectories"),),
        ),
        out=task.run,
        console=task.console,
    )
    return ""


def evaluation_file(task: Task) -> Path:
    """Where the scores of a task are."""
    return task.run / "evaluations" / f"{PROTOCOL}.json"


def evaluate_task(_: None, task: Task) -> str:
    """Score the synset of a task; run by a worker."""
    from ddbench.evaluation.evaluator import evaluate
    from ddbench.evaluation.tasks import Job
    from ddbench.protocols.protocol import protocol
    from ddbench.synset import synset_path

    result = evaluate(
        job=Job(
            synset=synset_path(task.run),
            data=None,
            size=None,
            protocol=protocol(PROTOCOL),
            device="cpu",
            threads=1,
            precision="float32",
            compile="off",
            max_images=None,
        ),
        students=STUDENTS,
        seeds=range(SEEDS),
        difference={},
        out=evaluation_file(task),
        workers=1,
        console=task.console,
    )
    return f"{result['summary'][STUDENTS[0]]['accuracy']['mean']:.3f}"


def _board(out: Path, tasks: list[Task]) -> Path:
    """Make a row of each job; returns the page of the board."""
    from ddbench.leaderboard.pages.page import build
    from ddbench.leaderboard.submit import make_result, plan_submission, write_plan

    board = out / "leaderboard"
    for task in tasks:
        write_plan(plan_submission(task.run, board, make_result(task.run)))
    _, page, *_ = build(board)
    return page


def _scores(task: Task, student: str) -> dict[int, float]:
    from ddbench.runtime.files import read_json

    runs: list[dict[str, Any]] = read_json(evaluation_file(task), "evaluation")["runs"]
    return {run["seed"]: run["metrics"]["accuracy"] for run in runs if run["student"] == student}


def _compared(tasks: list[Task]) -> Iterator[Compared]:
    """MTT, random and full side by side, and the paired difference of MTT and random with its interval."""

    def of(method: str, ipc: int) -> list[Task]:
        return [task for task in tasks if task.method == method and task.ipc == ipc]

    for ipc in sorted(IPCS):
        for student in STUDENTS:
            ours = _scores(of("mtt", ipc)[0], student)
            subsets = [_scores(task, student) for task in of("random", ipc)]
            yield Compared(
                ipc=ipc,
                student=student,
                mtt=summarise(list(ours.values()))["mean"],
                random=summarise_groups([list(subset.values()) for subset in subsets])["mean"],
                full=summarise(list(_scores(of("full", 0)[0], student).values()))["mean"],
                gap=paired_difference(ours, subsets),
            )
