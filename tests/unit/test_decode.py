"""Multi-formation decoding: against a plain loop, and through the evaluator's plan."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ddbench.data.formation import decode
from ddbench.data.load import load_dataset
from ddbench.data.preprocess import fit_preprocess
from ddbench.decoders.multi_formation import MultiFormation
from ddbench.protocols.plan import Plan
from ddbench.protocols.protocol import PROTOCOLS
from ddbench.synset import Budget, Synset


def by_hand(images: Tensor, factor: int) -> Tensor:
    """Tile by tile, image by image."""
    size = images.shape[-1]
    side = -(-size // factor)
    wide = torch.full((*images.shape[:2], side * factor, side * factor), 0.5, dtype=images.dtype)
    wide[:, :, :size, :size] = images
    made = []
    for row in range(factor):
        for column in range(factor):
            for image in wide:
                tile = image[:, row * side : (row + 1) * side, column * side : (column + 1) * side]
                made.append(F.interpolate(tile[None], size=(size, size), mode="bilinear", align_corners=False)[0])
    return torch.stack(made)


@pytest.mark.parametrize(("size", "factor"), [(8, 1), (8, 2), (28, 2), (9, 2), (28, 3)])
@pytest.mark.parametrize("channels", [1, 3])
def test_decode(size: int, factor: int, channels: int):
    images = torch.rand(3, channels, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(decode(images, factor), by_hand(images, factor))


def test_gradient():
    images = torch.rand(2, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: decode(x, 2), (images,))


@pytest.mark.parametrize("space", ["pixels", "input"])
@pytest.mark.parametrize("kind", ["meanstd", "zca"])
def test_a_student_is_trained_on_the_decoded_images(space: str, kind: str):
    dataset = load_dataset("digits")
    preprocess = fit_preprocess(dataset, kind)
    stored = dataset.train.images[:20]
    synset = Synset(
        images=stored if space == "pixels" else preprocess.apply(stored),
        labels=torch.arange(10).repeat_interleave(2),
        preprocess=preprocess.to_json(),
        budget=Budget("ipc", 2),
        dataset="digits",
        fingerprint=dataset.fingerprint,
        class_names=dataset.spec.class_names,
        method="idc",
        config={},
        seed=0,
        decoder=MultiFormation(factor=2),
    )
    plan = Plan(synset=synset, protocol=PROTOCOLS["rded"], preprocess=preprocess, flip=False)
    inputs = plan.inputs(torch.device("cpu"))
    expected = preprocess.apply(by_hand(stored.float() / 255, 2))
    assert torch.allclose(inputs.batch(slice(None)), expected, atol=2e-4)
    assert torch.equal(inputs.labels, synset.labels.repeat(4))
    assert synset.decoded_images == 80
    assert plan.batch == 10, "8 decoded images of each class"
