"""FreD and DDiF over the families: the step through the decoder, masks, budgets, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from conftest import TINY, digits_context
from torch import Tensor

from ddbench.data.dataset import Split
from ddbench.data.load import load_dataset
from ddbench.data.preprocess import Preprocess, fit_preprocess
from ddbench.decoders.base import Arrays, Decoder
from ddbench.decoders.ddif import Ddif
from ddbench.decoders.fred import Fred, dct, published_scale
from ddbench.methods.base import State
from ddbench.methods.ddif_dc import DdifDC
from ddbench.methods.ddif_dm import DdifDM, DdifDMConfig
from ddbench.methods.dm import DM, DMConfig
from ddbench.methods.dsa import DSA, DSAConfig
from ddbench.methods.families.ddif import fitted
from ddbench.methods.families.fred import mask_of, spread
from ddbench.methods.families.gradient_matching import LOOPS
from ddbench.methods.fred_dc import FredDC, FredDCConfig
from ddbench.methods.fred_dm import FredDM, FredDMConfig
from ddbench.methods.fred_mtt import FredMTT, FredMTTConfig
from ddbench.methods.parts.decoded import DecodedCanvas
from ddbench.methods.parts.rate import LearnedRate
from ddbench.runtime.errors import UserError

PREPROCESS = fit_preprocess(load_dataset("digits"), "meanstd")


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def canvas(decoder: Decoder, optimizer: Any = "sgd") -> DecodedCanvas:
    """Two classes of three images."""
    if isinstance(decoder, Fred):
        masks = torch.tensor([[0, 1, 5], [2, 3, 7]], dtype=torch.int16)
        arrays, learned = {"coefficients": random(6, 2, 3), "masks": masks}, "coefficients"
    else:
        assert isinstance(decoder, Ddif)
        arrays = {"fields": decoder.initial(6, torch.Generator().manual_seed(0)).double()}
        learned = "fields"
    return DecodedCanvas(
        decoder, arrays, learned, lr=0.1, momentum=0.5, optimizer=optimizer, preprocess=PREPROCESS, classes=2
    )


FRED = Fred(shape=(2, 3, 4), kept=3)
DDIF = Ddif(shape=(2, 3, 4), layers=2, width=3, omega_first=6.0, omega=3.0)


@pytest.mark.parametrize("decoder", [FRED, DDIF], ids=["fred", "ddif"])
def test_a_step_goes_through_the_decoder(decoder: Decoder):
    """As one graph from the learned array to a loss of the images, differentiated by autograd."""
    found = canvas(decoder)
    weights = random(6, 2, 3, 4)
    leaf = found.value.clone().requires_grad_()
    whole = decoder.decode({**found.arrays, found._name: leaf}, PREPROCESS)
    assert torch.allclose(whole, found.images, atol=1e-14)
    (wanted,) = torch.autograd.grad((whole.sin() * weights).sum(), leaf)
    pulled = found.pull(found.images.cos() * weights)
    assert torch.allclose(pulled, wanted, atol=1e-13)
    before, shown = found.value.clone(), found.images
    found.step(shown.cos() * weights)
    assert torch.allclose(found.value, before - 0.1 * wanted, atol=1e-14)
    assert not torch.equal(found.images, shown)


def test_a_gradient_of_fred_is_the_masked_transform_of_that_of_the_images():
    found, gradient = canvas(FRED), random(6, 2, 3, 4)
    spectra = dct(gradient).flatten(2)
    own = torch.stack([row[:, [0, 1, 5] if number < 3 else [2, 3, 7]] for number, row in enumerate(spectra)])
    assert torch.allclose(found.pull(gradient), own, atol=1e-13)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_going_on_from_a_state(optimizer: str):
    first, second = canvas(DDIF, optimizer), canvas(DDIF, optimizer)
    for _ in range(2):
        first.step(first.images)
    second.load_state({name: tensor.clone() for name, tensor in first.state().items()})
    for one in (first, second):
        one.step(one.images)
    assert torch.equal(first.value, second.value)
    assert torch.equal(first.images, second.images)


# Masks


def test_a_mask_is_where_the_spectra_vary_most():
    images = random(5, 3, 4, 6)
    unnormalised = (dct(images) * published_scale(4, 6)).mean(1)
    wanted = {}
    for u in range(4):
        for v in range(6):
            values = [float(one[u, v]) for one in unnormalised]
            mean = sum(values) / 5
            wanted[6 * u + v] = sum((value - mean) ** 2 for value in values) / 5
    best = sorted(sorted(wanted, key=lambda place: -wanted[place])[:7])
    assert mask_of(spread(dct(images)), 7).tolist() == best


def test_equal_variances_are_taken_in_order():
    assert mask_of(torch.zeros(3, 3), 4).tolist() == [0, 1, 2, 3]


def test_masks_by_all_images_of_a_class(data_root: Path, tmp_path: Path):
    context = digits_context(data_root, tmp_path, ipc=2)
    method = FredDM(FredDMConfig(coefficients=16, mask_from="class"), context)
    method.setup()
    masks = method.distilled().parameters["masks"]
    for label in range(10):
        own = context.preprocess.apply(context.train.images[context.train.labels == label])
        assert masks[label].tolist() == mask_of(spread(dct(own)), 16).tolist()


def test_first_images_are_real_ones_at_the_mask(data_root: Path, tmp_path: Path):
    method = FredDM(FredDMConfig(coefficients=16), digits_context(data_root, tmp_path, ipc=1))
    method.setup()
    product = method.distilled()
    real = dct(method.context.preprocess.apply(method.context.random_images("init"))).flatten(2)
    assert (len(product.labels), tuple(product.images.shape)) == (40, (0, 1, 8, 8))
    for row in (0, 3, 4, 39):
        mask = product.parameters["masks"][row // 4].long()
        assert torch.allclose(product.parameters["coefficients"][row, 0], real[row, 0, mask], atol=1e-5)


# Families


def test_with_every_coefficient_fred_is_its_family(data_root: Path, tmp_path: Path):
    """The transform is orthonormal, so that descent in coefficients is descent in images."""
    context = digits_context(data_root, tmp_path, ipc=2, student=TINY)
    plain = DM(DMConfig(iterations=3, batch_real=8, lr_images=2.0), context)
    fred = FredDM(FredDMConfig(iterations=3, batch_real=8, lr_images=2.0, coefficients=64), context)
    for method in (plain, fred):
        method.setup()
        for iteration in range(3):
            method.step(iteration)
    assert torch.allclose(fred.canvas.images, plain.canvas.images, atol=2e-5)
    assert fred.budget == plain.budget


def test_loops_of_dc_are_those_of_the_ipc(data_root: Path, tmp_path: Path):
    method = FredDC(FredDCConfig(coefficients=16, iterations=2), digits_context(data_root, tmp_path, ipc=10))
    assert (method.iterations, method.context.ipc) == (20, 40)
    assert (method.config.outer_loops, method.config.inner_epochs) == (10, 50)


@pytest.mark.parametrize(("ipc", "same"), [(2, 1), (11, 10), (51, 50)])
def test_loops_that_only_the_codes_of_fred_and_ddif_have(data_root: Path, tmp_path: Path, ipc: int, same: int):
    config, context = FredDCConfig(coefficients=16, iterations=2), digits_context(data_root, tmp_path, ipc=ipc)
    method = FredDC(config, context)
    assert (method.config.outer_loops, method.config.inner_epochs) == LOOPS[same]
    assert method.iterations == 2 * LOOPS[same][0]
    FredDC.check(config, context)
    assert DdifDC.published_loops == FredDC.published_loops
    with pytest.raises(UserError, match="the authors give loops for IPC 1, 10, 20, 30, 40, 50 only"):
        DSA.check(DSAConfig(), context)


@pytest.mark.parametrize("log", [False, True], ids=["raw", "log"])
def test_the_learned_rate_is_kept_where_it_trains_something(log: bool):
    """As the public code clips it; 0: nothing is kept."""
    method = object.__new__(FredMTT)
    for least, wanted in ((0.01, 0.01), (0.0, 0.001), (1e-4, 0.001)):
        method.config = FredMTTConfig(least_lr=least)
        method.rate = LearnedRate(0.001, lr=0.1, momentum=0.5, log=log, device=torch.device("cpu"))
        method.after_step(0, Mock(), Mock())
        assert float(method.learned_lr) == pytest.approx(wanted, rel=1e-5)


def test_fields_are_fitted_to_real_images(data_root: Path, tmp_path: Path):
    context = digits_context(data_root, tmp_path, ipc=2)
    errors = []
    for steps in (0, 40):
        method = DdifDM(DdifDMConfig(width=4, omega_first=8.0, omega=4.0, fit_steps=steps, lr_fit=2e-2), context)
        method.setup()
        real = method.context.preprocess.apply(method.context.random_images("init"))
        errors.append(float((method.canvas.images - real).square().mean()))
    assert errors[1] < 0.7 * errors[0]


def test_fields_are_fitted_one_by_one():
    decoder = Ddif(shape=(1, 4, 4), layers=2, width=3, omega_first=6.0, omega=3.0)
    start, images = decoder.initial(3, torch.Generator().manual_seed(0)).double(), random(3, 1, 4, 4)
    together = fitted(decoder, start, images, PREPROCESS, steps=5, lr=1e-2)
    alone = fitted(decoder, start[1:2], images[1:2], PREPROCESS, steps=5, lr=1e-2)
    assert torch.allclose(together[1:2], alone, atol=1e-12)


def test_large_sets_of_fields_are_fitted_in_parts(monkeypatch: pytest.MonkeyPatch):
    """Else the graph of all fields is in memory at once."""
    start, images = DDIF.initial(5, torch.Generator().manual_seed(0)).double(), random(5, 2, 3, 4)
    whole = fitted(DDIF, start, images, PREPROCESS, steps=3, lr=1e-2)
    monkeypatch.setattr("ddbench.decoders.ddif.AT_ONCE", 2 * 3 * 3 * 4)
    seen: list[int] = []
    decode = Ddif.decode

    def noted(self: Ddif, arrays: Arrays, preprocess: Preprocess) -> Tensor:
        seen.append(len(arrays["fields"]))
        return decode(self, arrays, preprocess)

    monkeypatch.setattr(Ddif, "decode", noted)
    parts = fitted(DDIF, start, images, PREPROCESS, steps=3, lr=1e-2)
    assert max(seen) == 2
    assert torch.allclose(parts, whole, atol=1e-12)


def test_fields_are_not_fitted_again_where_a_run_goes_on(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    context = digits_context(data_root, tmp_path, ipc=1, student=TINY)
    config = DdifDMConfig(width=3, omega_first=8.0, omega=4.0, fit_steps=3, iterations=2, batch_real=8)
    first = DdifDM(config, context)
    first.setup()
    first.step(0)
    state = State(tensors={name: tensor.clone() for name, tensor in first.state().tensors.items()})
    first.step(1)
    second = DdifDM(config, context)
    monkeypatch.setattr("ddbench.methods.families.ddif.fitted", lambda *_, **__: pytest.fail("fitted again"))
    second.setup()
    second.load_state(state)
    second.step(1)
    assert torch.equal(second.distilled().parameters["fields"], first.distilled().parameters["fields"])


def test_the_first_state_has_fitted_fields(data_root: Path, tmp_path: Path):
    config = DdifDMConfig(width=3, omega_first=8.0, omega=4.0, fit_steps=3)
    method = DdifDM(config, digits_context(data_root, tmp_path, ipc=1))
    method.setup()
    state = method.state().tensors["fields"].clone()
    assert torch.equal(state, method.distilled().parameters["fields"])


# Refusals


def test_what_no_file_may_hold_is_refused_before_work(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The writer of the product would refuse it after all steps."""
    monkeypatch.setattr("ddbench.decoders.base.LARGEST_GAIN", 8)
    command = [*COMMAND, "fred-dm", "--iterations", 2, "--out", tmp_path / "run"]
    refused([*command, "--coefficients", 4], "FreD+DM at --ipc 1: 2,640 bytes of parameters would become 40,960 bytes")
    assert not (tmp_path / "run").exists()


def test_more_images_than_memory_are_refused_before_work(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """16 images of 8 x 8 a class, three times in float32."""
    needed = 3 * 4 * 10 * 16 * 64
    monkeypatch.setattr("ddbench.data.limits.available_memory", lambda: needed - 1)
    command = [*COMMAND, "fred-dm", "--coefficients", 4, "--iterations", 2, "--out", tmp_path / "run"]
    refused(command, "FreD+DM at --ipc 1: keeping 160 decoded images needs 120.0 KiB", "(--coefficients)")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("settings", [{"mask_from": "class"}, {"mask_from": "first"}])
def test_a_mask_of_a_class_with_one_image_is_refused(data_root: Path, tmp_path: Path, settings: dict[str, Any]):
    """Copies of one image do not vary; noise, and a set of all coefficients, need no image."""
    context = digits_context(data_root, tmp_path)
    labels = context.train.labels
    first = (labels == 3).nonzero()[0]
    index = torch.cat([(labels != 3).nonzero()[:, 0], first])
    few = replace(context, train=Split(context.train.images[index], labels[index]))
    with pytest.raises(UserError, match="class '3' has one training image, which does not vary"):
        FredDM.check(FredDMConfig(**settings), few)
    FredDM.check(FredDMConfig(coefficients=64), few)
    if settings["mask_from"] == "first":
        FredDM.check(FredDMConfig(**settings, init="noise"), few)


def test_first_images_that_are_copies_are_told(ddb: Callable, tmp_path: Path):
    """FreD begins with more images of a class than its IPC; digits has some 150 of each."""
    flags = ("--coefficients", 4, "--iterations", 1, "--batch-real", 4, "--ipc", 20, "--out", tmp_path / "run")
    done = ddb("distill", "--dataset", "digits", "--student", TINY, "--method", "fred-dm", *flags, "--recipe", "none")
    assert "have fewer training images than the 320 first ones of --ipc 20" in done.err


COMMAND = ("distill", "--dataset", "digits", "--student", TINY, "--device", "cpu", "--ipc", 1, "--method")
REFUSED: dict[str, tuple[tuple[object, ...], str]] = {
    "mask larger than the image": (
        ("fred-dm", "--coefficients", 65),
        "--coefficients 65: a channel of digits has 8 x 8",
    ),
    "mask of one image": (("fred-dm", "--coefficients", 33), "--coefficients 33: leaves one image a class at --ipc 1"),
    "fields larger than the budget": (("ddif-dm",), "DDiF+DM is 67 numbers and a class has room for 64"),
    "fields of no width": (("ddif-dm", "--width", 0), "--width 0"),
    "no frequency": (("ddif-dm", "--omega", 0), "--omega 0"),
    "momentum of Adam, DM": (("ddif-dm", "--momentum", 0.9, "--width", 3), "--momentum 0.9: it has no effect"),
    "momentum of Adam, DC": (("ddif-dc", "--momentum", 0, "--width", 3), "--momentum 0.0: it has no effect"),
    "negative mask": (("fred-dc", "--coefficients", -1), "--coefficients -1"),
}


@pytest.mark.parametrize(("flags", "said"), REFUSED.values(), ids=REFUSED)
def test_refusals(flags: tuple[object, ...], said: str, refused: Callable[..., str], tmp_path: Path):
    refused([*COMMAND, *flags, "--out", tmp_path / "run"], said)
