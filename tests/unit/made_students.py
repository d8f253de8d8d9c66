"""Students of the digits, trained and tested as by hand: what tasks are held against."""

from __future__ import annotations

import torch
from torch import nn

from ddbench.data.dataset import Split
from ddbench.data.load import load_dataset
from ddbench.data.preprocess import Preprocess, fit_preprocess
from ddbench.protocols.plan import Plan
from ddbench.protocols.protocol import changed, protocol
from ddbench.protocols.training import Settings, trained_students
from ddbench.synset import Synset
from ddbench.training.loops import inputs_of, predict


def preprocess_of_digits() -> Preprocess:
    """Mean and standard deviation."""
    return fit_preprocess(load_dataset("digits"), "meanstd")


def student_of(synset: Synset, student: str, epochs: int, how: str = "hard-v1") -> nn.Module:
    """A student under seed 0, trained on a synset by a protocol of other epochs."""
    altered, _ = changed(protocol(how), epochs=epochs, full_epochs=epochs)
    plan = Plan(synset=synset, protocol=altered, preprocess=preprocess_of_digits(), flip=False)
    return trained_students(plan, student, [0], Settings(device="cpu", threads=1))[0][0]


def accuracy_of(net: nn.Module, split: Split, preprocess: Preprocess | None = None) -> float:
    """Share of the images whose class a student names; ``preprocess``: another than that of the digits."""
    logits = predict(net, inputs_of(split, preprocess or preprocess_of_digits(), torch.device("cpu")))
    return float((logits.argmax(1) == split.labels).double().mean())
