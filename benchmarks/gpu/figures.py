"""Published figures at their settings, the cheapest gain first; what ends early is scored as it is and says so."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.gpu.report import Report, reason
from benchmarks.gpu.world import World, made_dataset, make_context, sync, tf32

NETWORKS = 5
SCORING = 0.25
"""Share of a cell's time that is kept for scoring."""


@dataclass(frozen=True)
class Wanted:
    """A cell of a plan, and its share of the time that is left when its turn comes."""

    plan: str
    method: str
    ipc: int
    protocol: str
    share: float


ORDER = (
    Wanted("fmnist-paper-cpu", "dc", 1, "dc-plain", 0.35),
    Wanted("fmnist-paper-cpu", "dsa", 1, "dc-legacy", 0.5),
    Wanted("fashion-mnist-gpu", "dm", 10, "hard-v1", 0.6),
    Wanted("fashion-mnist-gpu", "dc", 10, "dc-plain", 1.0),
)
LEFT_OUT = (
    "Not here: MTT (no public experts of these data, and recording some takes longer than this run), the evaluation of "
    "RDED and SRe2L (their published figures are of data that is not carried)."
)


def run(world: World, report: Report, deadline: float) -> None:
    """One line a cell."""
    tf32(False)
    heads = ("cell", "iterations", "of", "distill s", "score s", "ours, %", "published, %", "verdict")
    report.table(f"Published figures, Fashion-MNIST, {NETWORKS} networks, float32", heads)
    dataset = _dataset(world, report)
    for wanted in ORDER:
        end = time.monotonic() + wanted.share * (deadline - time.monotonic())
        try:
            report.row(*_cell(world, wanted, dataset, end))
        except Exception as error:  # told, and the next one is tried
            report.row(f"{wanted.method} IPC {wanted.ipc}", "", "", "", "", "", "", f"FAILED: {reason(error)}")
    report.say(LEFT_OUT)


def _dataset(world: World, report: Report) -> Any:
    from ddbench.data.load import load_dataset
    from ddbench.runtime.errors import UserError

    if world.rehearse:
        report.say(
            "A rehearsal: random pixels in the shape of Fashion-MNIST, narrow networks. The accuracies say nothing."
        )
        return made_dataset(12, tests=2)
    try:
        return load_dataset("fashion-mnist", world.data)
    except UserError as error:
        raise RuntimeError(f"no Fashion-MNIST: {error}") from None


def _cell(world: World, wanted: Wanted, dataset: Any, deadline: float) -> tuple[object, ...]:
    """Distil until the cell's time is up, less what scoring needs; then score; the line of the table."""
    from ddbench.distillation.start import choose
    from ddbench.leaderboard.plans import find_plan
    from ddbench.protocols.protocol import protocol

    fits = (wanted.method, wanted.ipc, wanted.protocol)
    cells = [one for one in find_plan(wanted.plan).cells if (one.method, one.ipc, protocol(one.protocol).name) == fits]
    cell = cells[0]
    chosen = choose(cell.method, recipe=cell.recipe, dataset=cell.dataset, ipc=cell.ipc)
    config, student = chosen.config, f"convnet-d3-w{world.width}-in"
    if world.rehearse:
        small = {"iterations": 2, "batch_real": 4, "outer_loops": 1, "inner_epochs": 0}
        config = replace(config, **{name: value for name, value in small.items() if hasattr(config, name)})
    context = make_context(dataset, world.device, world.scratch, ipc=cell.ipc, student=student)
    method = chosen.kind(config, context)
    begin, done = time.monotonic(), 0
    method.setup()
    last = begin + (1 - SCORING) * (deadline - begin)
    for number in range(method.iterations):
        if done >= 2 and time.monotonic() > last:
            break
        method.step(number)
        done = number + 1
    sync(world.device)
    middle = time.monotonic()
    accuracies = _score(world, cell, method, dataset, student)
    ours, words = _verdict(cell, accuracies, done, method.iterations, world.rehearse)
    published = next((one for one in cell.published if one.value is not None), None)
    theirs = "not checked" if published is None or published.value is None else f"{100 * published.value:.1f}"
    name = f"{cell.method} IPC {cell.ipc}, {cell.protocol}"
    spent = (middle - begin, time.monotonic() - middle)
    return name, done, method.iterations, *spent, ours, theirs, words


def _score(world: World, cell: Any, method: Any, dataset: Any, student: str) -> list[float]:
    """Test accuracies of fresh networks by the cell's protocol, trained at once."""
    from ddbench.protocols.plan import Plan
    from ddbench.protocols.protocol import PROTOCOLS
    from ddbench.protocols.training import Settings, train_students
    from ddbench.synset import Synset

    context, product = method.context, method.distilled()
    synset = Synset(
        **vars(product),
        preprocess=context.preprocess.to_json(),
        budget=method.budget,
        dataset=dataset.spec.name,
        fingerprint=dataset.fingerprint,
        class_names=dataset.spec.class_names,
        method=cell.method,
        config={},
        seed=0,
        student=student,
        augmentation=method.augmentation,
        versions={},
        parents={},
    )
    protocol = PROTOCOLS[cell.protocol]
    if world.rehearse:
        protocol = replace(protocol, epochs=2)
    plan = Plan(synset=synset, protocol=protocol, preprocess=context.preprocess, flip=dataset.spec.flip)
    settings = Settings(device=world.device, threads=1)
    seeds = range(world.scale(NETWORKS, 2))
    return [one["accuracy"] for one in train_students(plan, dataset.test, student, seeds, settings)]


def _verdict(cell: Any, accuracies: list[float], done: int, of: int, rehearse: bool) -> tuple[str, str]:
    """Ours in words, and how it stands to what is published."""
    from ddbench.leaderboard.published import judge
    from ddbench.statistics import FRACTION, spread_words, summarise

    own = summarise(accuracies)
    ours = spread_words(own, lambda value: f"{100 * value:.1f}", FRACTION)
    if not cell.published:
        return ours, "no published figure in the plan"
    reason_not = "a rehearsal" if rehearse else f"{done} of {of} iterations" if done < of else cell.not_comparable
    found = judge(own, cell.published[0], reason_not)
    if found.low is None or found.high is None:
        return ours, f"not comparable: {found.why}"
    return ours, f"{found.word} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"
