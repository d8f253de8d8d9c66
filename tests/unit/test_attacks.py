"""Attacks: closed forms, bounds, agreement with foolbox, independence of batches, the extremes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from robust_student import digits, student, trained
from torch import Tensor, nn

from ddbench.data.dataset import Split
from ddbench.data.preprocess import Preprocess
from ddbench.measurements.robustness import attack_probes as probes
from ddbench.measurements.robustness import attacks, external
from ddbench.measurements.robustness.attacks import Ascent, ascend, lengths
from ddbench.measurements.robustness.budgets import Attack
from ddbench.measurements.trained import PixelModel
from ddbench.networks.build import build_student
from ddbench.runtime import seeds

EPS = 8 / 255


class Linear(nn.Module):
    """Two classes, one weight vector: logits (0, w x + b)."""

    def __init__(self, weight: Tensor, bias: float) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        score = x.flatten(1) @ self.weight + self.bias
        return torch.stack([torch.zeros_like(score), score], 1)


def linear() -> tuple[Linear, Tensor, Tensor]:
    """A linear model and images that it classifies rightly, away from 0 and 1."""
    draws = torch.Generator().manual_seed(0)
    weight = torch.randn(12, generator=draws)
    x = 0.2 + 0.6 * torch.rand(50, 3, 2, 2, generator=draws)
    model = Linear(weight, -float(weight.sum()) / 2)
    return model, x, model(x).argmax(1)


def real(count: int = 100) -> tuple[Tensor, Tensor]:
    test = trained(student(), count).test
    return test.images.float() / 255, test.labels


def test_fgsm_of_a_linear_model():
    """Against the class: eps times the sign of the weights."""
    model, x, y = linear()
    side = (1 - 2 * y.float()).view(-1, 1, 1, 1)
    expected = x + EPS * side * model.weight.sign().view(1, 3, 2, 2)
    torch.testing.assert_close(ascend(model, x, y, Ascent.fgsm(EPS)), expected)


def test_pgd_l2_of_a_linear_model():
    """The furthest point of the ball lies along the weights; the change of the score is eps times their length."""
    model, x, y = linear()
    how = Ascent(eps=0.15, steps=10, step=0.03, norm="l2")
    adv = ascend(model, x, y, how, stop=False)
    side = (1 - 2 * y.float()).view(-1, 1, 1, 1)
    expected = x + 0.15 * side * (model.weight / model.weight.norm()).view(1, 3, 2, 2)
    torch.testing.assert_close(adv, expected)
    assert float(lengths(adv - x).max()) <= 0.15 + attacks.TOLERANCE


def test_mim_written_out():
    """Dong et al., equation 6, for one image, with the mean in place of the sum of absolute values."""
    model, (x, y) = student(), real(1)
    how = Ascent(eps=EPS, steps=4, step=EPS / 4, momentum=0.9)
    found = ascend(model, x, y, how, stop=False)
    point, mean = x.clone(), torch.zeros_like(x)
    for _ in range(4):
        point.requires_grad_()
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(point), y), point)
        mean = 0.9 * mean + gradient / gradient.abs().mean()
        point = (x + (point.detach() + EPS / 4 * mean.sign() - x).clamp(-EPS, EPS)).clamp(0, 1)
    torch.testing.assert_close(found, point)


def test_vmi_written_out():
    """Wang and He, algorithm 1, for one image: the gradient of a step is corrected by the variance of the last."""
    model, (x, y) = student(), real(1)
    how = Ascent(eps=EPS, steps=4, step=EPS / 4, momentum=1.0, neighbours=3)
    found = ascend(model, x, y, how, draws=attacks.Draws(torch.tensor([7]), 5, "vmi"), stop=False)
    draws = seeds.generator(5, "attack", "vmi", 7, "steps")

    def gradient(point: Tensor) -> Tensor:
        point = point.detach().requires_grad_()
        return torch.autograd.grad(nn.functional.cross_entropy(model(point), y), point)[0]

    point, mean, variance = x.clone(), torch.zeros_like(x), torch.zeros_like(x)
    for _ in range(4):
        plain = gradient(point)
        mean = mean + (plain + variance) / (plain + variance).abs().mean()
        offsets = torch.empty(3, *x.shape[1:]).uniform_(-1.5 * EPS, 1.5 * EPS, generator=draws)
        variance = sum(gradient(point + offset) for offset in offsets) / 3 - plain
        point = (x + (point + EPS / 4 * mean.sign() - x).clamp(-EPS, EPS)).clamp(0, 1)
    torch.testing.assert_close(found, point)


def test_jitter_written_out():
    """Schwinn et al., for images that are not broken yet: the gradient of the L2 distance itself, not of its square."""
    model, (x, y) = student(), real(40)
    how = Ascent(eps=EPS, steps=1, step=EPS, loss="jitter")
    index = torch.arange(100, 140)
    found = ascend(model, x, y, how, draws=attacks.Draws(index, 5, "jitter"))
    for one, position in enumerate(index.tolist()):
        point = x[one : one + 1].clone().requires_grad_()
        logits = model(point)[0]
        if int(logits.argmax()) != int(y[one]):
            assert torch.equal(found[one], x[one]), "it is broken and left as it is"
            continue
        noise = 0.1 * torch.randn(10, generator=seeds.generator(5, "attack", "jitter", position, "steps"))
        target = torch.eye(10)[y[one]]
        loss = (torch.softmax(10 * logits / logits.abs().max(), 0) + noise - target).norm()
        (gradient,) = torch.autograd.grad(loss, point)
        torch.testing.assert_close(found[one], (x[one] + EPS * gradient[0].sign()).clamp(0, 1))


def test_jittered_loss():
    """By hand: logits (0, 2), scaled to (0, 10); a gradient that does not vanish where cross-entropy is saturated."""
    logits = torch.tensor([[0.0, 2.0], [0.0, 2000.0]], dtype=torch.float64)
    share = 1 / (1 + np.exp(-10.0))
    noise = torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    loss = attacks.jittered(logits, torch.tensor([1, 1]), noise)
    expected = [2 * (1 - share) ** 2, (1 - share + 0.1) ** 2 + (1 - share) ** 2]
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-9)
    flat = attacks.jittered(torch.zeros(1, 2), torch.tensor([1]), torch.zeros(1, 2))
    assert flat.tolist() == [0.5]


def test_attacks_that_draw_want_draws():
    model, (x, y) = student(), real(2)
    draws = attacks.Draws(torch.arange(2), 0, "mine")
    with pytest.raises(ValueError, match="give it draws"):
        ascend(model, x, y, Ascent(eps=EPS, steps=1, step=EPS, neighbours=2))
    with pytest.raises(ValueError, match="with draws, 'jitter'"):
        ascend(model, x, y, Ascent(eps=EPS, steps=1, step=EPS, loss="jitter"))
    with pytest.raises(ValueError, match="here it stops"):
        ascend(model, x, y, Ascent(eps=EPS, steps=1, step=EPS, loss="jitter"), draws=draws, stop=False)
    with pytest.raises(ValueError, match="loss 'hinge' is none of"):
        ascend(model, x, y, Ascent(eps=EPS, steps=1, step=EPS, loss="hinge"))


def test_margin():
    logits = torch.tensor([[1.0, 3.0, 2.0], [5.0, 0.0, 1.0]])
    assert attacks.margin(logits, torch.tensor([1, 2])).tolist() == [-1.0, 4.0]


@pytest.mark.parametrize("kind", ["meanstd", "zca"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", ["cross-entropy", "margin"])
def test_the_bound_is_in_pixels(kind: str, norm: str, loss: str):
    """Whatever the preprocess: no pixel (or no image, in L2) changes by more than eps, none leaves [0, 1]."""
    x, y = real()
    how = Ascent(eps=EPS if norm == "linf" else 0.5, steps=5, step=EPS, norm=norm, loss=loss, random_start=True)
    start = attacks.random_start(torch.arange(len(x)), tuple(x.shape[1:]), how, 0, "test")
    assert float(lengths(start, norm).max()) <= how.eps + attacks.TOLERANCE
    adv = ascend(student(kind), x, y, how, start, stop=False)
    attacks.check_perturbation("pgd", x, adv, norm, how.eps)
    assert float(lengths(adv - x, norm).max()) > 0.5 * how.eps
    assert 0 <= float(adv.min()) <= float(adv.max()) <= 1


def test_a_perturbation_too_long_is_refused():
    x, _ = real(4)
    attacks.check_perturbation("mine", x, x, "linf", 0.0)
    with pytest.raises(ValueError, match="mine: it changed an image by"):
        attacks.check_perturbation("mine", x, (x + 0.04).clamp(0, 1), "linf", EPS)
    with pytest.raises(ValueError, match=r"mine: images from .*expected pixels in \[0, 1\]"):
        attacks.check_perturbation("mine", x, x - 0.01, "linf", EPS)
    with pytest.raises(ValueError, match="expected pixels"):
        attacks.check_perturbation("mine", x, x * torch.nan, "linf", EPS)


def test_the_wrapper_is_normalising_by_hand():
    """FGSM behind the preprocess is FGSM on normalised images with eps / std in every channel."""
    preprocess = Preprocess("meanstd", (0.3, 0.5, 0.6), (0.2, 0.25, 0.4))
    net = build_student("convnet-d1-w4-in", channels=3, size=8, classes=5, seed=1).eval().requires_grad_(False)
    draws = torch.Generator().manual_seed(1)
    x, y = 0.1 + 0.8 * torch.rand(20, 3, 8, 8, generator=draws), torch.randint(5, (20,), generator=draws)
    found = ascend(PixelModel(net, preprocess), x, y, Ascent.fgsm(EPS))
    mean, std = torch.tensor(preprocess.mean).view(1, 3, 1, 1), torch.tensor(preprocess.std).view(1, 3, 1, 1)
    z = ((x - mean) / std).requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(net(z), y), z)
    moved = ((x - mean) / std + EPS / std * gradient.sign()) * std + mean
    right = net(z).argmax(1) == y  # the others are left as they are
    assert bool(right.any())
    torch.testing.assert_close(found[right], moved[right])
    assert torch.equal(found[~right], x[~right])


@pytest.mark.parametrize("kind", ["meanstd", "zca"])
def test_agreement_with_foolbox(kind: str):
    """FGSM, PGD in Linf and in L2: the same verdict for at least 99 of 100 images, stopping early or not."""
    pytest.importorskip("foolbox")
    library = external._foolbox()
    model, (x, y) = student(kind), real(200)
    wrapped = library.PyTorchModel(model, bounds=(0, 1), device="cpu")
    pairs = [
        (Ascent.fgsm(EPS), library.attacks.LinfFastGradientAttack()),
        (
            Ascent(eps=2 * EPS, steps=10, step=EPS / 2),
            library.attacks.LinfProjectedGradientDescentAttack(abs_stepsize=EPS / 2, steps=10, random_start=False),
        ),
        (
            Ascent(eps=0.5, steps=10, step=0.1, norm="l2"),
            library.attacks.L2ProjectedGradientDescentAttack(abs_stepsize=0.1, steps=10, random_start=False),
        ),
    ]
    for how, attack in pairs:
        _, adv, broken = attack(wrapped, x, y, epsilons=how.eps)
        assert 0.02 < float(broken.float().mean()) < 0.98
        for stop in (False, True):
            ours = ascend(model, x, y, how, stop=stop)
            verdict = model(ours).argmax(1) != y
            assert float((verdict == broken).float().mean()) >= 0.99
        torch.testing.assert_close(ascend(model, x, y, how, stop=False), adv, rtol=0, atol=2e-3)


def test_stopping_early_breaks_no_fewer():
    model, (x, y) = student(), real(200)
    how = Ascent(eps=2 * EPS, steps=10, step=EPS / 2)
    early, late = ((model(ascend(model, x, y, how, stop=stop)).argmax(1) != y) for stop in (True, False))
    assert bool((early | ~late).all())


@pytest.mark.parametrize("kind", ["fgsm", "pgd", "mim", "vmi"])
def test_no_perturbation_changes_nothing(kind: str):
    x, y = real(20)
    how = {
        "fgsm": Ascent.fgsm(0),
        "pgd": Ascent(eps=0, steps=3, step=0.1, norm="l2", random_start=True),
        "mim": Ascent(eps=0, steps=3, step=0.1, momentum=1.0),
        "vmi": Ascent(eps=0, steps=3, step=0.1, momentum=1.0, neighbours=2),
    }[kind]
    start = attacks.random_start(torch.arange(20), (1, 8, 8), how, 0, kind) if how.random_start else None
    draws = attacks.Draws(torch.arange(20), 0, kind)
    assert torch.equal(ascend(student(), x, y, how, start, draws), x)


PGD = Attack(kind="pgd", eps=8, steps=5, step=2, random_start=True)
ATTACKS = [
    Attack(kind="fgsm", eps=8),
    PGD,
    Attack(kind="pgd", eps=128, steps=5, step=32, norm="l2", random_start=True),
    Attack(kind="pgd", eps=8, steps=5, step=2, loss="margin"),
    Attack(kind="mim", eps=8, steps=5, step=2),
    Attack(kind="vmi", eps=8, steps=5, step=2),
    Attack(kind="jitter", eps=8, steps=5, step=2, random_start=True),
]
LIBRARY = [
    Attack(kind="square", eps=8, steps=50),
    Attack(kind="apgd-ce", eps=8),
    Attack(kind="cw", norm="l2", steps=20, step=0.1, constant=1.0, searches=2),
    Attack(kind="deepfool", norm="l2", steps=10),
]


def verdicts(attack: Attack, model: nn.Module, **how: object) -> np.ndarray:
    found = probes.AttackProbe(attack=attack, classes=10).measure(trained(model, **how))  # type: ignore[arg-type]
    return found.bits["correct"]


@pytest.mark.parametrize("attack", ATTACKS + LIBRARY, ids=lambda attack: attack.name)
def test_probe(attack: Attack):
    """Only what is right may survive; the same twice; no global generator is touched; no weight changes."""
    if attack.library:
        pytest.importorskip(attack.library) if attack.library != "foolbox" else external._foolbox()
    model = student()
    clean = probes.CleanProbe().measure(trained(model)).bits["correct"]
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    first = verdicts(attack, model)
    assert first.dtype == bool
    assert not (first & ~clean).any()
    assert first.sum() < clean.sum() or attack.kind == "square"
    assert (first == verdicts(attack, model)).all()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_batches_change_nothing(attack: Attack, monkeypatch: pytest.MonkeyPatch):
    whole = verdicts(attack, student("zca"))
    for size in (1, 7, 32):
        monkeypatch.setattr(external, "BATCH", size)
        assert (verdicts(attack, student("zca")) == whole).all()


def test_random_starts_are_the_images_own():
    how = Ascent(eps=EPS, steps=1, step=EPS, random_start=True)
    both = attacks.random_start(torch.tensor([3, 9]), (1, 8, 8), how, 5, "pgd")
    assert torch.equal(both[1:], attacks.random_start(torch.tensor([9]), (1, 8, 8), how, 5, "pgd"))
    for other in ((6, "pgd"), (5, "pgd-linf-4")):
        assert not torch.equal(both, attacks.random_start(torch.tensor([3, 9]), (1, 8, 8), how, *other))


class Constant(nn.Module):
    """Always the same class."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.arange(10.0).expand(len(x), 10) + 0 * x.flatten(1)[:, :1]


@pytest.mark.parametrize("attack", ATTACKS + LIBRARY[:2], ids=lambda attack: attack.name)
def test_extremes(attack: Attack):
    """A constant answer cannot be attacked; a student that is always wrong has nothing to lose."""
    if attack.library:
        pytest.importorskip(attack.library)
    nines = digits().test.labels == 9
    always, never = (
        Split(digits().test.images[chosen][:20], digits().test.labels[chosen][:20]) for chosen in (nines, ~nines)
    )
    assert verdicts(attack, Constant().eval(), test=always).all()
    assert not verdicts(attack, Constant().eval(), test=never).any()


def test_minimal_norms_of_a_linear_model():
    """C&W and DeepFool come near the distance to the boundary, |score| / |w|, and not under it."""
    pytest.importorskip("foolbox")
    model, x, y = linear()
    model.eval()
    distance = model(x)[:, 1].abs() / model.weight.norm()
    inside = distance < 0.15  # the boundary is reached before a pixel is 0 or 1
    for norms, slack in (
        (external.deepfool(model, x, y, steps=20, overshoot=0.02), 1.03),
        (external.carlini_wagner(model, x, y, constant=1.0, searches=5, steps=100, lr=0.05), 1.1),
    ):
        assert norms.shape == (50,)
        assert bool((norms[inside] >= distance[inside] * 0.999).all())
        assert bool((norms[inside] <= distance[inside] * slack + 4e-3).all())


def test_minimal_norms_are_infinite_where_nothing_was_found():
    pytest.importorskip("foolbox")
    x, _ = real(6)
    y = torch.full((6,), 9)
    assert bool(external.deepfool(Constant().eval(), x, y, steps=3, overshoot=0.02).isinf().all())
    found = probes.AttackProbe(attack=LIBRARY[3], classes=10).measure(
        trained(Constant().eval(), test=Split((x * 255).byte(), y))
    )
    assert found.metrics == {}, "no median where half of the images resist"
    assert found.bits["correct"].all()


def test_no_median_where_half_of_the_images_resist():
    probe = probes.AttackProbe(attack=LIBRARY[3], classes=10)
    norms = [torch.tensor([0.3]), torch.tensor([torch.inf])]
    assert probe._median(norms) == {}
    assert probe._median([*norms, torch.tensor([0.5])]) == {"deepfool_l2": 0.5}
    assert probe._median([]) == {}


@pytest.mark.parametrize("kind", ["meanstd", "zca"])
@pytest.mark.parametrize("classes", [pytest.param(10, marks=pytest.mark.slow), 4, 3, 2])
def test_autoattack_is_no_weaker_than_pgd(kind: str, classes: int, monkeypatch: pytest.MonkeyPatch):
    """For any number of classes. Square's 5,000 queries, which are most of the time, are cut to 100."""
    pytest.importorskip("pyautoattack")
    whole = external._auto
    monkeypatch.setattr(external, "_auto", lambda *argv: whole(*argv[:7], 100))
    inner = student(kind)

    class Few(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return inner(x)[:, :classes]

    test = digits().test
    chosen = (test.labels < classes).nonzero().flatten()
    part = chosen[torch.arange(40) * len(chosen) // 40]
    kept = Split(test.images[part], test.labels[part])
    survivors = {}
    for attack in (Attack(kind="autoattack", eps=16), Attack(kind="pgd", eps=16, steps=20, step=4)):
        found = probes.AttackProbe(attack=attack, classes=classes).measure(
            trained(Few().eval(), classes=classes, test=kept)
        )
        survivors[attack.kind] = found.bits["correct"]
    assert survivors["autoattack"].mean() <= survivors["pgd"].mean()
    assert survivors["autoattack"].any()


def test_missing_library(monkeypatch: pytest.MonkeyPatch):
    from ddbench.runtime.errors import UserError

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'foolbox and pyautoattack: pip install "\.\[robustness\]"'):
        external.installed(["foolbox", "pyautoattack"])
    assert external.installed([]) == {}
