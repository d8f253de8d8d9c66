"""Selections of real images against brute force and references written out in plain Python."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ddbench.data import coreset
from ddbench.data.coreset import herding, k_center, k_means, unit_length

SELECTIONS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "herding": herding,
    "k_center": k_center,
    "k_means": lambda features, count: k_means(features, count, 5),
}


def points(n: int, d: int, seed: int = 0) -> Tensor:
    """Features as a ReLU gives them: not negative, many zeros."""
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).clamp(min=0)


def distance(a: list[float], b: list[float]) -> float:
    return math.sqrt(math.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


def mean(rows: list[list[float]]) -> list[float]:
    return [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]


def radius(rows: list[list[float]], chosen: tuple[int, ...]) -> float:
    """Largest distance of a row to the nearest chosen one."""
    return max(min(distance(row, rows[index]) for index in chosen) for row in rows)


def mean_error(features: Tensor, chosen: Tensor) -> float:
    features = features.double()
    return float((features[chosen].mean(0) - features.mean(0)).norm())


# What all of them promise


@pytest.mark.parametrize("name", SELECTIONS)
@pytest.mark.parametrize("count", [1, 2, 7, 39, 40])
def test_distinct_positions(name: str, count: int):
    chosen = SELECTIONS[name](points(40, 5), count)
    assert chosen.dtype == torch.int64
    assert chosen.shape == (count,)
    assert len(set(chosen.tolist())) == count
    assert set(chosen.tolist()) <= set(range(40))


@pytest.mark.parametrize("name", SELECTIONS)
@pytest.mark.parametrize("count", [0, 41])
def test_count_out_of_range(name: str, count: int):
    with pytest.raises(ValueError, match=f"{count} of 40"):
        SELECTIONS[name](points(40, 5), count)


@pytest.mark.parametrize("name", SELECTIONS)
def test_one_image_is_the_nearest_to_the_mean(name: str):
    rows = points(31, 6, seed=3)
    centre = mean(rows.double().tolist())
    distances = [distance(row, centre) for row in rows.double().tolist()]
    assert SELECTIONS[name](rows, 1).tolist() == [distances.index(min(distances))]


@pytest.mark.parametrize("name", SELECTIONS)
def test_equal_images_by_position(name: str):
    """Rows that occur three times: the first one is taken first, whatever its alignment in memory."""
    features = points(20, 7).repeat(3, 1)
    assert SELECTIONS[name](features, 1).item() < 20
    many = SELECTIONS[name](features, 20).tolist()
    # an image is in the choice only with all its equals of lower position
    for position in many:
        assert {position - 20 * k for k in range(1, position // 20 + 1)} <= set(many), position


@pytest.mark.parametrize("name", SELECTIONS)
def test_nothing_but_equal_images(name: str):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sorted(SELECTIONS[name](torch.ones(6, 3), 4).tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("name", SELECTIONS)
def test_threads_and_global_generators_play_no_part(name: str):
    features = points(300, 33)
    before = torch.get_num_threads()
    states = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002 (the state that must stay)
    try:
        made = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            made.append(SELECTIONS[name](features, 12))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*made)
    assert torch.equal(states[0], torch.get_rng_state())
    for one, two in zip(states[1], np.random.get_state(), strict=True):  # noqa: NPY002
        assert np.array_equal(one, two)


@pytest.mark.parametrize("name", SELECTIONS)
def test_features_are_not_changed(name: str):
    for features in (points(30, 4), points(30, 4).double()):
        kept = features.clone()
        SELECTIONS[name](features, 5)
        assert torch.equal(features, kept)


@pytest.mark.parametrize("name", SELECTIONS)
def test_blocks_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch):
    features = points(50, 9)
    whole = SELECTIONS[name](features, 10)
    monkeypatch.setattr(coreset, "BLOCK_BYTES", 3 * 9 * 8)
    assert torch.equal(SELECTIONS[name](features, 10), whole)


def test_large_features_do_not_cancel():
    """Small differences of large numbers still decide; ``|x|^2 - 2xy + |y|^2`` would lose them."""
    features = 1e9 + torch.tensor([[0.0], [1.0], [2.0], [3.5], [9.0]], dtype=torch.float64)
    assert k_center(features, 3).tolist() == [3, 4, 0]  # the mean is 3.1
    assert herding(features, 1).tolist() == [3]
    assert features[k_means(features, 2, 0)].flatten().tolist() == [1e9 + 2, 1e9 + 9]


# Herding


@pytest.mark.parametrize("seed", range(4))
def test_herding_is_the_greedy_choice(seed: int):
    """Each choice brings the mean of the chosen closest to the class mean, of all that are left."""
    features = points(30, 6, seed)
    rows = features.double().tolist()
    centre, chosen = mean(rows), []
    for _ in range(12):
        left = [index for index in range(30) if index not in chosen]
        errors = [distance(mean([rows[k] for k in (*chosen, index)]), centre) for index in left]
        chosen.append(left[errors.index(min(errors))])
    assert herding(features, 12).tolist() == chosen


@pytest.mark.parametrize("select", [herding, k_center])
def test_first_choices_do_not_depend_on_the_count(select: Callable[[Tensor, int], Tensor]):
    features = points(40, 5)
    whole = select(features, 40)
    for count in (1, 4, 17):
        assert torch.equal(select(features, count), whole[:count])


def test_herding_of_all_has_the_mean():
    features = points(25, 4)
    assert mean_error(features, herding(features, 25)) < 1e-12


@pytest.mark.parametrize("count", [2, 5, 20])
def test_herding_is_nearer_to_the_mean_than_random(count: int):
    herded, random = [], []
    for seed in range(10):
        features = points(100, 16, seed)
        herded.append(mean_error(features, herding(features, count)))
        generator = torch.Generator().manual_seed(seed)
        random.append(mean_error(features, torch.randperm(100, generator=generator)[:count]))
    assert sum(herded) < 0.8 * sum(random)


# k-center


@pytest.mark.parametrize("seed", range(4))
def test_k_center_is_farthest_first(seed: int):
    features = points(30, 6, seed)
    rows = features.double().tolist()
    centre = mean(rows)
    chosen = [min(range(30), key=lambda index: distance(rows[index], centre))]
    while len(chosen) < 12:
        gaps = [min(distance(row, rows[index]) for index in chosen) for row in rows]
        chosen.append(gaps.index(max(gaps)))
    assert k_center(features, 12).tolist() == chosen


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [2, 3])
def test_k_center_covers_within_twice_the_optimum(seed: int, count: int):
    features = points(12, 3, seed)
    rows = features.double().tolist()
    best = min(radius(rows, subset) for subset in itertools.combinations(range(12), count))
    found = radius(rows, tuple(k_center(features, count).tolist()))
    assert best <= found <= 2 * best


# k-means


def blobs(seed: int) -> tuple[Tensor, Tensor]:
    """Four far clusters of five points in random order: features and cluster numbers."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 80.0], [90.0, 90.0]])
    labels = torch.arange(4).repeat_interleave(5)[torch.randperm(20, generator=generator)]
    return corners[labels] + torch.randn(20, 2, generator=generator), labels


@pytest.mark.parametrize("seed", range(4))
def test_k_means_takes_the_image_nearest_to_each_centre(seed: int):
    features, labels = blobs(seed)
    expected = []
    for label in range(4):
        members = (labels == label).nonzero().flatten()
        rows = features[members].double().tolist()
        centre = mean(rows)
        expected.append(int(members[min(range(5), key=lambda index: distance(rows[index], centre))]))
    assert k_means(features, 4, seed).tolist() == sorted(expected)


def test_k_means_finds_the_least_sum_of_squares():
    """On a line the optimal clusters are intervals: all cuts are tried."""
    features = points(14, 1, seed=2) + torch.arange(14.0)[:, None] ** 1.5 / 3
    rows = sorted(features.double().flatten().tolist())

    def squares(part: list[float]) -> float:
        centre = math.fsum(part) / len(part)
        return math.fsum((x - centre) ** 2 for x in part)

    cuts = itertools.combinations(range(1, 14), 2)
    best = min(cuts, key=lambda cut: sum(squares(rows[a:b]) for a, b in itertools.pairwise((0, *cut, 14))))
    chosen = []
    for a, b in itertools.pairwise((0, *best, 14)):
        centre = math.fsum(rows[a:b]) / (b - a)
        chosen.append(min(rows, key=lambda x: abs(x - centre)))
    assert sorted(features[k_means(features, 3, 0)].double().flatten().tolist()) == chosen


def test_shared_nearest_image_goes_to_the_next_nearest():
    """Two centres beside the point 0: the second one takes its next nearest, 3."""
    rows = np.array([[-9.0], [0.0], [3.0], [20.0]])
    assert coreset._nearest_distinct(rows, np.array([[0.1], [-0.2], [0.0]])) == [1, 2, 0]


def test_k_means_is_named_by_its_seed():
    features = points(200, 8)
    made = [k_means(features, 15, seed).tolist() for seed in (0, 0, 1, 2**63 - 1)]
    assert made[0] == made[1]
    assert made[0] != made[2]
    assert all(chosen == sorted(chosen) for chosen in made)


# Unit length


def test_unit_length():
    features = torch.tensor([[3.0, 4.0], [0.0, 0.0], [-1e-20, 0.0]])
    made = unit_length(features)
    assert made.dtype == torch.float64
    assert torch.allclose(made, torch.tensor([[0.6, 0.8], [0.0, 0.0], [-1.0, 0.0]], dtype=torch.float64), atol=1e-15)


@pytest.mark.parametrize("select", [herding, k_center])
def test_unit_length_leaves_only_angles(select: Callable[[Tensor, int], Tensor]):
    features = points(40, 6)
    scaled = features * torch.tensor([0.5, 1.0, 4.0, 64.0]).repeat(10)[:, None]
    assert torch.equal(select(unit_length(scaled), 8), select(unit_length(features), 8))
    assert not torch.equal(select(scaled, 8), select(features, 8))
