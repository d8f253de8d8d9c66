"""Coresets: which real images of one class to keep, judged by their features alone.

All selections are made in float64 by single-threaded numpy sums, and among equals the lowest position wins, so that
the choice does not depend on the number of threads.
"""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Points = npt.NDArray[np.float64]

BLOCK_BYTES = 2**20
"""Differences are formed in blocks of this size: they stay in the cache, and little memory is needed."""

RESTARTS = 10
"""Initialisations of k-means, of which the one with the least sum of squares is kept."""


def herding(features: Tensor, count: int) -> Tensor:
    """Greedy herding without replacement (Welling, ICML 2009; algorithm 4 of iCaRL, Rebuffi et al., CVPR 2017).

    The k-th choice is ``argmin_x |mu - (x + sum of the k-1 before) / k|`` over the images not chosen yet, with ``mu``
    the mean of all features; so the first choices do not depend on ``count``.

    Args:
        features: ``(N, D)``.
        count: how many, 1 to N.

    Returns:
        Positions int64 ``(count,)`` in the order of choice.

    Raises:
        ValueError: ``count`` out of range.
    """
    points = _points(features, count)
    mean = points.mean(axis=0)
    total = np.zeros_like(mean)
    chosen: list[int] = []
    for k in range(1, count + 1):
        distances = _squared_distances(points, k * mean - total)
        distances[chosen] = np.inf
        chosen.append(int(distances.argmin()))
        total += points[chosen[-1]]
    return torch.tensor(chosen)


def k_center(features: Tensor, count: int) -> Tensor:
    """Greedy k-center (Sener and Savarese, ICLR 2018, algorithm 1), begun at the image nearest to the mean, as in DC.

    Each further choice is the image farthest from the chosen ones (farthest-first traversal, Gonzalez 1985). The
    largest distance of an image to its nearest choice is at most twice the least possible; the first choices do not
    depend on ``count``.

    Args:
        features: ``(N, D)``.
        count: how many, 1 to N.

    Returns:
        Positions int64 ``(count,)`` in the order of choice.

    Raises:
        ValueError: ``count`` out of range.
    """
    points = _points(features, count)
    chosen = [int(_squared_distances(points, points.mean(axis=0)).argmin())]
    nearest = np.full(len(points), np.inf)
    while len(chosen) < count:
        nearest = np.minimum(nearest, _squared_distances(points, points[chosen[-1]]))
        nearest[chosen] = -1.0  # below the 0 of an image that equals a chosen one
        chosen.append(int(nearest.argmax()))
    return torch.tensor(chosen)


def k_means(features: Tensor, count: int, seed: int, *, restarts: int = RESTARTS, batch: int = 0) -> Tensor:
    """The images nearest to the ``count`` centres of k-means (k-means++ starts, Lloyd's iteration; scikit-learn).

    With ``count`` 1 the centre is the mean and nothing is random.

    Args:
        features: ``(N, D)``.
        count: how many, 1 to N.
        seed: names the clustering; taken modulo 2**32.
        restarts: starts of which the best is kept.
        batch: 0, or the images of one step of mini-batch k-means (Sculley, WWW 2010), which is faster and less exact.

    Returns:
        Different positions int64 ``(count,)``, ascending.

    Raises:
        ValueError: ``count`` out of range.
    """
    points = _points(features, count)
    if count == len(points):
        return torch.arange(count)
    centres = k_means_centres(features, count, seed, restarts=restarts, batch=batch).numpy()
    return torch.tensor(_nearest_distinct(points, centres)).sort().values


def k_means_centres(features: Tensor, count: int, seed: int, *, restarts: int = RESTARTS, batch: int = 0) -> Tensor:
    """The centres of k-means, float64 ``(count, D)``; arguments and errors as :func:`k_means`."""
    points = _points(features, count)
    if count == 1:
        return torch.from_numpy(points.mean(axis=0, keepdims=True))
    return torch.from_numpy(_centres(points, count, seed % 2**32, restarts, batch))


def unit_length(features: Tensor) -> Tensor:
    """Features ``(N, D)`` divided by their Euclidean lengths, float64; a row of zeros is left as it is."""
    points = features.double().numpy()
    lengths = np.sqrt(_squared_distances(points, np.zeros(points.shape[1])))
    return torch.from_numpy(points / np.where(lengths > 0, lengths, 1.0)[:, None])


def _points(features: Tensor, count: int) -> Points:
    if not 1 <= count <= len(features):
        raise ValueError(f"{count} of {len(features)} images")
    return np.ascontiguousarray(features.numpy(), dtype=np.float64)


def _squared_distances(points: Points, target: Points) -> Points:
    """Squared Euclidean distances ``(N,)`` of the rows to one point.

    Differences are squared, not ``|x|^2 - 2xy + |y|^2``, which cancels; equal rows give equal numbers.
    """
    made = np.empty(len(points))
    rows = max(1, BLOCK_BYTES // max(1, points[:1].nbytes))
    for start in range(0, len(points), rows):
        difference = points[start : start + rows] - target
        made[start : start + rows] = np.einsum("nd,nd->n", difference, difference)
    return made


def _nearest_distinct(points: Points, centres: Points) -> list[int]:
    """For each centre in turn the nearest point that no centre before it took."""
    chosen: list[int] = []
    for centre in centres:
        distances = _squared_distances(points, centre)
        distances[chosen] = np.inf
        chosen.append(int(distances.argmin()))
    return chosen


def _centres(points: Points, count: int, seed: int, restarts: int, batch: int) -> Points:
    """Centres ``(count, D)`` of k-means.

    One thread: with several, scikit-learn adds partial sums in the order in which threads finish.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans  # a second of import
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    if batch:
        model = MiniBatchKMeans(count, init="k-means++", n_init=restarts, batch_size=batch, random_state=seed)
    else:
        model = KMeans(count, init="k-means++", n_init=restarts, algorithm="lloyd", random_state=seed)
    with threadpool_limits(1), warnings.catch_warnings():
        # Fewer different images than clusters: centres then coincide, and the next nearest images are taken.
        warnings.simplefilter("ignore", ConvergenceWarning)
        made: Points = model.fit(points).cluster_centers_
    return made
