"""Recording experts: train networks on real data and keep every epoch's weights."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ddbench.data.dataset import Dataset, holdout_split, validation_sample
from ddbench.data.load import data_root, load_dataset
from ddbench.data.policy import parse_policy
from ddbench.data.preprocess import Preprocess, fit_preprocess
from ddbench.data.specs import resolve_augmentation
from ddbench.experts.recipe import ExpertRecipe
from ddbench.experts.sharpness import drop_factor, train_expert
from ddbench.experts.store import MANIFEST, TrajectoryStore, read_store, store_folder
from ddbench.networks.build import build_student
from ddbench.networks.names import check_student
from ddbench.runtime import device as devices
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import ensure_writable, read_json, write_json
from ddbench.runtime.jobs import run_jobs
from ddbench.runtime.progress import Console
from ddbench.runtime.resources import Meter
from ddbench.training.flat import flatten_buffers, flatten_parameters
from ddbench.training.loops import (
    Epoch,
    Inputs,
    OptimizerSettings,
    accuracy,
    drop_after,
    forward_flops,
    inputs_of,
    make_optimizer,
    predict,
    train,
)


@dataclass(frozen=True, kw_only=True)
class RecordJob:
    """What every worker needs to train any expert of a store."""

    folder: Path
    dataset: str
    size: int | None
    data: Path | None
    student: str
    recipe: ExpertRecipe
    device: str
    threads: int
    compile: str


def open_store(
    root: Path, dataset: Dataset, student: str, recipe: ExpertRecipe, preprocess: Preprocess
) -> TrajectoryStore:
    """The store of a recipe, made when it is not there yet; finished experts are taken in.

    Raises:
        UserError: the folder cannot be written to, or holds another dataset's experts.
    """
    folder = store_folder(root, dataset.spec.name, student, recipe.key(student, dataset.fingerprint))
    if (folder / MANIFEST).exists():
        return read_store(folder)
    ensure_writable(folder)
    spec = dataset.spec
    net = build_student(student, channels=spec.channels, size=spec.size, classes=spec.classes, seed=0)
    header = {
        "dataset": spec.name,
        "dataset_fingerprint": dataset.fingerprint,
        "size": spec.size,
        "student": student,
        "preprocess": preprocess.to_json(),
        "parameters": [[name, list(parameter.shape)] for name, parameter in net.named_parameters()],
        "versions": devices.versions(),
    }
    return TrajectoryStore(folder=folder, recipe=recipe, header=header)


def record(
    *,
    root: Path,
    dataset: Dataset,
    data: Path | None,
    student: str,
    recipe: ExpertRecipe,
    experts: int,
    workers: int,
    threads: int,
    device: str,
    compile: str,
    console: Console,
) -> TrajectoryStore:
    """Record experts 0 to ``experts - 1``; those that are there already are kept.

    A kill loses at most the experts in work; the same call goes on. The result does not depend on the number of
    workers (each uses ``threads`` threads).

    Raises:
        UserError: settings out of range, a student that does not fit the images, a folder that cannot be written to.
    """
    recipe.check()
    if experts < 1:
        raise UserError(f"--experts {experts}: expected at least 1")
    spec = dataset.spec
    check_student(student, spec.channels, spec.size)
    recipe = replace(recipe, augmentation=resolve_augmentation(recipe.augmentation, spec.flip))
    parse_policy(recipe.augmentation)
    devices.resolve_device(device)
    net = build_student(student, channels=spec.channels, size=spec.size, classes=spec.classes, seed=0)
    make_optimizer(net.parameters(), _optimizer(recipe))
    preprocess = fit_preprocess(dataset, recipe.preprocess, data_root(data))
    store = open_store(root, dataset, student, recipe, preprocess)
    known = store.indices
    missing = [index for index in range(experts) if not store.scan(index)]
    if store.indices != known or not (store.folder / MANIFEST).exists():
        store.write_manifest()
    done = experts - len(missing)
    if not missing:
        console.say(f"all {experts} experts are recorded in {store.folder}")
        return store
    ensure_writable(store.folder)
    if done:
        console.say(f"{done} of {experts} experts are recorded in {store.folder}; going on with the others")
    job = RecordJob(
        folder=store.folder,
        dataset=spec.name,
        size=spec.size if spec.resizable else None,
        data=data,
        student=student,
        recipe=recipe,
        device=device,
        threads=threads,
        compile=compile,
    )
    with console.bar(f"experts ({student}, {recipe.epochs} epochs)", experts, done) as bar:
        for position, cost in run_jobs("ddbench.experts.record:record_expert", job, missing, workers):
            index = missing[position]
            add_cost(store.folder, index, cost)
            store.experts.pop(index, None)  # a file of the same size that was removed since
            store.scan(index)
            store.write_manifest()
            entry = store.experts[index]
            bar.advance(f"train accuracy {entry.train_accuracy[-1]:.3f}")
    return store


def _optimizer(recipe: ExpertRecipe) -> OptimizerSettings:
    return OptimizerSettings(
        name=recipe.optimizer,
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        options=recipe.options,
    )


PASSES = {"sgd": 1, "gsam": 2, "smooth": 3}
"""About how many forward and backward passes a step of each kind makes."""


def _training(
    net: torch.nn.Module, inputs: Inputs, recipe: ExpertRecipe, seed: int, compiler: devices.Compiler | None
) -> Iterator[Epoch]:
    """Train an expert in place as its recipe says."""
    policy = parse_policy(recipe.augmentation)
    factor = drop_after(recipe.epochs // 2 + 1 if recipe.decay else None)
    if recipe.kind == "smooth":
        factor = functools.partial(drop_factor, epochs=recipe.epochs, drop=recipe.drop)
    if recipe.kind != "sgd":
        return train_expert(
            net, inputs, recipe, _optimizer(recipe), policy, seed=seed, factor=factor, compiler=compiler
        )
    return train(
        net,
        inputs,
        epochs=recipe.epochs,
        batch=recipe.batch,
        optimizer=_optimizer(recipe),
        policy=policy,
        seed=seed,
        factor=factor,
        rebuild=True,
        precision=recipe.precision,
        compiler=compiler,
    )


@functools.lru_cache(maxsize=1)
def _dataset(name: str, data: Path | None, size: int | None) -> Dataset:
    return load_dataset(name, data, size=size)


def record_expert(job: RecordJob, index: int) -> dict[str, Any]:
    """Train one expert, write its file and return what it cost; run by a worker."""
    devices.prepare(job.threads)
    meter = Meter()
    recipe, device = job.recipe, devices.resolve_device(job.device)
    dataset = _dataset(job.dataset, job.data, job.size)
    spec = dataset.spec
    preprocess = fit_preprocess(dataset, recipe.preprocess, data_root(job.data))
    split, held_out = holdout_split(dataset.train, recipe.holdout, spec.classes)
    held_out = validation_sample(held_out)
    inputs = inputs_of(split, preprocess, device)
    seed = seeds.derive(recipe.seed, "expert", index)
    net = build_student(job.student, channels=spec.channels, size=spec.size, classes=spec.classes, seed=seed).to(device)

    compiler = devices.choose_compiler(job.compile, training_flops(net, inputs, recipe), device, print)
    seen = inputs_of(held_out, preprocess, device) if len(held_out.labels) else None
    weights, buffers, curves = trajectory(net, inputs, seen, recipe, seed, compiler, f"expert {index}")
    test = predict(net, inputs_of(dataset.test, preprocess, device))
    curves["test_accuracy"] = round(accuracy(test, dataset.test.labels), 6)
    store = read_store(job.folder)
    store.write_expert(index, weights, buffers, curves)
    return meter.report(devices.describe(device))


def training_flops(net: torch.nn.Module, inputs: Inputs, recipe: ExpertRecipe) -> float:
    """About how many floating-point operations an expert's training takes."""
    return 3 * PASSES[recipe.kind] * forward_flops(net, inputs.shape) * len(inputs) * recipe.epochs


def trajectory(
    net: torch.nn.Module,
    inputs: Inputs,
    held_out: Inputs | None,
    recipe: ExpertRecipe,
    seed: int,
    compiler: devices.Compiler | None,
    name: str,
) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """Train a network in place as a recipe says, and keep what it was before and after each epoch.

    Args:
        held_out: real images that are judged after each epoch; ``None``: none.
        name: what is trained, for messages.

    Returns:
        Weights ``(E+1, P)``, running statistics ``(E+1, B)``, and the curves of a record (without a test accuracy).

    Raises:
        UserError: its weights stop being finite.
    """
    weights, buffers = [flatten_parameters(net).cpu()], [flatten_buffers(net).cpu()]
    curves: dict[str, Any] = {"seed": seed, "loss": [], "train_accuracy": [], "holdout_accuracy": []}
    for epoch in _training(net, inputs, recipe, seed, compiler):
        weights.append(flatten_parameters(net).cpu())
        buffers.append(flatten_buffers(net).cpu())
        if not bool(torch.isfinite(weights[-1]).all()):
            raise UserError(
                f"{name}: its weights are not finite after epoch {epoch.number}; lower --lr (now {recipe.lr:g})"
            )
        curves["loss"].append(round(epoch.loss, 6))
        curves["train_accuracy"].append(round(epoch.accuracy, 6))
        if held_out is not None:
            logits = predict(net, held_out)
            curves["holdout_accuracy"].append(round(accuracy(logits, held_out.labels), 6))
    return torch.stack(weights), torch.stack(buffers), curves


COST = "cost.json"


def add_cost(folder: Path, index: int, cost: dict[str, Any]) -> None:
    """Keep what an expert cost beside the manifest, which holds no times: its bytes are the same on every run."""
    known = read_json(folder / COST, "cost record") if (folder / COST).exists() else {}
    write_json(folder / COST, {**known, f"{index:05d}": cost})


def recorded_cost(folder: Path) -> dict[str, Any] | None:
    """What all experts of a store cost together, as far as that is known; None where nothing is."""
    if not (folder / COST).exists():
        return None
    entries = list(read_json(folder / COST, "cost record").values())
    return {
        "experts": len(entries),
        "wall_seconds": round(sum(entry["wall_seconds"] for entry in entries), 3),
        "cpu_seconds": round(sum(entry["cpu_seconds"] for entry in entries), 3),
    }
