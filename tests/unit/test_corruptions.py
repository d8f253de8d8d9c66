"""Corruptions: constants and closed forms, determinism, sizes and channels, means, mCE and its reference."""

from __future__ import annotations

import colorsys
import dataclasses
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
from robust_student import digits, student, trained

from ddbench.measurements import corruption_types as types
from ddbench.measurements import corruptions
from ddbench.measurements.corruptions import CorruptionSuite, corruption_suite
from ddbench.measurements.suite import Choice, Finding
from ddbench.protocols.protocol import PROTOCOLS, Protocol
from ddbench.runtime.errors import UserError
from ddbench.statistics import corruption_errors


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
    for severity, last in enumerate((6, 11, 15, 20), start=1):
        expected = np.mean([x, *(types.enlarge(x, 1 + step / 100) for step in range(last + 1))], 0)
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


def test_glass_blur_copies_colour_pixels():
    """As the authors' loop does it to an array of colours, run here with the same draws."""
    x = one()
    made, draws = x.copy(), rng().integers(-1, 1, size=(30, 30, 2))
    for row, line in zip(range(31, 1, -1), draws, strict=True):
        for column, (down, right) in zip(range(31, 1, -1), line, strict=True):
            here, there = (row, column), (row + down, column + right)
            made[here], made[there] = made[there], made[here]
    np.testing.assert_allclose(types.glass_blur(x, 1, rng()), made, atol=1e-12)
    assert len(np.unique(made.reshape(-1, 3), axis=0)) < len(np.unique(x.reshape(-1, 3), axis=0))


def test_elastic_transform_of_a_flat_image():
    """Displacements change no flat image, and little of a smooth one where none is asked for beyond the affine map."""
    np.testing.assert_allclose(types.elastic_transform(np.full((28, 28, 1), 0.7), 3, rng()), 0.7)


def test_elastic_transform_follows_its_points(monkeypatch: pytest.MonkeyPatch):
    """The affine map of the first severity takes the three points where they were drawn to be."""
    side, seed = 64, 3
    draws = np.random.default_rng(seed)
    moves = draws.uniform(-0.08 * side, 0.08 * side, (3, 2))
    rows, columns = np.mgrid[:side, :side].astype(float)
    ramp = np.stack([rows, columns, rows], 2) / side
    made = types.elastic_transform(ramp, 1, np.random.default_rng(seed))
    for place, move in zip(((53, 53), (53, 11), (11, 11)), moves, strict=True):
        goal = np.add(place, move)
        if (goal < side - 2).all() and (goal > 1).all():
            found = [scipy.ndimage.map_coordinates(made[:, :, axis], goal[:, None], order=1)[0] for axis in (0, 1)]
            np.testing.assert_allclose(np.array(found) * side, place, atol=0.02)


def test_pixelate_and_jpeg():
    for severity, share in zip(types.SEVERITIES, (0.95, 0.9, 0.85, 0.75, 0.65), strict=True):
        made = types.pixelate(one(), severity, rng())
        assert len(np.unique(made, axis=0)) == len(np.unique(made, axis=1)[0]) == int(32 * share)
    flat = np.full((32, 32, 3), 120 / 255)
    for change in (types.pixelate, types.jpeg_compression):
        np.testing.assert_allclose(change(flat, 5, rng()), flat, atol=1.5 / 255)


def test_snow_whitens():
    x = np.full((32, 32, 3), 0.2)
    for severity in types.SEVERITIES:
        assert types.snow(x, severity, rng()).mean() > 0.2


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
