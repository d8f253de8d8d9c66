"""What a student learns from a view, and the loss for it."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ddbench.protocols.plan import Plan
from ddbench.protocols.protocol import Protocol
from ddbench.teachers.store import Teacher
from ddbench.training.flat import refuses_one
from ddbench.training.loops import TEST_BATCH, Inputs, Labels, Loss, View, autocast, own_labels, own_loss
from ddbench.training.losses import cross_entropy, focal, half_squared_error, smoothed, soft_target_kl


def targets(plan: Plan, inputs: Inputs, device: torch.device, precision: str) -> tuple[Labels, Loss]:
    """What the student learns from each view, and the loss for it."""
    protocol = plan.protocol
    if protocol.labels == "stored":
        assert plan.stored is not None
        return plan.stored.labels(device), _soft_loss(protocol)
    if protocol.loss == "mse":
        return own_labels(inputs), half_squared_error
    if protocol.labels == "once":
        assert plan.teacher is not None
        inputs.labels = image_labels(plan.teacher, inputs) / protocol.temperature
    if protocol.labels != "teacher":
        return own_labels(inputs), _class_loss(plan)
    assert plan.teacher is not None
    label = teacher_labels(plan.teacher, protocol, device, precision)
    if protocol.loss == "kl":
        return label, _soft_loss(protocol)
    own = own_labels(inputs)

    def with_classes(view: View) -> Tensor:
        shares = own(view)
        if shares.dtype == torch.int64:
            shares = torch.nn.functional.one_hot(shares, inputs.classes).float()
        return torch.stack([label(view), shares])

    def squared_error(logits: Tensor, target: Tensor) -> Tensor:
        truth = -(target[1] * logits.log_softmax(1)).sum(1).mean()
        return (logits - target[0]).square().mean() + protocol.gt_weight * truth

    return with_classes, squared_error


def _class_loss(plan: Plan) -> Loss:
    """Cross-entropy with the synset's labels, or what a baseline of calibration puts in its place."""
    protocol, policy = plan.protocol, plan.policy
    if protocol.focal_gamma:
        return functools.partial(focal, gamma=protocol.focal_gamma)
    loss = own_loss(policy is not None and policy.mix != "none")
    return smoothed(loss, protocol.label_smoothing) if protocol.label_smoothing else loss


def _soft_loss(protocol: Protocol) -> Loss:
    if protocol.loss == "ce":
        return cross_entropy
    return lambda logits, teacher: soft_target_kl(logits, teacher, protocol.temperature, protocol.tau_squared)


@torch.no_grad()
def image_labels(teacher: Teacher, inputs: Inputs) -> Tensor:
    """A teacher's logits ``(N, K)`` of images as they are, without augmentation; it is in evaluation mode."""
    net = teacher.network(inputs.device).eval()
    pieces = torch.arange(len(inputs)).split(TEST_BATCH)
    return torch.cat([net(inputs.batch(piece)).float() for piece in pieces])


def teacher_labels(teacher: Teacher, protocol: Protocol, device: torch.device, precision: str) -> Labels:
    """Labels every view with the teacher's logits ``(n, K)``, without gradients.

    In batch mode a single image whose statistics are of one value has those of the teacher's training.
    """
    net, batchwise = teacher.network(device), protocol.teacher_mode == "batch"
    net.train(batchwise)
    refuses = functools.cache(functools.partial(refuses_one, net))
    calm = functools.cache(functools.partial(teacher.network, device))  # the statistics of the other one move

    @torch.no_grad()
    def labels(view: View) -> Tensor:
        alone = batchwise and len(view.x) == 1 and refuses(tuple(view.x.shape[1:]))
        with autocast(precision, device):
            logits: Tensor = (calm() if alone else net)(view.x)
        return logits.float()

    return labels
