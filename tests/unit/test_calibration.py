"""Calibration against numpy written from the definitions, a second library, hand cases, and what temperatures do."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from ddbench.measurements.calibration_metrics import (
    adaptive_error,
    bin_sums,
    brier,
    calibration,
    calibration_error,
    classwise_error,
    fit_temperature,
    log_softmax,
    nll,
)
from ddbench.measurements.reliability import BAR, OVER, SIDE, TOP, UNDER, diagram_files, pooled_error, shapes, table


def mixed_logits(n: int = 3000, classes: int = 10, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose gaps have both signs: labels of a softmax that is sharper for some images, flatter for others.

    With gaps of one sign the ECE is mean confidence less accuracy for any binning, and a comparison proves nothing.
    """
    randomness = np.random.default_rng(seed)
    logits = randomness.normal(size=(n, classes)) * randomness.uniform(0.5, 4, size=(n, 1))
    temper = np.where(log_softmax(logits).max(1) > math.log(0.5), 2.0, 0.4)[:, None]
    chances = np.exp(log_softmax(logits / temper))
    labels = (chances.cumsum(1) > randomness.random((n, 1))).argmax(1)
    return logits, labels


def by_definition(confidence: np.ndarray, correct: np.ndarray, bins: int) -> list[tuple[int, float]]:
    """(number, signed gap) of every bin that is not empty, image by image."""
    found = []
    for place in range(bins):
        low, high = place / bins, (place + 1) / bins
        inside = [i for i, c in enumerate(confidence) if low < c <= high or (place == 0 and c == 0)]
        if inside:
            gap = sum(confidence[i] for i in inside) / len(inside) - sum(correct[i] for i in inside) / len(inside)
            found.append((len(inside), gap))
    return found


@pytest.mark.parametrize("bins", [10, 15, 20])
def test_binned_errors_are_their_definitions(bins: int):
    logits, labels = mixed_logits()
    probabilities = np.exp(log_softmax(logits))
    confidence, correct = probabilities.max(1), (probabilities.argmax(1) == labels).astype(float)
    gaps = by_definition(confidence, correct, bins)
    assert min(gap for _, gap in gaps) < -0.02
    assert max(gap for _, gap in gaps) > 0.02
    n = len(labels)
    assert calibration_error(confidence, correct, bins) == pytest.approx(
        sum(k * abs(g) for k, g in gaps) / n, abs=1e-12
    )
    squared = math.sqrt(sum(k * g * g for k, g in gaps) / n)
    assert calibration_error(confidence, correct, bins, "l2") == pytest.approx(squared, abs=1e-12)
    assert calibration_error(confidence, correct, bins, "max") == pytest.approx(max(abs(g) for _, g in gaps), abs=1e-12)


def test_a_second_library_agrees():
    """torchmetrics, given probabilities: of its own accord it takes logits in [0, 1] for probabilities."""
    metrics = pytest.importorskip("torchmetrics.functional.classification")
    logits, labels = mixed_logits()
    probabilities = np.exp(log_softmax(logits))
    found = calibration(logits, labels)
    ours = {"l1": found.metrics["ece"], "l2": found.others["ece_l2"], "max": found.others["largest_gap"]}
    inputs, target = torch.from_numpy(probabilities), torch.from_numpy(labels)
    for norm, value in ours.items():
        theirs = metrics.multiclass_calibration_error(inputs, target, num_classes=10, n_bins=15, norm=norm)
        assert value == pytest.approx(float(theirs), abs=1e-6)
    each = [
        float(metrics.binary_calibration_error(inputs[:, k].contiguous(), (target == k).long(), n_bins=15, norm="l1"))
        for k in range(10)
    ]
    assert found.metrics["classwise_ece"] == pytest.approx(sum(each) / 10, abs=1e-6)


def test_likelihood_and_brier_are_their_definitions():
    from sklearn.metrics import log_loss

    logits, labels = mixed_logits(400)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = calibration(logits, labels)
    expected = -sum(math.log(probabilities[i, label]) for i, label in enumerate(labels)) / 400
    assert found.metrics["nll"] == pytest.approx(expected, abs=1e-12)
    assert found.metrics["nll"] == pytest.approx(log_loss(labels, probabilities, labels=range(10)), abs=1e-9)
    squares = sum((probabilities[i, k] - (k == label)) ** 2 for i, label in enumerate(labels) for k in range(10))
    assert found.metrics["brier"] == pytest.approx(squares / 400, abs=1e-12)
    mean = probabilities.max(1).mean() - (probabilities.argmax(1) == labels).mean()
    assert found.metrics["overconfidence"] == pytest.approx(mean, abs=1e-12)


def test_hand_case():
    confidence, correct = np.array([0.9, 0.9, 0.6, 0.6]), np.array([1.0, 0.0, 1.0, 1.0])
    assert calibration_error(confidence, correct, 10) == pytest.approx(0.4)
    assert calibration_error(confidence, correct, 10, "max") == pytest.approx(0.4)
    assert adaptive_error(confidence, correct, 2) == pytest.approx(0.4)


def test_confidence_of_exactly_one_belongs_to_the_last_bin():
    """A bin of its own for 1.0 would give 0.15 here."""
    confidence = np.array([1.0] * 4 + [0.95] * 4)
    correct = np.array([1.0, 1, 1, 0, 1, 1, 1, 1])
    assert calibration_error(confidence, correct, 10) == pytest.approx(0.1)
    count, _, _ = bin_sums(confidence, correct, 10)
    assert count.tolist() == [0] * 9 + [8]
    count, _, _ = bin_sums(np.array([0.0, 0.1, 0.1000001]), np.zeros(3), 10)
    assert count.tolist()[:2] == [2, 1]


def test_saturated_outputs_stay_finite():
    """float32 softmax of these is exactly 1; a wrong one costs its logit, not infinity."""
    logits, labels = np.array([[200.0, 0, 0], [0, 300.0, 0], [400.0, 0, 0]]), np.array([0, 1, 1])
    found = calibration(logits, labels)
    assert all(map(math.isfinite, found.metrics.values()))
    assert found.metrics["nll"] == pytest.approx(400 / 3)
    assert found.metrics["ece"] == pytest.approx(1 / 3)


def test_perfect_and_uniform():
    labels = np.arange(5)
    perfect = calibration(1000 * np.eye(5), labels)
    assert all(abs(value) < 1e-12 for value in perfect.metrics.values())
    uniform = calibration(np.zeros((5, 5)), labels)
    assert uniform.metrics["nll"] == pytest.approx(math.log(5))
    assert uniform.metrics["brier"] == pytest.approx(1 - 1 / 5)


def test_logits_between_0_and_1_are_logits():
    """They look like probabilities; the error is that of their softmax."""
    logits = np.array([[0.9, 0.1, 0.2], [0.1, 0.8, 0.3], [0.7, 0.2, 0.1]])
    labels = np.array([0, 1, 1])
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = calibration_error(chances.max(1), np.array([1.0, 1, 0]))
    assert calibration(logits, labels).metrics["ece"] == pytest.approx(expected)
    assert calibration_error(logits.max(1), np.array([1.0, 1, 0])) != pytest.approx(expected, abs=0.05)


def test_order_of_images_does_not_matter():
    logits, labels = mixed_logits(500)
    order = np.random.default_rng(1).permutation(500)
    one, other = calibration(logits, labels), calibration(logits[order], labels[order])
    assert one.metrics == pytest.approx(other.metrics, abs=1e-12)
    assert sum(row[0] for row in one.bins) == 500


def test_adaptive_bins_hold_equal_numbers():
    confidence = np.linspace(0.2, 0.9, 31)
    correct = (np.arange(31) % 3 == 0).astype(float)
    parts = np.array_split(np.arange(31), 15)
    assert {len(part) for part in parts} == {2, 3}
    expected = sum(abs(confidence[part].sum() - correct[part].sum()) for part in parts) / 31
    assert adaptive_error(confidence, correct) == pytest.approx(expected, abs=1e-12)


def test_classwise_error_by_hand():
    probabilities = np.array([[0.8, 0.2], [0.3, 0.7]])
    labels = np.array([0, 0])
    first = (abs(0.8 - 1) + abs(0.3 - 1)) / 2
    second = (0.2 + 0.7) / 2
    assert classwise_error(probabilities, labels) == pytest.approx((first + second) / 2)
    assert brier(probabilities, labels) == pytest.approx((2 * 0.04 + 2 * 0.49) / 2)


# Temperature


def test_temperature_is_found():
    randomness = np.random.default_rng(0)
    logits = randomness.normal(size=(20_000, 10)) * 3
    chances = np.exp(log_softmax(logits / 2))
    labels = (chances.cumsum(1) > randomness.random((20_000, 1))).argmax(1)
    found = fit_temperature(logits, labels)
    assert found.value == pytest.approx(2, rel=0.03)
    assert not found.degenerate
    around = [nll(logits / (found.value * factor), labels) for factor in (0.99, 1.0, 1.01)]
    assert around[1] == min(around)
    scaled = calibration(logits / found.value, labels)
    assert scaled.others["accuracy"] == calibration(logits, labels).others["accuracy"]
    assert scaled.metrics["ece"] < calibration(logits, labels).metrics["ece"]


def test_a_set_that_is_interpolated_is_flagged():
    """Its likelihood grows without end as T falls: the fit says nothing, and is not at the bound either."""
    logits = 12 * np.eye(10)[np.arange(100) % 10] + np.random.default_rng(0).normal(size=(100, 10))
    found = fit_temperature(logits, np.arange(100) % 10)
    assert found.degenerate
    assert found.value < 1


def test_a_temperature_at_a_bound_is_flagged():
    randomness = np.random.default_rng(0)
    found = fit_temperature(50 * randomness.normal(size=(200, 5)), randomness.integers(0, 5, 200))
    assert found.value == pytest.approx(math.exp(3), rel=0.01)
    assert found.degenerate


# Diagrams

ROWS = [[0, None, None]] * 13 + [[10, 0.9, 0.5], [30, 0.97, 0.9]]


def test_logits_that_are_not_finite_tell_nothing():
    logits = np.zeros((4, 3))
    logits[0, 0] = np.nan
    found = fit_temperature(logits, np.zeros(4, dtype=np.int64))
    assert (found.value, found.degenerate) == (1.0, True)


def test_diagram_files():
    files = diagram_files("convnet-d1-w4-in", ROWS)
    assert list(files) == [f"reliability/convnet-d1-w4-in.{kind}" for kind in ("csv", "svg", "png")]
    assert diagram_files("convnet-d1-w4-in", ROWS) == files, "the same rows give the same bytes"
    lines = files["reliability/convnet-d1-w4-in.csv"].decode().splitlines()
    assert lines[0] == "bin_lo,bin_hi,n,mean_conf,acc"
    assert len(lines) == 16
    assert lines[1] == "0.000000,0.066667,0,,"
    assert lines[15] == "0.933333,1.000000,30,0.970000,0.900000"
    assert pooled_error(ROWS) == (pytest.approx((10 * 0.4 + 30 * 0.07) / 40), 40)
    picture = Image.open(io.BytesIO(files["reliability/convnet-d1-w4-in.png"]))
    assert picture.size == (720, 940)
    colours = {colour for _, colour in picture.getcolors(2**20)}
    assert {(0x44, 0x77, 0xAA), (0xEE, 0x66, 0x77)} <= colours, "accuracy, and confidence above it"
    drawing = files["reliability/convnet-d1-w4-in.svg"].decode()
    assert "ECE 0.1525 of 40 outputs" in drawing
    assert drawing.count('fill="#4477aa"/>') == 2, "one bar a bin that is not empty"


@pytest.mark.parametrize(("confidence", "accuracy", "colour"), [(0.9, 0.5, OVER), (0.5, 0.9, UNDER)])
def test_the_gap_is_drawn_above_the_lower_of_both(confidence: float, accuracy: float, colour: str):
    boxes = [shape for shape in shapes("x", [[0, None, None], [7, confidence, accuracy]]) if shape.kind == "box"]
    bar, gap, count = boxes
    assert (bar.colour, gap.colour) == (BAR, colour)
    assert bar.place[3] == pytest.approx(SIDE * accuracy)
    assert gap.place[3] == pytest.approx(SIDE * 0.4)
    assert gap.place[1] == pytest.approx(TOP + SIDE * 0.1)
    assert count.place[3] > 0


def test_names_cannot_leave_the_folder_or_the_picture():
    files = diagram_files("timm-a/../../<b>&", ROWS)
    assert all(name.startswith("reliability/timm-a_.._.._") and name.count("/") == 1 for name in files)
    assert "&lt;b&gt;&amp;" in next(data.decode() for name, data in files.items() if name.endswith("svg"))


def test_table_of_empty_bins():
    assert table([[0, None, None]]) == "bin_lo,bin_hi,n,mean_conf,acc\n0.000000,1.000000,0,,\n"
