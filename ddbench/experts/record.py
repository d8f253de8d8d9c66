"""Recording experts: train networks on real data and keep every epoch's weights."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ddbench.data.dataset import Dataset, check_holdout, holdout_split, validation_sample
from ddbench.data.limits import require_memory
from ddbench.data.load import data_changed, kept_root, load_dataset
from ddbench.data.policy import parse_policy, resolve_policy
from ddbench.data.preprocess import Preprocess, fit_preprocess
from ddbench.experts.recipe import ExpertRecipe
from ddbench.experts.store import MANIFEST, TrajectoryStore, check_root, expert_file, read_store, store_folder
from ddbench.experts.train import attention_for, optimizer_settings, predict_all, training_flops, trajectories
from ddbench.networks.build import build_student
from ddbench.networks.check import check_student
from ddbench.runtime import device as devices
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import ensure_writable, gone, read_json, write_json
from ddbench.runtime.numbers import check_count
from ddbench.runtime.progress import Bar, Console
from ddbench.runtime.resources import Meter
from ddbench.runtime.shards import WHOLE, Shard, State, Units, run_units
from ddbench.training.loops import accuracy, inputs_of
from ddbench.training.optimizers import check_optimizer


@dataclass(frozen=True, kw_only=True)
class RecordJob:
    """What every worker needs to train any expert of a store."""

    folder: Path
    dataset: str
    fingerprint: str
    """Of the dataset, which the store is named after."""
    size: int | None
    data: Path | None
    student: str
    recipe: ExpertRecipe
    device: str
    threads: int
    compile: str
    images: Dataset | None = None
    """The dataset itself, where its name does not give it."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """Experts that are trained at once.

    Attributes:
        indices: of all of them: what an expert ends as depends, in its last bits, on how many others are beside it.
        missing: those to be written; the others are recorded already.
    """

    indices: tuple[int, ...]
    missing: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class BlockResult:
    """What a block left.

    Attributes:
        written: experts whose files are there now.
        cost: of each of them: its share of what the block cost.
        failures: why others were not written, one line each.
    """

    written: list[int]
    cost: dict[str, Any]
    failures: list[str]


def open_store(
    root: Path, dataset: Dataset, student: str, recipe: ExpertRecipe, preprocess: Preprocess
) -> TrajectoryStore:
    """The store of a recipe, made when it is not there yet; finished experts are taken in.

    Raises:
        UserError: the folder cannot be written to, or is no root.
    """
    check_root(root)
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
    at_once: int = 1,
    shard: Shard = WHOLE,
    by_name: bool = True,
) -> TrajectoryStore:
    """Record experts 0 to ``experts - 1``; those that are there already are kept.

    A kill loses at most the experts in work; the same call goes on. The result does not depend on the number of
    workers (each uses ``threads`` threads); ``at_once`` decides the last bits, so each expert's record says it.

    Args:
        at_once: experts that a worker trains at once on one device, their weights stacked.
        shard: record its share of them (in blocks of ``at_once``) only; every process enters all that are there into
            the manifest.
        by_name: workers load the dataset by its name; else they are given it: a part of one.

    Raises:
        UserError: settings out of range, a student that does not fit the images, experts that cannot be trained at
            once, a folder that cannot be written to; or an expert whose weights stop being finite (those beside it are
            kept).
        Unfinished: the shard's experts are there, those of other shards are not.
    """
    spec, recipe = dataset.spec, checked(recipe, dataset, student, experts, at_once, device)
    preprocess = fit_preprocess(dataset, recipe.preprocess, kept_root(data))
    store = open_store(root, dataset, student, recipe, preprocess)
    missing = _missing(store, experts)
    done = experts - len(missing)
    units = units_of(store.folder)
    if not missing:
        console.say(f"all {experts} experts are recorded in {store.folder}")
        _settle(store.folder, units, left=0)
        return store
    ensure_writable(store.folder)
    if done:
        console.say(f"{done} of {experts} experts are recorded in {store.folder}; going on with the others")
    job = RecordJob(
        folder=store.folder,
        dataset=spec.name,
        fingerprint=dataset.fingerprint,
        size=spec.size if spec.resizable else None,
        data=data,
        student=student,
        recipe=recipe,
        device=device,
        threads=threads,
        compile=compile,
        images=None if by_name else dataset,
    )
    _tell_before(job, workers, console)
    blocks = shard.own(_blocks(experts, missing, at_once))
    own, open_ = (sum(map(len, part)) for part in ([b.indices for b in blocks], [b.missing for b in blocks]))
    with units.process(), console.bar(f"experts ({student}, {recipe.epochs} epochs)", own, own - open_) as bar:
        _fill(store, job, blocks, workers, units, bar)
    left = experts - sum(index < experts for index in store.indices)
    _settle(store.folder, units, left)
    if left:
        raise shard.unfinished("expert", own, left, experts, f"the last entry of {store.folder / MANIFEST}")
    return store


def _tell_before(job: RecordJob, workers: int, console: Console) -> None:
    """Say it where workers share a GPU, and where a compiler is asked for that the experts have no use for."""
    devices.tell_shared(workers, job.device, console.say)
    if job.compile == "on" and job.recipe.kind == "smooth":
        console.say("--compile on: smooth experts are trained eagerly, their gradient penalty is differentiated twice")


def _missing(store: TrajectoryStore, experts: int) -> list[int]:
    """The experts that are not recorded; those that are get into the manifest."""
    known = store.indices
    missing = [index for index in range(experts) if not store.scan(index)]
    if store.indices != known or not (store.folder / MANIFEST).exists():
        store.write_manifest()
    return missing


def checked(
    recipe: ExpertRecipe, dataset: Dataset, student: str, experts: int, at_once: int, device: str = "cpu"
) -> ExpertRecipe:
    """The recipe, with the augmentation that it means for this data.

    Args:
        device: where they are to be trained, as the user named it.

    Raises:
        UserError: settings that cannot work.
    """
    recipe.check()
    check_count("--experts", experts)
    spec = dataset.spec
    check_student(student, spec.channels, spec.size)
    check_holdout(dataset.train, recipe.holdout, spec.class_names)
    parse_policy(recipe.augmentation, flip=spec.flip)
    recipe = replace(recipe, augmentation=resolve_policy(recipe.augmentation, spec.flip))
    parse_policy(recipe.augmentation)  # which what is left of it may not be
    net = build_student(student, channels=spec.channels, size=spec.size, classes=spec.classes, seed=0)
    place = devices.resolve_device(device)
    check_optimizer(net.parameters(), optimizer_settings(recipe), place)
    attention_for(recipe, net.to(place), spec.shape, spec.classes, student)
    _check_at_once(at_once, experts, net, recipe, spec.shape)
    return recipe


def _fill(store: TrajectoryStore, job: RecordJob, blocks: list[Block], workers: int, units: Units, bar: Bar) -> None:
    """Record these blocks, and enter them and what other processes have written.

    Raises:
        UserError: as :func:`record`.
    """
    blocks = [block for block in blocks if block.missing]
    names = [tuple(map(unit_name, block.missing)) for block in blocks]
    for _, result in run_units(RECORD, job, blocks, workers, units=units, names=names):
        _take_in(store, units, result, bar)
    store.enter()
    _merge_costs(store.folder, units)


RECORD, UNIT = "ddbench.experts.record:record_block", "expert "


def units_of(folder: Path) -> Units:
    """Who is at which expert of a store."""
    return Units(folder / "units")


def unit_name(index: int) -> str:
    """What an expert is called among the units of a store."""
    return f"{UNIT}{index:05d}"


def status(
    *, root: Path, dataset: Dataset, student: str, recipe: ExpertRecipe, experts: int
) -> tuple[Path, list[State]]:
    """Folder of the store that :func:`record` would fill, and what became of each expert; nothing is written.

    Raises:
        UserError: settings out of range.
    """
    recipe = checked(recipe, dataset, student, experts, 1)
    check_root(root)
    folder = store_folder(root, dataset.spec.name, student, recipe.key(student, dataset.fingerprint))
    done = {unit_name(index) for index in range(experts) if (folder / expert_file(index)).exists()}
    return folder, units_of(folder).states([unit_name(index) for index in range(experts)], done)


def _take_in(store: TrajectoryStore, units: Units, result: BlockResult, bar: Bar) -> None:
    """Enter what a block left into manifest and costs.

    Raises:
        UserError: an expert of the block diverged (the others are entered), or the store is gone.
    """
    for index in result.written:
        if not (store.folder / expert_file(index)).exists():  # what is written now would make another, empty store
            raise gone(store.folder / expert_file(index))
        units.note(unit_name(index), result.cost)
        _merge_costs(store.folder, units)
        store.enter(index)
        bar.advance(f"train accuracy {store.experts[index].train_accuracy[-1]:.3f}")
    if result.failures:
        more = f" (and {len(result.failures) - 1} more)" if len(result.failures) > 1 else ""
        raise UserError(f"{result.failures[0]}{more}")


def _blocks(experts: int, missing: Sequence[int], at_once: int) -> list[Block]:
    """The blocks of ``at_once`` neighbouring experts, the same in every try and shard; some may lack nothing."""
    blocks = []
    for first in range(0, experts, at_once):
        indices = tuple(range(first, min(first + at_once, experts)))
        blocks.append(Block(indices=indices, missing=tuple(index for index in indices if index in missing)))
    return blocks


def _check_at_once(
    at_once: int, experts: int, net: torch.nn.Module, recipe: ExpertRecipe, shape: tuple[int, ...]
) -> None:
    """Refuse experts that cannot be trained at once.

    Raises:
        UserError: names the flag and the reason.
    """
    if at_once < 1:
        raise UserError(f"--at-once {at_once}: expected at least 1")
    stacked = min(at_once, experts)
    if stacked == 1:
        return
    from ddbench.training.many import ELEMENTWISE, draws_in_training  # torch.func is slow to import

    reason = None
    if recipe.kind != "sgd":
        reason = f"--kind {recipe.kind} looks at each network's gradient as a whole"
    elif recipe.optimizer not in ELEMENTWISE:
        reason = f"--optimizer {recipe.optimizer} is not element by element"
    elif draws_in_training(net, shape):
        reason = "this --student draws at random in training (dropout, dropped paths)"
    if reason:
        raise UserError(f"--at-once {at_once}: {reason}; leave --at-once out, and use --workers")
    size = sum(parameter.numel() for parameter in net.parameters())
    require_memory(
        4 * stacked * (recipe.epochs + 1) * size, f"keeping every epoch of {stacked} experts", "use a smaller --at-once"
    )


@functools.lru_cache(maxsize=1)
def _dataset(name: str, data: Path | None, size: int | None, fingerprint: str) -> Dataset:
    found = load_dataset(name, data, size=size)
    if found.fingerprint != fingerprint:
        raise data_changed(name)
    return found


def record_block(job: RecordJob, block: Block) -> BlockResult:
    """Train a block of experts and write the files of those that are missing; run by a worker."""
    devices.prepare(job.threads)
    meter = Meter()
    recipe, device = job.recipe, devices.resolve_device(job.device)
    dataset = job.images or _dataset(job.dataset, job.data, job.size, job.fingerprint)
    spec = dataset.spec
    preprocess = fit_preprocess(dataset, recipe.preprocess, kept_root(job.data))
    split, held_out = holdout_split(dataset.train, recipe.holdout, spec.classes, dataset.root, names=spec.class_names)
    held_out = validation_sample(held_out)
    inputs = inputs_of(split, preprocess, device)
    named = [seeds.derive(recipe.seed, "expert", index) for index in block.indices]
    build = functools.partial(build_student, job.student, channels=spec.channels, size=spec.size, classes=spec.classes)
    nets = [build(seed=seed).to(device) for seed in named]
    flops = len(nets) * training_flops(nets[0], inputs, recipe)
    compiler = devices.choose_compiler(job.compile, flops, device, print)
    seen = inputs_of(held_out, preprocess, device) if len(held_out.labels) else None
    with attention_for(recipe, nets[0], spec.shape, spec.classes, job.student):
        made = trajectories(nets, inputs, seen, recipe, named, compiler)
    logits = predict_all(nets, inputs_of(dataset.test, preprocess, device))
    store, written, failures = read_store(job.folder), [], []
    for index, one, test in zip(block.indices, made, logits, strict=True):
        if index not in block.missing:
            continue
        failure = one.failure(f"expert {index}", recipe)
        if failure:
            failures.append(failure)
            continue
        curves = {**one.curves, "test_accuracy": round(accuracy(test, dataset.test.labels), 6)}
        if len(nets) > 1:
            curves["at_once"] = len(nets)
        if not (store.folder / expert_file(index)).exists():  # or another process was first: others know its bytes
            store.write_expert(index, one.weights, one.buffers, curves)
        written.append(index)
    return BlockResult(written=written, cost=_share(meter.report(devices.describe(device)), block), failures=failures)


def _share(cost: dict[str, Any], block: Block) -> dict[str, Any]:
    """What one of the missing experts of a block cost: their sum is what the block cost."""
    if len(block.indices) == 1:
        return cost
    count = len(block.missing)
    shares = {name: round(cost[name] / count, 3) for name in ("wall_seconds", "cpu_seconds")}
    return {**cost, **shares, "at_once": len(block.indices)}


COST = "cost.json"


def _merge_costs(folder: Path, units: Units) -> list[str]:
    """Keep what experts cost beside the manifest, which holds no times: its bytes are the same on every run.

    Returns:
        The units whose costs are in the file.
    """
    known = read_json(folder / COST, "cost record") if (folder / COST).exists() else {}
    notes = units.notes()
    own = {unit.removeprefix(UNIT): cost for unit, cost in notes.items()}
    if any(known.get(name) != cost for name, cost in own.items()):
        write_json(folder / COST, {**known, **own})
    return list(notes)


def _settle(folder: Path, units: Units, left: int) -> None:
    """Forget what is entered, if no other process may be entering it, and who failed, if nothing is left to do."""
    if units.at_rest():
        units.forget(_merge_costs(folder, units))
    if not left:
        units.clear()


def recorded_cost(store: TrajectoryStore) -> dict[str, Any] | None:
    """What the experts of a store cost together, as far as that is known; None where nothing is."""
    path = store.folder / COST
    if not path.exists():
        return None
    own = {f"{index:05d}" for index in store.indices}
    entries = [entry for name, entry in read_json(path, "cost record").items() if name in own]
    return {
        "experts": len(entries),
        "wall_seconds": round(sum(entry["wall_seconds"] for entry in entries), 3),
        "cpu_seconds": round(sum(entry["cpu_seconds"] for entry in entries), 3),
    }
