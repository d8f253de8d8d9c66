"""MTT: dataset distillation by matching training trajectories.

Cazenavette, Wang, Torralba, Efros, Zhu; CVPR 2022; arXiv 2203.11932; code: GeorgeCazenavette/mtt-distillation.

Each outer iteration (algorithm 1 of the paper): draw an expert and a start epoch t < T+; let a student start from the
expert's weights theta*_t and make N steps of SGD on the synset with the learned rate beta; the loss is the distance of
its weights to theta*_{t+M}, divided by the expert's own move (equation 2); descend in the images and in beta.

Deviations from the public code, all listed in ``methods/mtt/README.md``: explicit seeds; T+ - 1 + M <= E is checked;
the gradient is computed by the adjoint recursion (the same numbers, the memory of one step); a step whose loss or
gradient is not finite is not taken; beta may be learned on a logarithmic scale; nothing is chosen on the test set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ddbench.data.augment import Draw, Strategy, draw, parse_strategy
from ddbench.data.specs import resolve_augmentation
from ddbench.experts.store import TrajectoryStore
from ddbench.methods.base import Context, Distilled, Method, Needs, NotFiniteError, State
from ddbench.runtime import device as devices
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError
from ddbench.training.flat import FlatNet
from ddbench.training.inner import InnerLoop, InnerProblem, match_term
from ddbench.training.loops import forward_flops
from ddbench.training.sgd import SGD


@dataclass(frozen=True, kw_only=True)
class MTTConfig:
    """Settings of MTT; symbols as in the paper's section 3 and tables."""

    iterations: int = 5000
    """Outer iterations."""
    student_steps: int = 20
    """N: SGD steps of the student on the synset in one outer iteration."""
    expert_epochs: int = 2
    """M: epochs of the expert between start and target."""
    max_start_epoch: int = 20
    """T+: start epochs are drawn from 0 to T+ - 1; needs T+ - 1 + M <= epochs of the experts."""
    min_start_epoch: int = 0
    """First start epoch that is drawn (0 in MTT)."""
    batch_syn: int = 0
    """Synthetic images in one student step; 0: the whole synset."""
    lr_images: float = 100.0
    """Learning rate of the images (network-input units)."""
    lr_lr: float = 1e-5
    """Learning rate of the student's learning rate beta (of log beta with --lr-parametrisation log)."""
    lr_student: float = 0.01
    """beta_0: the student's learning rate at the start."""
    momentum: float = 0.5
    """Momentum of both outer optimisers."""
    lr_parametrisation: Literal["raw", "log"] = "raw"
    """How beta is learned: raw as in the paper (it can turn negative), or log (always positive)."""
    init: Literal["real", "noise"] = "real"
    """First images: random real ones of the class, or standard normal noise."""
    augmentation: str = "dsa"
    """DSA families joined by _, dsa for all (no flip on digits), or none; on the student's batches."""
    expert_order: Literal["uniform", "cycle"] = "uniform"
    """Which expert an iteration uses: any (as --load_all of the public code), or each once a round."""
    inner: Literal["adjoint", "unroll", "truncated", "higher"] = "adjoint"
    """How the outer gradient is computed: adjoint equals unroll, in the memory of one step."""


class MTT(Method[MTTConfig]):
    """Matching training trajectories."""

    config_class = MTTConfig
    needs = Needs(experts=True)
    title = "MTT"

    @classmethod
    def check(cls, config: MTTConfig, context: Context) -> None:
        """T+ - 1 + M <= E, and every number in range."""
        for name, least in (
            ("iterations", 1),
            ("student_steps", 1),
            ("expert_epochs", 1),
            ("min_start_epoch", 0),
            ("batch_syn", 0),
        ):
            if getattr(config, name) < least:
                raise UserError(f"--{name.replace('_', '-')} {getattr(config, name)}: expected at least {least}")
        if config.max_start_epoch <= config.min_start_epoch:
            raise UserError(
                f"--max-start-epoch {config.max_start_epoch}: expected more than --min-start-epoch "
                f"{config.min_start_epoch}"
            )
        for name in ("lr_images", "lr_lr", "lr_student"):
            if not 0 <= getattr(config, name) < float("inf"):
                raise UserError(f"--{name.replace('_', '-')} {getattr(config, name)}: expected a number of at least 0")
        if not config.lr_student:
            raise UserError("--lr-student 0: a student that does not move cannot match anything")
        parse_strategy(resolve_augmentation(config.augmentation, context.dataset.spec.flip))
        store = _store(context)
        epochs, needed = store.recipe.epochs, config.max_start_epoch - 1 + config.expert_epochs
        if needed > epochs:
            raise UserError(
                f"--max-start-epoch {config.max_start_epoch} with --expert-epochs {config.expert_epochs} needs experts "
                f"of at least {needed} epochs (T+ - 1 + M), those in {store.folder} have {epochs}: lower "
                f"--max-start-epoch to {epochs + 1 - config.expert_epochs}, or record longer experts with "
                f"ddbench buffer --epochs {needed}"
            )

    @property
    def iterations(self) -> int:
        """Outer iterations."""
        return self.config.iterations

    @property
    def augmentation(self) -> str:
        """The resolved strategy."""
        return resolve_augmentation(self.config.augmentation, self.context.dataset.spec.flip)

    def setup(self) -> None:
        """First images, learned rate, outer optimisers, student network."""
        config, context = self.config, self.context
        spec = context.dataset.spec
        if config.init == "real":
            images = context.preprocess.apply(context.random_images("mtt-init"))
        else:
            shape = (context.classes * context.ipc, spec.channels, spec.size, spec.size)
            images = torch.randn(shape, generator=seeds.generator(context.seed, "mtt-init"))
        self._images = images.to(context.device).requires_grad_()
        self._labels = context.hard_labels().to(context.device)
        beta = torch.tensor(config.lr_student, dtype=torch.float32)
        self._raw_lr = (beta.log() if config.lr_parametrisation == "log" else beta).to(context.device).requires_grad_()
        self._image_optimizer = SGD([self._images], lr=config.lr_images, momentum=config.momentum)
        self._lr_optimizer = SGD([self._raw_lr], lr=config.lr_lr, momentum=config.momentum)
        self._strategy: Strategy | None = parse_strategy(self.augmentation)
        module = context.network(0).to(context.device)
        batch = min(config.batch_syn or len(images), len(images))
        # an adjoint step costs about 12 forward passes (forward and backward twice, and the backward of both)
        flops = 12 * forward_flops(module, tuple(images.shape[1:])) * batch * config.student_steps * config.iterations
        compiler = devices.choose_compiler(context.compile, flops, context.device, context.console.say)
        self._inner = InnerLoop(FlatNet(module).to(context.device), config.inner, compiler)

    @property
    def learned_lr(self) -> Tensor:
        """beta, detached scalar."""
        raw = self._raw_lr.detach()
        return raw.exp() if self.config.lr_parametrisation == "log" else raw

    def step(self, iteration: int) -> dict[str, float]:
        """One outer iteration; returns the matching loss, beta, the start epoch and the image gradient's norm."""
        config, context, store = self.config, self.context, _store(self.context)
        randomness = seeds.generator(context.seed, "mtt", iteration)
        expert = self._expert(iteration, store.indices)
        start_epoch = int(torch.randint(config.min_start_epoch, config.max_start_epoch, (), generator=randomness))
        start, target = (
            row.to(context.device) for row in store.rows(expert, start_epoch, start_epoch + config.expert_epochs)
        )
        if bool((start == target).all()):
            raise UserError(
                f"{store.folder}: expert {expert} does not move between epochs {start_epoch} and "
                f"{start_epoch + config.expert_epochs}; record it again"
            )
        batches = synset_batches(len(self._images), config.batch_syn, config.student_steps, randomness)
        beta = self.learned_lr
        problem = InnerProblem(
            start=start,
            images=self._images.detach(),
            labels=self._labels,
            lr=beta,
            batches=[None if batch is None else batch.to(context.device) for batch in batches],
            draws=self._draws(batches, randomness),
            terms=[match_term(config.student_steps, target, start)],
        )
        result = self._inner(problem)
        self._guard(float(result.loss), result.images, result.lr, start_epoch)
        self._images.grad = result.images
        self._raw_lr.grad = result.lr * beta if config.lr_parametrisation == "log" else result.lr
        self._image_optimizer.step()
        self._lr_optimizer.step()
        return {
            "loss": float(result.loss),
            "learned_lr": float(self.learned_lr),
            "start_epoch": float(start_epoch),
            "grad_norm_images": float(result.images.norm()),
        }

    def distilled(self) -> Distilled:
        """Images in network-input space, hard labels, beta."""
        return Distilled(
            images=self._images.detach().cpu().clone(), labels=self._labels.cpu(), learned_lr=self.learned_lr.cpu()
        )

    def state(self) -> State:
        """Images, raw learning rate, momenta."""
        return State(
            tensors={
                "images": self._images.detach(),
                "raw_lr": self._raw_lr.detach(),
                **self._image_optimizer.state("image_momentum"),
                **self._lr_optimizer.state("lr_momentum"),
            }
        )

    def load_state(self, state: State) -> None:
        """Take over images, learning rate and momenta."""
        with torch.no_grad():
            self._images.copy_(state.tensors["images"])
            self._raw_lr.copy_(state.tensors["raw_lr"])
        self._image_optimizer.load_state("image_momentum", state.tensors)
        self._lr_optimizer.load_state("lr_momentum", state.tensors)

    def _expert(self, iteration: int, indices: list[int]) -> int:
        if self.config.expert_order == "uniform":
            generator = seeds.generator(self.context.seed, "mtt-expert", iteration)
            return indices[int(torch.randint(len(indices), (), generator=generator))]
        generator = seeds.generator(self.context.seed, "mtt-round", iteration // len(indices))
        return indices[int(torch.randperm(len(indices), generator=generator)[iteration % len(indices)])]

    def _draws(self, batches: list[Tensor | None], randomness: torch.Generator) -> list[Draw] | None:
        if self._strategy is None:
            return None
        size = self._images.shape[-1]
        return [
            draw(self._strategy, len(self._images) if batch is None else len(batch), size, randomness)
            for batch in batches
        ]

    def _guard(self, loss: float, images: Tensor, lr: Tensor, start_epoch: int) -> None:
        if torch.isfinite(images).all() and torch.isfinite(lr) and abs(loss) < float("inf"):
            return
        config, beta = self.config, float(self.learned_lr)
        if beta <= 0:
            cause = f"the learned lr is {beta:g}: use --lr-parametrisation log or a smaller --lr-lr"
        elif beta > 10 * config.lr_student:
            cause = f"the learned lr grew from {config.lr_student:g} to {beta:g}: use a smaller --lr-lr"
        elif start_epoch > config.max_start_epoch // 2:
            cause = f"a late start epoch ({start_epoch}): lower --max-start-epoch or --lr-images"
        else:
            cause = f"--lr-images {config.lr_images:g} is too high for this synset: divide it by 10"
        raise NotFiniteError(f"the matching loss is {loss:g}; likely cause: {cause}")


def synset_batches(images: int, batch: int, steps: int, generator: torch.Generator) -> list[Tensor | None]:
    """Index batches of one student: chunks of fresh permutations, taken from the end as in the public code.

    Args:
        batch: images a step; 0 or at least ``images``: the whole set (``None``).

    Returns:
        ``steps`` entries; the remainder of a permutation, if any, comes first.
    """
    if not batch or batch >= images:
        return [None] * steps
    chunks: list[Tensor] = []
    found: list[Tensor | None] = []
    for _ in range(steps):
        if not chunks:
            chunks = list(torch.randperm(images, generator=generator).split(batch))
        found.append(chunks.pop())
    return found


def _store(context: Context) -> TrajectoryStore:
    if context.experts is None:
        raise UserError("mtt needs experts: record them with ddbench buffer")
    return context.experts
