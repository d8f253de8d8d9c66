"""Every DSA family against a closed form or a plain loop in float64."""

import math

import numpy as np
import pytest
import torch

from ddbench.data.augment import FAMILIES, Draw, Strategy, apply, draw, parse_strategy
from ddbench.runtime.errors import UserError
from ddbench.runtime.seeds import generator

SHAPES = [(4, 1, 8), (3, 3, 7)]


def images(n, channels, size):
    return torch.randn(n, channels, size, size, dtype=torch.float64, generator=generator(1, n, channels, size))


def drawn(family, n, size, **settings):
    return draw(Strategy((family,), **settings), n, size, generator(2, family, n, size))


def only(made):
    return made.values[made.family].numpy()


@pytest.mark.parametrize(("n", "channels", "size"), SHAPES)
def test_color(n, channels, size):
    x = images(n, channels, size)
    made = drawn("color", n, size)
    expected = []
    for image, (brightness, saturation, contrast) in zip(x.numpy(), only(made).astype(np.float64), strict=True):
        assert -0.5 <= brightness < 0.5
        assert 0 <= saturation < 2
        assert 0.5 <= contrast < 1.5
        bright = image + brightness
        grey = bright.mean(0, keepdims=True)
        vivid = (bright - grey) * saturation + grey
        expected.append((vivid - vivid.mean()) * contrast + vivid.mean())
    np.testing.assert_allclose(apply(made, x).numpy(), np.stack(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("n", "channels", "size"), SHAPES)
def test_crop(n, channels, size):
    x = images(n, channels, size)
    made = drawn("crop", n, size, crop_pad=0.3)
    reach = int(0.3 * size + 0.5)
    expected = np.zeros(x.shape)
    for i, (down, right) in enumerate(only(made)):
        assert abs(down) <= reach
        assert abs(right) <= reach
        for row in range(size):
            for column in range(size):
                if 0 <= row + down < size and 0 <= column + right < size:
                    expected[i, :, row, column] = x[i, :, row + down, column + right]
    np.testing.assert_array_equal(apply(made, x).numpy(), expected)


def test_crop_reaches_both_ends():
    shifts = drawn("crop", 2000, 32).values["crop"]
    assert (shifts.min(), shifts.max()) == (-4, 4)
    assert not torch.equal(shifts[:, 0], shifts[:, 1])


@pytest.mark.parametrize("side", [0.5, 0.3])  # an even and an odd square
@pytest.mark.parametrize(("n", "channels", "size"), SHAPES)
def test_cutout(n, channels, size, side):
    x = images(n, channels, size)
    made = drawn("cutout", n, size, cutout=side)
    length = int(size * side + 0.5)
    expected = x.numpy().copy()
    for i, (row, column) in enumerate(only(made)):
        top, left = row - length // 2, column - length // 2
        expected[i, :, max(0, top) : top + length, max(0, left) : left + length] = 0
    np.testing.assert_array_equal(apply(made, x).numpy(), expected)


@pytest.mark.parametrize(("side", "last"), [(0.5, 8), (0.4, 7)])  # squares of 4 and of 3 pixels
def test_cutout_centres(side, last):
    centres = drawn("cutout", 2000, 8, cutout=side).values["cutout"]
    assert (centres.min(), centres.max()) == (0, last)


@pytest.mark.parametrize(("n", "channels", "size"), SHAPES)
def test_flip(n, channels, size):
    x = images(n, channels, size)
    made = drawn("flip", n, size)
    expected = np.stack([im[:, :, ::-1] if f else im for im, f in zip(x.numpy(), only(made)[:, 0], strict=True)])
    np.testing.assert_array_equal(apply(made, x).numpy(), expected)


def sample(image, matrix, align):
    """Bilinear sampling with zeros outside, pixel by pixel."""
    size = image.shape[-1]
    last = size - 1
    out = np.zeros_like(image)
    for row in range(size):
        for column in range(size):
            if align:
                here = np.array([2 * column / last - 1, 2 * row / last - 1])
                x, y = (matrix @ here + 1) / 2 * last
            else:
                here = np.array([(2 * column + 1) / size - 1, (2 * row + 1) / size - 1])
                x, y = ((matrix @ here + 1) * size - 1) / 2
            for i in (math.floor(y), math.floor(y) + 1):
                for j in (math.floor(x), math.floor(x) + 1):
                    if 0 <= i < size and 0 <= j < size:
                        out[:, row, column] += image[:, i, j] * (1 - abs(y - i)) * (1 - abs(x - j))
    return out


@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize("family", ["scale", "rotate"])
@pytest.mark.parametrize(("n", "channels", "size"), SHAPES)
def test_resampling(n, channels, size, family, align):
    x = images(n, channels, size)
    made = drawn(family, n, size, align_corners=align)
    expected = []
    for image, row in zip(x.numpy(), only(made).astype(np.float64), strict=True):
        if family == "scale":
            assert np.all((row >= 1 / 1.2) & (row <= 1.2))
            matrix = np.diag(row)
        else:
            assert abs(row[0]) <= math.radians(15)
            matrix = np.array([[np.cos(row[0]), -np.sin(row[0])], [np.sin(row[0]), np.cos(row[0])]])
        expected.append(sample(image, matrix, align))
    np.testing.assert_allclose(apply(made, x).numpy(), np.stack(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient(family):
    made = drawn(family, 2, 4)
    x = images(2, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: apply(made, values), (x,))


def test_gradient_per_image():
    made = draw(Strategy(per="image"), 8, 4, generator(3))
    assert len(made.families.unique()) > 2
    assert torch.autograd.gradcheck(lambda values: apply(made, values), (images(8, 1, 4).requires_grad_(),))


def test_per_batch_draws_one_family():
    randomness = generator(4)
    seen = [draw(Strategy(), 5, 8, randomness) for _ in range(200)]
    assert {one.family for one in seen} == set(FAMILIES)
    assert all(list(one.values) == [one.family] and one.families is None for one in seen)


def test_per_image_equals_each_family_alone():
    strategy = Strategy(per="image")
    made = draw(strategy, 40, 8, generator(5))
    assert len(made.families.unique()) == len(FAMILIES)
    x = images(40, 3, 8)
    out = apply(made, x)
    for i in range(40):
        family = FAMILIES[int(made.families[i])]
        alone = Draw(strategy, 8, family, None, {family: made.values[family][i : i + 1]})
        torch.testing.assert_close(out[i : i + 1], apply(alone, x[i : i + 1]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("per", ["batch", "image"])
@pytest.mark.parametrize("family", FAMILIES)
def test_siamese_does_the_same_to_all(family, per):
    made = drawn(family, 5, 8, siamese=True, per=per)
    x = images(1, 3, 8).expand(7, 3, 8, 8)
    out = apply(made, x)
    assert torch.equal(out, out[:1].expand_as(out))
    assert out.shape == x.shape


@pytest.mark.parametrize("per", ["batch", "image"])
def test_select(per):
    index = torch.tensor([3, 0, 0])
    x = images(4, 3, 8)
    for seed in range(12):
        made = draw(Strategy(per=per), 4, 8, generator(seed))
        torch.testing.assert_close(apply(made.select(index), x[index]), apply(made, x)[index], rtol=0, atol=1e-12)


@pytest.mark.parametrize("per", ["batch", "image"])
def test_same_seed_same_draw_and_no_global_state(per):
    before = torch.get_rng_state()
    x = images(6, 3, 8)
    outs = [apply(draw(Strategy(per=per), 6, 8, generator(7, "dsa")), x) for _ in range(2)]
    assert torch.equal(*outs)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("per", ["batch", "image"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 3])
def test_dtype_and_layout(per, dtype, channels):
    x = images(6, channels, 8).to(dtype).contiguous(memory_format=torch.channels_last)
    for family in FAMILIES if per == "batch" else [None]:
        strategy = Strategy((family,) if family else FAMILIES, per=per)
        out = apply(draw(strategy, 6, 8, generator(8)), x)
        assert out.dtype == dtype
        assert out.shape == x.shape
        assert out.stride() == (channels * 64, 64, 8, 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_is_near_float32(family):
    made = drawn(family, 4, 8)
    x = images(4, 3, 8).bfloat16()
    exact = apply(made, x.float())
    torch.testing.assert_close(apply(made, x).float(), exact, rtol=0.02, atol=0.05)


def test_wrong_shapes_are_refused():
    made = drawn("crop", 4, 8)
    with pytest.raises(ValueError, match="8 x 8"):
        apply(made, torch.zeros(4, 1, 9, 9))
    with pytest.raises(ValueError, match="for 4"):
        apply(made, torch.zeros(5, 1, 8, 8))


def test_parse_strategy():
    assert parse_strategy("color_crop_cutout_flip_scale_rotate") == Strategy()
    assert parse_strategy("color_flip", flip=False, per="image").ops == ("color",)
    assert parse_strategy("none") is None
    assert parse_strategy("flip", flip=False) is None
    with pytest.raises(UserError, match=r"unknown augmentation 'colour' \(did you mean 'color'\?\)"):
        parse_strategy("colour_crop")
    with pytest.raises(UserError, match="named twice"):
        parse_strategy("crop_crop")
