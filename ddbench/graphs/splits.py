"""Which graphs are for training, for validation and for testing. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ddbench.graphs.graphset import Ints
from ddbench.runtime.errors import UserError
from ddbench.runtime.seeds import derive

FOLDS = 10
PARTS = ("train", "valid", "test")


@dataclass(frozen=True, eq=False)
class Split:
    """Positions of graphs, int64: no graph is in two parts."""

    train: Ints
    valid: Ints
    test: Ints


def random_split(labels: Ints, seed: int) -> Split:
    """80 / 10 / 10 percent of the graphs in an order drawn by the seed; the first tenth is for testing.

    Raises:
        UserError: fewer than ten graphs, or see :func:`check_split`.
    """
    if len(labels) < 10:
        raise UserError(f"{len(labels)} graphs cannot be split 80 / 10 / 10; expected at least 10")
    order = np.random.Generator(np.random.PCG64(derive(seed, "graph-split"))).permutation(len(labels))
    tenth = len(labels) // 10
    made = Split(np.sort(order[2 * tenth :]), np.sort(order[tenth : 2 * tenth]), np.sort(order[:tenth]))
    return check_split("80 / 10 / 10 split", made, labels)


def folds(labels: Ints, seed: int, fold: int) -> Split:
    """One of ten stratified folds for testing, the next one for validation, eight for training.

    Every graph is in the test part of exactly one fold.

    Args:
        seed: names the division into folds.
        fold: 0 to 9.

    Raises:
        UserError: no such fold, or see :func:`check_split` (fewer than three graphs of a class, say).
    """
    if not 0 <= fold < FOLDS:
        raise UserError(f"fold {fold}: expected 0 to {FOLDS - 1}")
    draw = np.random.Generator(np.random.PCG64(derive(seed, "graph-folds")))
    shuffled = draw.permutation(len(labels))
    # Dealt class after class, so that folds differ by one graph at most, of every class and in all.
    dealt = shuffled[np.argsort(labels[shuffled], kind="stable")]
    number = np.empty(len(labels), dtype=np.int64)
    number[dealt] = np.arange(len(labels)) % FOLDS
    test, valid = number == fold, number == (fold + 1) % FOLDS
    made = Split(np.flatnonzero(~test & ~valid), np.flatnonzero(valid), np.flatnonzero(test))
    return check_split(f"fold {fold}", made, labels)


def check_split(where: str, split: Split, labels: Ints) -> Split:
    """The split, if it can be used.

    Raises:
        UserError: a position out of range, a graph twice, an empty part, a class without a training graph.
    """
    every = np.concatenate([split.train, split.valid, split.test])
    wrong = every[(every < 0) | (every >= len(labels))]
    if len(wrong):
        raise UserError(f"{where}: graph {wrong[0]}, expected 0 to {len(labels) - 1}")
    if len(np.unique(every)) < len(every):
        raise UserError(f"{where}: a graph is in two parts, or twice in one; expected each once at most")
    for part in PARTS:
        if not len(getattr(split, part)):
            raise UserError(f"{where}: no graph for {part}")
    missing = np.setdiff1d(np.unique(labels), labels[split.train])
    if len(missing):
        raise UserError(f"{where}: class {missing[0]} has no training graph; take another split or more graphs")
    return split


def check_scored(where: str, test: Ints, classes: int) -> None:
    """Refuse a test part that does not score every class: ROC-AUC is the mean of each against the rest.

    Args:
        test: labels of the test graphs.

    Raises:
        UserError: names the class without one.
    """
    missing = np.setdiff1d(np.arange(classes), test)
    if len(missing):
        raise UserError(f"{where}: no test graph of class {missing[0]}, so no ROC-AUC; take another split")


def check_choice(where: str, valid: Ints, protocol: str) -> None:
    """Refuse a validation part that a protocol cannot choose weights on.

    Args:
        valid: labels of the validation graphs.

    Raises:
        UserError: all are of one class.
    """
    there = np.unique(valid)
    if len(there) < 2:
        raise UserError(
            f"{where}: all validation graphs are of class {there[0]}, and protocol {protocol} chooses weights by their "
            "ROC-AUC; take graph-v1, or another split"
        )
