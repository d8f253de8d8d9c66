"""Label smoothing, mixup and focal loss: the losses, which protocols take them, and that results say so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import EAGER, TINY

from ddbench.leaderboard.consistency import protocol_of
from ddbench.leaderboard.result import ProtocolInfo
from ddbench.protocols.protocol import PROTOCOLS, Protocol, changed, read_protocol
from ddbench.runtime.errors import UserError
from ddbench.synset import read_synset, write_synset
from ddbench.training.losses import cross_entropy, focal, probability_cross_entropy, smoothed


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(12, 5, generator=generator, dtype=torch.float64), torch.arange(12) % 5


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
def test_label_smoothing_is_that_of_torch(share: float):
    logits, labels = batch()
    ours = smoothed(cross_entropy, share)(logits, labels)
    torch.testing.assert_close(ours, F.cross_entropy(logits, labels, label_smoothing=share), rtol=1e-12, atol=1e-12)
    mixed = 0.3 * F.one_hot(labels, 5).double() + 0.7 * F.one_hot(labels.flip(0), 5).double()
    ours = smoothed(probability_cross_entropy, share)(logits, mixed)
    torch.testing.assert_close(ours, F.cross_entropy(logits, mixed, label_smoothing=share), rtol=1e-12, atol=1e-12)


def test_focal_loss_is_its_definition():
    logits, labels = batch()
    chances = logits.softmax(1)[torch.arange(12), labels]
    for gamma in (1.0, 2.0, 3.0):
        expected = sum((1 - p) ** gamma * -p.log() for p in chances) / 12
        torch.testing.assert_close(focal(logits, labels, gamma), expected)
    torch.testing.assert_close(focal(logits, labels, 0.0), F.cross_entropy(logits, labels))
    near = torch.tensor([[30.0, -30.0], [0.5, -0.5]], requires_grad=True)  # the first probability rounds to 1
    (slope,) = torch.autograd.grad(focal(near, torch.tensor([0, 0]), 0.5), near)
    assert slope.isfinite().all()
    assert slope[0].abs().max() < 1e-12
    sure = torch.tensor([[60.0, 0.0]], requires_grad=True)
    focal(sure, torch.tensor([0]), 3.0).backward()
    assert sure.grad is not None
    assert bool(torch.isfinite(sure.grad).all())


def test_settings_that_came_later_leave_older_results_as_they_were():
    base = PROTOCOLS["hard-v1"]
    assert not {"label_smoothing", "focal_gamma"} & set(base.settings())
    altered, difference = changed(base, label_smoothing=0.1)
    assert difference == {"label_smoothing": 0.1}
    assert altered.settings()["label_smoothing"] == 0.1
    assert altered.hash != base.hash
    assert changed(altered, label_smoothing=0.0) == (base, {"label_smoothing": 0.0})
    for one, told in ((base, {}), (altered, difference)):
        entry = {
            "name": "hard-v1",
            "hash": one.hash,
            "standard": not told,
            "changed": told,
            "settings": one.settings(),
        }
        assert protocol_of(ProtocolInfo(**entry), "row") == one
    silent = {**entry, "changed": {}, "standard": True}
    with pytest.raises(UserError, match=r"label_smoothing is 0\.1, which is not hard-v1"):
        protocol_of(ProtocolInfo(**silent), "row")


def test_a_protocol_of_ones_own_may_name_them(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\nfocal_gamma = 3\n')
    assert read_protocol(path) == Protocol(name="mine", focal_gamma=3.0)


@pytest.mark.parametrize("name", ["soft-v1", "kd-v1", "rded", "fkd"])
def test_they_are_not_for_soft_labels(name: str):
    with pytest.raises(UserError, match=f"label smoothing is n/a for protocol {name}"):
        changed(PROTOCOLS[name], label_smoothing=0.1)
    with pytest.raises(UserError, match="focal loss is n/a"):
        changed(PROTOCOLS[name], focal_gamma=3.0)


def command(run: Path, *more: object) -> list[object]:
    argv = ("evaluate", run, "--students", TINY, "--seeds", 2, "--epochs", 5, "--workers", 1, "--quiet")
    return [*argv, *EAGER, *more]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--label-smoothing", 0.1), {"label_smoothing": 0.1}),
        (("--focal-gamma", 3), {"focal_gamma": 3.0}),
        (("--mixup", 1), {"augmentation": "dsa+mixup"}),
        (("--mixup", 0.4, "--augmentation", "none"), {"augmentation": "mixup", "mix_alpha": 0.4}),
        (
            ("--label-smoothing", 0.1, "--mixup", 1, "--at-once", 2),
            {"augmentation": "dsa+mixup", "label_smoothing": 0.1},
        ),
    ],
)
def test_the_result_says_so(
    flags: tuple[object, ...], told: dict[str, Any], ddb: Callable, random_run: Path, tmp_path: Path
):
    plain, out = tmp_path / "plain.json", tmp_path / "out.json"
    assert ddb(*command(random_run, "--out", plain, "--calibration")).code == 0
    assert ddb(*command(random_run, "--out", out, "--calibration", *flags)).code == 0
    data = json.loads(out.read_text())
    assert data["protocol"]["standard"] is False
    assert data["protocol"]["changed"] == {"epochs": 5, "full_epochs": 5, **told}
    mine, theirs = (json.loads(path.read_text())["runs"][0]["metrics"]["nll"] for path in (out, plain))
    assert mine != theirs


def test_a_synset_with_soft_labels(random_run: Path, refused: Callable):
    from dataclasses import replace

    path = random_run / "synset.safetensors"
    synset = read_synset(path)
    write_synset(path, replace(synset, labels=10 * F.one_hot(synset.labels, 10).float()))
    for flag, what in (("--label-smoothing", "label smoothing"), ("--focal-gamma", "focal loss")):
        refused(command(random_run, flag, 0.1), f"{what} is n/a", "soft labels")
