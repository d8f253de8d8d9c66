"""Every task on the synsets of several methods, as the tables of docs/tasks; a killed run goes on.

    python benchmarks/tasks_table.py digits --work FOLDER --data ROOT           # distils and measures what is missing
    python benchmarks/tasks_table.py digits --work FOLDER --write               # puts the tables into docs/tasks
    python benchmarks/tasks_table.py fashion-mnist --work FOLDER --data ROOT

The settings are the cheapest at which every method does something: the tables show how tasks read, not which method is
best. ROOT has MNIST, which ``transfer`` on digits goes to.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from ddbench.statistics import CLIPPED, ends_within
from ddbench.tasks.record import read_result

DOCS = Path(__file__).parents[1] / "docs" / "tasks"


@dataclass(frozen=True)
class Plan:
    """What is done on a dataset.

    Attributes:
        experts: flags of ``ddbench buffer``.
        shared: flags of every ``ddbench distill``.
        methods: method -> its own flags.
        tasks: task -> its flags.
        beside: what tasks with baselines of their own (``--against``) measure beside the runs.
    """

    experts: str
    shared: str
    methods: Mapping[str, str]
    tasks: Mapping[str, str]
    beside: tuple[str, ...] = ("random", "herding")


PLANS = {
    "digits": Plan(
        experts="--student convnet-d2-w32-in --experts 5 --epochs 10 --lr 0.02 --batch 32",
        shared="--ipc 5 --recipe none --validate-every 0",
        methods={
            "random": "",
            "herding": "",
            "dm": "--student convnet-d2-w32-in --iterations 200 --lr-images 3 --batch-real 32",
            "dsa": "--student convnet-d2-w32-in --iterations 5 --outer-loops 5 --inner-epochs 10 --init real "
            "--batch-real 32",
            "mtt": "--student convnet-d2-w32-in --iterations 20 --student-steps 8 --expert-epochs 1 "
            "--max-start-epoch 8 --lr-images 20 --lr-lr 1e-6 --lr-student 0.02",
            "rded": "--student convnet-d2-w32-bn --mipc 100 --num-crop 1 --factor 1",
            "frepo": "--student convnet-d2-w32x2-nn --iterations 100 --batch-real 64 --pool 2 --lr-images 1e-2 "
            "--lr-labels 1e-2",
        },
        tasks={
            "transfer": "--to mnist --to-train 10 --to-test 50 --finetune-epochs 20 --parts 5 --seeds 3 --epochs 100",
            "membership": "--images 400 --shadows 6 --seeds 1 --epochs 100",
            "nas": "--nets 12 --widest 32 --real-epochs 5 --seeds 1 --epochs 60",
            "continual": "--memory 5 --steps 5 --orders 3 --seeds 1 --epochs 100",
        },
    ),
    "fashion-mnist": Plan(
        experts="--student convnet-d3-w32-in --experts 4 --epochs 10 --lr 0.02 --batch 64 --holdout 0.9",
        shared="--ipc 10 --recipe none --validate-every 0 --holdout 0.9",
        methods={
            "random": "",
            "herding": "--teacher-student convnet-d3-w32-bn",
            "dm": "--student convnet-d3-w32-in --iterations 500 --lr-images 10 --batch-real 64",
            "mtt": "--student convnet-d3-w32-in --iterations 60 --student-steps 12 --expert-epochs 2 "
            "--max-start-epoch 7 --lr-images 100 --lr-lr 1e-5 --lr-student 0.02",
        },
        tasks={
            "continual": "--memory 10 --steps 5 --orders 5 --seeds 1 --epochs 300 --against random",
            "nas": "--nets 24 --widest 32 --real-epochs 5 --choose-from 300 --seeds 1 --epochs 100 --against random",
        },
        beside=("random",),  # herding as a run: its teacher of width 32 is what two cores can train for every step
    ),
}


BESIDE = ("continual", "nas")
"""Tasks that have baselines of their own beside the runs (``--against``)."""


def commands(name: str, plan: Plan, data: Path | None) -> list[list[str]]:
    """The command lines, in order; each is finished at once where what it makes is there."""
    student = plan.methods["dm"].split()[1]
    more = ["--threads", "1", "--quiet", *(["--data", str(data)] if data else [])]
    found = [["buffer", "--dataset", name, *plan.experts.split(), "--workers", "1", *more]]
    for method, flags in plan.methods.items():
        own = ["--dataset", name, "--out", f"runs/{method}", *plan.shared.split(), *flags.split()]
        found.append(["distill", "--method", method, *own, *more])
    for task, flags in plan.tasks.items():
        own = [method for method in plan.methods if task not in BESIDE or method not in plan.beside]
        runs = [f"runs/{method}" for method in own]
        found.append(["task", task, *runs, "--student", student, *flags.split(), "--workers", "1", *more])
    return found


def do(name: str, work: Path, data: Path | None) -> None:
    """Run what is missing."""
    work.mkdir(parents=True, exist_ok=True)
    paths = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))))
    for argv in commands(name, PLANS[name], data.resolve() if data else None):
        print("ddbench", shlex.join(argv), flush=True)
        made = made_by(argv, PLANS[name])
        if made and all((work / "runs" / method / "synset.safetensors").is_file() for method in made):
            continue  # spares a start of Python
        subprocess.run(
            [sys.executable, "-m", "ddbench", *argv], cwd=work, check=True, env={**os.environ, "PYTHONPATH": paths}
        )


def made_by(argv: Sequence[str], plan: Plan) -> list[str]:
    """The methods whose sets a command makes, or serves; none: it does a task."""
    if argv[0] == "buffer":
        return list(plan.methods)
    return [argv[argv.index("--method") + 1]] if argv[0] == "distill" else []


# Tables

HEADS: dict[str, Sequence[str]] = {
    "transfer": ("accuracy", "probe", "finetune", "cross", "part_accuracy"),
    "continual": ("final", "average", "forgetting"),
    "nas": ("spearman", "kendall", "regret"),
    "membership": ("lira_auc", "threshold_auc", "tpr_at_fpr_0.001", "tpr_at_fpr_0.01"),
}
"""Task -> metrics, in the order of the columns."""


def number(value: float) -> str:
    """``.912``, ``-.041``, ``1.000``."""
    text = f"{value:.3f}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def cell(entry: Mapping[str, Any], unit: str = "fraction") -> str:
    """A value with its interval; of a difference also whether it is a tie."""
    value, low, high = entry.get("mean", entry.get("value")), entry["low"], entry["high"]
    text = number(value)
    if low is not None:
        low, high, mark = ends_within(low, high, "difference" if "tie" in entry else unit)
        text += f" ({number(low)} to {number(high)}" + (f", {CLIPPED})" if mark else ")")
    return text + (" tie" if entry.get("tie") else "")


def metrics_of(task: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of a row by name."""
    if task != "membership":
        return dict(row["metrics"])
    rates = {name: row["lira"][name] for name in HEADS[task] if name.startswith("tpr")}
    return {"lira_auc": row["lira"]["auc"], "threshold_auc": row["threshold"]["auc"], **rates}


def tables(task: str, found: Mapping[str, Any]) -> list[str]:
    """Rows, and differences to random images, as Markdown."""
    methods = {run["label"]: run["method"] for run in found["head"]["runs"]}
    results, names = found["results"], HEADS[task]
    rows = {methods.get(row["run"], row["run"]): metrics_of(task, row) for row in results["rows"]}
    names = [name for name in names if any(name in row for row in rows.values())]
    lines = _table(["run", *names], [[run, *(_one(task, name, row) for name in names)] for run, row in rows.items()])
    if task == "membership":
        lines += ["", *_beside(results["rows"], methods)]
    random = [label for label, method in methods.items() if method == "random"]
    differences = {
        methods.get(row["run"], row["run"]): row["metrics"]
        for row in results["differences"]
        if row["against"] in (random, "random")
    }
    names = [name for name in (*HEADS[task], "lira_auc") if any(name in row for row in differences.values())]
    names = list(dict.fromkeys(names))
    body = [[run, *(cell(row[name]) if name in row else "" for name in names)] for run, row in differences.items()]
    return [*lines, "", "Less random images, paired:", "", *_table(["run", *names], body)]


def _one(task: str, name: str, row: Mapping[str, Any]) -> str:
    if name not in row:
        return ""
    return cell(row[name], "difference" if name in ("forgetting", "spearman", "kendall") else "fraction")


def _beside(rows: Sequence[Mapping[str, Any]], methods: Mapping[str, str]) -> list[str]:
    names = ("copies", "images", "to_any_training", "to_training", "to_unseen")
    body = [
        [methods[row["run"]], row["first_images"], *(f"{row['distance'][name]:g}" for name in names)] for row in rows
    ]
    return _table(["run", "first images", *names], body)


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *body)]


def section(name: str, work: Path, task: str) -> str:
    """What stands between the marks of a page: the command, then the tables."""
    argv = commands(name, PLANS[name], None)
    (line,) = [one for one in argv if one[:2] == ["task", task]]
    runs = [word.removeprefix("runs/") for word in line if word.startswith("runs/")]
    shown = [word for word in line if not word.startswith("runs/")]
    command = f"ddbench {shlex.join(shown[:2])} runs/{{{','.join(runs)}}} {shlex.join(shown[2:])}"
    found = read_result(work / "tasks" / f"{name}-{task}.json")
    return "\n".join(["", f"    {command}", "", *tables(task, found), ""])


def write(name: str, work: Path, docs: Path = DOCS) -> None:
    """Put the tables of the tasks that are done into their pages, each a section of its own between two marks."""
    for task in PLANS[name].tasks:
        path = docs / f"{task}.md"
        if not (work / "tasks" / f"{name}-{task}.json").is_file():
            print(f"{task} is not done: {path} stays")
            continue
        text = path.read_text(encoding="utf-8")
        marks = f"<!-- {name} -->", f"<!-- end of {name} -->"
        made = f"{marks[0]}\n{section(name, work, task)}\n{marks[1]}"
        pattern = re.compile(rf"{re.escape(marks[0])}.*?{re.escape(marks[1])}", re.S)
        if not pattern.search(text):
            text = (
                f"{text.rstrip()}\n\n## {len(PLANS[name].methods) - 1} methods and random images on {name}\n\n{made}\n"
            )
        path.write_text(pattern.sub(lambda _, made=made: made, text), encoding="utf-8")
        print(path)


def main() -> None:
    """Measure, or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=PLANS)
    parser.add_argument("--work", type=Path, required=True, help="folder for runs, experts, teachers and results")
    parser.add_argument("--data", type=Path, help="root of the datasets")
    parser.add_argument("--write", action="store_true", help="write the tables of what is there into docs/tasks")
    args = parser.parse_args()
    if args.write:
        write(args.dataset, args.work)
    else:
        do(args.dataset, args.work, args.data)


if __name__ == "__main__":
    main()
