"""A tiny student of the digits, trained once, as the probes get it."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddbench.data.dataset import Split
from ddbench.data.load import load_dataset
from ddbench.data.preprocess import Preprocess, fit_preprocess
from ddbench.measurements.suite import Trained
from ddbench.networks.build import build_student
from ddbench.protocols.protocol import protocol
from ddbench.training.sgd import SGD


class Pixels(nn.Module):
    """A network and its preprocess: pixels in, logits out."""

    def __init__(self, net: nn.Module, preprocess: Preprocess) -> None:
        super().__init__()
        self.net, self.preprocess = net, preprocess

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.preprocess.apply(x))


@functools.cache
def digits() -> Any:
    return load_dataset("digits", None)


@functools.cache
def student(kind: str = "meanstd", seed: int = 0) -> Pixels:
    """About 95 % right; a second of training."""
    data = digits()
    preprocess = fit_preprocess(data, kind)
    net = build_student("convnet-d1-w8-in", channels=1, size=8, classes=10, seed=seed)
    x, y = preprocess.apply(data.train.images), data.train.labels
    optimizer = SGD(list(net.parameters()), 0.05, 0.9, 0.0)
    for step in range(80):
        part = slice(step % 4 * 324, (step % 4 + 1) * 324)
        optimizer.zero_grad()
        F.cross_entropy(net(x[part]), y[part]).backward()
        optimizer.step()
    return Pixels(net, preprocess).eval().requires_grad_(False)


def trained(model: nn.Module, images: int = 60, seed: int = 0, classes: int = 10, test: Split | None = None) -> Trained:
    """What a probe gets; test images of the digits that spread over the classes."""
    if test is None:
        whole = digits().test
        index = torch.arange(images) * len(whole) // images
        test = Split(whole.images[index], whole.labels[index])

    def logits(images: Tensor) -> Tensor:
        with torch.no_grad():
            return model(images.float() / 255)

    return Trained(
        student="tiny",
        seed=seed,
        model=model,
        logits=logits,
        test=test,
        held_out=test,
        held_out_unseen=False,
        plan=SimpleNamespace(synset=SimpleNamespace(classes=classes), protocol=protocol("hard-v1")),  # type: ignore[arg-type]
        device=torch.device("cpu"),
    )
