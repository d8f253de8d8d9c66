"""Made-up boards: results with everything that a row can carry, valid through the schema. Imports no torch."""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from ddbench.leaderboard.consistency import score_summary
from ddbench.leaderboard.result import Repeat, Result, Run
from ddbench.leaderboard.schema import check_result, result_id, result_path, summary_of
from ddbench.leaderboard.verification import make_verification, verification_path
from ddbench.protocols.protocol import PROTOCOLS

STUDENTS = ("convnet-d3-w128-in", "resnet18-bn", "mlp-d3-w128")
METHODS = ("mtt", "datm", "dm", "dsa", "dc", "ftd", "tesla", "idc", "dream", "rded", "sre2l", "pdd")
PROTOCOL = {"hard": "hard-v1", "soft": "soft-v1", "teacher": "rded"}
EPS = (("2/255", 2 / 255), ("4/255", 4 / 255), ("8/255", 8 / 255))
CORRUPTIONS = ("gaussian_noise", "motion_blur", "fog", "jpeg_compression", "contrast")

FRACTION = {"unit": "fraction", "better": "higher"}
METRICS = {
    "accuracy": {**FRACTION, "title": "Test accuracy"},
    "ece": {"unit": "fraction", "better": "lower", "title": "Expected calibration error"},
    "ece_scaled": {"unit": "fraction", "better": "lower", "title": "ECE after temperature scaling"},
    "nll": {"unit": "nats", "better": "lower", "title": "Negative log-likelihood"},
    "robust_accuracy": {**FRACTION, "title": "Worst-case accuracy over all attacks"},
    "robust_pgd": {**FRACTION, "title": "Accuracy under PGD"},
    "corruption_accuracy": {**FRACTION, "title": "Mean accuracy under corruptions"},
}


def _clip(value: float) -> float:
    return round(min(1.0, max(0.0, value)), 6)


def _run(draw: random.Random, accuracy: float) -> dict[str, float]:
    own = _clip(accuracy + draw.gauss(0, 0.006))
    return {
        "accuracy": own,
        "ece": _clip(0.12 + draw.gauss(0, 0.01)),
        "ece_scaled": _clip(0.03 + draw.gauss(0, 0.004)),
        "nll": round(2.2 - own + draw.gauss(0, 0.02), 6),
        "robust_accuracy": _clip(own * 0.25 + draw.gauss(0, 0.01)),
        "robust_pgd": _clip(own * 0.3 + draw.gauss(0, 0.01)),
        "corruption_accuracy": _clip(own * 0.8 + draw.gauss(0, 0.01)),
    }


def _reliability(draw: random.Random, gap: float) -> list[list[Any]]:
    bins: list[list[Any]] = [[0, None, None] for _ in range(3)]
    for i in range(3, 15):
        confidence = (i + 0.5) / 15
        bins.append([40 * i, round(confidence, 4), _clip(confidence - gap + draw.gauss(0, 0.02))])
    return bins


def _details(draw: random.Random, accuracy: float) -> dict[str, Any]:
    attacks = [
        {
            "attack": attack,
            "norm": "linf",
            "eps": text,
            "value": value,
            "accuracy": _clip(accuracy * (1 - factor * value)),
        }
        for attack, factor in (("fgsm", 18.0), ("pgd", 24.0), ("autoattack", 27.0))
        for text, value in EPS
    ]
    return {
        "reliability": _reliability(draw, 0.12),
        "reliability_scaled": _reliability(draw, 0.0),
        "robustness": attacks,
        "masking_warnings": [],
        "corruptions": {
            name: [_clip(accuracy * (1 - 0.09 * s - draw.random() / 20)) for s in range(5)] for name in CORRUPTIONS
        },
        "n_test": 1000,
    }


def _scores(draw: random.Random, accuracy: float, seeds: int) -> dict[str, Any]:
    repeats = []
    for seed in range(seeds):
        near = [_clip(accuracy + shift + draw.gauss(0, 0.004)) for shift in (0.1, -0.05, 0.0, -0.2, -0.02, -0.19)]
        legs = ("real_hard", "syn_hard", "syn", "random", "syn_plain", "random_plain")
        repeats.append({"seed": seed, **dict(zip(legs, near, strict=True))})
    return {
        "student": STUDENTS[0],
        "standard": True,
        "weight": 0.5,
        "random_labels": "hard",
        "repeats": repeats,
        "summary": score_summary([Repeat.from_json(one).accuracies for one in repeats], 0.5),
    }


def made_result(
    method: str = "mtt",
    *,
    dataset: str = "digits",
    ipc: int = 1,
    labels: str = "hard",
    accuracy: float = 0.8,
    seed: int = 0,
    seeds: int = 5,
    names: Sequence[str] = STUDENTS,
    rich: bool = True,
    budget: str = "ipc",
    submission: dict[str, Any] | None = None,
    supersedes: str | None = None,
    measured: dict[str, Any] | None = None,
    protocol: str = "",
) -> Result:
    """One valid result.

    Args:
        accuracy: about the mean of the first student; the others are lower.
        rich: with calibration, robustness, corruptions and scores.
        budget: ``ipc`` or ``all``.
    """
    draw = random.Random(f"{method} {dataset} {ipc} {labels} {accuracy} {seed} {seeds}")
    means = {name: accuracy - 0.06 * place for place, name in enumerate(names)}
    runs = [
        {"student": name, "seed": s, "metrics": _run(draw, mean)} for name, mean in means.items() for s in range(seeds)
    ]
    if not rich:
        runs = [{**run, "metrics": {"accuracy": run["metrics"]["accuracy"]}} for run in runs]  # type: ignore[dict-item]
    used = PROTOCOLS[protocol or PROTOCOL[labels]]
    full = budget == "all"
    images = 1200 if full else 10 * ipc
    stored = {
        "images": images * 64,
        "labels": images * (1 if labels == "hard" else 40),
        "augmentation": 0,
        "teacher": 0,
        "other": 4,
    }
    content = json.dumps([method, dataset, ipc, labels, seed, accuracy, budget])
    cost = {
        "device": "cpu: Example 3000",
        "cores": 2,
        "wall_seconds": 40.0,
        "cpu_seconds": 80.0,
        "peak_memory_bytes": 3 * 10**8,
    }
    result: dict[str, Any] = {
        "kind": "ddbench-result",
        "schema": 1,
        "id": "0" * 16,
        "supersedes": supersedes,
        "submission": {
            "method_title": "",
            "authors": ["A. Author"],
            "links": [],
            "code": "",
            "licence": "",
            "note": "",
            "claims": [],
        }
        | (submission or {}),
        "synset": {
            "sha256": hashlib.sha256(content.encode()).hexdigest(),
            "method": method,
            "dataset": dataset,
            "dataset_fingerprint": hashlib.sha256(dataset.encode()).hexdigest(),
            "modality": "image",
            "budget": {"unit": budget, "value": images if full else ipc},
            "classes": 10,
            "shape": [1, 8, 8],
            "images": images,
            "decoded_images": images,
            "label_kind": "hard" if full else labels,
            "student": None if full or method == "random" else names[0],
            "seed": seed,
            "preprocess": {"kind": "meanstd", "mean": [0.3], "std": [0.38]},
            "config": {"holdout": 0.1, "iterations": 1000, "lr_images": 10.0, "rebuild": False},
            "learned_lr": None if full or method == "random" else 0.0213,
            "bytes": {**stored, "total": sum(stored.values()), "real": 83008, "real_images": 1297},
        },
        "teacher": None,
        "labels": None,
        "protocol": {
            "name": used.name,
            "hash": used.hash,
            "standard": True,
            "changed": {},
            "settings": used.settings(),
        },
        "learning_rates": {name: {"rate": 0.02, "source": "synset", "searched": {}} for name in names},
        "runs": runs,
        "summary": summary_of([Run(**run) for run in runs]),
        "metrics": METRICS if rich else {"accuracy": METRICS["accuracy"]},
        "precision": "float32",
        "threads": 1,
        "at_once": 1,
        "versions": {"ddbench": "0.2.0", "torch": "2.6.0"},
        "cost": {"distill": cost, "evaluate": cost},
    }
    if rich:
        result["details"] = {name: _details(draw, mean) for name, mean in means.items()}
        result["measured"] = measured or {
            "calibration": {"bins": 15},
            "robustness": {"budget": "quick", "eps": [text for text, _ in EPS], "images": 1000},
            "corruptions": {"types": list(CORRUPTIONS)},
        }
        if not full and method != "random":
            result["scores"] = _scores(draw, accuracy, seeds)
    result["id"] = result_id(result)
    return check_result(result, f"made {method}")


def in_bytes(result: Result, size: int) -> Result:
    """The result with a budget of so many bytes, as that of a set of graphs."""
    content = result.to_json()
    content["synset"]["budget"] = {"unit": "bytes", "value": size}
    content["id"] = result_id(content)
    return check_result(content, f"{size} bytes")


def made_picture(seed: int = 0) -> bytes:
    """A small PNG."""
    draw = random.Random(seed)
    picture = Image.new("L", (80, 24))
    picture.putdata([(x * 7 + y * 11 + draw.randrange(90)) % 256 for y in range(24) for x in range(80)])
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def put(root: Path, result: Result, *, picture: bool = True, verify: str = "") -> Path:
    """Write a result into a board, with a picture and a verification (``identical``, ``within`` or ``below``)."""
    path = root / result_path(result)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result.to_json(), sort_keys=True, ensure_ascii=False))
    if picture and not result.synset.budget.whole:
        path.with_suffix(".png").write_bytes(made_picture(result.synset.seed))
    if verify:
        shift = {"identical": 0.0, "within": 0.0005, "below": -0.2}[verify]
        metric = result.main_metric
        runs = [
            replace(run, metrics={**run.metrics, metric: max(0.0, run.metrics[metric] + shift)}) for run in result.runs
        ]
        again = [name for name in ("ece", "robust_accuracy") if name in result.metrics]
        found = make_verification(
            result, runs, again, device="cpu: Example 3000", threads=1, at_once=1, versions=result.versions
        )
        verification_path(root, result).write_text(json.dumps(found.to_json(), sort_keys=True))
    return path


def made_board(root: Path) -> Path:
    """A board of two datasets, three budgets and two kinds of labels, with everything a page can show."""
    for dataset, top in (("digits", 0.7), ("cifar10", 0.3)):
        for step, ipc in enumerate((1, 10, 50)):
            for labels in ("hard", "soft"):
                if dataset == "cifar10" and labels == "soft" and ipc == 50:
                    continue
                base = top + 0.08 * step + (0.02 if labels == "soft" else 0)
                for place, method in enumerate(METHODS[: 8 if labels == "hard" else 4]):
                    accuracy = round(base - 0.015 * (place // 2), 6)
                    said: dict[str, Any] = {"method_title": f"{method.upper()}, our recipe" if place % 3 == 0 else ""}
                    if place == 0:
                        said |= {
                            "links": ["https://example.org/paper"],
                            "code": "https://example.org/code",
                            "licence": "MIT",
                            "note": "Two lines\nof a note.",
                            "claims": [
                                {
                                    "student": STUDENTS[0],
                                    "metric": "accuracy",
                                    "value": accuracy,
                                    "source": "https://example.org/paper",
                                }
                            ],
                        }
                    names = STUDENTS if place % 4 else STUDENTS[:2]
                    result = made_result(
                        method, dataset=dataset, ipc=ipc, labels=labels, accuracy=accuracy, names=names, submission=said
                    )
                    put(root, result, verify=("identical", "within", "below", "")[place % 4])
                for seed in range(3 if labels == "hard" else 0):
                    drawn = made_result(
                        "random",
                        dataset=dataset,
                        ipc=ipc,
                        labels=labels,
                        accuracy=top - 0.2 + 0.05 * step + seed / 100,
                        seed=seed,
                    )
                    put(root, drawn)
        put(root, made_result("full", dataset=dataset, budget="all", accuracy=min(0.97, top + 0.27)))
    old = made_result("mtt", ipc=1, accuracy=0.7, names=STUDENTS[:2], seeds=3)
    put(root, old)
    return root


def many_results(count: int, seed: int = 0) -> Iterator[Result]:
    """A large board: ``count`` results over 4 datasets, 3 budgets and 2 kinds of labels, every tenth one rich."""
    draw = random.Random(seed)
    cells = [
        (dataset, ipc, labels)
        for dataset in ("digits", "mnist", "cifar10", "cifar100")
        for ipc in (1, 10, 50)
        for labels in ("hard", "soft")
    ]
    for number in range(count):
        dataset, ipc, labels = cells[number % len(cells)]
        kind = "random" if number // len(cells) < 3 else METHODS[draw.randrange(len(METHODS))]
        accuracy = round(0.2 + 0.6 * draw.random(), 6)
        yield made_result(
            kind, dataset=dataset, ipc=ipc, labels=labels, accuracy=accuracy, seed=number, rich=number % 10 == 0
        )
