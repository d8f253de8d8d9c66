"""Synsets of every kind that an export has to carry, made of random numbers for digits-like data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ddbench.decoders.multi_formation import MultiFormation
from ddbench.protocols.labels import KIND, SCHEMA, label_prefix
from ddbench.runtime.files import file_hash
from ddbench.synset import FILE, Budget, Synset, write_synset

COUNT, CLASSES, EPOCHS = 20, 10, 3
GREY, RGB = (1, 8, 8), (3, 6, 6)
MEANSTD = {"kind": "meanstd", "mean": [0.3], "std": [0.4]}


def made(shape: tuple[int, ...], *, pixels: bool, labels: str = "hard", **changes: Any) -> Synset:
    """A synset of random numbers; ``labels``: hard, soft or targets."""
    randomness = torch.Generator().manual_seed(0)
    images = torch.randn(COUNT, *shape, generator=randomness)
    classes = torch.arange(CLASSES).repeat_interleave(COUNT // CLASSES)
    return Synset(
        images=(images * 80 + 128).clamp(0, 255).to(torch.uint8) if pixels else images,
        labels=classes if labels == "hard" else torch.randn(COUNT, CLASSES, generator=randomness),
        label_scale=2.5 if labels == "targets" else None,
        preprocess={**MEANSTD, "mean": [0.3] * shape[0], "std": [0.4] * shape[0]},
        budget=Budget("ipc", COUNT // CLASSES),
        dataset="digits",
        fingerprint="0" * 64,
        class_names=tuple(f"class {k}" for k in range(CLASSES)),
        method="mtt",
        config={"lr_images": 100.0},
        seed=3,
        **changes,
    )


KINDS: dict[str, Synset] = {
    "grey pixels": made(GREY, pixels=True),
    "RGB pixels": made(RGB, pixels=True, decoder=MultiFormation(factor=2), patches=2),
    "two channels": made((2, 5, 7), pixels=True),
    "network input": made(RGB, pixels=False, learned_lr=torch.tensor(0.0187), student="convnet-d1-w4-in"),
    "soft labels and stages": made(
        GREY,
        pixels=False,
        labels="soft",
        learned_lr=torch.tensor([0.1, 1 / 3]),
        stage=torch.arange(COUNT) % 2,
    ),
    "targets": made(GREY, pixels=True, labels="targets"),
}


def write_run(folder: Path, synset: Synset) -> Path:
    """A run folder that holds this synset; returns it."""
    write_synset(folder / FILE, synset)
    return folder


def write_view_labels(run: Path) -> torch.Tensor:
    """Stored labels of the views of a run's synset; returns the logits float16 ``(E, N, K)``."""
    logits = torch.randn(EPOCHS, COUNT, CLASSES, generator=torch.Generator().manual_seed(1)).half()
    header = {
        "kind": KIND,
        "schema": SCHEMA,
        "synset_sha256": file_hash(run / FILE),
        "teacher": {"sha256": "1" * 64, "student": "mlp-d3-w128"},
        "views": {"batch": 20},
        "seed": 0,
        "epochs": EPOCHS,
        "images": COUNT,
        "classes": CLASSES,
        "precision": "float32",
        "probe": {"index": [0], "share": 1.0, "means": [0.5]},
    }
    data = label_prefix(header, (EPOCHS, COUNT, CLASSES)) + logits.numpy().tobytes()
    (run / "labels.safetensors").write_bytes(data)
    return logits
