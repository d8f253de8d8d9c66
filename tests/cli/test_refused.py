"""A refused command changes nothing: no file, folder or part of one stays, where it is called nor anywhere else.

Every verb, called in a folder with a run, experts, a teacher, stored labels and a board, with what is found out late as
well as what is found out at once. The places that a verb takes by itself (``runs``, ``teachers``, ...) lie there too.
"""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import EAGER, TINY, Outcome, distill_tiny, evaluate_tiny, listing, random_tiny
from PIL import Image
from safetensors.torch import save_file

TEACHER = "convnet-d1-w4-bn"
DISTILL = ("distill", "--dataset", "digits", "--ipc", 1, "--student", TINY, *EAGER)
EVALUATE = ("evaluate", "run", "--students", TINY, "--epochs", 1, *EAGER)
IMPORT = ("import", "--dataset", "digits", "--out", "imported")
TRAIN = ("teacher", "--dataset", "digits", "--student", TEACHER, "--epochs", 1, *EAGER)
BUFFER = ("buffer", "--dataset", "digits", "--student", TINY, "--epochs", 1, "--experts", 1, *EAGER)
OWN = """
title = "t"
[submission]
author = "A"
licence = "MIT"
[defaults]
dataset = "digits"
protocols = ["hard-v1"]
"""

REFUSED: dict[str, tuple[object, ...]] = {
    # distill
    "needs experts": (*DISTILL, "--method", "mtt"),
    "experts too short": (
        *DISTILL,
        "--method",
        "mtt",
        "--buffers",
        "experts",
        "--recipe",
        "none",
        "--expert-epochs",
        9,
    ),
    "needs a diffusion model": (*DISTILL, "--method", "mgd3", "--diffusion-model", "nowhere"),
    "a setting of the method": (*DISTILL, "--method", "dm", "--iterations", 0),
    "a setting of its need": (*DISTILL, "--method", "herding", "--teacher-student", "resnet99"),
    "a teacher of no kind": (*DISTILL, "--method", "herding", "--teacher-student", "convnet-d9-w4-bn"),
    "a budget of all images": (*DISTILL, "--method", "full"),
    "more images than there are": (*DISTILL[:3], "--ipc", 500, "--method", "random", *EAGER),
    "a preprocess of colours": (*DISTILL, "--method", "random", "--preprocess", "imagenet"),
    "a tracker": (*DISTILL, "--method", "random", "--track", "nothing"),
    "a method file": (*DISTILL, "--method", "mine", "--method-file", "broken.py"),
    "a recipe file": (*DISTILL, "--method", "mtt", "--recipe", "broken.toml"),
    "a folder of images": ("distill", "--method", "random", "--dataset", "folder:bad images", "--size", 8, "--ipc", 1),
    "a folder in use": (*DISTILL, "--method", "random", "--out", "teachers"),
    "a run of other settings": (*DISTILL, "--method", "random", "--seed", 7, "--out", "run"),
    "a damaged checkpoint": distill_tiny(Path("experts"), Path("stopped")),
    "a dataset that is not here": ("distill", "--method", "random", "--dataset", "mnist", "--ipc", 1),
    # buffer
    "experts that diverge at once": (*BUFFER, "--lr", "nan"),
    "experts at once": (*BUFFER, "--at-once", 2, "--experts", 2, "--kind", "gsam"),
    "an optimiser": (*BUFFER, "--optimizer", "adam", "--options", "ep=1"),
    "experts of a folder": ("buffer", "--dataset", "folder:bad images", "--size", 8, "--experts", 1),
    "verify": ("buffer", "verify", "damaged experts"),
    "imported buffers": ("buffer", "import", "replay.pt", "--dataset", "digits", "--student", "convnet-d2-w4-in"),
    "no buffers": ("buffer", "import", "images.pt", "--dataset", "digits", "--student", TINY),
    # teacher
    "a rate": (*TRAIN, "--lr", -1),
    "views": (*TRAIN, "--augmentation", "crop+flop"),
    "a network": ("teacher", "--dataset", "digits", "--student", "convnet-d9-w4-bn", "--epochs", 1),
    "a damaged teacher": (*TRAIN, "--teachers", "damaged teachers"),
    "a teacher's checkpoint": (*TRAIN, "--epochs", 2, "--teachers", "stopped teachers"),
    "info of a teacher": ("teacher", "info", "run"),
    # diffusion
    "a diffusion recipe": ("diffusion", "train", "--dataset", "digits", "--steps", 0),
    "samples of no model": ("diffusion", "sample", "run", "--out", "pictures/samples.png"),
    # evaluate
    "a student": ("evaluate", "run", "--students", "convnet-d9-w4-in"),
    "a rate of a student": (*EVALUATE, "--lr", 0),
    "a protocol file": (*EVALUATE, "--protocol", "broken.toml"),
    "no teacher": (*EVALUATE, "--protocol", "kd-v1", "--teachers", "nowhere"),
    "labels of another synset": (*EVALUATE, "--protocol", "fkd", "--labels", "other labels.safetensors"),
    "damaged labels": (*EVALUATE, "--protocol", "fkd", "--labels", "damaged.safetensors"),
    "a budget of attacks": (*EVALUATE, "--robustness", "quik"),
    "another dataset that is not here": (*EVALUATE, "--ood", "fashion-mnist"),
    "a reference of corruptions": (*EVALUATE, "--corruptions", "--corruption-reference", "broken.toml"),
    "another evaluation": (*EVALUATE, "--out", "run/evaluations/other.json"),
    "a damaged synset": ("evaluate", "damaged.safetensors", "--out", "scores/x.json"),
    "where nothing can be written": (*EVALUATE, "--out", "images.pt/below/x.json"),
    # relabel
    "nothing to store": ("relabel", "run", "--protocol", "hard-v1"),
    "labels that are there": ("relabel", "run", "--out", "other labels.safetensors", "--teachers", "teachers"),
    "a teacher's file": ("relabel", "run", "--teacher", "damaged.safetensors"),
    "a teacher's network": ("relabel", "run", "--teachers", "nowhere", "--teacher-student", "convnet-d9-w4-bn"),
    # scores
    "one repeat": ("scores", "run", "--repeats", 1),
    "a weight": ("scores", "run", "--weight", 2),
    "a student of scores": ("scores", "run", "--student", "convnet-d9-w4-in"),
    "other scores": ("scores", "run", "--out", "run/config.json"),
    # submit
    "no evaluation": ("submit", "stopped"),
    "a claim": ("submit", "run", "--claim", "mlp=0.5"),
    "a link": ("submit", "run", "--link", "no address"),
    "a method's name": ("submit", "run", "--method", "Not A Name"),
    "nobody left": ("submit", "run", "--leave-out", TINY),
    "a board that is broken": ("submit", "run", "--leaderboard", "broken board"),
    # reproduce
    "a plan": ("reproduce", "broken.toml"),
    "cells of a plan": ("reproduce", "plan.toml", "--only", "*mtt*"),
    "a method of a plan": ("reproduce", "unknown.toml"),
    "a board of a plan": ("reproduce", "plan.toml", "--leaderboard", "broken board"),
    # leaderboard
    "a broken board": ("leaderboard", "build", "--leaderboard", "broken board"),
    "stale pages": ("leaderboard", "build", "--check"),
    "a table": ("leaderboard", "show", "--dataset", "mnist"),
    "a row": ("leaderboard", "verify", "0123456789"),
    "a row's synset": ("leaderboard", "verify", "ROW", "--synset", "damaged.safetensors"),
    "columns": ("leaderboard", "export", "--format", "latex", "--columns", "colour", "--out", "tables/x.tex"),
    "an export": ("leaderboard", "export", "--format", "sqlite", "--leaderboard", "broken board"),
    # import and export
    "pictures of another size": (*IMPORT, "large.pt"),
    "numbers of no picture": (*IMPORT, "wild.pt"),
    "no tensors": (*IMPORT, "broken.py"),
    "labels of no class": (*IMPORT, "images.npz", "--labels", "labels.npy"),
    "a folder with other classes": (*IMPORT, "bad images"),
    "a decode factor": (*IMPORT, "images.pt", "--decode-factor", 0),
    "a place that is taken": (*IMPORT[:-1], "run", "images.pt"),
    "an export's place": ("export", "run", "--format", "png", "--out", "images.pt/below"),
    "an export of nothing": ("export", "damaged.safetensors", "--format", "npz", "--out", "exported"),
    # where nothing can be written, or something else is, found before a teacher or anything else is made for it
    "a run that is another's, before its teacher": (
        *DISTILL,
        "--method",
        "herding",
        "--teachers",
        "new",
        "--out",
        "run",
    ),
    "a run below a file, before its teacher": (
        *DISTILL,
        "--method",
        "herding",
        "--teachers",
        "new",
        "--out",
        "broken.py/x",
    ),
    "a run below a file, before its model": (
        *DISTILL,
        "--method",
        "mgd3",
        "--diffusions",
        "new",
        "--out",
        "broken.py/x",
    ),
    "teachers below a file": (*DISTILL, "--method", "herding", "--teachers", "broken.py", "--out", "new"),
    "labels of another synset, before a teacher": (
        "relabel",
        "run",
        "--out",
        "other labels.safetensors",
        "--teachers",
        "new",
    ),
    "labels below a file": ("relabel", "run", "--out", "broken.py/x", "--teachers", "new"),
    "scores below a file": ("scores", "run", "--cache", "new", "--out", "broken.py/x.json"),
    "a cache below a file": ("scores", "run", "--cache", "broken.py/x", "--out", "new/x.json"),
    "a plan's board below a file": ("reproduce", "plan.toml", "--leaderboard", "broken.py/x"),
    "a plan's folder below a file": ("reproduce", "plan.toml", "--out", "broken.py/x", "--leaderboard", "new"),
    "a row below a file": ("submit", "other run", "--leaderboard", "broken.py/x"),
    "a verification below a file": ("leaderboard", "verify", "ROW", "--work", "broken.py/x"),
    "a table below a file": ("leaderboard", "export", "--format", "csv", "--out", "broken.py/x.csv"),
    "experts below a file": (*BUFFER, "--buffers", "broken.py"),
    "a model below a file": ("diffusion", "train", "--dataset", "digits", "--diffusions", "broken.py", "--steps", 1),
    "an import below a file": (*IMPORT[:-1], "broken.py/x", "images.pt"),
    "a hub's form below a file": ("export", "run", "--format", "hub", "--out", "broken.py/x"),
    # task, push and pull, plan, slurm, data
    "a task of no run": ("task", "transfer", "nowhere", "--out", "new/x.json"),
    "a task of a damaged synset": ("task", "nas", "damaged.safetensors", "--out", "new/x.json", *EAGER),
    "a setting of a task": ("task", "continual", "run", "--memory", 500, "--out", "new/x.json", *EAGER),
    "a task below a file": ("task", "transfer", "run", "--out", "broken.py/x.json", *EAGER),
    "a set that is not finished": ("push", "stopped", "me/x"),
    "no name of a hub": ("pull", "no name", "--out", "pulled"),
    "a plan of nothing": ("plan", "evaluate", "nowhere"),
    "a plan of experts": ("plan", *BUFFER, "--lr", "nan"),
    "a verb of a cluster": ("slurm", "--logs", "logs", "evaluates", "run"),
    "a job of a cluster": ("slurm", "--logs", "logs", "--array", 0, "evaluate", "run"),
    "a look at bad images": ("data", "check", "folder:bad images", "--size", 8, "--out", "seen"),
    "teachers that do not fit": ("teacher", "join", "damaged.safetensors", "run/synset.safetensors"),
    # demo, info, list
    "workers of a demo": ("demo", "--workers", -1),
    "a demo's place": ("demo", "--out", "images.pt"),
    "info": ("info", "broken.toml"),
    "a list": ("list", "everything"),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, finished_runs: Path, tiny_experts: Path, data_root: Path) -> Path:
    """A folder with everything that a verb may be given, and much that it must not be."""
    from ddbench.cli.main import run
    from ddbench.networks.build import build_student

    root = tmp_path_factory.mktemp("world")
    shutil.copytree(finished_runs / "random", root / "run")
    shutil.copytree(tiny_experts, root / "experts")
    shutil.copytree(tiny_experts, root / "damaged experts")
    expert = next((root / "damaged experts").rglob("expert_00001.safetensors"))
    expert.write_bytes(expert.read_bytes()[:-1])
    with contextlib.chdir(root), contextlib.redirect_stdout(io.StringIO()), pytest.MonkeyPatch.context() as patch:
        patch.setenv("DDBENCH_DATA", str(data_root))
        for command in (
            [*TRAIN, "--quiet"],
            [*TRAIN, "--epochs", 2, "--teachers", "stopped teachers", "--quiet"],
            ["submit", "run"],
            evaluate_tiny(Path("run"), "--out", "run/evaluations/other.json", "--protocol", "dc-legacy"),
            random_tiny(Path("other run"), "--seed", 1),
            evaluate_tiny(Path("other run")),
            ["relabel", "other run", "--epochs", 1, "--quiet", "--out", "other labels.safetensors", *EAGER],
            distill_tiny(Path("experts"), Path("stopped")),
        ):
            run([str(part) for part in command])
    (root / "stopped/synset.safetensors").unlink()
    (root / "stopped/checkpoint.safetensors").write_bytes(b"no checkpoint")
    shutil.copytree(root / "teachers", root / "damaged teachers")
    teacher = next((root / "damaged teachers").rglob("*.safetensors"))
    teacher.write_bytes(teacher.read_bytes()[:100])
    teacher = next((root / "stopped teachers").rglob("*.safetensors"))
    teacher.rename(teacher.with_name(f".{teacher.stem}.partial.safetensors"))
    shutil.copytree(root / "leaderboard", root / "broken board")
    row = next((root / "broken board").rglob("results/**/*.json"))
    row.write_text(row.read_text()[:-20])
    torch.save(torch.rand(10, 1, 8, 8), root / "images.pt")
    torch.save(torch.rand(10, 1, 16, 16), root / "large.pt")
    torch.save(torch.full((10, 1, 8, 8), float("nan")), root / "wild.pt")
    nets = [build_student(TINY, channels=1, size=8, classes=10, seed=0)]
    torch.save([[[p.detach().clone() for p in net.parameters()]] for net in nets], root / "replay.pt")
    np.savez(root / "images.npz", images=np.zeros((10, 1, 8, 8), np.float32))
    np.save(root / "labels.npy", np.full(10, 77))
    save_file(
        {"images": torch.zeros(1)}, root / "damaged.safetensors", metadata={"ddbench": '{"kind": "ddbench-synset"}'}
    )
    (root / "bad images/train/a").mkdir(parents=True)
    Image.new("L", (8, 8)).save(root / "bad images/train/a/0.png")
    (root / "bad images/train/a/1.png").write_bytes(b"no picture")
    (root / "broken.py").write_text("class Mine(")
    (root / "broken.toml").write_text("name = [")
    (root / "plan.toml").write_text(OWN + '[[cells]]\nmethod = "random"\nipc = 1\nminutes = 1\n')
    (root / "unknown.toml").write_text(OWN + '[[cells]]\nmethod = "randon"\nipc = 1\nminutes = 1\n')
    return root


def everything(root: Path) -> dict[str, tuple[str, int]]:
    """Every file with its bytes and time, every folder."""
    return {name: (content, 0 if content == "dir" else time) for name, (content, time) in listing(root).items()}


@pytest.mark.parametrize("argv", REFUSED.values(), ids=REFUSED)
def test_nothing_is_changed(
    argv: tuple[object, ...], world: Path, ddb: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, data_root: Path
):
    monkeypatch.chdir(world)
    row = next(Path("leaderboard").rglob("results/**/*.json")).stem
    before, data = everything(world), everything(data_root)
    result = ddb(*(row if part == "ROW" else part for part in argv))
    assert result.code == 2, result
    assert result.err.splitlines()[-1].startswith("ddbench: error: "), result.err
    assert result.err.count("error") == 1, result.err
    assert everything(world) == before, result.err
    assert everything(data_root) == data


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes. Error code 12"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError("Unable to allocate 4. TiB for an array"),
    ],
    ids=["cpu", "cuda", "numpy"],
)
def test_what_no_memory_holds_is_one_line(error: Exception, refused: Callable, monkeypatch: pytest.MonkeyPatch):
    def fail(_: list[str]) -> None:
        raise error

    monkeypatch.setattr("ddbench.cli.listing.main", fail)
    refused(("list",), "out of memory (", "give smaller numbers")


def test_a_torchvision_of_another_build_is_one_line(refused: Callable, monkeypatch: pytest.MonkeyPatch):
    def fail(_: list[str]) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")  # of its import, in the middle of a training

    monkeypatch.setattr("ddbench.cli.listing.main", fail)
    refused(("list",), "torchvision is of another build than torch", "from the same index")
