"""D3HR, MGD3 and plain samples: statistics, group search, latents and sampling against plain loops."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import EAGER, TINY, contents
from safetensors.torch import load_file

from ddbench.data.dataset import Dataset, holdout_split
from ddbench.data.load import load_dataset
from ddbench.data.preprocess import fit_preprocess
from ddbench.diffusion import latents as latents_module
from ddbench.diffusion.latents import Inversion, Latents, moments, normality
from ddbench.diffusion.store import find_model
from ddbench.methods.base import Context
from ddbench.methods.d3hr import D3HR, D3HRConfig, best_group, draw_group, group_scores, skewness
from ddbench.methods.families.generation import Generation
from ddbench.methods.mgd3 import MGD3, MGD3Config, pulled
from ddbench.methods.minimax import Minimax, MinimaxConfig
from ddbench.methods.needs import diffusion as diffusion_need
from ddbench.methods.needs.diffusion import Diffusion, Generator
from ddbench.methods.unguided import Unguided, UnguidedConfig
from ddbench.runtime.errors import UserError
from ddbench.runtime.progress import Console
from ddbench.synset import read_synset

diffusers = pytest.importorskip("diffusers")
STEPS = 10
CPU = torch.device("cpu")


def normals(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain_score(group: list[list[float]], mu: list[float], sigma: list[float], kind: str, std_w: float, skew_w: float):
    """The score of one group of latents, from the equations, number by number."""
    ipc, size = len(group), len(mu)
    mean = [sum(row[d] for row in group) / ipc for d in range(size)]
    total = math.sqrt(sum((mean[d] - mu[d]) ** 2 for d in range(size)))
    if ipc == 1:
        return total
    std = [math.sqrt(sum((row[d] - mean[d]) ** 2 for row in group) / (ipc - 1)) for d in range(size)]
    total += std_w * math.sqrt(sum((std[d] - sigma[d]) ** 2 for d in range(size)))
    z = [[(row[d] - mean[d]) / std[d] for d in range(size)] for row in group]
    if kind == "per_image":
        skew = [size / ((size - 1) * (size - 2)) * sum(value**3 for value in row) for row in z]
    elif ipc > 2:
        skew = [ipc / ((ipc - 1) * (ipc - 2)) * sum(row[d] ** 3 for row in z) for d in range(size)]
    else:
        skew = []
    return total + skew_w * math.sqrt(sum(value**2 for value in skew))


@pytest.mark.parametrize("ipc", [1, 2, 3, 7])
@pytest.mark.parametrize("kind", ["per_coordinate", "per_image"])
def test_group_scores_are_the_plain_loop(ipc: int, kind: str):
    """Scores of standard normals are those of the latents mu + sigma n; the least is the same group."""
    n = normals(40, ipc, 6)
    mu, sigma = normals(6, seed=1), normals(6, seed=2).abs() + 0.1
    z = mu + sigma * n
    plain = [plain_score(g, mu.tolist(), sigma.tolist(), kind, 0.7, 0.3) for g in z.tolist()]
    found = group_scores(n, sigma, kind=kind, std_weight=0.7, skew_weight=0.3)
    torch.testing.assert_close(found, torch.tensor(plain, dtype=torch.float64), rtol=1e-10, atol=1e-10)
    assert bool(torch.isfinite(found).all())
    assert int(found.argmin()) == plain.index(min(plain))


@pytest.mark.parametrize("kind", ["per_coordinate", "per_image"])
def test_skewness_of_the_released_code(kind: str):
    z = normals(5, 4, 9)
    found = skewness(z, kind)
    assert found.shape == ((5, 9) if kind == "per_coordinate" else (5, 4))
    n = 4 if kind == "per_coordinate" else 9
    axis = 1 if kind == "per_coordinate" else 2
    torch.testing.assert_close(found, n * (z**3).sum(axis) / ((n - 1) * (n - 2)))


@pytest.mark.parametrize("kind", ["per_coordinate", "per_image"])
def test_chunks_change_nothing(kind: str):
    sigma = normals(6, seed=2).abs() + 0.1
    settings: dict[str, Any] = {
        "seed": 3,
        "purpose": ("groups", 1),
        "kind": kind,
        "std_weight": 1.0,
        "skew_weight": 0.5,
    }
    whole, scores = best_group(sigma, 5, 50, chunk=50, **settings)
    groups = [draw_group(3, ("groups", 1), number, (5, 6)) for number in range(50)]
    plain = [plain_score((sigma * g).tolist(), [0.0] * 6, sigma.tolist(), kind, 1.0, 0.5) for g in groups]
    torch.testing.assert_close(scores, torch.tensor(plain, dtype=torch.float64), rtol=1e-10, atol=1e-10)
    assert whole == plain.index(min(plain))
    for chunk in (1, 7, 49, None):
        number, same = best_group(sigma, 5, 50, chunk=chunk, **settings)
        assert number == whole
        torch.testing.assert_close(same, scores, rtol=0, atol=1e-12)
    more, longer = best_group(sigma, 5, 80, **settings)
    torch.testing.assert_close(longer[:50], scores, rtol=0, atol=1e-12)
    assert longer[more] <= scores[whole], "a larger budget begins with the smaller one's groups"


def test_streamed_statistics():
    x = normals(50, 6).float() * 3 + 100
    mean, std = moments(iter(x.split(7)))
    torch.testing.assert_close(mean, x.double().mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(std, x.double().std(0), rtol=1e-10, atol=1e-10)
    z = (x.double() - mean) / std
    skew, kurtosis = normality(iter(x.split(7)), mean, std)
    assert skew == pytest.approx(float((z**3).mean(0).abs().mean()))
    assert kurtosis == pytest.approx(float(((z**4).mean(0) - 3).abs().mean()))
    assert moments(iter([x[:1]]))[1].tolist() == [0.0] * 6


@pytest.fixture
def digits(data_root: Path) -> Dataset:
    return load_dataset("digits", data_root)


@pytest.fixture
def context(tiny_diffusions: Path, digits: Dataset, tmp_path: Path) -> Context:
    train, held_out = holdout_split(digits.train, 0.1, 10)
    model = find_model(tiny_diffusions, dataset="digits")
    assert model is not None
    return Context(
        dataset=digits,
        train=train,
        held_out=held_out,
        preprocess=fit_preprocess(digits, "meanstd"),
        ipc=3,
        student=TINY,
        seed=0,
        device=CPU,
        folder=tmp_path / "run",
        compile="off",
        console=Console(quiet=True),
    ).give(Diffusion, Generator(model=model, latents=tmp_path / "latents"))


def made(kind: type[Generation[Any]], config: Any, context: Context) -> Any:
    kind.check(config, context)
    method = kind(config, context)
    method.setup()
    method.prepare()
    return method


def d3hr(context: Context, **more: Any) -> Any:
    return made(D3HR, D3HRConfig(**{"steps": STEPS, "images": 6, "candidates": 12, **more}), context)


def predicted(method: Any, z: torch.Tensor, time: int, label: int) -> torch.Tensor:
    classes = torch.full((len(z),), label)
    with torch.no_grad():
        told: torch.Tensor = method.backend.net(z, time, class_labels=classes).sample
    return told


def test_latents_are_diffusers_inversion(context: Context):
    method = d3hr(context)
    scheduler = diffusers.DDIMInverseScheduler(
        beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=False, timestep_spacing="leading"
    )
    scheduler.set_timesteps(STEPS)
    index = (context.train.labels == 4).nonzero()[:, 0]
    index = index[torch.arange(6) * len(index) // 6]
    z = context.train.images[index].float() / 127.5 - 1
    for time in [int(t) for t in scheduler.timesteps if t <= 600]:
        z = scheduler.step(predicted(method, z, time, 4), time, z).prev_sample
    (shard,) = method._latents.shards(4)
    torch.testing.assert_close(shard, z.flatten(1), rtol=1e-3, atol=1e-3)


def test_images_are_the_best_group_sampled(context: Context):
    """From the cached latents on, all again with plain arithmetic and diffusers' scheduler."""
    method = d3hr(context)
    metrics = method.step(0)
    (shard,) = method._latents.shards(0)
    mu, sigma = shard.double().mean(0), shard.double().std(0).clamp(min=1e-4)
    groups = [draw_group(0, ("groups", 0), number, (3, 64)) for number in range(12)]
    plain = [
        plain_score((mu + sigma * g).tolist(), mu.tolist(), sigma.tolist(), "per_coordinate", 1.0, 0.5) for g in groups
    ]
    assert metrics["loss"] == pytest.approx(min(plain), rel=1e-8)
    assert metrics["worst_score"] == pytest.approx(max(plain), rel=1e-8)
    assert min(plain) < metrics["median_score"] < max(plain)
    z = (mu + sigma * groups[plain.index(min(plain))]).float().view(3, 1, 8, 8)
    scheduler = diffusers.DDIMScheduler(
        beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=False, timestep_spacing="leading"
    )
    scheduler.set_timesteps(STEPS)
    for time in [int(t) for t in scheduler.timesteps if t <= 600]:
        z = scheduler.step(predicted(method, z, time, 0), time, z, eta=0.0).prev_sample
    wanted = ((z.clamp(-1, 1) + 1) * 127.5).round()
    assert float((method.distilled().images.float() - wanted).abs().max()) <= 1


def test_released_code(context: Context):
    """Its defaults, its grid, and the same normals for all classes."""
    method = d3hr(context, paper_code=True)
    assert (method.kind, method.skew_weight) == ("per_image", 0.1)
    assert [move.time for move in method.moves][:2] == [700, 600]
    assert method._latents.folder != d3hr(context)._latents.folder
    plain = d3hr(context)
    assert (plain.kind, plain.skew_weight) == ("per_coordinate", 0.5)
    assert [move.time for move in plain.moves][:2] == [600, 500]
    given = d3hr(context, paper_code=True, skew="per_coordinate", skew_weight=0.2)
    assert (given.kind, given.skew_weight) == ("per_coordinate", 0.2)
    for one, purpose in ((method, ("groups",)), (plain, ("groups", 1))):
        mean, std = moments(one._latents.shards(1))
        latents = one.draw(1).latents.flatten(1)
        groups = [mean + std.clamp(min=1e-4) * draw_group(0, purpose, number, (3, 64)) for number in range(12)]
        assert sum(torch.allclose(latents, group.float()) for group in groups) == 1


@pytest.mark.parametrize("ipc", [1, 2])
@pytest.mark.parametrize("paper_code", [False, True])
def test_few_images_a_class(ipc: int, paper_code: bool, context: Context):
    method = d3hr(dataclasses.replace(context, ipc=ipc), paper_code=paper_code)
    metrics = method.step(0)
    assert all(math.isfinite(value) for value in metrics.values())
    assert method.distilled().images.shape == (ipc, 1, 8, 8)


def latents_of(context: Context, root: Path, **more: Any) -> Latents:
    model = context.given(Diffusion).model
    return Latents(
        root,
        backend=model.backend(CPU),
        model=model.sha256,
        labels=torch.arange(10),
        dataset=context.dataset,
        train=context.train,
        inversion=Inversion(**{"steps": 5, "start": 400, "guidance": 1.0, "released": False, "images": 5, **more}),
        precision="float32",
    )


def test_inversion_killed_and_repeated(context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(latents_module, "SHARD", 2)
    whole = latents_of(context, tmp_path / "whole")
    cost = whole.make(context.console)
    assert cost["cpu_seconds"] > 0
    assert len(list(whole.folder.rglob("*.safetensors"))) == 30
    invert, calls = Latents._latents, [0]

    def dying(self: Any, index: torch.Tensor, label: int) -> torch.Tensor:
        calls[0] += 1
        if calls[0] % 12 == 0:
            raise KeyboardInterrupt
        return invert(self, index, label)

    monkeypatch.setattr(Latents, "_latents", dying)
    killed = latents_of(context, tmp_path / "killed")
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            killed.make(context.console)
    killed.make(context.console)
    assert calls[0] == 32, "nothing was made twice but what the kills interrupted"
    assert contents(killed.folder, "cost.json") == contents(whole.folder, "cost.json")
    killed.make(context.console)
    assert calls[0] == 32, "what is there is left as it is"


def test_shards_are_bounded_and_in_order(context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clean = latents_of(context, tmp_path, start=None, images=0)
    monkeypatch.setattr(latents_module, "SHARD", 50)
    clean.make(context.console)
    pieces = list(clean.shards(7))
    assert max(map(len, pieces)) == 50
    images = context.train.images[context.train.labels == 7]
    torch.testing.assert_close(torch.cat(pieces), (images.float() / 127.5 - 1).flatten(1))


def test_cache_is_of_its_settings(context: Context, tmp_path: Path):
    folder = latents_of(context, tmp_path).folder
    assert latents_of(context, tmp_path).folder == folder
    others: tuple[dict[str, Any], ...] = (
        {"start": 600},
        {"guidance": 2.0},
        {"images": 4},
        {"released": True},
        {"steps": 10},
    )
    for more in others:
        assert latents_of(context, tmp_path, **more).folder != folder
    less = dataclasses.replace(
        context,
        train=dataclasses.replace(context.train, images=context.train.images[1:], labels=context.train.labels[1:]),
    )
    assert latents_of(less, tmp_path).folder != folder


def test_an_arithmetic_that_a_model_of_pixels_has_not(context: Context, tiny_diffusions: Path, tmp_path: Path):
    model = find_model(tiny_diffusions, dataset="digits")
    assert model is not None
    given = context.give(Diffusion, Generator(model=model, latents=tmp_path / "latents"))
    with pytest.raises(UserError, match=r"--precision bfloat16: it is of a pretrained transformer"):
        D3HR(D3HRConfig(steps=5, precision="bfloat16"), given).setup()
    D3HR(D3HRConfig(steps=5), given).setup()


@pytest.mark.parametrize("name", ["unguided", "d3hr"])
def test_no_model_is_trained_for_an_arithmetic_that_it_will_not_have(
    name: str, refused: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(diffusion_need, "ensure_model", lambda **_: pytest.fail("a model was trained"))
    argv = ["distill", "--method", name, "--dataset", "digits", "--ipc", 1, "--precision", "bfloat16"]
    argv += ["--out", tmp_path / "run", "--diffusions", tmp_path / "none", "--recipe", "none", "--quiet"]
    refused(argv, "--precision bfloat16: it is of a pretrained transformer, and without --diffusion-model it is one of")
    assert not (tmp_path / "run").exists()


def test_guidance_of_a_model_that_was_always_told_the_class(
    context: Context, tiny_diffusions: Path, tmp_path: Path, refused: Callable, ddb: Callable
):
    known = find_model(tiny_diffusions, dataset="digits")
    assert known is not None
    told = dataclasses.replace(known, recipe={**known.recipe, "label_dropout": 0.0})
    given = context.give(Diffusion, Generator(model=told, latents=tmp_path / "latents"))
    with pytest.raises(UserError, match=r"--guidance 2: .* with --label-dropout 0 .* give --guidance 1"):
        Unguided(UnguidedConfig(steps=5, guidance=2.0), given).setup()
    Unguided(UnguidedConfig(steps=5), given).setup()
    settings = {"steps": 5, "guidance": 2.0, "tuning_steps": 1}
    Minimax(MinimaxConfig(**settings), given).setup()
    with pytest.raises(UserError, match="--guidance 2"):
        Minimax(MinimaxConfig(**settings, label_dropout=0.0), given).setup()

    folder = tmp_path / "model"
    shutil.copytree(known.folder, folder)
    said = json.loads((folder / "ddbench.json").read_text())
    said["recipe"]["label_dropout"] = 0.0
    (folder / "ddbench.json").write_text(json.dumps(said))
    argv = ("diffusion", "sample", folder, "--count", 1, "--steps", 5, "--threads", 1, "--out", tmp_path / "grid.png")
    refused([*argv, "--guidance", 1.5], "--guidance 1.5", "--label-dropout 0")
    assert ddb(*argv).code == 0


def test_damaged_latents(context: Context, tmp_path: Path):
    latents = latents_of(context, tmp_path)
    latents.make(context.console)
    path = latents.folder / "class_00003" / "part_00000.safetensors"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"class_00003/part_00000\.safetensors: not a whole"):
        list(latents.shards(3))


def test_latents_that_are_not_finite(context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Latents, "_latents", lambda self, index, label: torch.full((len(index), 64), torch.nan))
    latents = latents_of(context, tmp_path)
    with pytest.raises(UserError, match="not finite"):
        latents.make(context.console)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_pull_towards_a_mode():
    """The predicted image moves towards the mode by (1 - a) / sqrt(a) lambda of the way."""
    x, noise, mode = normals(2, 1, 4, 4), normals(2, 1, 4, 4, seed=1), normals(2, 1, 4, 4, seed=2)
    a = 0.3

    def image(e: torch.Tensor) -> torch.Tensor:
        return (x - math.sqrt(1 - a) * e) / math.sqrt(a)

    changed = image(pulled(x, noise, mode, a, 0.1))
    torch.testing.assert_close(changed, image(noise) + (1 - a) / math.sqrt(a) * 0.1 * (mode - image(noise)))
    assert torch.equal(pulled(x, noise, mode, a, 0.0), noise)


def test_mgd3_without_pull_is_plain(context: Context):
    plain = made(Unguided, UnguidedConfig(steps=STEPS, clip=False), context)
    plain.step(0)
    images = plain.distilled().images
    for config in (
        MGD3Config(steps=STEPS, mode_guidance=0.0),
        MGD3Config(steps=STEPS, stop=STEPS, images=6),
    ):
        method = made(MGD3, config, context)
        method.step(0)
        assert torch.equal(method.distilled().images, images)
    method = made(MGD3, MGD3Config(steps=STEPS, stop=5, images=6), context)
    method.step(0)
    assert not torch.equal(method.distilled().images, images)


def test_mgd3_modes_pull_the_images(context: Context):
    """A strong pull to the end makes the images the modes: the centres of k-means with k = IPC."""
    # One whose predicted image lands on the mode in the last step: lambda = sqrt(a) / (1 - a) there.
    method = made(MGD3, MGD3Config(steps=STEPS, stop=0, images=12), context)
    (clean,) = method._latents.shards(2)
    drawn = method.draw(2)
    last = drawn.moves[-1]
    x, noise = torch.zeros(3, 1, 8, 8), torch.zeros(3, 1, 8, 8)
    corrected = drawn.correction(x, noise, last, torch.arange(3))
    modes = (-corrected / (math.sqrt(1 - last.source) * 0.1)).flatten(1)
    nearest = torch.cdist(clean, modes).argmin(1)
    assert set(nearest.tolist()) == {0, 1, 2}
    for j in range(3):
        torch.testing.assert_close(modes[j], clean[nearest == j].mean(0), rtol=1e-3, atol=1e-3)
    assert drawn.metrics["loss"] == pytest.approx(float((clean - modes[nearest]).square().sum(1).mean()), rel=1e-3)


def test_image_j_of_plain_samples_is_the_same_for_any_ipc(context: Context):
    few, many = (
        made(Unguided, UnguidedConfig(steps=STEPS), dataclasses.replace(context, ipc=ipc)).noise(3) for ipc in (2, 5)
    )
    assert torch.equal(few, many[:2])


def run_flags(name: str, root: Path, diffusions: Path, *more: object) -> list[object]:
    return [
        *("distill", "--method", name, "--dataset", "digits", "--ipc", 2, "--student", TINY, "--recipe", "none"),
        *("--diffusions", diffusions, "--out", root / "run", *EAGER, *more),
    ]


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("d3hr", ("--start", 610)),
        ("d3hr", ("--steps", 30)),
        ("d3hr", ("--candidates", 0)),
        ("d3hr", ("--images", 1)),
        ("d3hr", ("--skew", "sideways")),
        ("d3hr", ("--skew-weight", -2)),
        ("d3hr", ("--std-weight", -1)),
        ("d3hr", ("--guidance", -1)),
        ("mgd3", ("--stop", 51)),
        ("mgd3", ("--mode-guidance", -1)),
        ("mgd3", ("--images", 1)),
        ("unguided", ("--steps", 0)),
    ],
)
def test_refused_flags(name: str, flags: tuple[object, ...], refused: Callable, tmp_path: Path):
    refused(run_flags(name, tmp_path, tmp_path / "none", *flags), str(flags[0]))


def test_cost_is_told_apart(ddb: Callable, tiny_diffusions: Path, tmp_path: Path):
    """The model's training and the latents stand beside the run's own seconds; a second run finds them."""
    flags = ("--steps", 5, "--start", 400, "--images", 4, "--candidates", 3, "--quiet")
    root = tmp_path / "d"
    model = next(tiny_diffusions.glob("*/*/ddbench.json")).parent
    argv = run_flags("d3hr", tmp_path, root, "--diffusion-model", model, *flags)
    assert ddb(*argv).code == 0
    cost = json.loads((tmp_path / "run" / "cost.json").read_text())["upstream"]
    trained = json.loads((model / "cost.json").read_text())
    assert cost["diffusion"]["cpu_seconds"] == trained["cpu_seconds"]
    assert cost["diffusion"]["parameters"] == trained["parameters"] > 0
    assert cost["latents"]["cpu_seconds"] > 0
    synset = read_synset(tmp_path / "run" / "synset.safetensors")
    assert synset.config["start"] == 400
    before = contents(root)
    assert ddb(*argv[:-1], "--out", tmp_path / "second", "--seed", 1).code == 0
    assert contents(root) == before
    assert not torch.equal(read_synset(tmp_path / "second" / "synset.safetensors").images, synset.images)
    assert load_file(next(root.rglob("part_00000.safetensors")))["latents"].shape == (4, 64)
