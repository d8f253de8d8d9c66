"""Minimax: the two criteria against plain loops, what is tuned, and the samples of the average."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import digits_context
from torch import Tensor, nn

from ddbench.diffusion.store import find_model
from ddbench.methods.base import Context, NotFiniteError
from ddbench.methods.minimax import Minimax, MinimaxConfig, tuned_parameters
from ddbench.methods.needs.diffusion import Diffusion, Generator
from ddbench.methods.unguided import Unguided, UnguidedConfig
from ddbench.runtime.errors import UserError
from ddbench.training.minimax import criteria, remembered

diffusers = pytest.importorskip("diffusers")


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain_cosine(a: Tensor, b: Tensor) -> float:
    x, y = a.flatten().tolist(), b.flatten().tolist()
    dot = sum(p * q for p, q in zip(x, y, strict=True))
    return dot / math.sqrt(sum(p * p for p in x) * sum(q * q for q in y))


def test_criteria_are_the_plain_loops():
    made, labels = normals(5, 2, 3), torch.tensor([4, 1, 4, 0, 1])
    real = {0: normals(2, 2, 3, seed=1), 1: normals(4, 2, 3, seed=2), 4: normals(3, 2, 3, seed=3)}
    past = {1: normals(3, 2, 3, seed=4), 4: normals(1, 2, 3, seed=5)}
    unlike = [
        1 - min(plain_cosine(made[i], r) for i in range(5) if int(labels[i]) == label for r in real[label])
        for label in (0, 1, 4)
    ]
    alike = [
        max(plain_cosine(made[i], p) for i in range(5) if int(labels[i]) == label for p in past[label])
        for label in (1, 4)
    ]
    found = criteria(made, labels, real, past)
    assert [float(one) for one in found] == pytest.approx([sum(unlike) / 3, sum(alike) / 3], abs=1e-12)
    assert [float(one) for one in criteria(made, labels, {}, {})] == [0, 0], "nothing is remembered yet"


def test_only_the_extreme_pair_has_a_gradient():
    made = normals(4, 6).requires_grad_()
    labels = torch.zeros(4, dtype=torch.int64)
    others = {0: normals(3, 6, seed=1)}
    pairs = torch.tensor([[plain_cosine(one, other) for other in others[0]] for one in made.detach()])
    for which, extreme in ((0, pairs.amin(1).argmin()), (1, pairs.amax(1).argmax())):
        (slope,) = torch.autograd.grad(criteria(made, labels, others, others)[which], made)
        assert slope.flatten(1).norm(dim=1).nonzero().flatten().tolist() == [int(extreme)]
        step = made.detach() - 1e-3 * slope
        assert criteria(step, labels, others, others)[which] < criteria(made, labels, others, others)[which]


def test_a_class_remembers_its_newest_items_in_order():
    memory: dict[int, Tensor] = {}
    items = torch.arange(8.0)[:, None]
    remembered(memory, items[:5], torch.tensor([0, 1, 0, 0, 1]), 3)
    remembered(memory, items[5:], torch.tensor([0, 2, 0]), 3)
    assert {label: kept.flatten().tolist() for label, kept in memory.items()} == {0: [3, 5, 7], 1: [1, 4], 2: [6]}


def test_what_is_tuned_of_a_transformer():
    """Biases, norms with weights, class embeddings; not the modulation, though diffusers calls it a norm's."""
    net = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, num_layers=1, sample_size=4, num_embeds_ada_norm=10
    )
    tuned = tuned_parameters(net)
    assert "transformer_blocks.0.norm1.linear.weight" in dict(net.named_parameters())
    assert "transformer_blocks.0.norm1.linear.weight" not in tuned
    assert "transformer_blocks.0.norm1.linear.bias" in tuned
    assert "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight" in tuned
    assert all(one is net.get_parameter(name) for name, one in tuned.items())


def test_what_is_tuned_of_a_plain_network():
    net = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.GroupNorm(1, 2), "c": nn.Embedding(3, 2), "d": nn.LayerNorm(2)})
    assert list(tuned_parameters(net)) == ["a.bias", "b.weight", "b.bias", "c.weight", "d.weight", "d.bias"]


@pytest.fixture
def context(tiny_diffusions: Path, data_root: Path, tmp_path: Path) -> Context:
    model = find_model(tiny_diffusions, dataset="digits")
    assert model is not None
    made = digits_context(data_root, tmp_path / "run", ipc=2)
    return made.give(Diffusion, Generator(model=model, latents=tmp_path / "latents"))


@pytest.fixture
def minimax(context: Context) -> Callable[..., Any]:
    def make(**more: Any) -> Any:
        config = MinimaxConfig(**{"steps": 5, "tuning_steps": 3, "label_dropout": 0.0, **more})
        Minimax.check(config, context)
        method = Minimax(config, context)
        method.setup()
        return method

    return make


def weights(method: Any) -> dict[str, Tensor]:
    return {name: one.detach().clone() for name, one in method.backend.network.named_parameters()}


@pytest.mark.parametrize(
    "settings", [{"tuning_steps": 0, "label_dropout": 0.1}, {"tuning_steps": 2, "lr": 1e-30}], ids=str
)
def test_without_tuning_it_is_the_plain_sampler(settings: dict[str, Any], minimax: Callable, context: Context):
    method = minimax(**settings)
    for iteration in range(settings["tuning_steps"]):
        method.step(iteration)
    plain = Unguided(UnguidedConfig(steps=5), context)
    plain.setup()
    method.step(settings["tuning_steps"])
    plain.step(0)
    assert method.iterations == settings["tuning_steps"] + 10
    assert torch.equal(method.distilled().images, plain.distilled().images)


def plain_loss(net: Any, drawn: Any, alphas: Tensor, real: dict[int, Any], past: dict[int, Any]) -> Any:
    """The loss of a draw by loops in float64, with its criteria; what is remembered of three items grows."""
    x, noise = drawn.x.double(), drawn.noise.double()
    level = alphas[drawn.times].view(-1, 1, 1, 1)
    noisy = level.sqrt() * x + (1 - level).sqrt() * noise
    predicted = net(noisy, drawn.times, class_labels=drawn.told).sample
    made = (noisy - (1 - level).sqrt() * predicted) / level.sqrt()
    present = sorted(set(drawn.labels.tolist()))
    unlike = alike = torch.zeros((), dtype=torch.float64)
    for label in set(present) & set(real):
        own = [one.flatten() for one, kept in zip(made, drawn.labels, strict=True) if int(kept) == label]
        to_real = [torch.cosine_similarity(a, b.flatten(), dim=0) for a in own for b in real[label]]
        to_past = [torch.cosine_similarity(a, b.flatten(), dim=0) for a in own for b in past[label]]
        unlike = unlike + (1 - torch.stack(to_real).min()) / len(present)
        alike = alike + torch.stack(to_past).max() / len(present)
    for image, what, label in zip(x, made.detach(), drawn.labels.tolist(), strict=True):
        real[label] = [*real.get(label, []), image][-3:]
        past[label] = [*past.get(label, []), what][-3:]
    return (predicted - noise).square().mean() + 0.3 * unlike + 0.7 * alike, unlike, alike


def test_a_step_is_what_is_written_down(minimax: Callable):
    """Loss and gradient of three steps against loops; AdamW on these gradients, and the average of the weights."""
    method = minimax(ema=0.75, lr=0.01, memory=3, representativeness=0.3, diversity=0.7)
    net = minimax().backend.network.double().requires_grad_(False)
    mirror = {name: one.requires_grad_() for name, one in tuned_parameters(net).items()}
    own = {name: one.detach().clone().requires_grad_() for name, one in method._tuned.items()}
    average = {name: one.detach().clone() for name, one in own.items()}
    optimizer = torch.optim.AdamW(own.values(), lr=0.01, weight_decay=0)
    real: dict[int, list[Tensor]] = {}
    past: dict[int, list[Tensor]] = {}
    for number in range(3):
        for name, one in method._tuned.items():
            mirror[name].data.copy_(one.data)
        loss, unlike, alike = plain_loss(net, method._draws(number), method.backend.alphas, real, past)
        gradients = torch.autograd.grad(loss, list(mirror.values()))
        metrics = method.step(number)
        for name, wanted in (("loss", loss), ("representativeness_loss", unlike), ("diversity_loss", alike)):
            assert metrics[name] == pytest.approx(float(wanted.detach()), rel=1e-5, abs=1e-6)
        for (name, one), wanted in zip(method._tuned.items(), gradients, strict=True):
            torch.testing.assert_close(one.grad.double(), wanted, rtol=1e-3, atol=1e-5)
            own[name].grad = one.grad.clone()
        optimizer.step()
        for name, one in own.items():
            average[name] = 0.75 * average[name] + 0.25 * one.detach()
    assert metrics["representativeness_loss"] > 0
    for name, one in average.items():
        torch.testing.assert_close(method._tuned[name], own[name], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(method._average[name], one, rtol=1e-5, atol=1e-6)


def test_only_what_is_tuned_changes_and_the_average_samples(minimax: Callable):
    method = minimax(ema=0.9)
    before = weights(method)
    for iteration in range(3):
        method.step(iteration)
    after = weights(method)
    changed = {name for name, one in after.items() if not torch.equal(one, before[name])}
    assert changed
    assert changed <= set(tuned_parameters(method.backend.network))
    method.step(3)
    for name, one in weights(method).items():
        assert torch.equal(one, method._average.get(name, before[name]))


def test_product_of_a_tuning_is_what_its_average_would_make(minimax: Callable):
    """And the tuning goes on as if nobody had asked."""
    asked, plain = minimax(tuning_steps=2, ema=0.5), minimax(tuning_steps=1, ema=0.5)
    asked.step(0)
    early = asked.distilled()
    for iteration in range(11):
        plain.step(iteration)
    assert torch.equal(early.images, plain.distilled().images)
    assert torch.equal(early.labels, plain.distilled().labels)
    unasked = minimax(tuning_steps=2, ema=0.5)
    unasked.step(0)
    assert asked.step(1) == unasked.step(1)


def test_criteria_take_part(minimax: Callable):
    """Each weight alone changes the tuned weights, once a class has a memory."""
    ends = []
    for weights_of in ({}, {"representativeness": 5.0}, {"diversity": 5.0}):
        method = minimax(**{"representativeness": 0.0, "diversity": 0.0, "batch": 40, **weights_of})
        for iteration in range(2):
            method.step(iteration)
        ends.append(torch.cat([one.flatten() for one in method._average.values()]))
    assert not torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


@pytest.mark.parametrize("done", [2, 3, 4], ids=["tuning", "tuned", "sampling"])
def test_a_state_goes_on_to_the_same_bytes(done: int, minimax: Callable):
    whole, first, second = minimax(memory=2), minimax(memory=2), minimax(memory=2)
    for iteration in range(5):
        whole.step(iteration)
    for iteration in range(done):
        first.step(iteration)
    state = first.state()
    assert any(name.startswith("tuned.") for name in state.tensors) == (done < 4), "what is over is not kept"
    second.load_state(state)
    for iteration in range(done, 5):
        second.step(iteration)
    assert torch.equal(second.distilled().images, whole.distilled().images)
    assert all(torch.equal(one, whole._average[name]) for name, one in second._average.items())


def test_a_state_of_another_model_is_refused(minimax: Callable):
    method = minimax()
    method.step(0)
    state = method.state()
    name = next(name for name in state.tensors if name.startswith("tuned."))
    state.tensors[name] = state.tensors[name][:-1]
    with pytest.raises(ValueError, match="has shape"):
        minimax().load_state(state)
    with pytest.raises(KeyError):
        minimax().load_state(type(state)())


def test_divergence_is_told_before_anything_changes(minimax: Callable):
    method = minimax(lr=0.1)
    next(iter(method._tuned.values())).data.fill_(torch.nan)
    with pytest.raises(NotFiniteError, match="--lr"):
        method.step(0)
    assert not method._memory["real"]


def test_bad_settings_are_one_line(context: Context):
    for config, word in (
        (MinimaxConfig(precision="float16"), "--precision float16"),
        (MinimaxConfig(steps=7), "--steps 7"),
        (MinimaxConfig(ema=1.0), "ema"),
        (MinimaxConfig(lr=0.0), "lr"),
    ):
        with pytest.raises(UserError, match=word) as caught:
            Minimax.check(config, context)
        assert "\n" not in str(caught.value)
