"""A synset's learned recipe, replayed: its batches in order, each with its own learned rate, by plain SGD (DD)."""

from __future__ import annotations

import torch
from torch import nn

from ddbench.networks.build import build_student
from ddbench.networks.initialise import initialise
from ddbench.protocols.plan import Plan
from ddbench.runtime.errors import UserError
from ddbench.synset import Synset
from ddbench.training.loops import autocast
from ddbench.training.losses import cross_entropy


def replay_network(synset: Synset, student: str, seed: int) -> nn.Module:
    """The network that a recipe begins with: fresh with its initialisation, or the one that it was learned for.

    Args:
        seed: of a fresh network; a recipe for one network has its own.

    Raises:
        UserError: another architecture than that of the one network.
    """
    schedule = synset.schedule
    assert schedule is not None
    if schedule.fixed is not None and student != synset.student:
        raise UserError(
            f"student {student}: the recipe was learned for one network, a {synset.student}, and works with no other; "
            f"use --students {synset.student}, or --protocol hard-v1"
        )
    named = seed if schedule.fixed is None else schedule.fixed
    _, channels, size, _ = synset.images.shape
    net = build_student(student, channels=channels, size=size, classes=synset.classes, seed=named)
    return initialise(net, schedule.init, named)


def replay(net: nn.Module, plan: Plan, device: torch.device, precision: str = "float32") -> None:
    """Train in place: E passes over the P batches, step ``t`` with batch ``t mod P`` and rate ``t``.

    A batch has every image that its stored ones are decoded to.

    Args:
        net: on the device; it is left in training mode.
        precision: as :func:`ddbench.training.loops.autocast` takes it.
    """
    synset = plan.synset
    assert synset.schedule is not None
    assert synset.stage is not None
    assert synset.learned_lr is not None
    inputs = plan.inputs(device)
    stages = synset.stage.repeat(len(inputs) // len(synset.stage))
    batches = [(stages == stage).nonzero().squeeze(1).to(device) for stage in range(int(stages.max()) + 1)]
    parameters = list(net.train().parameters())
    for step, rate in enumerate(synset.learned_lr.tolist()):
        chosen = batches[step % len(batches)]
        with autocast(precision, device):
            logits = net(inputs.batch(chosen))
        loss = cross_entropy(logits.float(), inputs.labels[chosen])
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(gradient, alpha=rate)
