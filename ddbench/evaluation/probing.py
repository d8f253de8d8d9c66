"""Extra measurements of an evaluation: what is open, how long it will take, one probe's work, and putting together."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ddbench.data.dataset import Dataset
from ddbench.evaluation.kept import Kept
from ddbench.measurements.suite import SUITES, Choice, Cost, Probe, Suite
from ddbench.networks.build import build_student
from ddbench.protocols.plan import Plan
from ddbench.protocols.training import Settings
from ddbench.registry import Registry
from ddbench.runtime import device as devices
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import canonical_json, write_bytes
from ddbench.runtime.progress import Console


def build_suites(choices: Sequence[Choice], plan: Plan, dataset: Dataset) -> list[Suite]:
    """The suites that were asked for.

    Raises:
        UserError: one of them cannot work here (wrong budget, a library that is not installed, ...).
    """
    table = Registry("measurement", None, SUITES)
    suites = []
    for choice in choices:
        if choice.max_images is not None and choice.max_images < 1:
            raise UserError(f"--max-images {choice.max_images}: expected at least 1")
        suite = table.get(choice.kind)(choice, plan, dataset)
        assert isinstance(suite, Suite)
        suites.append(suite)
    return suites


def check_measured(out: Path, kept: Kept, suites: Sequence[Suite]) -> None:
    """Refuse to put measurements with different settings into one evaluation; of a killed one they are dropped.

    Raises:
        UserError: names the kind and the setting.
    """
    for suite in suites:
        found, wanted = kept.measured.get(suite.kind), json.loads(canonical_json(suite.settings))
        if found is None or found == wanted:
            continue
        if not kept.holds(suite.kind):  # a killed try with other settings
            kept.measure(suite.kind, wanted)
            continue
        names = sorted({*found, *wanted}, key=lambda name: (name not in ("budget", "images"), name))
        part = next(name for name in names if found.get(name) != wanted.get(name))
        raise UserError(
            f"{out} holds {suite.kind} measured with other settings ({part} differs: {found.get(part)!r:.60} "
            f"there, {wanted.get(part)!r:.60} now); choose another --out, or remove it"
        )


def open_probes(
    kept: Kept, wanted: list[tuple[str, int]], suites: Sequence[Suite]
) -> list[tuple[str, int, Suite, Probe]]:
    """What is still to be measured: (student, seed, suite, probe), student by student."""
    return [
        (student, seed, suite, probe)
        for student, seed in wanted
        if student not in kept.lost()
        for suite in suites
        if (student, seed, suite.kind) not in kept.findings
        for probe in suite.probes
        if probe.name not in kept.probes.get((student, seed, suite.kind), {})
    ]


# What it will take


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Minutes of wall time for a suite, and what was counted."""

    kind: str
    probes: int
    runs: int
    images: int
    minutes: float

    def __str__(self) -> str:
        took = "less than a minute" if self.minutes < 1 else f"about {self.minutes:.0f} min"
        return f"{self.kind}: {self.probes} probe(s) x {self.runs} run(s) on {self.images:,} test images, {took}"


TRIAL = 64
"""Images of the short trial that tells how fast this machine is."""


def estimates(
    suites: Sequence[Suite], runs: Sequence[tuple[str, str, str]], plan: Plan, settings: Settings, workers: int
) -> list[Estimate]:
    """What the open probes of each suite will take, from their own count of passes and a short trial here.

    Args:
        runs: (kind, probe's name, student) for each open probe of each seed.
    """
    devices.prepare(settings.threads)
    speed = functools.cache(functools.partial(_pass_seconds, plan, settings))
    found = []
    for suite in suites:
        probes = {probe.name: probe for probe in suite.probes}
        mine = [(name, student) for kind, name, student in runs if kind == suite.kind]
        if not mine:
            continue
        seconds = 0.0
        for name, student in mine:
            cost: Cost = probes[name].cost(suite.images)
            seconds += cost.passes * speed(student) + cost.seconds
        parallel = max(1, min(workers, len(mine)))
        pairs = len(mine) // max(1, len({name for name, _ in mine}))
        found.append(
            Estimate(
                kind=suite.kind,
                probes=len({name for name, _ in mine}),
                runs=pairs,
                images=suite.images,
                minutes=seconds / parallel / 60,
            )
        )
    return found


def _pass_seconds(plan: Plan, settings: Settings, student: str) -> float:
    """Seconds of one image's forward pass through a fresh student, in batches; the best of three."""
    device = devices.resolve_device(settings.device)
    _, channels, size, _ = plan.synset.images.shape
    net = build_student(student, channels=channels, size=size, classes=plan.synset.classes, seed=0).to(device).eval()
    x = torch.zeros(TRIAL, channels, size, size, device=device)
    times = []
    with torch.no_grad():
        for _ in range(3):
            start = time.perf_counter()
            float(net(x).sum())  # waits for the device
            times.append(time.perf_counter() - start)
    return min(times) / TRIAL


def tell(console: Console, suites: Sequence[Suite], found: Sequence[Estimate]) -> None:
    """Say beforehand what will be done and how long it will take."""
    for suite in suites:
        for note in suite.notes:
            console.say(note)
    for estimate in found:
        console.say(str(estimate))


# Putting together


def combine(kept: Kept, suites: Sequence[Suite]) -> None:
    """Make each run's metrics of its probes, where all are there, and each student's details of its runs."""
    for suite in suites:
        descriptions = {name: metric.to_json() for name, metric in suite.metrics.items()}
        for student, seed in sorted(kept.runs):
            key = (student, seed, suite.kind)
            probes = kept.probes.get(key, {})
            if key in kept.findings or any(probe.name not in probes for probe in suite.probes):
                continue
            found = suite.combine(probes)
            kept.runs[student, seed].update(found.metrics)
            kept.metrics.update({name: descriptions[name] for name in found.metrics})
            kept.findings[key] = found.details
        for student in sorted({student for student, _, kind in kept.findings if kind == suite.kind}):
            own = [
                part for (name, _, kind), part in sorted(kept.findings.items()) if (name, kind) == (student, suite.kind)
            ]
            kept.details.setdefault(student, {}).update(suite.pool(own))


def write_files(out: Path, suites: Sequence[Suite], result: dict[str, Any], only_missing: bool = False) -> None:
    """Files that belong beside the evaluation, such as reliability diagrams."""
    for suite in suites:
        for student, details in result.get("details", {}).items():
            for name, data in suite.files(student, details).items():
                path = out.parent / f"{out.stem}.{name}"
                if not (only_missing and path.exists()):
                    write_bytes(path, data)
