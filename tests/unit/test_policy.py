"""Augmentation policies: their names, and every part against a reference, a closed form or a loop written out."""

from __future__ import annotations

import importlib.util
import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ddbench.data import policy as policies
from ddbench.data.augment import Strategy, apply, draw, parse_strategy
from ddbench.data.policy import ALWAYS, Mix, Policy, augment, parse_policy, resolve_policy
from ddbench.data.preprocess import Preprocess
from ddbench.data.specs import DSA
from ddbench.runtime.errors import UserError

RGB = Preprocess("meanstd", (0.49, 0.48, 0.45), (0.2, 0.21, 0.19))
GREY = Preprocess("meanstd", (0.13,), (0.31,))

EVERY = (
    *("dsa", "crop", "flip", "rrc", "patchshuffle", "randaugment", "autoaugment", "cutmix", "mixup"),
    "patchshuffle+rrc+flip+cutmix",
    "crop+randaugment+flip+mixup",
)


pytestmark = pytest.mark.usefixtures("one_thread")


def named(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(n: int, channels: int = 3, size: int = 32, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (n, channels, size, size), generator=named(seed), dtype=torch.uint8)


def policy_of(text: str, **settings: float) -> Policy:
    made = parse_policy(text, **{"factor": 2, **settings})
    assert made is not None
    return made


def augmented(text: str, x: Tensor, seed: int = 0, preprocess: Preprocess | None = None, **settings: float) -> Tensor:
    return augment(policy_of(text, **settings), x, named(seed), preprocess)[0]


# Names


def test_parts_are_parsed_in_order():
    assert policy_of("color_crop+rrc+flip+cutmix", crop_scale=0.5, mix_alpha=0.8, mix_probability=0.3) == Policy(
        (Strategy(("color", "crop")), "rrc", "flip"), "cutmix", 0.5, 2, 0.8, 0.3
    )
    assert policy_of("dsa").parts == policy_of(DSA).parts == (Strategy(),)
    assert policy_of("color").parts == (Strategy(("color",)),)
    assert policy_of("crop").parts == ("crop",)


def test_case_does_not_matter_and_torchvisions_names_are_known():
    assert policy_of("RandomResizedCrop+RandAugment+AutoAugment+CutMix") == policy_of(
        "rrc+randaugment+autoaugment+cutmix"
    )
    assert parse_policy("None") is None


@pytest.mark.parametrize("text", ["none", "", "flip", "patchshuffle", "patchshuffle+flip"])
def test_nothing_left_is_none(text: str):
    assert parse_policy(text, flip=False) is None


def test_digits_are_not_mirrored():
    made = policy_of("dsa+crop+flip+mixup", flip=False)
    assert made.parts == (Strategy(("color", "crop", "cutout", "scale", "rotate")), "crop")
    assert made.mix == "mixup"
    assert parse_policy("flip+cutmix", flip=False) == Policy((), "cutmix")


@pytest.mark.parametrize(
    ("text", "without"),
    [
        ("dsa", "color_crop_cutout_scale_rotate"),
        ("DSA+CutMix", "color_crop_cutout_scale_rotate+cutmix"),
        ("RandomResizedCrop+Flip", "rrc"),
        ("crop+flip", "crop"),
        ("flip_color+mixup", "color+mixup"),
        ("flip", "none"),
        ("Crop+rrc", "Crop+rrc"),
        ("none", "none"),
    ],
)
def test_the_string_of_what_is_done(text: str, without: str):
    assert resolve_policy(text, flip=False) == without
    assert parse_policy(without) == parse_policy(text, flip=False)
    assert resolve_policy(text, flip=True) == (DSA if text == "dsa" else text)


@pytest.mark.parametrize(
    ("text", "needles"),
    [
        ("cutmx", ["--augmentation", "'cutmx'", "did you mean 'cutmix'"]),
        ("patch_shuffle", ["did you mean 'patchshuffle'"]),
        ("color_colour", ["'colour'", "did you mean 'color'"]),
        ("flip+", ["''"]),
        ("flip+rrc+flip", ["flip+rrc+flip", "twice"]),
        ("rrc+randomresizedcrop", ["'rrc'", "twice"]),
        (f"dsa+{DSA}", ["twice"]),
        ("color_color", ["twice"]),
        ("cutmix+mixup", ["'cutmix' and 'mixup'"]),
        ("mixup+mixup", ["twice"]),
        ("cutmix+flip", ["'cutmix'", "last"]),
        ("none+flip", ["'none'"]),
        ("none+none", ["'none'"]),
    ],
)
@pytest.mark.parametrize("flip", [True, False])
def test_wrong_names_are_refused(text: str, needles: list[str], flip: bool):
    with pytest.raises(UserError) as error:
        parse_policy(text, flip=flip)
    assert "\n" not in str(error.value)
    for needle in needles:
        assert needle in str(error.value)


def test_a_missing_torchvision_is_told_before_any_work(monkeypatch: pytest.MonkeyPatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torchvision" else find(name))
    with pytest.raises(UserError, match="pip install torchvision"):
        parse_policy("crop+randaugment")
    assert parse_policy("rrc+cutmix") is not None


@pytest.mark.parametrize(
    "settings", [{"crop_scale": 1.1}, {"factor": 0}, {"mix_alpha": 0.0}, {"mix_alpha": math.nan}, {"mix": "mix"}]
)
def test_a_policy_refuses_numbers_out_of_range(settings: dict[str, float]):
    with pytest.raises(ValueError):
        Policy(("rrc",), **settings)
    with pytest.raises(ValueError):
        Policy(("rotated",))


# All of them


@pytest.mark.parametrize("text", EVERY)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_policy_is_deterministic_and_leaves_global_generators(text: str, channels: int):
    space = GREY if channels == 1 else RGB
    x = space.apply(pixels(6, channels, 28))
    kept = x.clone()
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002 (that global one)
    first, mix = augment(policy_of(text), x, named(3), space)
    again, other = augment(policy_of(text), x, named(3), space)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2][1])  # noqa: NPY002
    assert torch.equal(x, kept)
    assert torch.equal(first, again)
    assert first.shape == x.shape
    assert first.dtype == torch.float32
    assert bool(torch.isfinite(first).all())
    assert (mix is None) == (other is None) == (not text.endswith(("cutmix", "mixup")))
    assert not torch.equal(first, x)
    assert not torch.equal(first, augment(policy_of(text), x, named(4), space)[0])


@pytest.mark.parametrize("text", EVERY)
def test_a_global_seed_changes_nothing(text: str):
    x = RGB.apply(pixels(4))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        one = augmented(text, x, 5, RGB)
        torch.manual_seed(2)
        assert torch.equal(one, augmented(text, x, 5, RGB))


@pytest.mark.parametrize("text", ["crop", "flip", "rrc", "patchshuffle", "randaugment", "autoaugment"])
def test_every_image_has_draws_of_its_own(text: str):
    x = RGB.apply(pixels(1)).expand(24, -1, -1, -1)
    settings = {"factor": 4} if text == "patchshuffle" else {}
    made = augmented(text, x, 0, RGB, **settings)
    different = {image.numpy().tobytes() for image in made}
    assert len(different) == 2 if text == "flip" else len(different) > 12


@pytest.mark.parametrize("text", EVERY)
def test_an_empty_batch_stays_empty(text: str):
    assert augmented(text, torch.zeros(0, 3, 32, 32), 0, RGB).shape == (0, 3, 32, 32)


@pytest.mark.parametrize("text", [DSA, "color", "crop", "flip", "color_crop_flip_scale_rotate"])
def test_a_strategy_of_dsa_alone_is_as_before(text: str):
    x = torch.randn(7, 3, 32, 32, generator=named(1))
    ours, theirs = named(2), named(2)
    strategy = parse_strategy(text)
    for _ in range(4):
        made, mix = augment(policy_of(text), x, ours, None)
        assert mix is None
        assert torch.equal(made, apply(draw(strategy, len(x), 32, theirs), x))
        assert torch.equal(ours.get_state(), theirs.get_state())


# Crop, flip


@pytest.mark.parametrize("size", [28, 32])
def test_crop_is_a_window_of_the_padded_image(size: int):
    x = torch.randn(40, 3, size, size, generator=named(0))
    pad = math.floor(size / 8 + 0.5)
    shifts = draw(ALWAYS["crop"], len(x), size, named(9)).values["crop"].tolist()
    assert {pad, -pad} <= {one for shift in shifts for one in shift}
    padded = F.pad(x, (pad, pad, pad, pad))
    for made, image, (down, right) in zip(augmented("crop", x, 9), padded, shifts, strict=True):
        assert torch.equal(made, image[:, pad + down : pad + down + size, pad + right : pad + right + size])


def test_half_of_the_images_are_mirrored():
    x = torch.randn(1, 1, 8, 8, generator=named(0)).expand(4000, -1, -1, -1)
    made = augmented("flip", x, 1)
    mirrored = (made == x.flip(3)).flatten(1).all(1)
    assert torch.equal(mirrored, ~(made == x).flatten(1).all(1))
    assert abs(float(mirrored.float().mean()) - 0.5) < 0.03  # four standard deviations


# RandomResizedCrop


@pytest.mark.parametrize("size", [28, 32, 64])
def test_resized_crop_is_that_of_torchvision(size: int):
    from torchvision.transforms.functional import resized_crop

    x = torch.randn(60, 3, size, size, generator=named(0))
    boxes = policies._draw_boxes(len(x), size, size, 0.08, named(7))
    made = augmented("rrc", x, 7)
    for image, out, box in zip(x, made, boxes.tolist(), strict=True):
        for antialias in (True, False):
            wanted = resized_crop(image, *box, [size, size], antialias=antialias)
            assert float((out - wanted).abs().max()) < 2e-5


def test_boxes_beside_a_border_read_nothing_beyond_it():
    from torchvision.transforms.functional import resized_crop

    x = torch.randn(5, 1, 16, 16, generator=named(0), dtype=torch.float64)
    boxes = torch.tensor([[0, 0, 1, 1], [15, 15, 1, 1], [0, 9, 16, 7], [3, 0, 5, 16], [0, 0, 16, 16]])
    made = policies._resized_crop(x, boxes)
    for image, out, box in zip(x, made, boxes.tolist(), strict=True):
        assert float((out - resized_crop(image, *box, [16, 16], antialias=True)).abs().max()) < 1e-12
    assert torch.equal(made[0], x[0, :, :1, :1].expand(1, 16, 16))
    assert torch.equal(made[4], x[4])


def test_boxes_are_distributed_as_those_of_torchvision():
    from torchvision.transforms import RandomResizedCrop

    n, size, scale, ratio = 3000, 32, (0.08, 1.0), (3 / 4, 4 / 3)
    ours = policies._draw_boxes(n, size, size, scale[0], named(0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image = torch.zeros(1, size, size)
        theirs = torch.tensor([RandomResizedCrop.get_params(image, scale, ratio) for _ in range(n)])
    top, left, height, width = ours.unbind(1)
    assert bool(((top >= 0) & (left >= 0) & (top + height <= size) & (left + width <= size)).all())
    assert bool(((height >= 1) & (width >= 1)).all())

    def numbers(boxes: Tensor) -> Tensor:
        top, left, height, width = boxes.double().unbind(1)
        area = height * width / size**2
        return torch.stack(
            [top, left, height, width, area, area.square(), (width / height).log(), (width / height).log().abs()]
        )

    one, two = numbers(ours), numbers(theirs)
    error = ((one.var(1) + two.var(1)) / n).sqrt()
    assert bool(((one.mean(1) - two.mean(1)).abs() < 4 * error).all())


def test_scale_1_is_the_whole_of_a_square_image():
    x = torch.randn(500, 1, 32, 32, generator=named(0))
    assert torch.equal(augmented("rrc", x, 1, crop_scale=1.0), x)


@pytest.mark.parametrize(("height", "width"), [(10, 40), (40, 10), (30, 32), (7, 10)])
def test_what_fits_no_box_gets_the_centre(height: int, width: int, monkeypatch: pytest.MonkeyPatch):
    from torchvision.transforms import RandomResizedCrop

    monkeypatch.setattr(policies, "TRIES", 1)
    boxes = policies._draw_boxes(200, height, width, 1.0, named(0))
    with torch.random.fork_rng():
        wanted = RandomResizedCrop.get_params(torch.zeros(1, height, width), (9.0, 9.0), (3 / 4, 4 / 3))
    assert list(wanted) in boxes.tolist()


# Patches


def shuffled(image: Tensor, factor: int, rows: list[int], columns: list[int]) -> Tensor:
    side = image.shape[1] // factor
    image = torch.cat([image[:, :, i * side : (i + 1) * side] for i in columns], 2)
    return torch.cat([image[:, i * side : (i + 1) * side] for i in rows], 1)


@pytest.mark.parametrize("factor", [2, 4])
def test_patches_are_permuted_by_columns_and_rows(factor: int):
    side = 16 // factor
    x = torch.arange(16 * 16).float().view(1, 1, 16, 16).repeat(200, 3, 1, 1)
    orders = set()
    for image in augmented("patchshuffle", x, 2, factor=factor):
        corners = image[0, ::side, ::side].long()
        rows, columns = (corners[:, 0] // 16 // side).tolist(), (corners[0] % 16 // side).tolist()
        assert sorted(rows) == sorted(columns) == list(range(factor))
        assert torch.equal(image, shuffled(x[0], factor, rows, columns))
        orders.add((*rows, *columns))
    assert len(orders) == 4 if factor == 2 else len(orders) > 100


def test_one_patch_is_left_alone():
    x = torch.randn(4, 3, 8, 8, generator=named(0))
    assert torch.equal(augment(Policy(("patchshuffle",), factor=1), x, named(0), None)[0], x)
    assert policy_of("patchshuffle+rrc", factor=1).parts == ("rrc",)


def test_a_size_that_factor_does_not_divide_keeps_all_its_pixels():
    x = torch.arange(121).float().view(1, 1, 11, 11).repeat(20, 1, 1, 1)
    made = augmented("patchshuffle", x, 0, factor=3)
    assert torch.equal(made.flatten(1).sort(1).values, x.flatten(1))
    assert torch.equal(made[:, :, 9:, 9:], x[:, :, 9:, 9:])
    with pytest.raises(ValueError, match="11 x 11"):
        augmented("patchshuffle", x, 0, factor=12)


# RandAugment, AutoAugment


@pytest.mark.parametrize("text", ["randaugment", "autoaugment"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_augmented_by_torchvision(text: str, channels: int, monkeypatch: pytest.MonkeyPatch):
    """What reaches torchvision are the very pixels, and what it makes of them is what comes back."""
    from torchvision import transforms

    space = GREY if channels == 1 else RGB
    name = {"randaugment": "RandAugment", "autoaugment": "AutoAugment"}[text]
    kind = getattr(transforms, name)
    seen, made, kinds = [], [], []

    class Watched(kind):  # type: ignore[misc, valid-type]
        def forward(self, image: Tensor) -> Tensor:
            kinds.append(self)
            seen.append(image.clone())
            made.append(super().forward(image))
            return made[-1]

    monkeypatch.setattr(transforms, name, Watched)
    raw = pixels(16, channels, 28)
    x = augmented(text, space.apply(raw), 1, space)
    assert torch.equal(torch.stack(seen), raw)
    assert torch.equal(x, space.apply(torch.stack(made)))
    changed = [not torch.equal(a, b) for a, b in zip(seen, made, strict=True)]
    assert sum(changed) > 8
    if text == "randaugment":
        assert (kinds[0].num_ops, kinds[0].magnitude) == (2, 9)
    else:
        assert kinds[0].policy == transforms.AutoAugmentPolicy.CIFAR10


def test_pixels_out_of_range_are_clamped(monkeypatch: pytest.MonkeyPatch):
    from torchvision import transforms

    monkeypatch.setattr(transforms, "RandAugment", lambda **settings: lambda image: image)
    x = torch.tensor([50.0, -50.0]).view(2, 1, 1, 1).expand(2, 3, 8, 8)
    wanted = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1).expand(2, 3, 8, 8)
    assert torch.equal(augmented("randaugment", x, 0, RGB), RGB.apply(wanted))


@pytest.mark.parametrize("text", ["randaugment", "autoaugment"])
def test_pixels_need_a_preprocess(text: str):
    with pytest.raises(ValueError, match="preprocess"):
        augmented(text, torch.zeros(2, 3, 32, 32))


# Mixing


@pytest.mark.parametrize("size", [28, 32])
def test_cutmix_cuts_one_box_out_of_the_partner(size: int):
    n = 5
    x = torch.arange(n * size * size).float().view(n, 1, size, size).repeat(1, 3, 1, 1)
    shares, clipped = [], 0
    for seed in range(200):
        made, mix = augment(policy_of("cutmix"), x, named(seed), None)
        assert mix is not None
        assert sorted(mix.partner.tolist()) == list(range(n))
        for image, own, partner in zip(made, x, x[mix.partner], strict=True):
            box = image != own
            if not torch.equal(own, partner):
                assert float(box[0].sum()) == pytest.approx((1 - mix.share) * size**2)
                assert torch.equal(image[box], partner[box])
                rows, columns = box[0].any(1), box[0].any(0)
                assert torch.equal(box[0], rows.unsqueeze(1) & columns)
                for line in (rows.nonzero().flatten(), columns.nonzero().flatten()):
                    assert len(line) == 0 or len(line) == int(line[-1] - line[0]) + 1
                clipped += int(rows.sum() != columns.sum())
        shares.append(mix.share)
    assert clipped > 0
    assert min(shares) < 0.3
    assert max(shares) > 0.9


@pytest.mark.parametrize(
    ("share", "centre", "box"), [(0.75, (16, 16), (8, 24, 8, 24)), (0.64, (2, 31), (0, 11, 22, 32))]
)
def test_the_box_of_cutmix(
    share: float, centre: tuple[int, int], box: tuple[int, int, int, int], monkeypatch: pytest.MonkeyPatch
):
    """Side ``32 sqrt(1 - lam)``: 16, and 19.2, whose half is 9; clipped at two borders."""
    rows = iter(centre)
    monkeypatch.setattr(policies, "_beta", lambda alpha, generator: share)
    monkeypatch.setattr(torch, "randint", lambda size, shape, generator: torch.tensor(next(rows)))
    x = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 1, 32, 32)
    monkeypatch.setattr(torch, "randperm", lambda n, generator: torch.tensor([1, 0]))
    made, mix = augment(policy_of("cutmix"), x, named(0), None)
    top, bottom, left, right = box
    wanted = torch.zeros(32, 32)
    wanted[top:bottom, left:right] = 1
    assert torch.equal(made[0, 0], wanted)
    assert mix is not None
    assert mix.share == 1 - (bottom - top) * (right - left) / 1024


def test_mixup_is_the_mean_weighted_by_the_share():
    x = torch.randn(6, 3, 8, 8, generator=named(0))
    for seed in range(20):
        made, mix = augment(policy_of("mixup", mix_alpha=0.8), x, named(seed), None)
        assert mix is not None
        assert 0 <= mix.share <= 1
        wanted = mix.share * x.double() + (1 - mix.share) * x.double()[mix.partner]
        assert float((made - wanted).abs().max()) < 1e-6


def test_mixing_comes_after_the_other_parts():
    x = torch.randn(6, 3, 32, 32, generator=named(0))
    randomness = named(8)
    flipped = augment(policy_of("crop+flip"), x, randomness, None)[0]
    wanted, mix = augment(policy_of("mixup"), flipped, randomness, None)
    made, other = augment(policy_of("crop+flip+mixup"), x, named(8), None)
    assert torch.equal(made, wanted)
    assert mix is not None
    assert other is not None
    assert mix.share == other.share


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0, 4.0])
def test_shares_are_those_of_beta(alpha: float):
    """Mean 1/2, variance ``1 / (4 (2 alpha + 1))``; uniform at 1."""
    randomness = named(3)
    shares = torch.tensor([policies._beta(alpha, randomness) for _ in range(4000)], dtype=torch.float64)
    variance = 1 / (4 * (2 * alpha + 1))
    assert bool(((shares >= 0) & (shares <= 1)).all())
    assert abs(float(shares.mean()) - 0.5) < 4 * math.sqrt(variance / 4000)
    assert float(shares.var()) == pytest.approx(variance, rel=0.1)
    if alpha == 1:
        grid = (torch.arange(4000) + 0.5) / 4000
        assert float((shares.sort().values - grid).abs().max()) < 0.03


@pytest.mark.parametrize("mix", ["cutmix", "mixup"])
def test_some_batches_are_spared(mix: str):
    x = torch.randn(4, 1, 8, 8, generator=named(0))
    randomness = named(1)
    for probability, low, high in ((0.0, 0, 0), (0.3, 90, 150), (1.0, 400, 400)):
        mixed = 0
        for _ in range(400):
            made, how = augment(policy_of(mix, mix_probability=probability, mix_alpha=4.0), x, randomness, None)
            assert how is not None
            if how.share == 1 and torch.equal(how.partner, torch.arange(4)):
                assert torch.equal(made, x)
            else:
                mixed += 1
        assert low <= mixed <= high


def test_blended_labels_are_probabilities():
    labels = F.one_hot(torch.tensor([0, 1, 2, 2]), 3).float()
    mix = Mix(torch.tensor([1, 2, 0, 3]), 0.75)
    blended = mix.blend(labels)
    assert blended.tolist() == [[0.75, 0.25, 0], [0, 0.75, 0.25], [0.25, 0, 0.75], [0, 0, 1]]
    for seed in range(5):
        made = augment(policy_of("cutmix"), torch.zeros(4, 1, 8, 8), named(seed), None)[1]
        assert made is not None
        assert torch.allclose(made.blend(labels).sum(1), torch.ones(4))
