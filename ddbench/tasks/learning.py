"""Trainings that tasks share: students on a plan, a linear probe, plain fine-tuning."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddbench.data.dataset import Dataset, Split, class_indices
from ddbench.data.preprocess import Preprocess
from ddbench.protocols.plan import Plan
from ddbench.protocols.training import Settings, trained_students
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError
from ddbench.runtime.light import light
from ddbench.training.loops import TEST_BATCH, Inputs, accuracy, inputs_of, predict


def trained(plan: Plan, student: str, seed: int, settings: Settings) -> nn.Module:
    """One fresh student, trained on the plan's synset to the last epoch."""
    nets, _ = trained_students(plan, student, [seed], settings)
    return nets[0]


def outputs_of(net: nn.Module, inputs: Inputs) -> Tensor:
    """Logits float32 ``(N, K)`` on the CPU.

    Raises:
        UserError: they are not finite.
    """
    logits = predict(net, inputs)
    if not bool(torch.isfinite(logits).all()):
        raise UserError("the student's outputs are not finite: it diverged; choose another --student or --protocol")
    return logits


def score(net: nn.Module, inputs: Inputs) -> float:
    """Accuracy, a fraction.

    Raises:
        UserError: the outputs are not finite.
    """
    return accuracy(outputs_of(net, inputs), inputs.labels)


@torch.no_grad()
def features_of(net: nn.Module, inputs: Inputs) -> Tensor:
    """What the last linear layer sees, float64 ``(N, F)`` on the CPU, in evaluation mode.

    Raises:
        UserError: the network has no ``features``.
    """
    take = getattr(net, "features", None)
    if take is None:
        raise UserError(f"--student: {type(net).__name__} does not say its features; choose one of ddbench's own")
    net.eval()
    rows = range(0, len(inputs), TEST_BATCH)
    return torch.cat([take(inputs.batch(slice(at, at + TEST_BATCH))).double().cpu() for at in rows])


def linear_probe(features: Tensor, labels: Tensor, classes: int, decay: float) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression: the minimum of ``mean CE + decay / 2 |W|^2``, by L-BFGS from zero.

    Args:
        features: float64 ``(N, F)``; labels: ``(N,)``.
        decay: on the weights, not the bias; above 0, so that the minimum is unique but for a constant in the bias.

    Returns:
        Weights ``(classes, F)`` and bias ``(classes,)``.
    """
    weight = torch.zeros(classes, features.shape[1], dtype=features.dtype, requires_grad=True)
    bias = torch.zeros(classes, dtype=features.dtype, requires_grad=True)
    stepper = light(torch.optim.LBFGS)(
        [weight, bias], max_iter=500, tolerance_grad=1e-7, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        stepper.zero_grad()
        value = F.cross_entropy(features @ weight.T + bias, labels) + decay / 2 * weight.square().sum()
        value.backward()
        return value

    stepper.step(closure)
    return weight.detach(), bias.detach()


def probe_accuracy(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], classes: int, decay: float) -> float:
    """Test accuracy of a linear probe on features that are standardised by the training features.

    Args:
        train, test: features ``(N, F)`` and labels ``(N,)``.
    """
    mean, std = train[0].mean(0), train[0].std(0, correction=0)
    std = torch.where(std > 1e-8, std, torch.ones_like(std))
    weight, bias = linear_probe((train[0] - mean) / std, train[1], classes, decay)
    return accuracy((test[0] - mean) / std @ weight.T + bias, test[1])


def few(split: Split, classes: int, count: int, purpose: str) -> Split:
    """``count`` images of each class, or all where there are fewer; the same for the same labels and purpose."""
    randomness = seeds.generator(0, purpose)
    chosen = [
        index[torch.randperm(len(index), generator=randomness)[:count]]
        for index in class_indices(split.labels, classes)
    ]
    index = torch.cat(chosen).sort().values
    return Split(split.images[index], split.labels[index])


def fitted(split: Split, channels: int, size: int) -> Split:
    """The images, uint8, in another shape: resized (bilinear, antialiased), grey from RGB (Rec. 601) or back."""
    images = split.images.float()
    if images.shape[-1] != size:
        images = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    if images.shape[1] == 3 and channels == 1:
        images = (images * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    elif images.shape[1] == 1 and channels == 3:
        images = images.expand(-1, 3, -1, -1)
    return Split(images.round().clamp(0, 255).to(torch.uint8).contiguous(), split.labels)


def own_statistics(split: Split) -> Preprocess:
    """Mean and standard deviation of each channel of these images."""
    pixels = split.images.double() / 255
    mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3), correction=0).clamp_min(1e-3)
    return Preprocess(kind="meanstd", mean=tuple(mean.tolist()), std=tuple(std.tolist()))


def real_inputs(
    dataset: Dataset, preprocess: Preprocess, device: torch.device, classes: Tensor | None = None
) -> Inputs:
    """The test images, or those of some classes, as network inputs."""
    test = dataset.test
    if classes is not None:
        keep = torch.isin(test.labels, classes)
        test = Split(test.images[keep], test.labels[keep])
    return inputs_of(test, preprocess, device)
