"""RCIG: dataset distillation with convexified implicit gradients.

Loo, Hasani, Lechner, Rus; ICML 2023; arXiv 2302.06755; code: yolky/RCIG.

Each meta step takes a network of a pool and linearises it in its weights: with the last layer in closed form, training
this model on the learned set is a convex problem in the tangent of the other weights (section 4). It is solved, the
solution predicts real images, and the gradient of that loss in images, labels and temperature has a direct part and an
implicit one, through the solution; the implicit part is clipped to the length of the direct one, leaf by leaf.
AdaBelief descends; the moving average of what is learned is delivered. Then the network is trained some steps on the
learned set.

Both linear systems are solved by conjugate gradients on exact Hessian products (the inner loss is quadratic);
``--solver adam`` takes steps of Adam instead, and ``--paper-code`` the released code's form with its peculiarities:
they, and all deviations, are listed in ``methods/rcig/README.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ddbench.config import setting
from ddbench.methods.base import Context
from ddbench.methods.facts import Facts
from ddbench.methods.families.kernel import PART, KernelConfig, KernelMethod, Learned, right_share
from ddbench.methods.parts.pool import BETAS, EPS
from ddbench.runtime import seeds
from ddbench.training.kernel import clip_to, platt_loss, ridge_solver
from ddbench.training.linearised import Linearised
from ddbench.training.outer import AdaBelief
from ddbench.training.solve import adam_descent, conjugate_gradients

EMA = 0.99
"""Decay of the moving average that is delivered."""


@dataclass(frozen=True, kw_only=True)
class RCIGConfig(KernelConfig):
    """Settings of RCIG; the defaults are those of the public code, but for the solver."""

    lr_images: float = setting(3e-3, at_least=0)
    """Learning rate of AdaBelief on the images."""
    lr_labels: float = setting(3e-3, at_least=0)
    """Learning rate of AdaBelief on the labels."""
    lr_tau: float = setting(0.03, at_least=0)
    """Learning rate of AdaBelief on the log-temperature."""
    ridge: float = setting(5e-4, above=0)
    """Weight decay of the inner problem, times the number of learned images (l2_rate)."""
    most_steps: int = setting(15, at_least=1)
    """A network of the pool is trained for 1 to so many steps after its meta step, as many as are drawn."""
    solver: Literal["cg", "adam"] = setting("cg", unless=("paper_code", True))
    """cg: conjugate gradients, exact in at most images x classes + 1 products; adam: steps of Adam (as released)."""
    solver_steps: int = setting(20, at_least=1)
    """Products, or steps, of each of the two solves."""
    lr_inner: float = setting(1e-3, above=0)
    """With --solver adam, or --paper-code: its rate in the inner problem; the released code searches one, we do not."""
    lr_hessian: float = setting(1e-3, above=0)
    """With --solver adam, or --paper-code: its rate in the system of the implicit gradient."""
    paper_code: bool = False
    """The released form: Adam for both solves, a base that drifts, an ascending last layer, early AdaBelief."""


class RCIG(KernelMethod[RCIGConfig]):
    """Convexified implicit gradients."""

    config_class = RCIGConfig
    facts = Facts(
        title="RCIG",
        line="convexified implicit gradients over a pool of linearised networks",
        family="kernel regression",
        protocol="mse-v1",
        paper="Dataset Distillation with Convexified Implicit Gradients",
        authors=("Noel Loo", "Ramin Hasani", "Mathias Lechner", "Daniela Rus"),
        venue="ICML",
        year=2023,
        arxiv="2302.06755",
        code="https://github.com/yolky/RCIG",
    )

    @classmethod
    def example(cls, context: Context) -> str:
        """One whose activation has a second derivative."""
        return f"{super().example(context)}-softplus"

    def linearised(self) -> Linearised:
        """The last layer has a tangent in the released form only."""
        return Linearised(self._network(0), tangent_of_last=self.config.paper_code)

    def setup(self) -> None:
        """As the family's; then AdaBelief and the moving average."""
        super().setup()
        config, learned = self.config, self.learned
        rates = {"images": config.lr_images, "labels": config.lr_labels, "tau": config.lr_tau}
        leaves = {name: (part, rates[name]) for name, part in learned.named().items()}
        self._belief = AdaBelief(leaves, early=config.paper_code)
        self._average = {name: torch.zeros_like(part) for name, part in learned.named().items()}

    def steps_of_pool(self, iteration: int) -> int:
        """Drawn for each iteration."""
        generator = seeds.generator(self.context.seed, "pool-steps", iteration)
        return int(torch.randint(1, self.config.most_steps + 1, (), generator=generator))

    def pool_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Half the mean squared error over images and classes."""
        return 0.5 * (outputs - labels).square().mean()

    @classmethod
    def idle(cls, config: RCIGConfig, context: Context) -> Mapping[str, str]:
        """Rates of Adam where nothing is solved by it."""
        by_adam = config.solver == "adam" or config.paper_code
        return {} if by_adam else dict.fromkeys(("lr_inner", "lr_hessian"), "with --solver cg")

    @property
    def weight(self) -> float:
        """Lambda: the ridge of the Gram matrix; mirror images do not count."""
        return self.config.ridge * len(self.learned.images)

    def meta(self, member: int, x: Tensor, y: Tensor, iteration: int) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Loss at the solved inner problem; direct and clipped implicit gradients."""
        theta, delta, products = self._inner(member)
        learned = self.learned.leaves()
        with torch.no_grad():
            pushed = [self.net.push(theta, part, delta) for part in x.split(PART)]
        real, at_real = torch.cat([one for one, _ in pushed]), torch.cat([two for _, two in pushed]).requires_grad_()
        predicted = at_real

        def head(outputs: list[Tensor], labels: Tensor) -> Tensor:
            nonlocal predicted
            features, moved = outputs
            alpha = ridge_solver(features, self.weight)(labels - moved)
            predicted = at_real + real @ (features.T @ alpha)
            return platt_loss(predicted, y, labels, learned.tau)

        loss, gradients, (_, over_moved) = self.through(
            lambda part: self.net.push(theta, part, delta), learned, head, iteration
        )
        (over_real,) = torch.autograd.grad(loss, at_real)
        images, _ = self.shown(self.learned.images, self.learned.labels)
        slope = torch.zeros_like(theta)
        for part, over in ((images, over_moved), (x, over_real)):
            for some, share in zip(part.split(PART), over.split(PART), strict=True):
                slope += self.net.pull(theta, some, share)
        implicit, more = self._implicit(theta, delta, slope, iteration)
        for name, part in implicit.items():
            gradients[name] = gradients[name] + clip_to(part, gradients[name])
        metrics = {"loss": float(loss.detach()), "real_accuracy": right_share(predicted, y)}
        return {**metrics, "tau": float(learned.tau.detach()), "products": float(products + more)}, gradients

    # The inner problem

    def _system(self, theta: Tensor) -> tuple[Any, Any]:
        """``v -> (I + J^T A^-1 J) v`` and ``c -> J^T A^-1 c`` at a base, on the learned set as it is."""
        images, _ = self.shown(self.learned.images, self.learned.labels)
        point = self.net.at(theta, images)
        solve = ridge_solver(point.features, self.weight)

        def pulled(right: Tensor) -> Tensor:
            return point.pull(solve(right))

        def product(tangent: Tensor) -> Tensor:
            with torch.no_grad():
                return tangent + pulled(point.push(tangent))

        return product, pulled

    def _inner(self, member: int) -> tuple[Tensor, Tensor, int]:
        """Base ``(P,)``, solution delta ``(P,)``, and products with the Hessian."""
        config, theta = self.config, self.pool.weights[member].clone()
        _, labels = self.shown(self.learned.images, self.learned.labels)
        if config.paper_code:
            return (*self._released(member, labels), config.solver_steps)
        product, pulled = self._system(theta)
        right = pulled(labels)
        if config.solver == "cg":
            return (theta, *conjugate_gradients(product, right, config.solver_steps))
        start = torch.zeros_like(theta)
        delta = adam_descent(lambda v, _: product(v) - right, start, config.lr_inner, config.solver_steps)
        return theta, delta, config.solver_steps

    def _released(self, member: int, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The released inner solve: Adam, its count that of the pool's; the base drifts; the last layer climbs.

        The pool's optimiser goes on with gradients of zero, so its momentum moves the base at every step; and the last
        layer's tangent gets the gradient itself added instead of a step down.
        """
        theta, pool, config = self.pool.weights[member].clone(), self.pool, self.config
        first, second = pool.first[member].clone(), pool.second[member].clone()
        count, last = int(pool.steps[member]), self.net.last_slice()
        delta = torch.zeros_like(theta)
        mean, square = torch.zeros_like(theta), torch.zeros_like(theta)
        scale = self.weight / (len(labels) * labels.shape[1])
        for step in range(config.solver_steps):
            product, pulled = self._system(theta)
            slope = scale * (product(delta) - pulled(labels))
            mean = BETAS[0] * mean + (1 - BETAS[0]) * slope
            square = BETAS[1] * square + (1 - BETAS[1]) * slope.square()
            number = count + step + 1
            one, two = 1 - BETAS[0] ** number, 1 - BETAS[1] ** number
            move = -config.lr_inner * (mean / one) / ((square / two).sqrt() + EPS)
            move[last] = slope[last]
            delta = delta + move
            first, second = BETAS[0] * first, BETAS[1] * second
            theta = theta - config.lr_pool * (first / one) / ((second / two).sqrt() + EPS)
        return theta, delta

    def _solved(self, theta: Tensor, slope: Tensor) -> tuple[Tensor, int]:
        """v of ``(I + J^T A^-1 J) v = slope``; and products with the Hessian."""
        config, (product, _) = self.config, self._system(theta)
        if config.solver == "cg" and not config.paper_code:
            return conjugate_gradients(product, slope, config.solver_steps)
        start = torch.zeros_like(slope)
        v = adam_descent(lambda w, _: product(w) - slope, start, config.lr_hessian, config.solver_steps)
        return v, config.solver_steps

    def _implicit(self, theta: Tensor, delta: Tensor, slope: Tensor, iteration: int) -> tuple[dict[str, Tensor], int]:
        """``d/dS <J_S v, alpha>`` with ``(I + J^T A^-1 J) v = slope``, by name; and products with the Hessian."""
        v, products = self._solved(theta, slope)

        def rows(part: Tensor) -> tuple[Tensor, ...]:
            return (*self.net.push(theta, part, delta), self.net.push(theta, part, v)[1])

        def head(outputs: list[Tensor], labels: Tensor) -> Tensor:
            features, moved, pushed = outputs
            return (pushed * ridge_solver(features, self.weight)(labels - moved)).sum()

        _, found, _ = self.through(rows, self.learned.leaves(), head, iteration)
        return {name: found[name] for name in ("images", "labels")}, products

    # The outer step

    def descend(self, gradients: dict[str, Tensor], iteration: int) -> None:
        """AdaBelief, and the moving average."""
        self._belief.step(gradients)
        for name, part in self.learned.named().items():
            self._average[name].mul_(EMA).add_(part, alpha=1 - EMA)

    def delivered(self) -> Learned:
        """The moving average, without its bias to zero; what there is at the start before a first step."""
        if not self._belief.steps:
            return self.learned
        return Learned(**{name: part / (1 - EMA**self._belief.steps) for name, part in self._average.items()})

    def optimiser_state(self) -> dict[str, Tensor]:
        """Moments and averages."""
        return {**self._belief.state("belief"), **{f"ema.{name}": part for name, part in self._average.items()}}

    def load_optimiser_state(self, tensors: dict[str, Tensor]) -> None:
        """Take them over."""
        self._belief.load_state("belief", tensors)
        for name, part in self._average.items():
            part.copy_(tensors[f"ema.{name}"])
