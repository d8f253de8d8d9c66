"""Training diffusion models: resumable to the same bytes, on the images it may see, with the classes dropped."""

from __future__ import annotations

import importlib
import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, TINY_DIFFUSION, contents, few_plain_samples, held_out_mask, negative

from ddbench.data.dataset import Dataset, holdout_split
from ddbench.data.load import load_dataset
from ddbench.diffusion import train as module
from ddbench.diffusion.ddim import inversion_moves, sampling_moves, travel
from ddbench.diffusion.draws import Draws
from ddbench.diffusion.recipe import DiffusionRecipe, scheduler_config, unet_config
from ddbench.diffusion.store import read_model
from ddbench.diffusion.train import _Training, ensure_model, train_model
from ddbench.runtime.errors import UserError
from ddbench.runtime.progress import Bar, Console

diffusers = pytest.importorskip("diffusers")
CPU = torch.device("cpu")


@pytest.fixture
def digits(data_root: Path) -> Dataset:
    return load_dataset("digits", data_root)


@pytest.fixture(autouse=True)
def plain_samples_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    few_plain_samples(monkeypatch)


def trained(root: Path, dataset: Dataset, **more: Any) -> Path:
    recipe = DiffusionRecipe(**{**TINY_DIFFUSION, **more})
    console = Console(quiet=True)
    return train_model(root=root, dataset=dataset, recipe=recipe, device="cpu", threads=1, console=console).folder


def test_the_loss_that_is_told(digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It is that of the curve's entry where one has just been made, not 0."""
    told: list[str] = []
    monkeypatch.setattr(module, "LOSS_STEPS", 2)
    monkeypatch.setattr(Bar, "advance", lambda bar, note="", units=1: told.append(note))
    losses = json.loads((trained(tmp_path, digits) / "ddbench.json").read_text())["losses"]
    assert len(told) == TINY_DIFFUSION["steps"] == 2 * len(losses)
    assert told[1::2] == [f"loss {loss:.4f}" for loss in losses]


def test_killed_and_repeated(digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A training that dies at every second step leaves the bytes of one that did not."""
    whole = trained(tmp_path / "whole", digits, steps=6)
    monkeypatch.setattr(module, "CHECKPOINT_SECONDS", 0.0)
    step = _Training.step
    deaths: list[int] = []

    def dying(self: Any, number: int) -> float:
        if number % 2 and number not in deaths:
            deaths.append(number)
            raise KeyboardInterrupt
        return step(self, number)

    monkeypatch.setattr(_Training, "step", dying)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "killed", digits, steps=6)
    killed = trained(tmp_path / "killed", digits, steps=6)
    assert deaths == [1, 3, 5]
    assert contents(killed, "cost.json") == contents(whole, "cost.json")
    assert not list((tmp_path / "killed").rglob("*.partial*"))
    assert json.loads((killed / "cost.json").read_text())["cpu_seconds"] > 0
    assert trained(tmp_path / "killed", digits, steps=6) == killed, "a finished one is left as it is"


@pytest.mark.usefixtures("ctrl_c")
def test_interrupted(digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Ctrl-C ends a training after the step that is at work, which is kept."""
    whole = trained(tmp_path / "whole", digits, steps=4)
    step, numbers = _Training.step, []

    def interrupting(self: Any, number: int) -> float:
        numbers.append(number)
        if len(numbers) == 2:
            signal.raise_signal(signal.SIGINT)
        return step(self, number)

    monkeypatch.setattr(_Training, "step", interrupting)
    with pytest.raises(KeyboardInterrupt) as stop:
        trained(tmp_path / "killed", digits, steps=4)
    assert stop.value.__notes__ == ["the same command goes on after step 2 of 4"]
    assert contents(trained(tmp_path / "killed", digits, steps=4), "cost.json") == contents(whole, "cost.json")
    assert numbers == [0, 1, 2, 3]


def test_damaged_checkpoint(digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "CHECKPOINT_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(module, "sample_grid", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            trained(tmp_path, digits)
    (partial,) = tmp_path.rglob("*.partial.safetensors")
    partial.write_bytes(partial.read_bytes()[:100])
    with pytest.raises(UserError, match=r"partial\.safetensors: not a whole safetensors file"):
        trained(tmp_path, digits)


def test_held_out_and_test_images_play_no_part(digits: Dataset, tmp_path: Path):
    held = held_out_mask(digits)
    one, same, other = (
        contents(trained(tmp_path / name, dataset), "cost.json")
        for name, dataset in (
            ("one", digits),
            ("same", negative(digits, held, test=True)),
            ("other", negative(digits, ~held)),
        )
    )
    assert same == one
    assert other != one


def training(digits: Dataset, **more: Any) -> _Training:
    recipe = DiffusionRecipe(**{**TINY_DIFFUSION, **more})
    split, _ = holdout_split(digits.train, 0.1, 10)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = diffusers.UNet2DModel(**unet_config(recipe, 1, 8, 10))
    return _Training(net, split, 10, recipe, flip=False, device=CPU)


def draws(digits: Dataset, batch: int, dropout: float = 0.0, **more: Any) -> Draws:
    split = digits.train
    return Draws(split, batch=batch, classes=10, dropout=dropout, flip=False, seed=0, purpose="test", **more)


def test_classes_are_dropped_to_the_null_class(digits: Dataset):
    drawn = draws(digits, 1000, 0.3)(0)
    dropped = drawn.told != drawn.labels
    assert set(drawn.told[dropped].tolist()) == {10}
    assert 0.25 < float(dropped.float().mean()) < 0.35
    assert (int(drawn.times.min()) < 50, int(drawn.times.max()) > 950) == (True, True)
    assert abs(float(drawn.noise.std()) - 1) < 0.02
    assert torch.equal(draws(digits, 1000)(0).told, drawn.labels)


def test_drawn_images_are_those_of_their_labels(digits: Dataset):
    """Real ones, scaled to [-1, 1], each with its own label; noise and times of the shape that is asked for."""
    drawn = draws(digits, 50, timesteps=7, shape=(4, 2, 2))(0)
    images = digits.train.images.float() / 127.5 - 1
    for x, label in zip(drawn.x, drawn.labels, strict=True):
        same = (images == x).flatten(1).all(1)
        assert int(label) in digits.train.labels[same].tolist()
    assert drawn.noise.shape == (50, 4, 2, 2)
    assert set(drawn.times.tolist()) == set(range(7))


def test_every_image_once_a_pass(digits: Dataset):
    """The images of a pass, however it is cut, are all of its whole batches; the next pass has another order."""
    made, count = draws(digits, 100), len(digits.train) // 100
    seen = torch.cat([made(number).labels for number in range(count)])
    again = torch.cat([made(count + number).labels for number in range(count)])
    once = Draws(digits.train, batch=100 * count, classes=10, dropout=0.0, flip=False, seed=0, purpose="test")
    assert torch.equal(once(0).labels, seen)
    index = once._pass_order(0)[: 100 * count]
    assert len(set(index.tolist())) == len(index)
    assert not torch.equal(seen, again)


def test_a_step_is_what_is_written_down(digits: Dataset):
    """Loss, learning rate and average against the equations, for two steps."""
    made = training(digits, lr=0.01, ema=0.5)
    start = {name: tensor.clone() for name, tensor in made.net.state_dict().items()}
    drawn = made.draws(0)
    x, labels, times, noise = drawn.x, drawn.told, drawn.times, drawn.noise
    a = diffusers.DDPMScheduler(**module._training_schedule()).alphas_cumprod[times].view(-1, 1, 1, 1)
    predicted = made.net(a.sqrt() * x + (1 - a).sqrt() * noise, times, class_labels=labels).sample
    assert made.step(0) == pytest.approx(float((predicted - noise).detach().square().mean()), rel=1e-5)
    assert made.optimizer.param_groups[0]["lr"] == 0.01 * 0.5, "the one step of warm-up"
    first = {name: tensor.clone() for name, tensor in made.net.state_dict().items()}
    made.step(1)
    assert made.optimizer.param_groups[0]["lr"] == 0.01
    for name, tensor in made.net.state_dict().items():
        early = start[name] + (first[name] - start[name]) * 0.9
        torch.testing.assert_close(made.average[name], early + (tensor - early) * (1 - 2 / 11))


def test_divergence(digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_Training, "step", lambda self, number: math.nan)
    with pytest.raises(UserError, match=r"diverged, at step 1 .* lower --lr"):
        trained(tmp_path, digits)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "flags",
    [
        ("--steps", 0),
        ("--batch", 0),
        ("--lr", 0),
        ("--lr", "nan"),
        ("--warmup", -1),
        ("--weight-decay", -1),
        ("--widths", 12),
        ("--widths", 2056),
        ("--layers", 0),
        ("--layers", 17),
        ("--label-dropout", 1),
        ("--ema", 1),
        ("--holdout", 0.95),
        ("--seed", -1),
    ],
)
def test_refused_settings(flags: tuple[str, object], refused: Callable, tmp_path: Path):
    argv = ("diffusion", "train", "--dataset", "digits", "--diffusions", tmp_path / "d", "--threads", 1)
    refused([*argv, *flags], f"{flags[0]} {flags[1]}")


def test_as_many_levels_as_a_model_is_read_with():
    DiffusionRecipe(widths=(8,) * 13, layers=16).check(8)
    with pytest.raises(UserError, match=r"^--widths 8 8 .*: 14 levels, expected at most 13$"):
        DiffusionRecipe(widths=(8,) * 14).check(8)


def test_images_too_large(tmp_path: Path):
    with pytest.raises(UserError, match="images of 128 px"):
        DiffusionRecipe().check(128)


def test_without_the_library(refused: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = importlib.import_module

    def importing(name: str, *more: Any) -> Any:
        if name == "diffusers":
            raise ModuleNotFoundError("No module named 'diffusers'", name="diffusers")
        return real(name, *more)

    monkeypatch.setattr(importlib, "import_module", importing)
    remedy = 'pip install ".[diffusion]" in the checkout'
    refused(["diffusion", "train", "--diffusions", tmp_path / "d"], remedy)
    flags = ("--dataset", "digits", "--ipc", 1, "--student", TINY, "--out", tmp_path / "run")
    refused(["distill", "--method", "d3hr", *flags], remedy)


def test_verbs(ddb: Callable, refused: Callable, tmp_path: Path):
    root = tmp_path / "d"
    shape = ("--widths", 8, 8, "--steps", 3, "--batch", 8, "--warmup", 1, "--threads", 1)
    result = ddb("diffusion", "train", "--dataset", "digits", "--diffusions", root, *shape, "--quiet")
    assert (result.code, result.err) == (0, "")
    (folder,) = (root / "digits").iterdir()
    assert str(folder) in result.out
    assert (folder / "samples.png").read_bytes().startswith(b"\x89PNG")
    for place in (root, folder):
        table = ddb("diffusion", "info", place)
        assert table.code == 0
        assert all(word in table.out for word in ("digits", "pixel", str(folder)))
    again = ddb("diffusion", "train", "--dataset", "digits", "--diffusions", root, *shape)
    assert "trained already" in again.err
    out = tmp_path / "grid.png"
    flags = ("--count", 1, "--steps", 5, "--out", out, "--threads", 1)
    assert ddb("diffusion", "sample", folder, *flags).code == 0
    first = out.read_bytes()
    assert ddb("diffusion", "sample", folder, *flags).code == 0
    assert out.read_bytes() == first
    refused(["diffusion", "sample", folder, "--out", out, "--steps", 7], "--steps 7")
    refused(["diffusion", "sample", folder, "--out", out, "--count", 0], "--count 0")
    refused(["diffusion", "info", tmp_path / "nothing"], "nothing")
    refused(["diffusion", "paint"], "paint", "train, info, sample")


def test_first_stage_of_a_run(digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    """Where there is no model one is trained by the default recipe, announced, and found the next time."""
    monkeypatch.setattr(module, "DiffusionRecipe", lambda holdout: DiffusionRecipe(holdout=holdout, **TINY_DIFFUSION))

    def ensure(holdout: float) -> Path:
        return ensure_model(
            root=tmp_path, dataset=digits, holdout=holdout, device="cpu", threads=1, console=Console()
        ).folder

    first = ensure(0.1)
    assert "no diffusion model of digits at 8 px" in capsys.readouterr().err
    assert ensure(0.1) == first
    assert "no diffusion model" not in capsys.readouterr().err
    assert ensure(0.2) != first, "it must not have seen what is held out"


@pytest.mark.slow
def test_round_trip_of_a_trained_model(digits: Dataset, tmp_path: Path):
    """Training images are reconstructed from t 600; the released code's late start, clipping and more guidance cost."""
    folder = trained(tmp_path, digits, widths=(16, 32), steps=400, batch=32, warmup=50, lr=2e-3)
    backend = read_model(folder).backend(CPU)
    labels = digits.train.labels[:32]
    x = backend.images(digits.train.images[:32])

    def error(steps: int, start: int = 600, resume: int = 600, there: float = 1.0, back: float = 1.0) -> float:
        def predict(guidance: float) -> Any:
            return lambda z, move: backend.noise(z, move.time, labels, guidance)

        z = travel(x, inversion_moves(backend.alphas, steps, start), predict(there))
        return float(
            (travel(z, sampling_moves(backend.alphas, steps, resume), predict(back)) - x).square().mean().sqrt()
        )

    fine = error(50)
    assert fine < 0.1, "measured 0.026 on Fashion-MNIST by a model of 300 steps"
    assert error(50, resume=620) > 1.1 * fine
    assert 1.5 < error(25) / fine < 2.7, "first order"
    assert error(50, start=980, resume=980) > fine
    assert error(50, there=1.0, back=4.0) > 2 * fine

    scheduler = diffusers.DDIMScheduler(**{**scheduler_config(), "clip_sample": True})
    inverse = diffusers.DDIMInverseScheduler(**{**scheduler_config(), "clip_sample": True})
    z = x
    for one in (inverse, scheduler):
        one.set_timesteps(50)
        for time in [int(t) for t in one.timesteps if t <= 600]:
            z = one.step(backend.noise(z, time, labels), time, z).prev_sample
    assert float((z - x).square().mean().sqrt()) > 1.2 * fine, "clip_sample off matters"
