"""Bytes of a synset as a protocol uses it, by closed form."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ddbench.data.load import load_dataset
from ddbench.data.preprocess import fit_preprocess
from ddbench.protocols.plan import Plan
from ddbench.protocols.protocol import PROTOCOLS
from ddbench.protocols.storage import label_bytes, storage
from ddbench.schedule import Replay
from ddbench.synset import Budget, Synset


def plan(**changes: Any) -> Plan:
    """Two images of each digit."""
    dataset = load_dataset("digits")
    values: dict[str, Any] = {
        "images": torch.zeros(20, 1, 8, 8),
        "labels": torch.arange(10).repeat_interleave(2),
        "preprocess": {"kind": "meanstd", "mean": [0.3], "std": [0.4]},
        "budget": Budget("ipc", 2),
        "dataset": "digits",
        "fingerprint": dataset.fingerprint,
        "class_names": dataset.spec.class_names,
        "method": "mtt",
        "config": {},
        "seed": 0,
    }
    synset = Synset(**{**values, **changes})
    return Plan(synset=synset, protocol=PROTOCOLS["hard-v1"], preprocess=fit_preprocess(dataset, "meanstd"), flip=False)


@pytest.mark.parametrize(("classes", "each"), [(2, 1), (10, 1), (256, 1), (257, 2), (1000, 2), (65536, 2), (65537, 3)])
def test_hard_labels(classes: int, each: int):
    """``ceil(log2 K / 8)`` bytes a label."""
    assert each == math.ceil(math.log2(classes) / 8)
    synset = replace(plan().synset, labels=torch.arange(classes), class_names=tuple(map(str, range(classes))))
    assert label_bytes(synset) == each * classes


def test_images_soft_labels_and_the_rest():
    dataset = load_dataset("digits")
    made = plan(
        labels=torch.zeros(20, 10), learned_lr=torch.tensor([0.1, 0.2]), stage=torch.zeros(20, dtype=torch.int64)
    )
    images, labels, other = 20 * 64 * 4, 20 * 10 * 4, 2 * 4 + 20 * 8
    assert storage(made, dataset) == {
        "images": images,
        "labels": labels,
        "augmentation": 0,
        "teacher": 0,
        "other": other,
        "total": images + labels + other,
        "real": 1297 * 64,
        "real_images": 1297,
    }
    assert storage(plan(images=torch.zeros(20, 1, 8, 8, dtype=torch.uint8)), dataset)["images"] == 20 * 64


def test_a_teacher_counts_where_it_must_run():
    dataset = load_dataset("digits")
    teacher: Any = SimpleNamespace(bytes=4000)
    with_teacher = replace(plan(), teacher=teacher, protocol=PROTOCOLS["kd-v1"])
    counted = storage(with_teacher, dataset)
    assert (counted["teacher"], counted["total"]) == (4000, 20 * 256 + 20 + 4000)
    assert storage(replace(with_teacher, protocol=PROTOCOLS["hard-v1"]), dataset)["teacher"] == 0


def test_stored_labels_and_the_seed_of_their_views():
    dataset = load_dataset("digits")
    stored: Any = SimpleNamespace(bytes=20 * 300 * 10 * 2)
    counted = storage(replace(plan(), stored=stored, protocol=PROTOCOLS["fkd"]), dataset)
    assert counted["labels"] == 20 + 120_000
    assert counted["augmentation"] == 8


def test_bits_of_a_class_count_all_that_is_handed_over():
    """Two float32 images of 64 pixels and their labels; rates, stages and soft labels where there are some."""
    hard = plan().synset
    assert hard.stored_bytes == 20 * 64 * 4 + 20
    assert hard.bits_per_class == 8 * (2 * 64 * 4 + 2)
    soft = plan(labels=torch.zeros(20, 10), learned_lr=torch.tensor([0.1, 0.2]), stage=torch.arange(20) // 10).synset
    assert soft.stored_bytes == 20 * 64 * 4 + 20 * 10 * 4 + 2 * 4 + 20 * 8


def test_the_one_network_of_a_recipe_is_handed_over_too():
    """With the rates and batches that belong to it; a student that is trained afresh is not."""
    learned = {"learned_lr": torch.tensor([0.1, 0.2]), "stage": torch.arange(20) % 2}
    fixed = plan(student="mlp-d2-w8", schedule=Replay(epochs=1, init="xavier", fixed=3), **learned)
    recipe, numbers = 2 * 4 + 20 * 8, (64 * 8 + 8) + (8 * 10 + 10)
    for protocol, other in (("dd-recipe", recipe + 4 * numbers), ("hard-v1", recipe)):
        counted = storage(replace(fixed, protocol=PROTOCOLS[protocol]), load_dataset("digits"))
        assert (counted["other"], counted["total"]) == (other, 20 * 64 * 4 + 20 + other)
