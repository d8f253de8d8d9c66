"""ZCA whitening of a training set: fitted in float64, kept on disk in float32.

The same transform as ``kornia.enhance.ZCAWhitening(eps=0.1, compute_inv=True)``, which MTT and its successors fit on
the whole training set in [0, 1] without mean/std normalisation; but by a symmetric eigendecomposition in float64, and
without ever holding a float copy of the set.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ddbench.data.dataset import Dataset, chunks
from ddbench.data.limits import require_memory
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import canonical_json
from ddbench.runtime.seeds import generator
from ddbench.runtime.tensors import write_foreign

EPS = 0.1
"""What the field adds to every eigenvalue."""

PROBES = 8
"""Numbers by which a matrix that was computed again is recognised."""


@dataclass(frozen=True)
class Zca:
    """Factors of a fitted transform of ``d = C*H*W`` values.

    Attributes:
        mean: float64 ``(d,)``.
        whiten: float32 ``(d, d)``, ``U diag(1/sqrt(S + eps)) U^T``.
        inverse: float32 ``(d, d)``, ``U diag(sqrt(S + eps)) U^T``.
    """

    mean: Tensor
    whiten: Tensor
    inverse: Tensor

    def probe(self) -> list[float]:
        """The first 8 entries of ``whiten @ v`` for a fixed pseudo-random ``v``, in float64.

        Eigensolvers differ in the last bits, so a hash cannot tell whether a matrix that was computed on another
        machine is the same transform; these numbers can.
        """
        dims = len(self.mean)
        vector = torch.randn(dims, generator=generator(0, "zca-probe", dims), dtype=torch.float64)
        return [float(value) for value in self.whiten[:PROBES].double() @ vector]


def fit(images: Tensor, eps: float) -> Zca:
    """Fit on uint8 images ``(N, C, H, W)``.

    Raises:
        UserError: fewer than two images, or the ``d x d`` matrices do not fit into memory.
    """
    count, dims = len(images), images[0].numel()
    if count < 2:
        raise UserError("ZCA needs at least two training images; use --preprocess meanstd")
    require_memory(
        5 * 8 * dims * dims,  # covariance, eigenvectors, the solver's workspace
        f"ZCA of {dims} values an image",
        "use a smaller --size, or --preprocess meanstd",
    )
    total = torch.zeros(dims, dtype=torch.float64)
    for piece in chunks(images):
        total += piece.flatten(1).sum(0, dtype=torch.float64)
    mean = total / (255 * count)
    covariance = torch.zeros(dims, dims, dtype=torch.float64)
    for piece in chunks(images):
        centred = piece.flatten(1).double().div_(255).sub_(mean)
        covariance.addmm_(centred.T, centred)
    values, vectors = torch.linalg.eigh(covariance.div_(count - 1))
    root = values.clamp_(min=0).add_(eps).sqrt_()  # rounding makes null eigenvalues slightly negative
    return Zca(mean, ((vectors / root) @ vectors.T).float(), ((vectors * root) @ vectors.T).float())


def fit_cached(dataset: Dataset, eps: float, root: Path | None) -> Zca:
    """Fit on the training split, or read what an earlier call kept under ``root/zca``.

    Args:
        root: data folder; None computes afresh and keeps nothing, as where it cannot be written to.

    Raises:
        UserError: see :func:`fit`.
    """
    if root is None:
        return fit(dataset.train.images, eps)
    path = root / "zca" / f"{dataset.fingerprint[:16]}-{eps!r}.safetensors"
    header = canonical_json({"eps": eps, "fingerprint": dataset.fingerprint, "shape": list(dataset.spec.shape)})
    found = _read(path, header, dataset.train.images[0].numel())
    if found is None:
        found = fit(dataset.train.images, eps)
        with suppress(UserError):  # data is often on a file system that is only read, and this can be made again
            _write(path, header, found)
    return found


def _write(path: Path, header: str, factors: Zca) -> None:
    tensors = {"mean": factors.mean, "whiten": factors.whiten, "inverse": factors.inverse}
    # One metadata key: the library writes several in a random order, and the bytes would differ from run to run.
    write_foreign(path, tensors, {"ddbench": header})


def _read(path: Path, header: str, dims: int) -> Zca | None:
    """The kept factors, or None when there are none or they are not what they should be (they are fitted again)."""
    from safetensors import SafetensorError, safe_open

    try:
        if not path.is_file():
            return None
        with safe_open(path, framework="pt") as handle:
            if (handle.metadata() or {}).get("ddbench") != header:
                return None
            factors = Zca(*(handle.get_tensor(name) for name in ("mean", "whiten", "inverse")))
    except (OSError, SafetensorError):
        return None
    expected = ((dims,), (dims, dims), (dims, dims)), (torch.float64, torch.float32, torch.float32)
    parts = (factors.mean, factors.whiten, factors.inverse)
    if (tuple(tuple(part.shape) for part in parts), tuple(part.dtype for part in parts)) != expected:
        return None
    return factors if all(bool(part.isfinite().all()) for part in parts) else None
