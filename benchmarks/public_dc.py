"""The authors' code of DC beside ours on one published cell: who distils, and who scores, in a table of two by two.

    git clone https://github.com/VICO-UoE/DatasetCondensation public-dc
    git -C public-dc checkout 53f63a6
    python benchmarks/public_dc.py --code public-dc --steps 60 --networks 5 --write

DC at IPC 1 on Fashion-MNIST, ConvNet of width 128, all 60,000 training images, the published settings but for the
number of outer iterations. The public code runs unchanged, in processes of its own, from its own folder; it is no part
of this repository (it needs torchvision, and a scipy that still has ``scipy.ndimage.interpolation``). Each synset is
scored by the public code's ``evaluate_synset`` and by ``ddbench evaluate`` under ``dc-plain``: 301 passes, SGD 0.01
with momentum 0.9, no augmentation. Every cell is of the same initial networks, those of ddbench's seeds, whose weights
the public code's networks are given: the code draws its own by the clock. What is there already in ``--work`` is not
done again, so a second call can add networks; a killed public distillation begins anew: that code has no checkpoints.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import common

COMMIT = "53f63a672eab9ade02aabe6432706ef56f317d64"
STUDENT = "convnet-d3-w128-in"
SIDES = ("public code", "ddbench")
IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def run(command: list[str], folder: Path, log: Path) -> float:
    """A command in a folder, its output in a file; its CPU seconds.

    Raises:
        SystemExit: it failed; the end of its output is told.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    root = Path(__file__).resolve().parents[1]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with log.open("w") as output:
        done = subprocess.run(command, cwd=folder, env=environment, stdout=output, stderr=output, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{log.read_text()[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def once(path: Path, work: Any) -> dict[str, Any]:
    """The JSON file at ``path``, or what ``work()`` returns, which is then kept there."""
    if not path.is_file():
        path.write_text(json.dumps(work()))
    kept: dict[str, Any] = json.loads(path.read_text())
    return kept


def place_data(code: Path) -> None:
    """Unpack Fashion-MNIST where the public code's torchvision looks for it, so that nothing is downloaded."""
    from ddbench.data.places import DEBIAN

    target = code / "data" / "FashionMNIST" / "raw"
    target.mkdir(parents=True, exist_ok=True)
    sources = [Path(os.environ["DDBENCH_DATA"]) / "FashionMNIST" / "raw"] if os.environ.get("DDBENCH_DATA") else []
    for name in IDX:
        if (target / name).is_file():
            continue
        packed = [folder / f"{name}.gz" for folder in (*sources, DEBIAN["fashion-mnist"][1])]
        found = next((path for path in packed if path.is_file()), None)
        if found is None:
            raise SystemExit(f"{target / name}: not there, nor {packed[-1]}; install dataset-fashion-mnist")
        with gzip.open(found) as source, (target / name).open("wb") as sink:
            shutil.copyfileobj(source, sink)


def distil_public(code: Path, work: Path, steps: int) -> dict[str, Any]:
    """The public ``main.py``: ``steps`` outer iterations (it counts from 0), scored by no network on its way.

    An ``--eval_mode`` that the code does not know means: score once, at the end, on the network that is matched.
    """
    command = [sys.executable, "main.py", "--dataset", "FashionMNIST", "--model", "ConvNet", "--ipc", "1"]
    flags = ["--num_exp", "1", "--num_eval", "0", "--eval_mode", "end", "--Iteration", str(steps - 1)]
    return {"cpu_s": run([*command, *flags, "--save_path", str(work / "public")], code, work / "public.log")}


def distil_ours(work: Path, steps: int) -> dict[str, Any]:
    """Our recipe of the published cell, with so many outer iterations."""
    command = [sys.executable, "-m", "ddbench", "distill", "--method", "dc", "--recipe", "fashion-mnist-ipc1-paper"]
    flags = ["--iterations", str(steps), "--threads", "1", "--out", str(work / "ours"), "--quiet"]
    return {"cpu_s": run(command + flags, work, work / "ours.log")}


def score_ours(folder: Path, work: Path, networks: int) -> list[float]:
    """Accuracies of ``ddbench evaluate`` under ``dc-plain``, in percent."""
    out = work / f"{folder.name}-by-ddbench.json"
    command = [sys.executable, "-m", "ddbench", "evaluate", str(folder), "--protocol", "dc-plain", "--out", str(out)]
    flags = ["--seeds", str(networks), "--students", STUDENT, "--workers", "1", "--threads", "1", "--quiet"]
    run(command + flags, work, work / f"{folder.name}-by-ddbench.log")
    return [100 * one["metrics"]["accuracy"] for one in json.loads(out.read_text())["runs"]]


def score_public(code: Path, folder: Path, work: Path, networks: int) -> list[float]:
    """Accuracies of the public ``evaluate_synset``, in percent."""
    out = work / f"{folder.name}-by-public.json"
    script = str(Path(__file__).resolve())
    command = [sys.executable, script, "--one", str(code), str(folder / "synset.safetensors"), str(out), str(networks)]
    run(command, code, work / f"{folder.name}-by-public.log")
    found: list[float] = json.loads(out.read_text())[:networks]
    return found


def one(code: str, synset: str, out: str, networks: str) -> None:
    """In a process of its own: networks of the public code, trained and tested by the public code; each is kept."""
    import torch

    from ddbench.networks.build import build_student
    from ddbench.synset import read_synset

    stored = read_synset(Path(synset))
    sys.path.insert(0, code)
    import utils as public  # type: ignore[import-not-found]

    torch.set_num_threads(1)
    channel, size, classes, _, _, _, _, _, loader = public.get_dataset("FashionMNIST", "data")
    args = argparse.Namespace(device="cpu", lr_net=0.01, epoch_eval_train=300, batch_train=256, dsa=False)
    args.dc_aug_param = public.get_daparam("FashionMNIST", "ConvNet", "ConvNet", 1)
    found = json.loads(Path(out).read_text()) if Path(out).is_file() else []
    for index in range(len(found), int(networks)):
        network = public.get_network("ConvNet", channel, classes, size)
        start = build_student(STUDENT, channels=channel, size=size[0], classes=classes, seed=index)
        with torch.no_grad():
            for theirs, ours in zip(network.parameters(), start.parameters(), strict=True):
                theirs.copy_(ours)
        images, labels = stored.images.clone(), stored.labels.clone()
        found.append(100 * float(public.evaluate_synset(index, network, images, labels, loader, args)[2]))
        Path(out).write_text(json.dumps(found))


def difference(ours: list[float], theirs: list[float]) -> str:
    """Mean of ``ours`` less ``theirs``, paired by initial network, with its 95 % interval."""
    from ddbench.statistics import summarise

    gap = summarise([one - other for one, other in zip(ours, theirs, strict=True)])
    return f"{gap['mean']:+.1f}" + (f" ({gap['low']:+.1f} to {gap['high']:+.1f})" if len(ours) > 1 else "")


def table(made: dict[str, dict[str, Any]], scores: dict[tuple[str, str], list[float]], steps: int) -> list[str]:
    """The lines of the document."""
    from ddbench.statistics import interval_words, summarise

    count = len(scores[SIDES[0], SIDES[0]])
    lines = [
        f"DC, IPC 1, Fashion-MNIST, {steps} of 1,001 outer iterations on either side, one synset each;",
        f"`{STUDENT}`, {count} networks a cell. Public code: VICO-UoE/DatasetCondensation, {COMMIT[:7]}, unchanged.",
        "Accuracy in % on all 10,000 test images with its 95 % interval; differences are paired by initial network.",
        "",
        "| distilled by | CPU min | scored by the public code | scored by ddbench | ddbench's score - the public one |",
        "| --- | --- | --- | --- | --- |",
    ]
    for side in SIDES:
        both = [scores[side, judge] for judge in SIDES]
        cells = [f"{summarise(b)['mean']:.1f} ({interval_words(summarise(b), 1, 1, unit='percent')})" for b in both]
        minutes = f"{made[side]['cpu_s'] / 60:.1f}"
        lines.append(f"| {side} | {minutes} | {cells[0]} | {cells[1]} | {difference(both[1], both[0])} |")
    gaps = [difference(scores["ddbench", judge], scores["public code", judge]) for judge in SIDES]
    lines.append(f"| ddbench's synset - the public one | – | {gaps[0]} | {gaps[1]} | – |")
    return lines


def main() -> None:
    """Distil twice, score four times, print the table."""
    parser = common.parser((__doc__ or "").split("\n")[0])
    parser.add_argument("--code", type=Path, help="checkout of VICO-UoE/DatasetCondensation")
    parser.add_argument("--work", type=Path, default=Path("runs/public-dc"), help="folder for what is made")
    parser.add_argument("--steps", type=int, default=60, help="outer iterations of either side")
    parser.add_argument("--networks", type=int, default=5, help="networks a cell")
    args = parser.parse_args()
    if args.one:
        one(*args.one)
        return
    if args.code is None or not (args.code / "main.py").is_file():
        parser.error("--code must be a checkout of VICO-UoE/DatasetCondensation")
    code, work = args.code.resolve(), args.work.resolve() / f"{args.steps}"
    work.mkdir(parents=True, exist_ok=True)
    place_data(code)
    made = {
        "public code": once(work / "public.json", lambda: distil_public(code, work, args.steps)),
        "ddbench": once(work / "ours.json", lambda: distil_ours(work, args.steps)),
    }
    folders = {"public code": work / "theirs", "ddbench": work / "ours"}
    if not folders["public code"].is_dir():
        stored = str(work / "public" / "res_DC_FashionMNIST_ConvNet_1ipc.pt")
        command = [sys.executable, "-m", "ddbench", "import", stored, "--dataset", "fashion-mnist", "--method", "dc"]
        run([*command, "--student", STUDENT, "--out", str(folders["public code"])], work, work / "import.log")
    scores = {}
    for side, folder in folders.items():
        scores[side, "public code"] = score_public(code, folder, work, args.networks)
        scores[side, "ddbench"] = score_ours(folder, work, args.networks)
    lines = table(made, scores, args.steps)
    command = f"python benchmarks/public_dc.py --code CHECKOUT --steps {args.steps} --networks {args.networks}"
    common.report(__file__, "DC: the authors' code and ours, each scored by both", lines, command)


if __name__ == "__main__":
    main()
