"""Which real images a batch is drawn from: at random, or DREAM's representatives; a part that methods can name.

A method that compares real with synthetic batches lets its config inherit :class:`SamplerConfig`, makes a sampler by
:func:`make_sampler` and calls :meth:`Sampler.refresh` before the batches of each step; the sampler narrows the choice
of :class:`ddbench.methods.parts.batches.RealBatches`. :func:`initial_positions` gives first images by the same
selection.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ddbench.config import setting
from ddbench.data.dataset import class_indices
from ddbench.data.limits import require_memory
from ddbench.data.representative import representatives
from ddbench.methods.base import Context, NotFiniteError
from ddbench.methods.parts.batches import RealBatches
from ddbench.methods.parts.masking import MaskConfig
from ddbench.networks.base import Student
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError
from ddbench.training.loops import Inputs, inputs_of

BATCH = 256
"""Images that the network sees at once when features are taken."""

DREAM = ("sampler", "dream")
"""The choice that the settings of clustering are of."""

FEATURE_BYTES = 28
"""Memory for each feature of a class: float32, and three times float64 while it is clustered."""


@dataclass(frozen=True, kw_only=True)
class SamplerConfig(MaskConfig):
    """Settings of the sampler, for a method's config to inherit; those of the mask with them."""

    sampler: Literal["random", "dream"] = "random"
    """Real images of a batch: random ones of the class, or DREAM's representatives, one a cluster of its features."""
    sampler_interval: int = setting(10, at_least=1, of=DREAM)
    """Steps between two clusterings (dream)."""
    sampler_clustering: Literal["exact", "minibatch"] = setting("exact", of=DREAM)
    """k-means on all images at once, or in mini-batches: faster, less exact (dream)."""
    sampler_images: int = setting(
        0, at_least=0, expected="0 (all) or at least the images of a batch, one a cluster", of=DREAM
    )
    """Images of a class that are embedded and clustered, drawn anew at each clustering; 0: all (dream)."""


def check_sampler(config: SamplerConfig, clusters: int) -> None:
    """Refuse settings that cannot work.

    Args:
        clusters: real images of a class in one batch.

    Raises:
        UserError: names the setting and its value.
    """
    if config.sampler_images and config.sampler_images < clusters:
        raise UserError(
            f"--sampler-images {config.sampler_images}: expected 0 (all) or at least the {clusters} images of a batch, "
            "one a cluster"
        )


class Sampler:
    """Leaves batches as they are: random images of the class."""

    def refresh(self, net: nn.Module, step: int, network: int = 0) -> None:
        """Called before the real batches of a step.

        Args:
            net: the network that is matched, in the mode in which it is matched.
            step: steps since the count began (with this network, where one is kept for several steps).
            network: number of the network; with ``step`` it names the draws.

        Raises:
            NotFiniteError: the network's features are not finite; nothing was changed.
        """

    def state(self) -> dict[str, Tensor]:
        """What must be kept between two refreshes, for a checkpoint."""
        return {}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take over what :meth:`state` gave."""


class Representatives(Sampler):
    """Narrows the batches of each class to one image a cluster of its features under the network at hand (DREAM).

    Args:
        config: with ``sampler_interval``, ``sampler_clustering`` and ``sampler_images``.
        context: names the draws.
        batches: whose choice is narrowed.
        clusters: clusters of a class, the number of real images in its batch.
    """

    def __init__(self, config: SamplerConfig, context: Context, batches: RealBatches, clusters: int) -> None:
        import sklearn.cluster  # noqa: F401 (seconds the first time, which are no part of the cost that is told)

        self.config, self.context, self.batches, self.clusters = config, context, batches, clusters
        self._chosen: list[Tensor] | None = None
        self._announced = False

    def refresh(self, net: nn.Module, step: int, network: int = 0) -> None:
        if step % self.config.sampler_interval:
            return
        begin = time.monotonic()
        chosen, seen = [], 0
        for label, index in enumerate(self.batches.index):
            purpose = ("sampler", network, step, label)
            index = self._candidates(index, *purpose)
            features = embed(net, self.batches.inputs, index)
            if not bool(torch.isfinite(features).all()):
                raise NotFiniteError("the network's features are not finite; likely cause: its learning rate")
            seed = seeds.derive(self.context.seed, *purpose)
            minibatch = self.config.sampler_clustering == "minibatch"
            chosen.append(index[representatives(features, self.clusters, seed, minibatch=minibatch)])
            seen += len(index)
        self._choose(chosen)
        if not self._announced:
            # Time is told, never recorded: what a run leaves does not depend on it.
            self.context.console.say(
                f"representatives: embedding and clustering {seen:,} images took {time.monotonic() - begin:.2g} s; "
                f"again every {self.config.sampler_interval} steps"
            )
            self._announced = True

    def _candidates(self, index: Tensor, *purpose: str | int) -> Tensor:
        """Images of a class that are clustered, ascending."""
        count = self.config.sampler_images
        if not count or count >= len(index):
            return index
        generator = seeds.generator(self.context.seed, "candidates", *purpose)
        return index[torch.randperm(len(index), generator=generator)[:count].sort().values]

    def _choose(self, chosen: list[Tensor]) -> None:
        self._chosen = chosen
        for label, index in enumerate(chosen):
            self.batches.narrow(label, index)

    def state(self) -> dict[str, Tensor]:
        """The chosen training images, marked: bool ``(N,)``; nothing before the first refresh."""
        if self._chosen is None:
            return {}
        marked = torch.zeros(len(self.batches.inputs), dtype=torch.bool)
        marked[torch.cat(self._chosen)] = True
        return {"sampler.chosen": marked}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        self._choose(self.batches.index)
        self._chosen = None
        if "sampler.chosen" in tensors:
            marked = tensors["sampler.chosen"].cpu()
            self._choose([index[marked[index]] for index in self.batches.index])


def make_sampler(config: SamplerConfig, context: Context, batches: RealBatches, clusters: int) -> Sampler:
    """The sampler that a config names.

    Args:
        clusters: real images of a class in one batch.
    """
    if config.sampler == "random":
        return Sampler()
    return Representatives(config, context, batches, clusters)


@torch.no_grad()
def embed(net: nn.Module, inputs: Inputs, index: Tensor, remedy: str = "use a smaller --sampler-images") -> Tensor:
    """Input of the network's last layer, float32 ``(n, D)`` on the CPU, of some images, without augmentation.

    The network stays in its mode; batch norms that use the statistics of the batch see batches of nearly equal size.

    Args:
        index: positions in ``inputs``, int64 ``(n,)``, at least one.
        remedy: what to do where memory is short, for people.

    Raises:
        UserError: the features do not fit into memory.
    """
    assert isinstance(net, Student)
    made = torch.empty(0)
    start = 0
    for piece in index.tensor_split(math.ceil(len(index) / BATCH)):
        features = net.features(inputs.batch(piece)).float().cpu()
        if not start:
            needed = FEATURE_BYTES * len(index) * features.shape[1]
            require_memory(needed, f"clustering the features of {len(index):,} images", remedy)
            made = torch.empty(len(index), features.shape[1])
        made[start : start + len(piece)] = features
        start += len(piece)
    return made


def initial_positions(context: Context, kind: str, count: int, *purpose: str | int) -> Tensor:
    """Real images to begin with: random ones, or representatives under a random network (DREAM).

    Args:
        kind: ``random`` or ``dream``; what the latter takes is told.
        count: images of a class; where it has fewer, they come several times.
        purpose: names the draws.

    Returns:
        Positions in ``context.train``, int64 ``(K, count)``.

    Raises:
        UserError: the features do not fit into memory.
    """
    if kind == "dream":
        import sklearn.cluster  # noqa: F401 (as above)

        net = context.network(seeds.derive(context.seed, *purpose, "network")).to(context.device)
        inputs = inputs_of(context.train, context.preprocess, context.device)
    rows, begin = [], time.monotonic()
    for label, index in enumerate(class_indices(context.train.labels, context.classes)):
        generator = seeds.generator(context.seed, *purpose, label)
        if kind == "dream":
            with seeds.isolated(context.seed, *purpose, "dropout", label):
                features = embed(net, inputs, index, "use another --init")
            index = index[representatives(features, count, seeds.derive(context.seed, *purpose, "clusters", label))]
        repeats = math.ceil(count / len(index))
        order = torch.cat([torch.randperm(len(index), generator=generator) for _ in range(repeats)])
        rows.append(index[order[:count]])
    if kind == "dream":
        took = time.monotonic() - begin
        context.console.say(f"first images: embedding and clustering {len(context.train):,} images took {took:.2g} s")
    return torch.stack(rows)
