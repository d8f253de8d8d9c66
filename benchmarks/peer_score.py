"""DD-Ranking's label-robust score of one synset against ours: CPU seconds of both in one run.

    git clone https://github.com/NUS-HPC-AI-Lab/DD-Ranking && git -C DD-Ranking checkout b8b0966
    python benchmarks/peer_score.py --code DD-Ranking --images PATH --write

The public package runs unchanged (it needs ``timm``, ``kornia``, ``pandas``): ``LabelRobustScoreHard`` with the
settings of its demonstration (``ConvNet-3`` of width 128, DSA, SGD 0.01, the rate a tenth at the half), one repeat, and
fewer epochs, images and tests. That is seven trainings: the synset at its rate, all real images at one rate, and ten
random images a class at five rates. The other side makes the same seven by ``ddbench``'s evaluator: the same network,
rates, epochs, batches and augmentation on the same synset, real and test images. Its random images are as many others.

The package tests every tenth epoch and takes the best test; ddbench tests once, at the end. So the seconds of training
and of testing are apart. ``PATH`` is a folder of images of 32 pixels (``train/CLASS``, ``test/CLASS``); torchvision's
CIFAR-10 is replaced by a class of the same interface that holds them, as the package knows no other images of that
size. One thread each, no worker processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import common

COMMIT = "b8b0966"
STUDENT, IPC, BOUND = "convnet-d3-w128-in", 10, 0.33
RATE, RATES = 0.01, (0.001, 0.005, 0.01, 0.05, 0.1)
BATCH = {"synset": 128, "real": 256}
DSA = {
    "flip": 0.5,
    "rotate": 15.0,
    "saturation": 2.0,
    "brightness": 1.0,
    "contrast": 0.5,
    "scale": 1.2,
    "crop": 0.125,
    "cutout": 0.5,
}
"""Of the package's ``configs/Demo_LRS_Hard_Label.yaml``, as its batches and rates."""


@contextlib.contextmanager
def timed(module: Any, name: str) -> Iterator[list[float]]:
    """A list that gets the CPU seconds of every call of a function of a module."""
    work, spent = getattr(module, name), []

    def call(*given: Any, **more: Any) -> Any:
        begin = time.process_time()
        made = work(*given, **more)
        spent.append(time.process_time() - begin)
        return made

    setattr(module, name, call)
    try:
        yield spent
    finally:
        setattr(module, name, work)


def subject(work: Path, name: str, epochs: int, **changes: Any) -> tuple[Any, Any, Any]:
    """Plan, dataset and settings of a synset that was prepared."""
    from ddbench.evaluation.tasks import Job, load_plan
    from ddbench.protocols.protocol import PROTOCOLS, changed
    from ddbench.runtime.files import file_hash

    path = work / name / "synset.safetensors"
    # The package's StepLR: one drop at the half, to a tenth, whatever is trained.
    protocol, _ = changed(PROTOCOLS["hard-v1"], epochs=epochs, full_epochs=epochs, lr_source="protocol", **changes)
    job = Job(
        synset=path,
        data=work / "data",
        size=32,
        protocol=protocol,
        device="cpu",
        threads=1,
        precision="float32",
        compile="auto",
        max_images=None,
    )
    return *load_plan(job, file_hash(path)), job.settings


def ours(work: Path, epochs: int) -> dict[str, Any]:
    """The seven trainings by ddbench's evaluator."""
    from ddbench.protocols import training
    from ddbench.runtime import device

    device.prepare(1)
    legs = [("synset", RATE, {"batch": BATCH["synset"]}), ("real", RATE, {"augmentation": "none"})]
    legs += [("random", rate, {"batch": BATCH["synset"]}) for rate in RATES]
    begin, accuracies = time.process_time(), []
    with timed(training, "tested_students") as tests:
        for name, rate, changes in legs:
            plan, dataset, settings = subject(work, name, epochs, **changes)
            found = training.train_student(plan, dataset.test, STUDENT, 0, settings, rate)
            accuracies.append(100 * found["accuracy"])
    whole = time.process_time() - begin
    return {
        "seconds": whole,
        "testing": sum(tests),
        "tests": len(tests),
        "accuracies": [*accuracies[:2], max(accuracies[2:])],
    }


def convolutions(work: Path, epochs: int = 10) -> float:
    """Share of the convolutions, forward and backward, in the CPU time of a training of ours that is not compiled."""
    from torch.profiler import ProfilerActivity, profile

    from ddbench.protocols import training
    from ddbench.runtime import device

    device.prepare(1)
    plan, dataset, settings = subject(work, "real", epochs, augmentation="none")
    settings = dataclasses.replace(settings, compile="off")
    training.train_student(plan, dataset.test, STUDENT, 0, settings, RATE)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        training.train_student(plan, dataset.test, STUDENT, 0, settings, RATE)
    taken = {one.key: one.self_cpu_time_total for one in profiled.key_averages()}
    return float(sum(taken[key] for key in taken if "conv" in key) / sum(taken.values()))


def theirs(work: Path, epochs: int, code: str) -> dict[str, Any]:
    """The package's score. It ends in an error of its own when it writes its table; all is computed by then."""
    import torch
    import torchvision

    plan, dataset, _ = subject(work, "synset", epochs)
    splits = {True: dataset.train, False: dataset.test}

    class Cifar(torchvision.datasets.CIFAR10):
        def __init__(self, root: str, train: bool, download: bool, transform: Callable[[Any], Any]) -> None:
            self.data = splits[train].images.permute(0, 2, 3, 1).numpy()
            self.targets = splits[train].labels.tolist()
            self.transform, self.target_transform = transform, None

    torchvision.datasets.CIFAR10 = Cifar
    sys.path.insert(0, code)
    from ddranking.metrics import hard_label  # type: ignore[import-not-found]

    torch.set_num_threads(1)
    mean, std = (torch.tensor(row).view(3, 1, 1) for row in ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)))
    images = (plan.synset.images.float() / 255 - mean) / std
    said: list[str] = []
    hard_label.logging = said.append
    begin, ended = time.process_time(), ""
    with timed(hard_label, "validate") as tests:
        score = hard_label.LabelRobustScoreHard(
            dataset="CIFAR10",
            ipc=IPC,
            model_name="ConvNet-3",
            data_aug_func="dsa",
            aug_params=dict(DSA),
            lr_scheduler="step",
            step_size=epochs // 2,
            num_eval=1,
            num_epochs=epochs,
            real_batch_size=BATCH["real"],
            syn_batch_size=BATCH["synset"],
            num_workers=0,
            device="cpu",
            dist=False,
            save_path=str(work / "package" / "score.csv"),
            random_data_path=str(work / "package"),
            eval_full_data=True,
        )
        try:
            score.compute_metrics(image_tensor=images, syn_lr=RATE)
        except ValueError as error:
            ended = str(error)
    found = {line.split(" data")[0]: float(line.split(": ")[1].rstrip("%")) for line in said if "label acc" in line}
    return {
        "seconds": time.process_time() - begin,
        "testing": sum(tests),
        "tests": len(tests),
        "accuracies": [found["Syn"], found["Full"], found["Random"]],
        "ended": ended,
    }


def prepare(images: Path, work: Path) -> None:
    """The synset (ten real images a class), as many others, and all real images."""
    import ddbench

    random: dict[str, Any] = {"method": "random", "ipc": IPC}
    for name, how in (("synset", random), ("random", {**random, "seed": 1}), ("real", {"method": "full"})):
        ddbench.distill(
            **how,
            dataset=f"folder:{images.resolve()}",
            size=32,
            holdout=0.0,
            data=work / "data",
            device="cpu",
            threads=1,
            quiet=True,
            out=work / name,
        )


def table(found: dict[str, dict[str, Any]], epochs: int, counts: tuple[int, int]) -> list[str]:
    """The lines of the document.

    Args:
        counts: real training and test images.
    """
    package, own = found["DD-Ranking"], found["ddbench"]
    lines = [
        f"`{STUDENT}`, 10 x {IPC} images, {epochs} epochs instead of 1,000; {counts[0]:,} real images",
        f"instead of 50,000, {counts[1]:,} test images instead of 10,000. One repeat, that is seven trainings.",
        f"DD-Ranking: {COMMIT}, unchanged.",
        "",
        "| side | CPU s | training | testing | tests | accuracy: synset | all real | random, best rate |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for side, one in found.items():
        times = f"{one['seconds']:.1f} | {one['seconds'] - one['testing']:.1f} | {one['testing']:.1f} | {one['tests']}"
        lines.append(f"| {side} | {times} | {' | '.join(f'{value:.1f}' for value in one['accuracies'])} |")
    learning = [one["seconds"] - one["testing"] for one in (package, own)]
    a_test = [one["testing"] / one["tests"] for one in (package, own)]
    lines += ["", "| part | ddbench / DD-Ranking | bound |", "|---|---|---|"]
    lines.append(f"| the score | {own['seconds'] / package['seconds']:.2f} | {BOUND} |")
    lines.append(f"| training alone | {learning[1] / learning[0]:.2f} | – |")
    lines.append(f"| one test | {a_test[1] / a_test[0]:.2f} | – |")
    alone = own["convolutions"] * learning[1] / learning[0]
    lines.append(f"| ddbench's convolutions alone, {own['convolutions']:.0%} of its training | {alone:.2f} | – |")
    if package.get("ended"):
        lines += ["", f"DD-Ranking's `compute_metrics` ends in `ValueError: {package['ended']}`; the scores are lost."]
    return lines


def main() -> None:
    """Prepare, score twice, print the table."""
    parser = common.parser((__doc__ or "").split("\n")[0])
    parser.add_argument("--code", type=Path, help="checkout of NUS-HPC-AI-Lab/DD-Ranking")
    parser.add_argument("--images", type=Path, help="folder of images of 32 pixels, ten classes")
    parser.add_argument("--epochs", type=int, default=20)
    args = parser.parse_args()
    if args.one:
        side, work, epochs, code = args.one
        with contextlib.redirect_stdout(sys.stderr):
            if side == "convolutions":
                made: dict[str, Any] = {side: convolutions(Path(work))}
            elif side == "ddbench":
                made = ours(Path(work), int(epochs))
            else:
                made = theirs(Path(work), int(epochs), code)
        print(json.dumps(made))
        return
    if args.code is None or not (args.code / "ddranking").is_dir() or args.images is None:
        parser.error("--code must be a checkout of NUS-HPC-AI-Lab/DD-Ranking, --images a folder of images")
    if args.epochs < 10:
        parser.error("--epochs must be 10 or more: the package tests every tenth")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        prepare(args.images, work)
        counts = tuple(sum(1 for _ in (args.images / part).rglob("*.*")) for part in ("train", "test"))
        sides = ("DD-Ranking", "ddbench")
        found = {side: common.measure(__file__, side, work, args.epochs, args.code.resolve()) for side in sides}
        found["ddbench"] |= common.measure(__file__, "convolutions", work, args.epochs, args.code)
    command = f"python benchmarks/peer_score.py --code CHECKOUT --images PATH --epochs {args.epochs}"
    common.report(__file__, "DD-Ranking's score and ours", table(found, args.epochs, (counts[0], counts[1])), command)


if __name__ == "__main__":
    main()
