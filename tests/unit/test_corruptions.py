"""Corruptions: constants and closed forms, determinism, sizes and channels, means, mCE and its reference."""

from __future__ import annotations

import colorsys
import dataclasses
import io
import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import torch
from PIL import Image
from robust_student import digits, student, trained

from ddbench.measurements import corruption_types as types
from ddbench.measurements import corruptions
from ddbench.measurements.corruptions import CorruptionSuite, corruption_suite
from ddbench.measurements.suite import Choice, Finding
from ddbench.protocols.protocol import PROTOCOLS, Protocol
from ddbench.runtime.errors import UserError
from ddbench.runtime.seeds import derive
from ddbench.statistics import corruption_errors

SCALES = [(28, 1), (64, 2)]
"""Sides in pixels, and what the lengths of 32 pixels are multiplied by."""


def picture(side: int, channels: int, count: int = 2) -> np.ndarray:
    """Smooth blobs with some noise, uint8 ``(N, C, S, S)``."""
    draws = np.random.default_rng(side + channels)
    raw = scipy.ndimage.gaussian_filter(draws.random((count, channels, side, side)), (0, 0, 2, 2), mode="wrap")
    raw -= raw.min()
    return np.rint(raw / raw.max() * 255).astype(np.uint8)


def one(side: int = 32, channels: int = 3) -> np.ndarray:
    """One image ``(S, S, C)`` in [0, 1]."""
    return picture(side, channels, 1)[0].transpose(1, 2, 0) / 255


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# Every type


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [8, 28, 32, 64])
def test_every_type(side: int, channels: int):
    """Same shape and dtype, deterministic, another picture than the clean one, the fifth severity further than the
    first; where pixels are moved the constants of the authors do not grow in every respect.
    """
    images = picture(side, channels)
    before = np.random.default_rng(1).random()
    for name in types.corruption_types(side):
        rows = [types.corrupt(images, name, severity) for severity in types.SEVERITIES]
        assert all(row.dtype == np.uint8 and row.shape == images.shape for row in rows)
        assert (rows[2] == types.corrupt(images, name, 3)).all(), name
        distance = [float(np.abs(row.astype(int) - images).mean()) for row in rows]
        assert min(distance) > 0, name
        if name not in ("elastic_transform", "glass_blur"):
            assert distance[4] > distance[0], name
    assert np.random.default_rng(1).random() == before


def test_which_types():
    assert len(types.corruption_types(32)) == len(types.corruption_types(24)) == 14
    assert types.corruption_types(8) == (
        "gaussian_noise",
        "shot_noise",
        "impulse_noise",
        "fog",
        "brightness",
        "contrast",
        "elastic_transform",
        "jpeg_compression",
    )


@pytest.mark.parametrize("name", types.TYPES)
def test_an_image_is_corrupted_by_itself(name: str):
    """What it gets depends on its position, not on the other images, and two positions get other draws."""
    images = picture(28, 1, 3)
    whole = types.corrupt(images, name, 3)
    assert (types.corrupt(images[:2], name, 3) == whole[:2]).all()
    twins = types.corrupt(np.repeat(images[:1], 2, 0), name, 3)
    still = name in ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
    assert (twins[0] == twins[1]).all() == still


def test_refused_shapes():
    with pytest.raises(ValueError, match="1 or 3"):
        types.corrupt(np.zeros((1, 2, 8, 8), np.uint8), "fog", 1)
    with pytest.raises(ValueError, match="1 or 3"):
        types.corrupt(np.zeros((1, 1, 8, 9), np.uint8), "fog", 1)


# Constants and closed forms


@pytest.mark.parametrize("channels", [1, 3])
def test_noise(channels: int):
    """Standard deviation, Poisson variance, share of zeros and ones; a grey image has them in full strength."""
    grey = np.full((300, 300, channels), 0.4)
    for severity, sd in zip(types.SEVERITIES, (0.04, 0.06, 0.08, 0.09, 0.10), strict=True):
        assert np.std(types.gaussian_noise(grey, severity, rng())) == pytest.approx(sd, rel=0.02)
    for severity, photons in zip(types.SEVERITIES, (500, 250, 100, 75, 50), strict=True):
        made = types.shot_noise(grey, severity, rng())
        assert np.mean(made) == pytest.approx(0.4, rel=0.01)
        assert np.var(made) == pytest.approx(0.4 / photons, rel=0.03)
    for severity, share in zip(types.SEVERITIES, (0.01, 0.02, 0.03, 0.05, 0.07), strict=True):
        made = types.impulse_noise(grey, severity, rng())
        assert np.mean(made == 0) == pytest.approx(share / 2, rel=0.12)
        assert np.mean(made == 1) == pytest.approx(share / 2, rel=0.12)
        assert set(np.unique(made)) == {0.0, 0.4, 1.0}


def test_contrast_and_brightness():
    x = one()
    for severity, factor in zip(types.SEVERITIES, (0.75, 0.5, 0.4, 0.3, 0.15), strict=True):
        made = types.contrast(x, severity, rng())
        np.testing.assert_allclose(made.mean((0, 1)), x.mean((0, 1)))
        np.testing.assert_allclose(made.std((0, 1)), factor * x.std((0, 1)))
    x[0, 0] = 0  # black becomes grey
    for severity, amount in zip(types.SEVERITIES, (0.05, 0.1, 0.15, 0.2, 0.3), strict=True):
        made = types.brightness(x, severity, rng())
        for row, column in ((0, 0), (3, 5), (17, 30)):
            hue, saturation, value = colorsys.rgb_to_hsv(*x[row, column])
            expected = colorsys.hsv_to_rgb(hue, saturation, min(1.0, value + amount))
            np.testing.assert_allclose(made[row, column], expected, atol=1e-12)
    grey = one(8, 1)
    np.testing.assert_allclose(types.brightness(grey, 2, rng()), np.minimum(grey + 0.1, 1))


def test_disk():
    """At 32 pixels: a disk (a single pixel up to radius 0.5), then a Gaussian of 3 x 3."""
    alone = np.exp(-np.array([1, 0, 1]) / (2 * 0.4**2))
    expected = np.outer(alone, alone) / alone.sum() ** 2
    np.testing.assert_allclose(types.disk(0.3, 0.4, 1.0)[1:-1, 1:-1], expected)
    cross = types.disk(1.0, 0.01, 1.0)
    assert (cross > 0.1).sum() == 5
    assert cross.sum() == pytest.approx(1)
    assert (types.disk(1.5, 0.01, 1.0) > 0.05).sum() == 9
    assert (types.disk(1.5, 0.01, 2.0) > 0.01).sum() == 29, "radius 3 in an image twice as large"


def test_smear():
    """A point becomes half a Gaussian, to one side, along the direction."""
    x = np.zeros((21, 21, 1))
    x[10, 10] = 1
    weights = np.exp(-(np.arange(13) ** 2) / 2)
    weights /= weights.sum()
    level = types.smear(x, 6, 1, 0.0)
    np.testing.assert_allclose(level[10, 10::-1, 0], weights[:11])
    assert level[10, 11:].sum() == 0
    upright = types.smear(x, 6, 1, -90.0)
    np.testing.assert_allclose(upright[10:, 10, 0], weights[:11], atol=1e-12)
    np.testing.assert_allclose(types.smear(np.full((9, 9, 1), 0.3), 6, 2, 33.0), 0.3)


@pytest.mark.parametrize("factor", [1.03, 1.1, 1.25, 1.75, 2.25])
def test_enlarge_against_scipy(factor: float):
    """The middle cut out, enlarged by scipy's linear zoom, and cut to size again."""
    x = one()
    cut = math.ceil(32 / factor)
    first = (32 - cut) // 2
    large = scipy.ndimage.zoom(x[first : first + cut, first : first + cut], (factor, factor, 1), order=1)
    trim = (len(large) - 32) // 2
    np.testing.assert_allclose(types.enlarge(x, factor), large[trim : trim + 32, trim : trim + 32], atol=1e-12)


def test_zoom_blur_is_a_mean():
    x = one()
    for severity, last in enumerate((6, 11, 15, 20, 25), start=1):
        # NumPy steps by 1.01 - 1, a little more than 0.01: 1.25 of 26 pixels are 33 by that, else 32.
        expected = np.mean([x, *(types.enlarge(x, 1 + step * (1.01 - 1)) for step in range(last + 1))], 0)
        np.testing.assert_allclose(types.zoom_blur(x, severity, rng()), expected)
    assert build().settings["version"] == 1, "the digits are not zoomed"
    assert CorruptionSuite(images=1, size=28).settings["version"] == 2


def test_plasma():
    """Diamond and square steps on a torus of four pixels, written out point by point."""
    decay = 2.0

    def reference(side: int) -> np.ndarray:
        randomness, height, step, made = rng(), 100.0, side, np.zeros((side, side))
        while step >= 2:
            half = step // 2
            places = range(0, side, step)
            old = made.copy()
            noise = randomness.uniform(-(height**2), height**2, (side // step, side // step))
            for i, a in enumerate(places):
                for j, b in enumerate(places):
                    corners = [old[(a + p) % side, (b + q) % side] for p in (0, step) for q in (0, step)]
                    made[a + half, b + half] = np.mean(corners) + noise[i, j]
            old = made.copy()
            for down, right in ((0, half), (half, 0)):
                noise = randomness.uniform(-(height**2), height**2, (side // step, side // step))
                for i, a in enumerate(places):
                    for j, b in enumerate(places):
                        r, c = a + down, b + right
                        near = [(r - half, c), (r + half, c), (r, c - half), (r, c + half)]
                        made[r, c] = np.mean([old[p % side, q % side] for p, q in near]) + noise[i, j]
            step, height = half, height / decay
        return (made - made.min()) / (made.max() - made.min())

    for side in (2, 4, 8):
        np.testing.assert_allclose(types.plasma(side, decay, rng()), reference(side), atol=1e-12)


def test_fog_keeps_the_range():
    x = one()
    made = types.fog(x, 3, rng())
    assert made.min() >= 0
    assert made.max() <= x.max() + 1e-12
    np.testing.assert_allclose(types.fog(np.zeros((8, 8, 1)), 3, rng()), 0)


def test_glass_blur_moves_pixels():
    """With hardly any blur (0.05 pixels) the first severity only moves neighbours: grey pixels are all there still."""
    x = one(channels=1)
    made = types.glass_blur(x, 1, rng())
    assert not np.array_equal(made, x)
    np.testing.assert_array_equal(np.sort(made, None), np.sort(x, None))
    np.testing.assert_array_equal(made[0, 0], x[0, 0])


@pytest.mark.parametrize(("side", "scale"), SCALES)
def test_glass_blur_copies_colour_pixels(side: int, scale: int):
    """As the authors' loop does it to an array of colours, run here with the same draws, between two slight blurs."""
    x = one(side)
    for severity, (sd, rounds) in enumerate(((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2)), start=1):
        draws, places = rng(), range(side - scale, scale, -1)
        made = scipy.ndimage.gaussian_filter(x, (sd * scale, sd * scale, 0), mode="nearest")
        for _ in range(rounds):
            moves = draws.integers(-scale, scale, size=(len(places), len(places), 2))
            for row, line in zip(places, moves, strict=True):
                for column, (down, right) in zip(places, line, strict=True):
                    here, there = (row, column), (row + down, column + right)
                    made[here], made[there] = made[there], made[here]
        made = scipy.ndimage.gaussian_filter(made, (sd * scale, sd * scale, 0), mode="nearest")
        np.testing.assert_allclose(types.glass_blur(x, severity, rng()), made, atol=1e-12)
    colours = [len(np.unique(image.reshape(-1, 3), axis=0)) for image in (types.glass_blur(x, 1, rng()), x)]
    assert colours[0] < colours[1]


def test_elastic_transform_of_a_flat_image():
    """Displacements change no flat image, and little of a smooth one where none is asked for beyond the affine map."""
    np.testing.assert_allclose(types.elastic_transform(np.full((28, 28, 1), 0.7), 3, rng()), 0.7)


def test_elastic_transform_of_coordinates():
    """An image of its own coordinates shows where each pixel came from: through the affine map that takes the three
    drawn points back, from a place that the smoothed field displaces."""
    side = 64
    middle, coordinates = np.s_[16:-16, 16:-16], np.stack(np.mgrid[:side, :side], 2).astype(float)
    corners = np.array([[53.0, 53], [53, 11], [11, 11]])
    constants = ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))
    for severity, (alpha, smooth, affine) in enumerate(constants, start=1):
        draws = rng()
        moved = corners + draws.uniform(-affine * side, affine * side, (3, 2))
        field = draws.uniform(-1, 1, (2, side, side))
        shift = [scipy.ndimage.gaussian_filter(one, smooth * side, truncate=3) * alpha * side for one in field]
        back = np.linalg.solve(moved[:2] - moved[2], corners[:2] - corners[2])  # (p - moved[2]) @ back + corners[2]
        expected = (coordinates + np.stack(shift, 2) - moved[2]) @ back + corners[2]
        grey = np.stack([types.elastic_transform(part, severity, rng())[..., 0] for part in parts_of(coordinates)], 2)
        np.testing.assert_allclose(grey[middle], expected[middle], atol=1e-6)


def parts_of(x: np.ndarray) -> list[np.ndarray]:
    """Each channel as an image of one."""
    return [x[..., channel : channel + 1] for channel in range(x.shape[2])]


def test_pixelate_and_jpeg():
    for severity, share in zip(types.SEVERITIES, (0.95, 0.9, 0.85, 0.75, 0.65), strict=True):
        made = types.pixelate(one(), severity, rng())
        assert len(np.unique(made, axis=0)) == len(np.unique(made, axis=1)[0]) == int(32 * share)
    flat = np.full((32, 32, 3), 120 / 255)
    for change in (types.pixelate, types.jpeg_compression):
        np.testing.assert_allclose(change(flat, 5, rng()), flat, atol=1.5 / 255)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillows(channels: int):
    x = one(channels=channels)
    picture = Image.fromarray(np.rint(x.squeeze() * 255).astype(np.uint8))
    for severity, quality in zip(types.SEVERITIES, (80, 65, 58, 50, 40), strict=True):
        with io.BytesIO() as stored:
            picture.save(stored, "JPEG", quality=quality)
            expected = np.asarray(Image.open(stored)).reshape(x.shape) / 255
        np.testing.assert_allclose(types.jpeg_compression(x, severity, rng()), expected, atol=1e-12)


@pytest.mark.parametrize(("side", "scale"), SCALES)
def test_blurs_have_the_authors_constants(side: int, scale: int):
    """Lengths are those of 32 pixels, twice as long in an image twice as large."""
    x, point = one(side), np.zeros((side, side, 1))
    point[side // 2, side // 2] = 1
    for severity, (radius, alias) in enumerate(((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1)), start=1):
        kernel = types.disk(radius, alias, float(scale))
        first, last = side // 2 - len(kernel) // 2, side // 2 + len(kernel) // 2 + 1
        made = types.defocus_blur(point, severity, rng())
        np.testing.assert_allclose(made[first:last, first:last, 0], kernel, atol=1e-12)
        assert made.sum() == pytest.approx(1)
    for severity, (radius, sd) in enumerate(((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)), start=1):
        expected = types.smear(x, radius * scale, sd * scale, rng().uniform(-45, 45))
        np.testing.assert_allclose(types.motion_blur(x, severity, rng()), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("side", "scale"), SCALES)
def test_weather_has_the_authors_constants(side: int, scale: int):
    """Fog over an image; of snow on black the whitening to 0.5 and the flakes, as they fall and turned around."""
    x, black = one(side), np.zeros((side, side, 3))
    for severity, (amount, decay) in enumerate(((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)), start=1):
        cloud = types.plasma(32 * scale, decay, rng())[:side, :side, None]
        expected = (x + amount * cloud) * x.max() / (x.max() + amount)
        np.testing.assert_allclose(types.fog(x, severity, rng()), expected, atol=1e-12)
    constants = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )
    for severity, (mean, sd, factor, threshold, radius, blur, keep) in enumerate(constants, start=1):
        draws = rng()
        flakes = types.enlarge(mean + sd * draws.standard_normal((side, side, 1)), factor).clip(0, 1)
        flakes[flakes < threshold] = 0
        flakes = types.smear(flakes, radius * scale, blur * scale, draws.uniform(-135, -45))
        expected = np.broadcast_to((1 - keep) * 0.5 + flakes + np.rot90(flakes, 2), black.shape)
        np.testing.assert_allclose(types.snow(black, severity, rng()), expected, atol=1e-12)


def test_images_get_their_own_severity_and_draws():
    """As the type's function does it alone, with the draws that type, severity and position name, in whole pixels."""
    images = picture(8, 1)
    for name in types.corruption_types(8):
        for severity in types.SEVERITIES:
            for position, made in enumerate(types.corrupt(images, name, severity)):
                draws = np.random.default_rng(derive(0, "corruption", name, severity, position))
                expected = types.TYPES[name](images[position].transpose(1, 2, 0) / 255, severity, draws)
                expected = np.rint(expected.clip(0, 1) * 255).transpose(2, 0, 1)
                np.testing.assert_array_equal(made, expected)


# Kept images


def test_kept_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    images = torch.from_numpy(picture(8, 1))
    made = corruptions.corrupted(images, "fog", tmp_path)
    assert made.shape == (5, 2, 1, 8, 8)
    (path,) = (tmp_path / "corruptions").iterdir()
    first = path.read_bytes()
    monkeypatch.setattr(corruptions, "corrupt", lambda *_: pytest.fail("made again"))
    assert torch.equal(corruptions.corrupted(images, "fog", tmp_path), made)
    monkeypatch.undo()
    path.write_bytes(first[:100])
    assert torch.equal(corruptions.corrupted(images, "fog", tmp_path), made)
    assert path.read_bytes() == first, "a damaged file is made again"
    assert torch.equal(corruptions.corrupted(images, "fog", None), made)
    corruptions.corrupted(images.flip(0), "fog", tmp_path)
    assert len(list(path.parent.iterdir())) == 2, "other images, another file"
    monkeypatch.setattr(corruptions, "KEEP_BYTES", 10)
    corruptions.corrupted(images, "contrast", tmp_path)
    assert len(list(path.parent.iterdir())) == 2, "too large to keep"


# The suite


def suite(**how: Any) -> CorruptionSuite:
    return CorruptionSuite(images=60, size=8, **how)


def findings(made: CorruptionSuite, accuracy: float, clean: float = 0.9) -> dict[str, Finding]:
    found = {name: Finding(details={"accuracy": [accuracy] * 5}) for name in made.types}
    return {**found, "clean": Finding(details={"accuracy": clean, "student": "tiny"})}


def test_suite_on_digits(tmp_path: Path):
    made = suite(root=tmp_path)
    measured = trained(student(), 60)
    found = {one.name: Finding.from_json(one.measure(measured).to_json()) for one in made.probes}
    run = made.combine(found)
    assert run.metrics.keys() == made.metrics.keys() == {"corruption_accuracy", "corruption_drop", "noise_accuracy"}
    assert 0.2 < run.metrics["corruption_accuracy"] < found["clean"].details["accuracy"]
    assert run.metrics["corruption_drop"] == pytest.approx(
        found["clean"].details["accuracy"] - run.metrics["corruption_accuracy"]
    )
    by_hand = types.corrupt(measured.test.images.numpy(), "contrast", 5)
    right = measured.logits(torch.from_numpy(by_hand)).argmax(1) == measured.test.labels
    assert run.details["contrast"][4] == pytest.approx(float(right.float().mean()))
    assert pickle.loads(pickle.dumps(made)) == made
    assert json.loads(json.dumps(made.settings)) == made.settings
    assert made.settings["set"] == "C8"
    assert str(tmp_path) not in json.dumps(made.settings), "no path in a product"


def test_pool():
    made = suite()
    rows = [{name: [value] * 5 for name in made.types} for value in (0.5, 0.75)]
    assert made.pool(rows) == {"corruptions": {name: [0.625] * 5 for name in made.types}}


def test_corruption_errors():
    """Twice the reference's errors under one type, half under another. A reference without error gives none."""
    reference = {"fog": [0.9, 0.9, 0.8, 0.8, 0.6], "contrast": [0.8, 0.8, 0.8, 0.8, 0.8]}
    table = {"fog": [0.8, 0.8, 0.6, 0.6, 0.2], "contrast": [0.9, 0.9, 0.9, 0.9, 0.9]}
    assert corruption_errors(table, reference) == pytest.approx({"fog": 2.0, "contrast": 0.5})
    assert corruption_errors(table, table) == pytest.approx({"fog": 1.0, "contrast": 1.0})
    assert corruption_errors(table, {**reference, "fog": [1.0] * 5}) is None


HARD = PROTOCOLS["hard-v1"]


def reference_file(folder: Path, made: CorruptionSuite, **changes: Any) -> Path:
    """An evaluation of the whole training set, as far as it is read."""
    data = {
        "synset": {"method": "full", "dataset_fingerprint": digits().fingerprint},
        "protocol": {"name": "hard-v1", "hash": HARD.hash, "settings": HARD.settings()},
        "measured": {"corruptions": made.settings},
        "details": {"tiny": {"corruptions": {name: [0.8] * 5 for name in made.types}}},
    }
    path = folder / "full.json"
    path.write_text(json.dumps({**data, **changes}))
    return path


def build(
    path: Path | None = None, max_images: int | None = None, channels: int = 1, protocol: Protocol = HARD
) -> CorruptionSuite:
    choice = Choice(kind="corruptions", max_images=max_images, reference=path)
    images = torch.zeros(1, channels, 8, 8)
    plan = SimpleNamespace(synset=SimpleNamespace(images=images), protocol=protocol)
    return corruption_suite(choice, plan, digits())  # type: ignore[arg-type, return-value]


def test_reference(tmp_path: Path):
    made = build(reference_file(tmp_path, dataclasses.replace(suite(), images=500)))
    assert made.images == 500
    run = made.combine(findings(made, 0.6))
    assert run.metrics["mce"] == pytest.approx(2.0)
    assert run.metrics.keys() == made.metrics.keys()
    assert len(made.settings["reference"]["sha256"]) == 64
    other = findings(made, 0.6)
    other["clean"].details["student"] = "another"
    assert "mce" not in made.combine(other).metrics
    plain = build()
    assert plain.settings["reference"] is None
    assert "mce" not in plain.combine(findings(plain, 0.6)).metrics
    assert any("C8" in note and "snow" in note for note in plain.notes)


def test_the_epochs_of_a_synset_are_none_of_the_references(tmp_path: Path):
    """All real data are trained for 100 epochs by the standard; so is the synset with ``--epochs 100``."""
    path = reference_file(tmp_path, dataclasses.replace(suite(), images=500))
    assert "mce" in build(path, protocol=dataclasses.replace(HARD, epochs=100)).metrics
    with pytest.raises(UserError, match="another protocol"):
        build(path, protocol=dataclasses.replace(HARD, epochs=5, full_epochs=5))


def test_bad_references(tmp_path: Path):
    whole = dataclasses.replace(suite(), images=500)
    fingerprint = digits().fingerprint
    table = {name: [0.8] * 5 for name in whole.types}
    for changes, needle in (
        ({"synset": {"method": "mtt", "dataset_fingerprint": fingerprint}}, "method full"),
        ({"synset": None}, "method full"),
        ({"synset": {"method": "full", "dataset_fingerprint": "0"}}, "other images"),
        ({"protocol": {"name": "hard-v1", "hash": "other epochs"}}, "another protocol"),
        ({"protocol": None}, "another protocol"),
        ({"measured": {}}, "no corruptions"),
        ({"details": {}}, "no corruptions"),
        ({"measured": {"corruptions": {**whole.settings, "images": 7}}}, "images 7"),
        ({"details": {"tiny": {"corruptions": {**table, "fog": [0.5] * 4}}}}, "fog"),
        ({"details": {"tiny": {"corruptions": {**table, "fog": [math.nan] * 5}}}}, "fog"),
        ({"details": {"tiny": {"corruptions": {**table, "fog": [1.5] * 5}}}}, "fog"),
    ):
        with pytest.raises(UserError, match=needle):
            build(reference_file(tmp_path, whole, **changes))
    with pytest.raises(UserError, match=r"gone\.json: cannot be read"):
        build(tmp_path / "gone.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(UserError, match="method full"):
        build(tmp_path / "list.json")
    with pytest.raises(UserError, match="2 channels"):
        build(channels=2)


def test_fewer_images():
    assert build(max_images=20).images == 20
    assert build().images == 500


def test_a_reference_for_nothing(refused: Callable):
    refused(["evaluate", "run", "--corruption-reference", "full.json"], "full.json", "give --corruptions with it")
