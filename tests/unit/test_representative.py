"""DREAM's selection against brute force, and the sampler that methods name."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import digits_context
from torch import Tensor

from ddbench.config import check_config
from ddbench.data import limits
from ddbench.data.representative import representatives
from ddbench.experts.store import find_stores
from ddbench.methods import METHODS
from ddbench.methods.base import Context, NotFiniteError, State
from ddbench.methods.needs.experts import Experts
from ddbench.methods.parts import sampling
from ddbench.methods.parts.batches import RealBatches
from ddbench.methods.parts.sampling import SamplerConfig, check_sampler, embed, initial_positions, make_sampler
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError
from ddbench.runtime.progress import Console

CLASSES = 10


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def make_context(data_root: Path, tmp_path: Path) -> Callable[..., Context]:
    return functools.partial(digits_context, data_root, tmp_path)


@pytest.fixture
def context(make_context: Callable[..., Context]) -> Context:
    return make_context()


def blobs(clusters: int, each: int, seed: int = 0) -> Tensor:
    """Features in tight, far apart groups; rows shuffled."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.eye(clusters) * 100
    rows = centres.repeat_interleave(each, 0) + torch.randn(clusters * each, clusters, generator=generator)
    return rows[torch.randperm(len(rows), generator=generator)]


def distance(a: list[float], b: list[float]) -> float:
    return math.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def nearest_distinct(rows: list[list[float]], centres: list[list[float]]) -> list[int]:
    chosen: list[int] = []
    for centre in centres:
        left = [k for k in range(len(rows)) if k not in chosen]
        chosen.append(min(left, key=lambda k: (distance(rows[k], centre), k)))
    return chosen


@pytest.mark.parametrize("minibatch", [False, True])
def test_one_image_of_every_cluster(minibatch: bool):
    """Of each of five groups the member nearest to the group's mean."""
    features = blobs(5, 30)
    chosen = representatives(features, 5, 1, minibatch=minibatch)
    group = features.argmax(1)
    assert sorted(group[chosen].tolist()) == list(range(5))
    if minibatch:  # its centres are running means
        return
    for position in chosen.tolist():
        members = (group == group[position]).nonzero().flatten().tolist()
        rows = features.double().tolist()
        centre = [math.fsum(rows[k][d] for k in members) / len(members) for d in range(5)]
        assert position == min(members, key=lambda k: distance(rows[k], centre))


@pytest.mark.parametrize("seed", [0, 2**32 + 7, 2**62])
def test_nearest_different_images_of_the_centres(seed: int):
    from sklearn.cluster import KMeans

    features = torch.randn(200, 6, generator=torch.Generator().manual_seed(3))  # no cluster of two: a tie
    model = KMeans(8, n_init=1, random_state=seed % 2**32).fit(features.double().numpy())
    expected = nearest_distinct(features.double().tolist(), model.cluster_centers_.tolist())
    assert representatives(features, 8, seed).tolist() == sorted(expected)


def test_more_than_there_are():
    features = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    assert representatives(features, 8, 0).tolist() == list(range(7))
    with pytest.raises(ValueError):
        representatives(features, 0, 0)


@pytest.mark.parametrize("minibatch", [False, True])
def test_fewer_different_images_than_clusters(minibatch: bool):
    """Clusters that run empty, and centres that coincide, still give different images (and no warning)."""
    features = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).repeat(10, 1)
    chosen = representatives(features, 8, 0, minibatch=minibatch).tolist()
    assert len(set(chosen)) == 8
    assert {position % 3 for position in chosen} == {0, 1, 2}


@pytest.mark.parametrize("minibatch", [False, True])
def test_seed_names_the_clustering(minibatch: bool):
    features = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    made = [representatives(features, 10, seed, minibatch=minibatch) for seed in (1, 1, 2)]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert random.getstate() == python_state


# The sampler


def chosen_of(batches: RealBatches, count: int) -> list[list[int]]:
    """What each class draws from, sorted."""
    generator = torch.Generator().manual_seed(0)
    return [sorted(batches.draw(label, count, generator).tolist()) for label in range(CLASSES)]


def test_random_sampler_does_nothing(context: Context):
    batches = RealBatches(context)
    before = chosen_of(batches, 10**6)
    sampler = make_sampler(SamplerConfig(), context, batches, 8)
    sampler.refresh(context.network(0), 0)
    assert chosen_of(batches, 10**6) == before
    assert sampler.state() == {}


def test_batches_are_representatives_under_the_network(context: Context):
    """Every class is narrowed to as many images as a batch has: those that its features choose."""
    batches = RealBatches(context)
    net = context.network(5)
    make_sampler(SamplerConfig(sampler="dream"), context, batches, 8).refresh(net, 20, network=3)
    for label, positions in enumerate(chosen_of(batches, 8)):
        assert len(set(positions)) == 8
        assert set(context.train.labels[positions].tolist()) == {label}
        index = (context.train.labels == label).nonzero().flatten()
        with torch.no_grad():
            features = net.features(context.preprocess.apply(context.train.images[index]))
        seed = seeds.derive(context.seed, "sampler", 3, 20, label)
        assert positions == index[representatives(features, 8, seed)].tolist()


def test_other_networks_choose_otherwise(context: Context):
    found = []
    for seed in (0, 1):
        batches = RealBatches(context)
        make_sampler(SamplerConfig(sampler="dream"), context, batches, 8).refresh(context.network(seed), 0)
        found.append(chosen_of(batches, 8))
    assert found[0] != found[1]


def test_refreshed_every_interval(context: Context, monkeypatch: pytest.MonkeyPatch):
    calls: list[int] = []

    def counted(net: Any, inputs: Any, index: Tensor) -> Tensor:
        calls.append(len(index))
        return embed(net, inputs, index)

    monkeypatch.setattr(sampling, "embed", counted)
    batches = RealBatches(context)
    sampler = make_sampler(SamplerConfig(sampler="dream", sampler_interval=3), context, batches, 8)
    seen = []
    for step in range(7):
        sampler.refresh(context.network(step), step)
        assert len(calls) == CLASSES * (step // 3 + 1)
        seen.append(chosen_of(batches, 8))
    assert seen[0] == seen[1] == seen[2]
    assert seen[3] == seen[4] == seen[5]
    assert seen[0] != seen[3]
    assert seen[3] != seen[6]
    assert sum(calls[:CLASSES]) == len(context.train)


def test_bounded_cost(context: Context, monkeypatch: pytest.MonkeyPatch):
    """With --sampler-images only so many images of a class are embedded, others each time."""
    calls: list[Tensor] = []

    def counted(net: Any, inputs: Any, index: Tensor) -> Tensor:
        calls.append(index)
        return embed(net, inputs, index)

    monkeypatch.setattr(sampling, "embed", counted)
    config = SamplerConfig(sampler="dream", sampler_images=20, sampler_interval=1, sampler_clustering="minibatch")
    batches = RealBatches(context)
    sampler = make_sampler(config, context, batches, 8)
    for step in range(2):
        sampler.refresh(context.network(0), step)
        assert all(set(one) <= set(all_.tolist()) for one, all_ in zip(chosen_of(batches, 8), calls[-10:], strict=True))
    assert {len(set(index.tolist())) for index in calls} == {20}
    assert not torch.equal(calls[0], calls[CLASSES])


def test_small_classes_are_used_whole(context: Context):
    batches = RealBatches(context)
    whole = chosen_of(batches, 10**6)
    make_sampler(SamplerConfig(sampler="dream"), context, batches, 10**4).refresh(context.network(0), 0)
    assert chosen_of(batches, 10**4) == whole


def test_state_of_the_sampler(context: Context):
    one, two = RealBatches(context), RealBatches(context)
    config = SamplerConfig(sampler="dream")
    sampler, other = make_sampler(config, context, one, 8), make_sampler(config, context, two, 8)
    assert sampler.state() == {}
    sampler.refresh(context.network(0), 0)
    other.load_state(sampler.state())
    assert chosen_of(one, 8) == chosen_of(two, 8)
    assert torch.equal(
        one.draw(3, 4, torch.Generator().manual_seed(1)), two.draw(3, 4, torch.Generator().manual_seed(1))
    )
    other.load_state({})
    assert chosen_of(two, 10**6) == chosen_of(RealBatches(context), 10**6)
    assert other.state() == {}


def test_features_that_are_not_finite_change_nothing(context: Context):
    batches = RealBatches(context)
    sampler = make_sampler(SamplerConfig(sampler="dream", sampler_interval=1), context, batches, 8)
    sampler.refresh(context.network(0), 0)
    before = chosen_of(batches, 8)
    net = context.network(1)
    with torch.no_grad():
        next(net.parameters()).fill_(torch.inf)
    with pytest.raises(NotFiniteError, match="features are not finite"):
        sampler.refresh(net, 1)
    assert chosen_of(batches, 8) == before


def test_seeds_of_the_sampler(make_context: Callable[..., Context]):
    found = []
    for seed in (0, 0, 1):
        context = make_context(seed=seed)
        batches = RealBatches(context)
        make_sampler(SamplerConfig(sampler="dream"), context, batches, 8).refresh(context.network(0), 0)
        found.append(chosen_of(batches, 8))
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_cost_is_told(make_context: Callable[..., Context], capsys: pytest.CaptureFixture[str]):
    context = make_context(console=Console())
    sampler = make_sampler(SamplerConfig(sampler="dream", sampler_interval=1), context, RealBatches(context), 8)
    for step in range(2):
        sampler.refresh(context.network(0), step)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "representatives: embedding and clustering 1,168 images took" in lines[0]
    for kind, told in (("random", []), ("dream", ["first images: embedding and clustering 1,168 images took"])):
        initial_positions(context, kind, 2, "test")
        lines = capsys.readouterr().err.splitlines()
        assert [line.partition(" took")[0] + " took" for line in lines] == told


def test_features_in_pieces(context: Context, monkeypatch: pytest.MonkeyPatch):
    net, inputs = context.network(0), RealBatches(context).inputs
    index = torch.arange(50)
    whole = embed(net, inputs, index)
    monkeypatch.setattr(sampling, "BATCH", 7)
    torch.testing.assert_close(embed(net, inputs, index), whole)
    monkeypatch.setattr(limits, "available_memory", lambda: 1000)
    with pytest.raises(
        UserError, match=r"clustering the features of 50 images needs .*; use a smaller --sampler-images"
    ):
        embed(net, inputs, index)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampler_interval": 0}, "--sampler-interval 0: expected at least 1"),
        ({"sampler_images": 7}, "--sampler-images 7: expected 0 .* at least the 8 images"),
        ({"sampler_images": -1}, "--sampler-images -1"),
        ({"sampler": "random", "sampler_interval": 5}, "--sampler-interval 5: a setting of --sampler dream"),
        ({"sampler": "random", "sampler_clustering": "minibatch"}, "--sampler-clustering minibatch: a setting of"),
        ({"sampler": "random", "sampler_images": 8}, "--sampler-images 8: a setting of --sampler dream, not of random"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str):
    def check(config: SamplerConfig) -> None:
        check_config(config)
        check_sampler(config, 8)

    check(SamplerConfig(sampler="dream", sampler_images=8))
    with pytest.raises(UserError, match=message):
        check(SamplerConfig(**{"sampler": "dream", **settings}))


# Methods that name it


MATCHING = {
    "datadam": {"batch_real": 8},
    "dc": {"batch_real": 8, "outer_loops": 2, "inner_epochs": 1},
    "dm": {"batch_real": 8},
    "dsa": {"batch_real": 8, "outer_loops": 2, "inner_epochs": 1},
    "idc": {"batch_real": 8, "inner_steps": 2, "net_images": 16},
}


def method_of(name: str, context: Context, **settings: Any) -> Any:
    kind = METHODS.get(name)
    config = kind.config_class(**{"iterations": 5, **MATCHING.get(name, {}), **settings})
    kind.check(config, context)
    method = kind(config, context)
    method.setup()
    return method


def after(method: Any, first: int, last: int) -> Tensor:
    for iteration in range(first, last):
        method.step(iteration)
    images: Tensor = method.distilled().images
    return images


@pytest.mark.parametrize("name", MATCHING)
def test_methods_take_representatives(name: str, context: Context):
    """Another sampler, another synset; a run that goes on from any state ends alike."""
    dream = {"sampler": "dream", "sampler_interval": 3}
    plain = after(method_of(name, context), 0, 5)
    whole = after(method_of(name, context, **dream), 0, 5)
    assert not torch.equal(whole, plain)
    for done in (1, 3, 4):
        half, other = method_of(name, context, **dream), method_of(name, context, **dream)
        after(half, 0, done)
        state = {key: tensor.clone() for key, tensor in half.state().tensors.items()}
        assert int(state["sampler.chosen"].sum()) == 8 * CLASSES
        other.load_state(State(tensors=state))
        assert torch.equal(after(other, done, 5), whole), done


@pytest.mark.parametrize("name", MATCHING)
def test_methods_refuse_bad_settings_of_the_sampler(name: str, context: Context):
    with pytest.raises(UserError, match="--sampler-images 3: expected 0"):
        method_of(name, context, sampler="dream", sampler_images=3)


@pytest.mark.parametrize("name", ["mtt", "ftd", "tesla", "datm", "ast", "pdd"])
def test_first_images_of_trajectory_matching(name: str, make_context: Callable[..., Context], buffers: Path):
    """``--init dream`` begins with medoids under a random network."""
    context = make_context().give(Experts, find_stores(buffers)[0])
    settings = {"expert_epochs": 1, "max_start_epoch": 2, "student_steps": 1}
    if name == "pdd":
        settings["stages"] = 1
    made = method_of(name, context, init="dream", **settings).distilled().images
    chosen = initial_positions(context, "dream", 2, "mtt-init")
    assert torch.equal(made, context.preprocess.apply(context.train.images[chosen.flatten()]))
    assert not torch.equal(made, method_of(name, context, init="real", **settings).distilled().images)


# First images


@pytest.mark.parametrize("kind", ["random", "dream"])
def test_first_images(kind: str, make_context: Callable[..., Context]):
    state = torch.get_rng_state()
    found = [initial_positions(make_context(seed=seed), kind, 6, "test") for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    labels = make_context().train.labels
    for positions in found:
        assert positions.shape == (CLASSES, 6)
        assert torch.equal(labels[positions], torch.arange(CLASSES).unsqueeze(1).expand(-1, 6))
        assert all(len(set(row.tolist())) == 6 for row in positions)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_first_images_by_dream_are_medoids(context: Context):
    """Under one random network, of the seed's name."""
    net = context.network(seeds.derive(context.seed, "test", "network"))
    positions = initial_positions(context, "dream", 6, "test")
    for label in range(CLASSES):
        index = (context.train.labels == label).nonzero().flatten()
        with torch.no_grad():
            features = net.features(context.preprocess.apply(context.train.images[index]))
        expected = index[representatives(features, 6, seeds.derive(context.seed, "test", "clusters", label))]
        assert sorted(positions[label].tolist()) == expected.tolist()


@pytest.mark.parametrize("kind", ["random", "dream"])
def test_more_first_images_than_a_class_has(kind: str, context: Context):
    """Each comes once before one comes again."""
    positions = initial_positions(context, kind, 250, "test")
    counts = torch.bincount(context.train.labels)
    for label, row in enumerate(positions):
        times = torch.bincount(row, minlength=len(context.train))[context.train.labels == label]
        assert int(times.max()) - int(times.min()) <= 1
        assert int(times.sum()) == 250 > int(counts[label])
