"""Trajectories that start where networks of another store were led: what progressive methods match in later stages.

A derived store is a trajectory store (:mod:`ddbench.experts.store`) of the same format. Its expert k starts from expert
k of its parent, as some training on a synset changed it; ``parent`` in its manifest names the parent store, the stage
and the hash of that synset, and so does every expert's file.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from ddbench.experts.recipe import ExpertRecipe
from ddbench.experts.store import MANIFEST, TrajectoryStore, read_store
from ddbench.experts.train import training_flops, trajectories
from ddbench.runtime import device as devices
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import ensure_writable
from ddbench.runtime.progress import PLAIN_SECONDS, Console
from ddbench.training.flat import flatten_parameters
from ddbench.training.loops import Inputs


@dataclass(frozen=True, kw_only=True)
class Link:
    """Where derived trajectories come from.

    Attributes:
        identity: of the parent store (:meth:`TrajectoryStore.identity`).
        stage: the stage that is matched to them, from 1 (stage 0 has experts).
        synset: sha256 of the images, labels and learning rate that the networks were trained on before.
    """

    identity: str
    stage: int
    synset: str


def open_derived(folder: Path, parent: TrajectoryStore, recipe: ExpertRecipe, link: Link) -> TrajectoryStore:
    """The store of derived trajectories in a folder, made when it is not there yet; finished ones are taken in.

    Raises:
        UserError: the folder holds trajectories of another recipe, parent or synset.
    """
    header = {**parent.header, "parent": asdict(link)}
    if not (folder / MANIFEST).exists():
        return TrajectoryStore(folder=folder, recipe=recipe, header=header)
    store = read_store(folder)
    if store.header.get("parent") != header["parent"] or store.recipe != recipe:
        raise UserError(
            f"{folder}: holds trajectories of another synset or of other settings; remove that folder and repeat the "
            "command"
        )
    return store


def record_derived(
    store: TrajectoryStore,
    indices: list[int],
    start: Callable[[int], nn.Module],
    *,
    inputs: Inputs,
    held_out: Inputs | None,
    seed: Callable[[int], int],
    compile: str,
    console: Console,
    title: str,
) -> None:
    """Record what is missing of a derived store, one expert after the other; a kill loses at most the one in work.

    Args:
        indices: the parent's experts; the derived ones have the same numbers.
        start: a network on the device of the inputs that is where an expert's trajectory begins.
        inputs: the real images to train on.
        held_out: real images that are judged after each epoch; ``None``: none.
        seed: of an expert's training.
        title: what these are, for messages.

    Raises:
        UserError: a start or a trajectory that is not finite, or a folder that cannot be written to.
    """
    known = store.indices
    missing = [index for index in indices if not store.scan(index)]
    if store.indices != known:
        store.write_manifest()
    if not missing:
        return
    ensure_writable(store.folder)
    if not (store.folder / MANIFEST).exists():
        store.write_manifest()
    console.say(f"{title}: recording {len(missing)} trajectories in {store.folder}")
    compiler, said = None, time.monotonic()
    for done, index in enumerate(missing):
        net = start(index)
        if not bool(torch.isfinite(flatten_parameters(net)).all()):
            raise UserError(
                f"{title}: network {index} is not finite after its training on the stages before; use a smaller "
                "--lr-lr, or --lr-parametrisation log"
            )
        if not done:
            flops = training_flops(net, inputs, store.recipe) * len(indices)
            compiler = devices.choose_compiler(compile, flops, inputs.device, console.say)
        named = seed(index)
        (made,) = trajectories([net], inputs, held_out, store.recipe, [named], compiler)
        failure = made.failure(f"{title}, network {index}", store.recipe)
        if failure:
            raise UserError(failure)
        parent = {"expert": index, **store.header["parent"]}
        curves = {**made.curves, "test_accuracy": None, "parent": parent}
        store.write_expert(index, made.weights, made.buffers, curves)
        store.enter(index)
        if time.monotonic() - said >= PLAIN_SECONDS:
            said = time.monotonic()
            console.say(f"{title}: {done + 1} of {len(missing)} trajectories")
