"""Protocols: named, versioned ways to train a student on a synset. Data, not code; imports no torch."""

from __future__ import annotations

import math
import re
import tomllib
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ddbench.networks.names import parse_student
from ddbench.registry import unknown
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import text_hash

CHOICES: dict[str, tuple[str, ...]] = {
    "lr_source": ("protocol", "synset", "search"),
    "batch_rule": ("fixed", "rded"),
    "schedule": ("constant", "step", "cosine", "half-cosine"),
    "labels": ("own", "hard", "soft", "teacher", "stored"),
    "loss": ("ce", "kl", "mse-gt"),
    "teacher_mode": ("eval", "batch"),
}
"""The possible values of the settings that are words."""


LATER = ("label_smoothing", "focal_gamma")
"""Settings that came after results were published: left out at 0, so that those results are of the same protocol."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How one student is trained and tested.

    Attributes:
        name: with its version; a protocol is never edited, a changed one gets a new version.
        epochs: passes over the synset.
        full_epochs: passes over the whole training set for the upper row (method ``full``).
        optimizer, lr, momentum, weight_decay: as in ``torch.optim``.
        decay_vectors: weight decay also acts on biases and on the scales and shifts of norms (1-D parameters).
        lr_source: ``protocol`` (always ``lr``), ``synset`` (a synset that carries a learned scalar learning rate is
            trained with it, others with ``lr``), or ``search`` (the best of ``lr_grid`` on held-out *training* images,
            for every synset and baseline alike).
        lr_grid: what a search tries.
        lr_students: (family of networks, rate) pairs that replace ``lr`` for those families.
        batch, batch_rule: images a step; rule ``rded`` replaces it by 10, 50, 100 for IPC below 10, below 50, and from
            50 on, twice that from 100 classes on, 100 for 200 classes, never above the synset's size.
        schedule: learning-rate factor of each epoch e of E: ``step``; ``cosine`` is ``(1 + cos(pi e / E)) / 2``;
            ``half-cosine`` is ``(1 + cos(pi e / 2E)) / 2``, which ends at one half.
        drops, drop_offset, drop_factor: with ``step``, the rate is multiplied by the factor after
            ``int(drop * E) + drop_offset`` passes, for each drop.
        rebuild: a drop builds a new optimiser, which loses the momentum.
        warmup: epochs in which the factor rises linearly from 0.01; the schedule then runs over the remaining ones.
        augmentation: a policy of :mod:`ddbench.data.policy`: ``none``, or parts joined by ``+``.
        crop_scale: least share of the area that ``rrc`` keeps; 0: one over the synset's patches a side.
        mix_alpha, mix_probability: of ``cutmix`` and ``mixup``.
        labels: what the student learns: ``own`` (the synset's labels, hard or soft), ``hard`` (the class of each),
            ``soft`` (the synset must have soft labels), ``teacher`` (a teacher labels every view), ``stored`` (a
            teacher's labels of every view, replayed from ``ddbench relabel``).
        loss: ``ce``; ``kl`` of softened outputs; ``mse-gt`` (squared error of logits + ``gt_weight`` cross-entropy).
        temperature: T of softened outputs, of ``kl`` and of soft labels.
        tau_squared: ``kl`` is multiplied by T squared.
        gt_weight: of the class label in ``mse-gt``.
        teacher_mode: ``eval``, or ``batch`` (the teacher's batch norms use the statistics of the batch).
        test_zoom: test images are enlarged to ``side // 7 * 8`` and their centre is cut out.
        sequential: a synset of K stages is trained on stage by stage, each time with the stages before it; the
            ``epochs`` are divided by K, the schedule begins anew with each stage, the optimiser's momentum is kept, and
            the learning rate is the stage's own where one a stage was learned. A synset without stages is one stage.
        label_smoothing: share of a hard label that is spread over all classes, as in ``torch``'s cross-entropy.
        focal_gamma: of the focal loss ``mean((1 - p_y)^gamma * -log p_y)``; 0: cross-entropy.
    """

    name: str
    epochs: int = 1000
    full_epochs: int = 100
    optimizer: str = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decay_vectors: bool = True
    lr_source: str = "synset"
    lr_grid: tuple[float, ...] = (0.001, 0.005, 0.01, 0.05, 0.1)
    lr_students: tuple[tuple[str, float], ...] = ()
    batch: int = 256
    batch_rule: str = "fixed"
    schedule: str = "step"
    drops: tuple[float, ...] = (0.5,)
    drop_offset: int = 1
    drop_factor: float = 0.1
    rebuild: bool = False
    warmup: int = 0
    augmentation: str = "dsa"
    crop_scale: float = 0.08
    mix_alpha: float = 1.0
    mix_probability: float = 1.0
    labels: str = "own"
    loss: str = "ce"
    temperature: float = 1.0
    tau_squared: bool = False
    gt_weight: float = 0.025
    teacher_mode: str = "eval"
    test_zoom: bool = False
    sequential: bool = False
    label_smoothing: float = 0.0
    focal_gamma: float = 0.0

    @property
    def hash(self) -> str:
        """First 16 hex digits of the sha256 of the settings; every result names it.

        Settings at their default are left out, so that a setting that is added later does not rename older protocols.
        """
        defaults = {field.name: _plain(field.default) for field in fields(self)}
        return text_hash({name: value for name, value in self.settings().items() if value != defaults[name]})[:16]

    @property
    def needs_teacher(self) -> bool:
        """Whether a teacher must be at hand while the student trains."""
        return self.labels == "teacher"

    def settings(self) -> dict[str, Any]:
        """The settings as plain JSON, without the name; those of :data:`LATER` only where they are set."""
        data = asdict(self)
        del data["name"]
        return {key: _plain(value) for key, value in data.items() if value or key not in LATER}

    def rate(self, student: str) -> float:
        """The protocol's learning rate for a student."""
        return dict(self.lr_students).get(parse_student(student).family, self.lr)

    def batch_for(self, images: int, classes: int) -> int:
        """Images a step, for a synset of so many images."""
        if self.batch_rule == "fixed":
            return self.batch
        ipc = images / classes
        batch = 10 if ipc < 10 else 50 if ipc < 50 else 100
        if classes == 200:
            batch = 100
        elif classes >= 100:
            batch *= 2
        return min(batch, images)

    def factor(self, epoch: int, epochs: int) -> float:
        """Learning-rate factor in epoch ``epoch`` (from 0) of ``epochs``."""
        if epoch < self.warmup:
            return 0.01 + 0.99 * epoch / self.warmup
        epoch, epochs = epoch - self.warmup, max(1, epochs - self.warmup)
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        if self.schedule == "half-cosine":
            return 0.5 * (1 + math.cos(math.pi * epoch / (2 * epochs)))
        if self.schedule == "step":
            return self.drop_factor ** sum(epoch >= int(drop * epochs) + self.drop_offset for drop in self.drops)
        return 1.0


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

PROTOCOLS: dict[str, Protocol] = {
    one.name: one
    for one in (
        # DC's and MTT's evaluation (specs 3.1, 3.3) with exactly E passes and momentum kept at the drop.
        Protocol(name="hard-v1"),
        # Bit-faithful to DC's public loop: E+1 passes, drop after pass index E//2+1, a new optimiser there, lr fixed.
        Protocol(name="dc-legacy", epochs=1001, full_epochs=101, drop_offset=2, rebuild=True, lr_source="protocol"),
        # The same loop at the learned rate (MTT, TESLA, FTD, DATM).
        Protocol(name="mtt", epochs=1001, full_epochs=101, drop_offset=2, rebuild=True),
        # IDC and DREAM: MultiStep, CutMix, DSA without cutout.
        Protocol(
            name="idc",
            batch=64,
            lr_source="protocol",
            drops=(2 / 3, 5 / 6),
            drop_offset=0,
            drop_factor=0.2,
            augmentation="color_crop_flip_scale_rotate+cutmix",
        ),
        # One soft label an image, given as logits (DATM, TESLA).
        Protocol(name="soft-v1", labels="soft"),
        # PDD: the stages of a synset one after the other, as many passes together as hard-v1 makes.
        Protocol(name="pdd", sequential=True),
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
    )
}

DESCRIPTIONS = {
    "hard-v1": "hard labels, SGD, 1000 epochs, DSA; the synset's learned lr if it has one, else 0.01",
    "dc-legacy": "as the public DC/DSA/DM code: 1001 epochs, lr 0.01, optimiser rebuilt at the drop, DSA",
    "mtt": "as the public MTT code: dc-legacy at the learned lr",
    "idc": "as IDC and DREAM: batch 64, two drops x 0.2, DSA without cutout, CutMix",
    "soft-v1": "one soft label an image (logits), soft cross-entropy, else as hard-v1",
    "pdd": "as hard-v1, but a synset of stages is learned stage by stage, 1000 epochs in all",
    "kd-v1": "a teacher labels every view: AdamW, 300 epochs, full cosine, T 20, crop, flip, CutMix",
    "rded": "as RDED: teacher labels, half cosine (ends at half the lr), patch shuffle, CutMix",
    "sre2l-cifar": "as SRe2L on CIFAR: teacher labels in batch mode, 400 epochs, T 30, MixUp",
    "sre2l-tiny": "as SRe2L on Tiny-ImageNet: teacher labels, SGD 0.2, warm-up, cosine, T 20 with T squared",
    "fkd": "stored labels of every view, replayed (ddbench relabel): AdamW, 300 epochs, T 20, CutMix",
}


def protocol(name: str) -> Protocol:
    """A protocol by name, or of a TOML file (a name that ends in ``.toml``).

    Raises:
        UserError: unknown name, or a file that is not a protocol.
    """
    if name.endswith(".toml"):
        return read_protocol(Path(name))
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS, "--protocol")
    return PROTOCOLS[name]


MAX_TOML_BYTES = 64 * 1024


def read_protocol(path: Path) -> Protocol:
    """A protocol of one's own: TOML with ``name``, optionally ``base`` (a known protocol), and settings.

    Raises:
        UserError: unreadable, a known name, an unknown setting (with a suggestion), or a value out of range.
    """
    try:
        if path.stat().st_size > MAX_TOML_BYTES:
            raise UserError(f"{path}: too large for a protocol (at most {MAX_TOML_BYTES:,} bytes)")
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--protocol {path}: cannot read it: {error.strerror or error}") from None
    except ValueError as error:
        raise UserError(f"--protocol {path}: not TOML: {' '.join(str(error).split())}") from None
    name, base = data.pop("name", None), data.pop("base", "hard-v1")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
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
        UserError: an unknown setting, or a value of another kind or out of range.
    """
    wanted = {name: value for name, value in settings.items() if value is not None}
    known = {field.name: field for field in fields(Protocol) if field.name != "name"}
    for name, value in wanted.items():
        if name not in known:
            raise unknown("protocol setting", name, known)
        default = known[name].default
        assert default is not MISSING
        wanted[name] = _checked(name, value, default)
    made = replace(base, **wanted)
    if made.labels in ("teacher", "stored") and made.loss == "ce":
        raise UserError(f"labels {made.labels!r} with loss 'ce': a teacher's labels need loss 'kl' or 'mse-gt'")
    if made.labels not in ("teacher", "stored") and made.loss == "mse-gt":
        raise UserError(f"loss 'mse-gt' with labels {made.labels!r}: it compares with a teacher's logits")
    if made.labels == "stored" and (made.loss != "kl" or made.lr_source == "search"):
        raise UserError(
            f"labels 'stored' with loss {made.loss!r} and lr_source {made.lr_source!r}: stored labels are learned with "
            "loss 'kl' at a rate that is not searched"
        )
    if made.labels == "stored" and made.sequential:
        raise UserError("sequential with labels 'stored': stored labels belong to passes over the whole synset")
    if made.label_smoothing or made.focal_gamma:
        _check_hard_loss(made)
    return made, {name: _plain(getattr(made, name)) for name in known if getattr(made, name) != getattr(base, name)}


def _check_hard_loss(made: Protocol) -> None:
    """Label smoothing and focal loss are defined for hard labels.

    Raises:
        UserError: the protocol learns others, or both are asked for, or mixed labels have no single class.
    """
    what = "label smoothing" if made.label_smoothing else "focal loss"
    if made.labels in ("soft", "teacher", "stored"):
        raise UserError(f"{what} is n/a for protocol {made.name}: it learns {made.labels} labels, not hard ones")
    if made.label_smoothing and made.focal_gamma:
        raise UserError("label smoothing and focal loss are two baselines: choose one")
    if made.focal_gamma and {"mixup", "cutmix"} & set(made.augmentation.lower().split("+")):
        raise UserError(f"focal loss is n/a with augmentation {made.augmentation!r}: mixed labels have no single class")


_POSITIVE = ("lr", "temperature", "drop_factor", "mix_alpha")
_AT_LEAST_1 = ("epochs", "full_epochs", "batch")
_FRACTIONS = ("crop_scale", "mix_probability", "momentum", "label_smoothing")


def _checked(name: str, value: Any, default: Any) -> Any:
    """A setting's value in its own type.

    Raises:
        UserError: another kind, or out of range; names the flag and the value.
    """
    flag = f"--{name.replace('_', '-')} {str(value)[:80]}"
    if isinstance(default, tuple):
        return _checked_list(name, value, flag)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
        value = float(value)
    if type(value) is not type(default):
        raise UserError(f"{flag}: expected {type(default).__name__}, e.g. {default!r}")
    if name in CHOICES and value not in CHOICES[name]:
        raise UserError(f"{flag}: expected one of {', '.join(CHOICES[name])}")
    if name in _AT_LEAST_1 and value < 1:
        raise UserError(f"{flag}: expected at least 1")
    if name in _POSITIVE and not 0 < value < math.inf:
        raise UserError(f"{flag}: expected a positive number")
    if name in _FRACTIONS and not 0 <= value <= 1:
        raise UserError(f"{flag}: expected 0 to 1")
    if isinstance(value, int | float) and not 0 <= value < math.inf:
        raise UserError(f"{flag}: expected a finite number, at least 0")
    return value


def _checked_list(name: str, value: Any, flag: str) -> tuple[Any, ...]:
    items = tuple(value) if isinstance(value, list | tuple) else ()
    if name == "lr_students":
        pairs = tuple(tuple(item) if isinstance(item, list | tuple) else () for item in items)
        if not isinstance(value, list | tuple) or not all(
            len(pair) == 2 and isinstance(pair[0], str) and _number_in(pair[1], 0, 100) for pair in pairs
        ):
            raise UserError(f'{flag}: expected pairs of a network family and a rate, e.g. [["vgg11", 0.0005]]')
        return tuple((family, float(rate)) for family, rate in pairs)
    top = 1.0 if name == "drops" else 100.0
    if not isinstance(value, list | tuple) or not all(_number_in(item, 0, top) for item in items):
        raise UserError(f"{flag}: expected a list of numbers above 0 and up to {top:g}")
    if name == "lr_grid" and not items:
        raise UserError(f"{flag}: expected at least one learning rate")
    return tuple(float(item) for item in items)


def _number_in(value: Any, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low < value <= high


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def result_name(base: Protocol, difference: dict[str, Any]) -> str:
    """File name of an evaluation: the protocol's name, marked where it was altered."""
    if not difference:
        return base.name
    marks = "-".join(f"{name}={value}" for name, value in sorted(difference.items()))
    return re.sub(r"[^A-Za-z0-9=._-]+", "_", f"{base.name}-nonstandard-{marks}")
