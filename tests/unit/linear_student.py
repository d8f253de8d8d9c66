"""A student that is one linear layer, its training and the gradients through it written out in numpy, float64.

Independent of torch and of ddbench's inner loop: every derivative is by hand. With logits ``a = x W^T + b``,
``p = softmax(a)``, labels ``q`` and scale ``c``, a step's gradient is ``g = c / n sum_i (p_i - q_i) (x_i, 1)``, and for
a cotangent ``u = (U, v)`` with ``h_i = U x_i + v``: ``<u, g> = c / n sum_i (p_i - q_i) . h_i``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def softmax(values: Array) -> Array:
    shifted = np.exp(values - values.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


@dataclass(kw_only=True)
class Training:
    """N steps of SGD on whole-set or chosen batches; ``labels`` are logits ``(S, K)``, or probabilities if ``hard``.

    Attributes:
        targets: step -> (target, weight): the outer loss is the weighted sum of relative squared distances.
    """

    start: Array
    images: Array
    labels: Array
    hard: bool
    lr: float
    batches: list[Array]
    targets: list[tuple[int, Array, float]]
    momentum: float = 0.0
    scales: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.inputs, self.classes = self.images.shape[1], self.labels.shape[1]
        self.scales = self.scales or [1.0] * len(self.batches)

    def split(self, theta: Array) -> tuple[Array, Array]:
        weights = self.inputs * self.classes
        return theta[:weights].reshape(self.classes, self.inputs), theta[weights:]

    def gradient(self, theta: Array, step: int) -> Array:
        rows, (weight, bias) = self.batches[step], self.split(theta)
        x = self.images[rows]
        q = self.labels[rows] if self.hard else softmax(self.labels[rows])
        error = (softmax(x @ weight.T + bias) - q) * self.scales[step] / len(rows)
        return np.concatenate([(error.T @ x).ravel(), error.sum(axis=0)])

    def forward(self) -> list[Array]:
        thetas, velocity = [self.start], np.zeros_like(self.start)
        for step in range(len(self.batches)):
            velocity = self.momentum * velocity + self.gradient(thetas[-1], step)
            thetas.append(thetas[-1] - self.lr * velocity)
        return thetas

    def loss(self) -> float:
        thetas = self.forward()
        return sum(
            weight * float(((thetas[step] - target) ** 2).sum() / ((self.start - target) ** 2).sum())
            for step, target, weight in self.targets
        )

    def gradients(self) -> tuple[Array, Array, float]:
        """Of the outer loss, by images ``(S, D)``, labels (logits) ``(S, K)`` and learning rate."""
        thetas, steps = self.forward(), len(self.batches)
        velocities = [(thetas[s] - thetas[s + 1]) / self.lr for s in range(steps)]
        by_images, by_labels, by_lr = np.zeros_like(self.images), np.zeros_like(self.labels), 0.0
        by_theta, by_velocity = np.zeros_like(self.start), np.zeros_like(self.start)
        for step in reversed(range(steps)):
            for at, target, share in self.targets:
                if at == step + 1:
                    by_theta = by_theta + share * 2 * (thetas[at] - target) / ((self.start - target) ** 2).sum()
            by_lr -= float(by_theta @ velocities[step])
            by_velocity = by_velocity * self.momentum - self.lr * by_theta
            rows, (weight, bias) = self.batches[step], self.split(thetas[step])
            matrix, vector = self.split(by_velocity)
            x, factor = self.images[rows], self.scales[step] / len(rows)
            p = softmax(x @ weight.T + bias)
            q = self.labels[rows] if self.hard else softmax(self.labels[rows])
            h = x @ matrix.T + vector
            r = factor * p * (h - (p * h).sum(axis=1, keepdims=True))
            np.add.at(by_images, rows, factor * (p - q) @ matrix + r @ weight)
            np.add.at(by_labels, rows, -factor * q * (h - (q * h).sum(axis=1, keepdims=True)))
            by_theta = by_theta + np.concatenate([(r.T @ x).ravel(), r.sum(axis=0)])
        return by_images, by_labels, by_lr
