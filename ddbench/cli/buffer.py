"""``ddbench buffer``: record experts; ``verify``, ``info`` and ``import`` work on what is recorded."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

from ddbench.cli.engine import Engines, fan_out
from ddbench.cli.parse import parse
from ddbench.cli.settings import Common, Loading, data_flag, own_threads, worker_count
from ddbench.cli.shards import Sharded, print_status, with_shard
from ddbench.experts.recipe import ExpertRecipe
from ddbench.registry import suggest
from ddbench.runtime.errors import UserError, damaged_words, read_each, tell_damaged, visible
from ddbench.runtime.jobs import warm
from ddbench.runtime.progress import Console


@dataclass(frozen=True, kw_only=True)
class Args(Common, Engines, Sharded):
    """Record experts: networks trained on real data, every epoch's weights kept."""

    dataset: str = "digits"
    """Dataset name (ddbench list datasets), or folder:PATH, npz:PATH, hub:OWNER/NAME for your own images."""
    size: int | None = None
    """Side in pixels for image folders and ImageNet."""
    student: str | None = None
    """Network; default: a ConvNet that fits the image size."""
    experts: int = 20
    """How many experts the store should hold in the end."""
    recipe: str | None = None
    """METHOD/RECIPE: record what that recipe asks for (e.g. mtt/cifar10-ipc10); other flags override it."""
    buffers: Path = Path("expert_trajectories")
    """Root of the trajectory store."""
    workers: int = 0
    """Processes that train experts; 0: one a core, on a GPU one."""
    at_once: int = 1
    """Experts that a process trains at once, weights stacked (kind sgd): pays on a GPU with small networks. Batch norm
    with batches of few images enlarges rounding: losses may then differ by 0.3 from experts trained one by one."""
    settings: ExpertRecipe = field(default_factory=ExpertRecipe)
    """What decides the experts."""


@dataclass(frozen=True, kw_only=True)
class StoreArgs:
    """Look at recorded experts."""

    root: tyro.conf.Positional[Path] = Path("expert_trajectories")
    """Root of the trajectory store, or one store folder."""
    quiet: bool = False
    """Print defects only."""


@dataclass(frozen=True, kw_only=True)
class ImportArgs(Loading):
    """Read official replay_buffer_*.pt files (pickled lists of tensors) into a store; no code in them is run."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """The replay_buffer_*.pt files."""
    dataset: str
    """Dataset they were trained on."""
    student: str
    """Network they are of."""
    size: int | None = None
    """Side in pixels for image folders and ImageNet."""
    buffers: Path = Path("expert_trajectories")
    """Root of the trajectory store."""
    preprocess: str = "meanstd"
    """meanstd or zca: what they were trained with."""
    lr: float = 0.01
    """Learning rate they were trained with (recorded, not checked)."""
    augmentation: str = "dsa"
    """Augmentation they were trained with (recorded, not checked)."""
    epochs: int | None = None
    """Keep the first so many epochs of each; default: all, which must then be equally many."""


EXAMPLES = """  ddbench buffer --recipe mtt/digits-ipc1
  ddbench buffer --dataset folder:my-images --size 32 --experts 10 --workers 2
  ddbench buffer --recipe mtt/cifar10-ipc10 --download
  ddbench buffer --recipe mtt/cifar10-ipc10 --device cuda --workers 1 --at-once 10
  ddbench buffer --dataset digits --kind gsam --experts 10 --epochs 16
  ddbench buffer --recipe mtt/cifar10-ipc10 --shard 0/4                # and 1/4, 2/4, 3/4 elsewhere
  ddbench buffer --recipe mtt/cifar10-ipc10 --status
  ddbench buffer info
  ddbench buffer verify expert_trajectories
  ddbench buffer import replay_buffer_0.pt --dataset cifar10 --student convnet-d3-w128-in --preprocess zca"""

SUBVERBS = ("verify", "info", "import")


def main(argv: list[str]) -> None:
    """Run the verb."""
    if argv and not argv[0].startswith("-"):
        if argv[0] not in SUBVERBS:
            raise UserError(
                f"buffer: unknown sub-verb {argv[0]!r}{suggest(argv[0], SUBVERBS)}; one of: {', '.join(SUBVERBS)}"
            )
        {"verify": _verify, "info": _info, "import": _import}[argv[0]](argv[1:])
        return
    args = arguments(argv)
    if args.status:
        _record(args)
        return
    with fan_out(args) as asked:
        _record(asked)


def arguments(argv: list[str]) -> Args:
    """The flags of the verb, with what a recipe says where they say nothing."""
    argv = with_shard(argv)
    args = parse(Args, argv, "ddbench buffer", str(Args.__doc__), EXAMPLES)
    if args.recipe is None:
        return args
    return parse(Args, argv, "ddbench buffer", str(Args.__doc__), EXAMPLES, default=_from_recipe(args.recipe))


def _from_recipe(name: str) -> Args:
    """Defaults that a distillation recipe's experts give."""
    from ddbench.distillation.start import choose, needed_experts

    method, _, wanted = name.partition("/")
    if not wanted:
        raise UserError(f"--recipe {name!r}: expected METHOD/RECIPE, e.g. mtt/cifar10-ipc10")
    chosen = choose(method, recipe=wanted)
    recipe, asked = chosen.recipe, needed_experts(chosen)
    assert recipe is not None
    values: dict[str, Any] = {"settings": recipe.expert_recipe() if asked is None else asked[1]}
    values.update({key: recipe.run[key] for key in ("dataset", "student", "size") if key in recipe.run})
    if "experts" in recipe.experts:
        values["experts"] = recipe.experts["experts"]
    return Args(**values)


def _record(args: Args) -> None:
    from ddbench.cli.settings import open_dataset, student_for

    console, shard = Console(args.quiet), args.part
    if worker_count(args.workers, args.threads)[0] > 1:
        warm("ddbench.experts.record")

    from ddbench.experts.record import record, status

    workers = worker_count(args.workers, args.threads, args.device)[0]
    dataset = open_dataset(args.dataset, args.size, args)
    student = student_for(args.student, dataset)
    if args.status:
        print_status(
            *status(root=args.buffers, dataset=dataset, student=student, recipe=args.settings, experts=args.experts)
        )
        return
    store = record(
        root=args.buffers,
        dataset=dataset,
        data=args.data,
        student=student,
        recipe=args.settings,
        experts=args.experts,
        workers=workers,
        threads=own_threads(args.threads, dataset.spec.size, workers),
        device=args.device,
        compile=args.compile,
        console=console,
        at_once=args.at_once,
        shard=shard,
    )
    last = [store.experts[index] for index in store.indices]
    test = [one.test_accuracy for one in last if one.test_accuracy is not None]
    mean = f", mean test accuracy {sum(test) / len(test):.3f}" if test else ""
    print(f"{len(last)} experts of {args.settings.epochs} epochs{mean}: {store.folder}")


def _verify(argv: list[str]) -> None:
    args = parse(StoreArgs, argv, "ddbench buffer verify", "Compare every expert file with its sha256.", EXAMPLES)
    from ddbench.experts.store import read_store, store_folders

    stores, damaged = read_each(store_folders(args.root), read_store)
    if not stores and not damaged:
        raise UserError(f"{args.root}: holds no recorded experts; record some with ddbench buffer")
    defects = [line for store in stores for line in store.verify()]
    for line in defects:
        print(line)
    told = []
    if defects:
        told.append(f"{len(defects)} defect(s); remove those files and repeat ddbench buffer, it records them again")
    if damaged:
        told.append(damaged_words(damaged, len(stores) + len(damaged), "stores"))
    if told:
        raise UserError("; ".join(told))
    if not args.quiet:
        print(f"{sum(len(store.experts) for store in stores)} experts in {len(stores)} store(s): all as recorded")


def _info(argv: list[str]) -> None:
    args = parse(StoreArgs, argv, "ddbench buffer info", "A table of the recorded experts.", EXAMPLES)
    from ddbench.experts.store import read_store, store_folders

    stores, damaged = read_each(store_folders(args.root), read_store)
    if not stores and not damaged:
        raise UserError(f"{args.root}: holds no recorded experts; record some with ddbench buffer")
    columns = ("dataset", "student", "experts", "epochs", "kind", "lr", "preprocess", "holdout", "test accuracy", "MB")
    rows = [(*columns, "folder")]
    for store in stores:
        experts = [store.experts[index] for index in store.indices]
        test = [one.test_accuracy for one in experts if one.test_accuracy is not None]
        rows.append(
            (
                store.header["dataset"],
                store.header["student"],
                str(len(experts)),
                str(store.recipe.epochs),
                store.recipe.kind,
                f"{store.recipe.lr:g}",
                store.recipe.preprocess,
                f"{store.recipe.holdout:g}",
                f"{min(test):.3f} to {max(test):.3f}" if test else "-",
                f"{sum(one.bytes for one in experts) / 1e6:.1f}",
                str(store.folder),
            )
        )
    if stores:
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            print(visible("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()))
    tell_damaged(damaged, len(stores) + len(damaged), "stores")


def _import(argv: list[str]) -> None:
    args = parse(ImportArgs, argv, "ddbench buffer import", str(ImportArgs.__doc__), EXAMPLES)
    from ddbench.cli.places import with_experts
    from ddbench.cli.settings import open_dataset
    from ddbench.experts.importer import import_buffers

    dataset = open_dataset(args.dataset, args.size, args)
    store = import_buffers(
        args.files,
        root=args.buffers,
        dataset=dataset,
        data=args.data,
        student=args.student,
        preprocess=args.preprocess,
        lr=args.lr,
        augmentation=args.augmentation,
        epochs=args.epochs,
        tell=(lambda line: None) if args.quiet else print,
    )
    print(f"{len(store.experts)} experts of {store.recipe.epochs} epochs: {store.folder}")
    if not args.quiet:
        print("they have seen every training image: distill from them with --holdout 0")
        following = with_experts(store.folder, {**store.header, "recipe": store.recipe.to_json()})
        print(f"next: {following}{data_flag(args.data)}")
