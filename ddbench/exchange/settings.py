"""What a user says of a published set, where the file does not. Imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ddbench.data.specs import PREPROCESS_KINDS
from ddbench.registry import unknown
from ddbench.runtime.errors import UserError

SPACES = ("pixels", "pixels255", "none")
"""What ``--preprocess`` may say beside the names of transforms."""

DRAWN_HERE = ("random", "full")
"""Methods whose sets a board compares others with: a foreign one is not taken for theirs."""

LabelForm = Literal["auto", "classes", "onehot", "probabilities", "logits", "targets"]


@dataclass(frozen=True, kw_only=True)
class ImportSettings:
    """How a published set is to be understood; what is left out is found out, and told."""

    preprocess: str = "auto"
    """What its images went through: pixels (in [0, 1]), pixels255, meanstd, mtt, zca, none (network input in [0, 1]);
    auto: told from their range, then meanstd. Of uint8 pixels: what a student sees them through."""
    mean: tuple[float, ...] = ()
    """With --std: numbers that were subtracted, one or one a channel."""
    std: tuple[float, ...] = ()
    """With --mean: numbers that were divided by."""
    labels: Path | None = None
    """labels_best.pt (or .npy); without any labels, class-major hard labels are assumed."""
    label_form: LabelForm = "auto"
    """What the labels are; probabilities are kept as logits whose softmax they are, targets of a regression (FRePo)
    unchanged."""
    label_temperature: float = 1.0
    """Temperature of the protocol at which probabilities are to be the target."""
    class_order: str = "auto"
    """What class number k means: dataset (the k-th class of ddbench list), numbers (the k-th when class names are
    sorted as numbers), or a text file that names a class a line; auto: numbers where all names are numbers."""
    decode_factor: int | None = None
    """Tiles a side that each image is cut into at use (IDC, DREAM, NCFM: 2 or 3); default: what the file says, or 1."""
    patches: int | None = None
    """Patches a side that each image was stitched of (RDED: 2); default: what the file says, or 1."""
    stage: Path | None = None
    """A .pt or .npy file with the stage of each image, from 0 (progressive methods)."""
    lr: str | None = None
    """Learned learning rate: a number, or a .pt file that holds one."""
    index: int = 0
    """Which set of a res_*.pt (negative: from the end)."""
    method: str | None = None
    """Name of the method that made it; default: what the file says, or imported."""
    student: str | None = None
    """Network it was distilled on."""
    augmentation: str | None = None
    """Augmentation it was distilled with (recorded); default: what the file says, or dsa."""

    def check(self) -> None:
        """Refuse what cannot be, before anything is read.

        Raises:
            UserError: an unknown transform, or a number out of range.
        """
        known = ("auto", *SPACES, *PREPROCESS_KINDS)
        if self.preprocess not in known:
            raise unknown("preprocess", self.preprocess, known, "--preprocess")
        if bool(self.mean) != bool(self.std):
            raise UserError("--mean and --std: give both, or neither")
        if self.mean and self.preprocess != "auto":
            raise UserError(f"--mean and --std: not with --preprocess {self.preprocess}; leave one of them out")
        for flag, value in (("--decode-factor", self.decode_factor), ("--patches", self.patches)):
            if value is not None and value < 1:
                raise UserError(f"{flag} {value}: expected at least 1")
        if self.method is not None and re.fullmatch(r"[A-Za-z0-9][\w.+-]{0,59}", self.method) is None:
            raise UserError(f"--method {self.method!r:.80}: expected a name of letters, digits and . + - _")
        if self.method in DRAWN_HERE:
            raise UserError(f"--method {self.method}: what others are compared with, drawn here; choose another name")
        if not 0 < self.label_temperature <= 1000:  # NaN fails it
            raise UserError(f"--label-temperature {self.label_temperature}: expected a positive number up to 1000")
