"""Protocols: named, versioned ways to train a student on a synset. Data, not code; imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

from ddbench.config import apply_config, check_config, setting_of
from ddbench.graphs.protocols import PROTOCOLS as OF_GRAPHS
from ddbench.protocols.settings import Protocol as Protocol
from ddbench.protocols.settings import Schedule, plain
from ddbench.registry import Table, unknown
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import read_toml

LATER = tuple(item.name for item in fields(Protocol) if setting_of(item).omit_default)
"""Settings that came after results were published: left out at 0, so that those results are of the same protocol."""

_RDED_RATES = (
    ("vgg11", 0.0005),
    ("alexnet", 0.0001),
    ("vit", 0.0001),
    ("tv-vgg11", 0.0005),
    ("tv-alexnet", 0.0001),
    ("tv-efficientnet_b0", 0.002),
    ("tv-mobilenet_v2", 0.0025),
    ("tv-vit_b_16", 0.0001),
    ("tv-swin_v2_t", 0.0001),
)
_KD: dict[str, Any] = {
    "epochs": 300,
    "optimizer": "adamw",
    "lr": 0.001,
    "momentum": 0.0,
    "weight_decay": 0.01,
    "decay_vectors": False,
    "lr_source": "protocol",
    "schedule": "cosine",
    "labels": "teacher",
    "loss": "kl",
    "temperature": 20.0,
}

_MSE_GT: dict[str, Any] = {**_KD, "epochs": 1000, "decay_vectors": True, "loss": "mse-gt", "temperature": 1.0}

_BUILTIN: dict[str, Protocol] = {
    one.name: one
    for one in (
        # DC's and MTT's evaluation (specs 3.1, 3.3) with exactly E passes and momentum kept at the drop.
        Protocol(name="hard-v1"),
        # Bit-faithful to DC's public loop: E+1 passes, drop after pass index E//2+1, a new optimiser there, lr fixed.
        Protocol(name="dc-legacy", epochs=1001, full_epochs=101, drop_offset=2, rebuild=True, lr_source="protocol"),
        # The same loop as DC itself was scored by, but for MNIST and batch norm: no augmentation, so 300 + 1 passes.
        Protocol(
            name="dc-plain",
            epochs=301,
            full_epochs=101,
            drop_offset=2,
            rebuild=True,
            lr_source="protocol",
            augmentation="none",
        ),
        # The same loop at the learned rate (MTT, TESLA, FTD, DATM).
        Protocol(name="mtt", epochs=1001, full_epochs=101, drop_offset=2, rebuild=True),
        # IDC and DREAM: MultiStep, flip, colour, one move, half of the batches mixed.
        Protocol(
            name="idc",
            batch=64,
            lr_source="protocol",
            drops=(2 / 3, 5 / 6),
            drop_offset=0,
            drop_factor=0.2,
            augmentation="flip+color+crop_scale_rotate+cutmix",
            mix_probability=0.5,
        ),
        # NCFM: AdamW, the rate halved at each fifth, flip, colour, one move, half of the batches mixed.
        Protocol(
            name="ncfm",
            epochs=2000,
            optimizer="adamw",
            lr=0.001,
            momentum=0.0,
            weight_decay=0.01,
            lr_source="protocol",
            batch=128,
            drops=(0.2, 0.4, 0.6, 0.8),
            drop_offset=0,
            drop_factor=0.5,
            augmentation="flip+color+crop_scale_rotate+cutmix",
            mix_probability=0.5,
        ),
        # One soft label an image, given as logits (DATM, TESLA).
        Protocol(name="soft-v1", labels="soft"),
        # One training under three label regimes: the class, a teacher's label of the image, or of every view of it.
        Protocol(name="labels-hard", labels="hard"),
        Protocol(name="labels-once", labels="once"),
        Protocol(name="labels-view", labels="teacher", loss="kl"),
        # PDD: the stages of a synset one after the other, as many passes together as hard-v1 makes.
        Protocol(name="pdd", sequential=True),
        # DD: what was learned is a recipe (batches, order, one rate a step); it is replayed on a fresh network.
        Protocol(
            name="dd-recipe",
            replay=True,
            lr_source="synset",
            momentum=0.0,
            weight_decay=0.0,
            schedule="constant",
            augmentation="none",
        ),
        # RCIG and FRePo: regression on learned targets, by updates (a pass is one up to 256 images).
        Protocol(
            name="mse-v1",
            epochs=2000,
            optimizer="adam",
            lr=3e-4,
            momentum=0.0,
            weight_decay=0.0,
            lr_source="protocol",
            schedule="cosine",
            warmup=500,
            augmentation="flip+color_crop_cutout_scale_rotate",
            loss="mse",
            init="lecun",
        ),
        # RDED's recipe with a schedule that ends at 0 and a crop that also acts on small images.
        Protocol(
            name="kd-v1",
            **_KD,
            batch_rule="rded",
            lr_students=_RDED_RATES,
            augmentation="rrc+flip+cutmix",
            crop_scale=0.5,
        ),
        Protocol(
            name="rded",
            **{**_KD, "schedule": "half-cosine"},
            batch_rule="rded",
            lr_students=_RDED_RATES,
            augmentation="patchshuffle+rrc+flip+cutmix",
            crop_scale=0.0,
            test_zoom=True,
        ),
        Protocol(
            name="sre2l-cifar",
            **{**_KD, "epochs": 400, "decay_vectors": True, "temperature": 30.0},
            batch=128,
            augmentation="crop+flip+mixup",
            mix_alpha=0.8,
            teacher_mode="batch",
        ),
        Protocol(
            name="sre2l-tiny",
            **{
                **_KD,
                "epochs": 100,
                "optimizer": "sgd",
                "lr": 0.2,
                "momentum": 0.9,
                "weight_decay": 1e-4,
                "decay_vectors": True,
            },
            warmup=5,
            augmentation="rrc+flip",
            tau_squared=True,
        ),
        Protocol(name="fkd", **{**_KD, "labels": "stored"}, batch=1024, augmentation="rrc+flip+cutmix"),
        # RD3: one recipe for all decoupled methods; the rate falls to 0 for ResNet18, to a half for the others.
        Protocol(
            name="rd3",
            **{**_KD, "epochs": 400, "schedule": "half-cosine"},
            schedule_students=(("resnet18", "cosine"), ("tv-resnet18", "cosine")),
            batch=50,
            augmentation="rrc+flip+cutmix",
            crop_scale=0.5,
        ),
        # EDC's and G-VBSM's students: squared error to the mean of the teachers' logits, and a little of the class.
        Protocol(
            name="edc",
            **{**_MSE_GT, "schedule": "half-cosine"},
            batch=50,
            augmentation="randaugment+rrc+flip+cutmix",
            gt_weight=0.025,
        ),
        # EDC as published: tested is the average of the weights; the statistics of batch norms are not averaged.
        Protocol(
            name="edc-ema",
            **{**_MSE_GT, "schedule": "half-cosine"},
            batch=50,
            augmentation="randaugment+rrc+flip+cutmix",
            gt_weight=0.025,
            ema_decay=0.99,
        ),
        Protocol(name="gvbsm", **_MSE_GT, batch=50, augmentation="rrc+flip+cutmix", gt_weight=0.1),
    )
}

REPLAYED = ("labels", "temperature", "test_zoom")
"""Settings that act where a recipe is replayed, too."""

PROTOCOL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def _check_protocol(name: str, own: Protocol) -> None:
    """Refuse a protocol of another package that cannot be one.

    Raises:
        UserError: another name than its own, a malformed one, or a setting out of range.
    """
    if name != own.name or not PROTOCOL_NAME.fullmatch(name) or name.endswith(".toml"):
        raise UserError(f"protocol {name!r:.80}, named {own.name!r:.80}: expected one name of letters, digits, dots, -")
    check_config(own, f"protocol {name!r}")
    try:
        changed(Protocol(name=name), **{item.name: getattr(own, item.name) for item in fields(own)[1:]})
    except UserError as error:
        raise UserError(f"protocol {name!r}: {error}") from None


PROTOCOLS: Table[Protocol] = Table("protocol", "ddbench.protocols", Protocol, _BUILTIN, _check_protocol)
"""Protocols by name; other packages add theirs (entry point group ``ddbench.protocols``)."""

DESCRIPTIONS = {
    "hard-v1": "hard labels, SGD, 1000 epochs, DSA; the synset's learned lr if it has one, else 0.01",
    "dc-legacy": "as the public DC/DSA/DM code: 1001 epochs, lr 0.01, optimiser rebuilt at the drop, DSA",
    "dc-plain": "as DC on all but MNIST: 301 epochs, lr 0.01, optimiser rebuilt at the drop, no augmentation",
    "mtt": "as the public MTT code: dc-legacy at the learned lr",
    "idc": "as IDC and DREAM: batch 64, two drops x 0.2, flip, colour, one move, CutMix in half the batches",
    "ncfm": "as NCFM: AdamW 0.001, halved at each fifth of 2000 epochs, batch 128, CutMix in half the batches",
    "soft-v1": "one soft label an image (logits), soft cross-entropy, else as hard-v1",
    "labels-hard": "as hard-v1 with the class of each image, whatever labels the synset has",
    "labels-once": "as hard-v1 with one soft label an image: a teacher's, asked before the augmentation",
    "labels-view": "as hard-v1 with a teacher's soft label of every view",
    "pdd": "as hard-v1, but a synset of stages is learned stage by stage, 1000 epochs in all",
    "dd-recipe": "as DD: the synset's learned recipe, replayed step by step on a network of its initialisation",
    "mse-v1": "as RCIG and FRePo: Adam with warm-up and cosine, squared error to the targets, LeCun initialisation",
    "kd-v1": "a teacher labels every view: AdamW, 300 epochs, full cosine, T 20, crop, flip, CutMix",
    "rded": "as RDED: teacher labels, half cosine (ends at half the lr), patch shuffle, CutMix",
    "sre2l-cifar": "as SRe2L on CIFAR: teacher labels in batch mode, 400 epochs, T 30, MixUp",
    "sre2l-tiny": "as SRe2L on Tiny-ImageNet: teacher labels, SGD 0.2, warm-up, cosine, T 20 with T squared",
    "rd3": "as RD3: teacher labels, AdamW, 400 epochs of batch 50, T 20, crop, flip, CutMix",
    "edc": "as EDC: squared error to the mean of the teachers' logits, 1000 epochs, small batches, RandAugment, CutMix",
    "edc-ema": "as edc, and tested is the moving average (0.99) of the student's weights, as EDC does",
    "gvbsm": "as G-VBSM: squared error to the mean of the teachers' logits, 1000 epochs, crop, flip, CutMix",
    "fkd": "stored labels of every view, replayed (ddbench relabel): AdamW, 300 epochs, T 20, CutMix",
}


def protocol(name: str) -> Protocol:
    """A protocol by name, or of a TOML file (a name that ends in ``.toml``).

    Raises:
        UserError: unknown name, or a file that is not a protocol.
    """
    if name.endswith(".toml"):
        return read_protocol(Path(name))
    if name in OF_GRAPHS and name not in PROTOCOLS:
        raise UserError(f"--protocol {name}: it is for graphs, these are images; e.g. hard-v1 (ddbench list protocols)")
    return PROTOCOLS.get(name, "--protocol")


MAX_TOML_BYTES = 64 * 1024


def read_protocol(path: Path) -> Protocol:
    """A protocol of one's own: TOML with ``name``, optionally ``base`` (a known protocol), and settings.

    Raises:
        UserError: unreadable, a known name, an unknown setting (with a suggestion), or a value out of range.
    """
    if not path.exists():
        raise UserError(f"--protocol {path}: cannot read it: no such file")
    data = read_toml(path, "protocol", MAX_TOML_BYTES)
    name, base = data.pop("name", None), data.pop("base", "hard-v1")
    if not isinstance(name, str) or not PROTOCOL_NAME.fullmatch(name):
        raise UserError(f"--protocol {path}: name is {name!r:.80}, expected letters, digits, dots and dashes")
    if name in PROTOCOLS:
        raise UserError(f"--protocol {path}: {name!r} is a protocol of ddbench; give yours another name")
    if not isinstance(base, str) or base not in PROTOCOLS:
        raise unknown("protocol", str(base)[:80], PROTOCOLS, f"{path}: base")
    try:
        return replace(changed(PROTOCOLS[base], **data)[0], name=name)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def changed(base: Protocol, **settings: Any) -> tuple[Protocol, dict[str, Any]]:
    """A protocol with settings that a flag altered (``None``: not altered), and which ones differ from the standard.

    Raises:
        UserError: an unknown setting, a value of another kind or out of range, or settings that are n/a together.
    """
    wanted = {name: value for name, value in settings.items() if value is not None}
    made: Protocol = apply_config(Protocol, wanted, "", base=base, noun="protocol setting")
    odd = next((pair for pair in made.schedule_students if pair[1] not in get_args(Schedule)), None)
    if odd is not None:
        raise UserError(f"schedule_students: {odd[0]} has {odd[1]!r:.40}, expected {', '.join(get_args(Schedule))}")
    if not made.lr_grid:
        raise UserError("--lr-grid: expected at least one learning rate")
    if made.labels in ("teacher", "stored") and made.loss == "ce":
        raise UserError(f"labels {made.labels!r} with loss 'ce': a teacher's labels need loss 'kl' or 'mse-gt'")
    if made.labels not in ("teacher", "stored") and made.loss == "mse-gt":
        raise UserError(f"loss 'mse-gt' with labels {made.labels!r}: it compares with a teacher's logits")
    if made.labels in ("own", "hard", "soft") and made.loss == "kl":
        raise UserError(f"loss 'kl' with labels {made.labels!r}: it compares with a teacher's labels; use loss 'ce'")
    if made.labels == "once" and made.loss != "ce":
        raise UserError(f"labels 'once' with loss {made.loss!r}: a label for each image is learned with loss 'ce'")
    if made.labels == "stored" and (made.loss != "kl" or made.lr_source == "search"):
        raise UserError(
            f"labels 'stored' with loss {made.loss!r} and lr_source {made.lr_source!r}: stored labels are learned with "
            "loss 'kl' at a rate that is not searched"
        )
    if made.loss == "mse" and made.labels not in ("own", "hard"):
        raise UserError(f"loss 'mse' with labels {made.labels!r}: a squared error is to the synset's own labels")
    if made.loss == "mse" and {"mixup", "cutmix"} & set(made.augmentation.lower().split("+")):
        raise UserError(f"loss 'mse' with augmentation {made.augmentation!r}: targets of a regression are not mixed")
    if made.labels == "stored" and made.sequential:
        raise UserError("sequential with labels 'stored': stored labels belong to passes over the whole synset")
    if made.label_smoothing or made.focal_gamma:
        _check_hard_loss(made)
    if made.replay and (made.labels not in ("own", "hard", "soft") or made.loss != "ce"):
        raise UserError(
            f"replay with labels {made.labels!r} and loss {made.loss!r}: a learned recipe is replayed on the synset's "
            "own labels with loss 'ce'"
        )
    if made.ema_buffers and not made.ema_decay:
        raise UserError("ema_buffers without ema_decay: expected a decay above 0, such as 0.99, or no ema_buffers")
    difference = {
        item.name: plain(getattr(made, item.name))
        for item in fields(Protocol)
        if getattr(made, item.name) != getattr(base, item.name)
    }
    if base.replay and made.replay:
        _check_replayed(base, difference)
    return made, difference


def _check_replayed(base: Protocol, difference: dict[str, Any]) -> None:
    """Under a replayed recipe the other settings of the training say nothing, and would be recorded all the same.

    Raises:
        UserError: one of them is altered.
    """
    told = ", ".join(f"{name} {value!r:.40}" for name, value in difference.items() if name not in REPLAYED)
    if told:
        raise UserError(
            f"{told}: protocol {base.name} replays the recipe that a synset learned, which has passes, rates and "
            "batches of its own; leave it out, or use e.g. --protocol hard-v1"
        )


def _check_hard_loss(made: Protocol) -> None:
    """Label smoothing and focal loss are defined for the cross-entropy of hard labels.

    Raises:
        UserError: the protocol learns others, or by another loss, or both are asked for, or mixed labels have no single
            class.
    """
    what = "label smoothing" if made.label_smoothing else "focal loss"
    if made.labels in ("soft", "once", "teacher", "stored"):
        raise UserError(f"{what} is n/a for protocol {made.name}: it learns {made.labels} labels, not hard ones")
    if made.loss == "mse":
        raise UserError(f"{what} is n/a for protocol {made.name}: it is part of the cross-entropy, not of loss 'mse'")
    if made.label_smoothing and made.focal_gamma:
        raise UserError("label smoothing and focal loss are two baselines: choose one")
    if made.focal_gamma and {"mixup", "cutmix"} & set(made.augmentation.lower().split("+")):
        raise UserError(f"focal loss is n/a with augmentation {made.augmentation!r}: mixed labels have no single class")


def result_name(base: Protocol, difference: Mapping[str, Any], how: Mapping[str, Any] | None = None) -> str:
    """File name of an evaluation: the protocol's name, marked where it was altered.

    Args:
        how: what makes other numbers of a protocol that is not altered, such as the precision.
    """
    altered = ["nonstandard"] if difference else []
    marks = [f"{name}={value}" for table in (difference, how or {}) for name, value in sorted(table.items())]
    return re.sub(r"[^A-Za-z0-9=._-]+", "_", "-".join([base.name, *altered, *marks]))
