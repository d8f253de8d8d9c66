"""Attacks of other libraries: AutoAttack and Square (pyautoattack), C&W and DeepFool (foolbox).

Both come with the extra ``robustness`` and are imported when an attack of theirs is asked for. They draw from torch's
global generators, so they run inside :func:`ddbench.runtime.seeds.isolated`. Square's draws, and AutoAttack's, are
shared by the images of a batch: the batches are therefore always the same, :data:`BATCH` images in the order of the
test set, and no flag changes them.

Sources: AutoAttack, Croce and Hein, ICML 2020; Square, Andriushchenko et al., ECCV 2020; C&W, Carlini and Wagner,
S&P 2017; DeepFool, Moosavi-Dezfooli et al., CVPR 2016.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ddbench.measurements.robustness.attacks import lengths
from ddbench.measurements.robustness.budgets import parts_for
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError, install_words

BATCH = 250
"""Images that an attack gets at once; AutoAttack's own default."""

TARGETS = 9
"""Target classes of the targeted attacks, or one less than there are classes."""


def installed(packages: Sequence[str]) -> dict[str, str]:
    """Versions of the packages.

    Raises:
        UserError: one is not installed.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        named = " and ".join(missing)
        raise UserError(f"--robustness: needs the package {named}: {install_words('robustness')}")
    return {name: importlib.metadata.version(name) for name in packages}


def autoattack(model: nn.Module, x: Tensor, y: Tensor, eps: float, classes: int, seed: int) -> Tensor:
    """Images after AutoAttack, standard version, Linf; those that it could not break are as they were.

    With fewer than ten classes the targeted attacks go through all wrong ones; with fewer than four it is APGD on the
    cross-entropy, targeted FAB, and Square.
    """
    return _auto(model, x, y, parts_for(classes), eps, classes, seed)


def part(model: nn.Module, x: Tensor, y: Tensor, name: str, eps: float, classes: int, seed: int) -> Tensor:
    """Images after one part of AutoAttack, Linf; those that it could not break are as they were.

    Args:
        name: of :func:`parts_for`.
    """
    return _auto(model, x, y, (name,), eps, classes, seed)


def square(model: nn.Module, x: Tensor, y: Tensor, eps: float, classes: int, seed: int, queries: int) -> Tensor:
    """Images after Square, Linf, which sees no gradient; those that it could not break are as they were."""
    return _auto(model, x, y, ("square",), eps, classes, seed, queries)


def _auto(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    names: tuple[str, ...],
    eps: float,
    classes: int,
    seed: int,
    queries: int = 5000,
) -> Tensor:
    attacker = importlib.import_module("pyautoattack").AutoAttack
    with seeds.isolated(seed, *names), _quiet():
        # "custom", so that the numbers of "standard" can be set where there are fewer than ten classes
        made = attacker(
            model, attacks=list(names), device=x.device, eps=eps, norm="Linf", seed=seed % 2**31, version="custom"
        )
        made.apgd.n_restarts = made.fab.n_restarts = made.apgd_targeted.n_restarts = 1
        made.apgd_targeted.n_target_classes = made.fab.n_target_classes = min(TARGETS, classes - 1)
        made.square.n_queries = queries
        adv: Tensor = made.run_standard_evaluation(x, y, batch_size=BATCH)[0]
    return adv


@contextmanager
def _quiet() -> Iterator[None]:
    """pyautoattack logs its opinion of the model, and leaves no trace function (a debugger's, say) behind."""
    logger, trace = logging.getLogger("auto-attack"), sys.gettrace()
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        sys.settrace(trace)


def carlini_wagner(
    model: nn.Module, x: Tensor, y: Tensor, *, constant: float, searches: int, steps: int, lr: float
) -> Tensor:
    """L2 norm ``(n,)`` of the smallest perturbation that C&W found for each image; infinite where it found none.

    Args:
        constant: weight of the loss, at first; each further search multiplies it by ten or halves the interval.
        searches: values of the constant that are tried.
        lr: of Adam, in the space of arctanh.
    """
    attack = _foolbox().attacks.L2CarliniWagnerAttack(
        binary_search_steps=searches,
        steps=steps,
        stepsize=lr,
        initial_const=constant,
        abort_early=False,  # it looks at the loss of the whole batch
    )
    return _smallest(attack, model, x, y)


def deepfool(model: nn.Module, x: Tensor, y: Tensor, *, steps: int, overshoot: float) -> Tensor:
    """L2 norm ``(n,)`` of what DeepFool needed to break each image; infinite where it did not."""
    return _smallest(_foolbox().attacks.L2DeepFoolAttack(steps=steps, overshoot=overshoot), model, x, y)


def _smallest(attack: Any, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    if not len(x):
        return x.new_empty(0)
    device = x.device
    wrapped = _foolbox().PyTorchModel(model, bounds=(0, 1), device=device)
    with seeds.isolated(0, "foolbox"):
        adv: Tensor = attack.run(wrapped, x, y).detach()
    with torch.no_grad():
        broken = model(adv).argmax(1) != y
    # C&W gives a black image where it found nothing, which may be misclassified by itself.
    found = broken & ~(adv == 0).flatten(1).all(1)
    return torch.where(found, lengths(adv - x), torch.inf)


def _foolbox() -> Any:
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # its model zoo, not used here, wants the program git
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it imports an old name of scipy
        return importlib.import_module("foolbox")
