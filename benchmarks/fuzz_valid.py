"""The valid files that ``fuzz.py`` and ``hostile.py`` start from."""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

CHANGED = "hard-v1-nonstandard-epochs=2-full_epochs=2-max_images=50"
TINY = "mlp-d2-w8"
BATCH_NORM = "convnet-d1-w4-bn"


def make_valid(root: Path) -> None:
    """A run of digits with all that belongs to one, made by the command line; kept between calls."""
    if (root / "done").exists():
        return
    from ddbench.cli.main import run

    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    same = ("--quiet", "--compile", "off", "--data", root / "data")
    teacher = ("--teachers", root / "teachers", "--student", BATCH_NORM)
    shared = (root / "run",)
    student, experts = ("--student", TINY), ("--buffers", root / "experts")
    diffusion = ("--diffusions", root / "diffusions", "--quiet", "--data", root / "data")
    evaluate = ("evaluate", *shared, "--students", TINY, "--seeds", 2, "--epochs", 2, "--workers", 1)
    commands: list[tuple[object, ...]] = [
        (
            "distill",
            "--method",
            "random",
            "--dataset",
            "digits",
            "--ipc",
            1,
            "--student",
            TINY,
            *same,
            "--out",
            *shared,
        ),
        (*evaluate, "--max-images", 50, "--calibration", *same),
        ("teacher", "--dataset", "digits", "--epochs", 1, *teacher, *same),
        ("relabel", *shared, "--epochs", 2, "--teachers", root / "teachers", "--teacher-student", BATCH_NORM, *same),
        ("buffer", "--dataset", "digits", "--experts", 1, "--epochs", 2, "--workers", 1, *student, *experts, *same),
        ("submit", *shared, "--leaderboard", root / "board"),
        ("leaderboard", "verify", "--leaderboard", root / "board", "--workers", 1, "--quiet", "--data", root / "data"),
        ("diffusion", "train", "--dataset", "digits", "--steps", 1, "--widths", 8, 8, "--batch", 10, *diffusion),
        ("export", *shared, "--format", "hub", "--out", root / "hub"),
        ("export", *shared, "--format", "npz", "--out", root / "npz", "--data", root / "data"),
        ("export", *shared, "--format", "png", "--out", root / "png", "--data", root / "data"),
    ]
    for command in commands:
        with contextlib.redirect_stdout(io.StringIO()):
            run([str(part) for part in command])
    for path in (root / "run" / "evaluations").glob(f"{CHANGED}*"):
        path.rename(path.with_name(path.name.replace(CHANGED, "hard-v1")))
    (model,) = (root / "diffusions").glob("*/*/ddbench.json")
    model.parent.rename(root / "model")
    _other_files(root)
    (root / "done").touch()


def _other_files(root: Path) -> None:
    """What no verb writes: tensors as others publish them, trees, pictures of every kind."""
    import numpy as np
    import torch
    from hostile_images import picture as pictures
    from hostile_images import table
    from PIL import Image

    from ddbench.distillation.folder import checkpoint
    from ddbench.graphs.made import made_graphs
    from ddbench.graphs.mirage import MirageConfig, distil
    from ddbench.graphs.read import Source, write_compact
    from ddbench.graphs.store import write_trees
    from ddbench.runtime.resources import Meter

    graphs = made_graphs(12)
    write_trees(root / "trees.safetensors", distil(graphs, MirageConfig(depth=2, support=(3,))))
    write_compact(root / "graphs.npz", Source(graphs))
    images, labels = torch.rand(10, 1, 8, 8), torch.arange(10)
    torch.save([images, labels], root / "pair.pt")
    torch.save({"data": [[images, labels]], "accs_all_exps": {}}, root / "res.pt")
    torch.save({"images": images, "labels": labels, "lr": 0.1}, root / "dict.pt")
    torch.save(images, root / "tensor.pt")
    weights = [torch.rand(8, 64), torch.rand(8), torch.rand(10, 8), torch.rand(10)]
    torch.save([[weights, [part + 1 for part in weights]]], root / "buffer.pt")
    picture = Image.effect_noise((12, 10), 60)
    kinds = {"png": "L", "jpg": "RGB", "bmp": "RGB", "webp": "RGB", "ppm": "RGB", "tiff": "I;16", "tif": "RGB"}
    for ending, mode in kinds.items():
        picture.convert("RGB" if mode == "RGB" else "L").convert(mode).save(root / f"picture.{ending}")
    picture.convert("P").save(root / "palette.png", transparency=0)
    np.savez(root / "own.npz", images=np.zeros((4, 8, 8), np.uint8), labels=[0, 1, 0, 1], class_names=["a", "b"])
    (root / "val" / "images").mkdir(parents=True)
    picture.save(root / "val" / "images" / "a.png")
    made = (root / "picture.png").read_bytes()
    (root / "own.parquet").write_bytes(table(image=pictures(*(made,) * 8), label=[0, 1] * 4))
    method = half_method()
    method.step(0)
    checkpoint(root / "half.safetensors", method, 1, Meter())
    _pipeline(root / "pipeline")


def _pipeline(folder: Path) -> None:
    """A tiny pretrained model as others publish them."""
    import diffusers

    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=4,
        patch_size=2,
        num_embeds_ada_norm=10,
        norm_num_groups=2,
    )
    vae = diffusers.AutoencoderKL(in_channels=1, out_channels=1, block_out_channels=(8,), norm_num_groups=4)
    diffusers.DiTPipeline(transformer, vae, diffusers.DDIMScheduler()).save_pretrained(folder)


@cache
def half_method() -> Any:
    """A method of many parts that has not begun, on digits."""
    import torch

    from ddbench.data.dataset import holdout_split
    from ddbench.data.load import load_dataset
    from ddbench.data.preprocess import fit_preprocess
    from ddbench.methods import METHODS
    from ddbench.methods.base import Context
    from ddbench.runtime.progress import Console

    kind = METHODS.get("frepo")
    dataset = load_dataset("digits", Path(tempfile.gettempdir()))
    train, held_out = holdout_split(dataset.train, 0.1, dataset.spec.classes)
    context = Context(
        dataset=dataset,
        train=train,
        held_out=held_out,
        preprocess=fit_preprocess(dataset, "meanstd"),
        ipc=1,
        student="convnet-d1-w4x2-nn",
        seed=0,
        device=torch.device("cpu"),
        folder=Path(tempfile.gettempdir()),
        compile="off",
        console=Console(quiet=True),
    )
    method = kind(kind.config_class(iterations=3, batch_real=32, pool=2), context)
    method.setup()
    return method


IDX = bytes((0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2)) + bytes(8)
DGCNN = b"2\n2 0\n1 1 1\n2 1 0\n1 1\n0 0\n"
PLAN = b"""
title = "t"
[submission]
author = "a"
[defaults]
dataset = "digits"
seeds = 5
protocols = ["hard-v1"]
students = ["mlp-d3-w128"]
evaluate = ["--calibration"]
[[cells]]
method = "random"
title = "Random"
ipc = [1, 10]
run_seeds = [0]
minutes = [0.6, 1]
[[cells]]
method = "mtt"
size = 8
student = "convnet-d2-w32-in"
recipe = "digits-ipc{ipc}"
ipc = 1
distill = ["--iterations", "5"]
teacher = []
config = {iterations = 5}
published = [{student = "mlp-d3-w128", value = 0.5, source = "s", ipc = 1}]
note = "n"
"""
LOOK = (
    b'{"modes": {"L": 2}, "channels": 1, "bits": 8, "smallest": [8, 8], "largest": [8, 8], "deep": 0, "turned": 0, '
    b'"alpha": 0, "skipped": {}}'
)
METRICS = b'{"grad":1.5,"iteration":1,"loss":0.5}\n{"grad":null,"iteration":2,"loss":0.25}\n{"iteration":3,"lo'
SIGN = b'{"host": "a", "pid": 1, "started": 1.0, "beat": 2.0, "units": ["a"]}'

TU = {
    "T_A.txt": b"1, 2\n2, 1\n3, 4\n",
    "T_graph_indicator.txt": b"1\n1\n2\n2\n",
    "T_graph_labels.txt": b"0\n1\n",
    "T_node_labels.txt": b"0\n1\n0\n1\n",
    "T_edge_labels.txt": b"0\n0\n1\n",
}
OGB = {
    "raw/edge.csv": b"0,1\n1,0\n0,1\n",
    "raw/num-node-list.csv": b"2\n2\n1\n1\n",
    "raw/num-edge-list.csv": b"2\n1\n0\n0\n",
    "raw/graph-label.csv": b"0\n1\n0\n1\n",
    "raw/node-feat.csv": b"0,1\n1,1\n0,0\n1,0\n1,1\n0,1\n",
    "split/scaffold/train.csv": b"0\n1\n",
    "split/scaffold/valid.csv": b"2\n",
    "split/scaffold/test.csv": b"3\n",
}
