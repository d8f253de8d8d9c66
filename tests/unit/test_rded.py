"""RDED: crops, scores, selection and stitching against plain loops; the method on small sets, refused settings."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ddbench.data import crops
from ddbench.data.dataset import Split, make_dataset
from ddbench.data.load import load_dataset
from ddbench.data.preprocess import fit_preprocess
from ddbench.data.specs import DatasetSpec
from ddbench.distillation.runner import RunSettings, distill
from ddbench.methods import rded
from ddbench.methods.base import Context, State
from ddbench.methods.needs.flags import TeacherFlags
from ddbench.methods.needs.teacher import TrainedTeacher
from ddbench.methods.rded import RDED, RDEDConfig
from ddbench.networks.build import build_student
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError
from ddbench.runtime.progress import Console
from ddbench.synset import read_synset
from ddbench.teachers.recipe import TeacherRecipe
from ddbench.teachers.store import Teacher, read_teacher, teacher_file, write_teacher
from ddbench.training.realism import best_crops, realism

OBSERVER = "convnet-d1-w4-bn"
CLASSES = 3
EACH = 12


pytestmark = pytest.mark.usefixtures("one_thread")


def named(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def observer(dataset: Any, path: Path, preprocess: str = "meanstd", change: Callable[[Any], None] | None = None) -> Any:
    """An untrained teacher of a dataset; its logits are spread so that crops differ."""
    spec = dataset.spec
    net = build_student(OBSERVER, channels=spec.channels, size=spec.size, classes=spec.classes, seed=3)
    with torch.no_grad():
        net.classifier.weight *= 20
        if change is not None:
            change(net)
    write_teacher(
        path,
        net,
        dataset=dataset,
        preprocess=fit_preprocess(dataset, preprocess),
        student=OBSERVER,
        recipe=TeacherRecipe(holdout=0.0, preprocess=preprocess).to_json(),
        curves={"loss": [], "train_accuracy": [], "holdout_accuracy": []},
        test_accuracy=0.5,
        versions={},
    )
    return read_teacher(path)


def small_dataset(size: int = 12, channels: int = 1, each: tuple[int, ...] = (EACH,) * CLASSES) -> Any:
    labels = torch.arange(len(each)).repeat_interleave(torch.tensor(each))
    labels = labels[torch.randperm(len(labels), generator=named(1))]
    shape = (len(labels), channels, size, size)
    images = torch.randint(256, shape, generator=named(2), dtype=torch.uint8)
    names = tuple(f"kind {label}" for label in range(len(each)))
    statistics = ((0.4,) * channels, (0.3,) * channels)
    spec = DatasetSpec("small", channels, size, len(each), names, *statistics, True, "made up")
    return make_dataset(spec, Split(images, labels), Split(images[:3], labels[:3]))


@pytest.fixture
def context_for(tmp_path: Path) -> Callable[..., Context]:
    """``context_for(dataset, ipc)``: what the runner would give."""

    def call(dataset: Any, ipc: int, *, seed: int = 0, preprocess: str = "meanstd", change: Any = None) -> Context:
        return Context(
            dataset=dataset,
            train=dataset.train,
            held_out=Split(dataset.train.images[:0], dataset.train.labels[:0]),
            preprocess=fit_preprocess(dataset, preprocess),
            ipc=ipc,
            student=OBSERVER,
            seed=seed,
            device=torch.device("cpu"),
            folder=tmp_path,
            compile="off",
            console=Console(quiet=True),
        ).give(TrainedTeacher, observer(dataset, tmp_path / f"{preprocess}.safetensors", preprocess, change))

    return call


def made(config: RDEDConfig, context: Context, steps: int | None = None) -> RDED:
    """RDED after so many steps; all by default."""
    RDED.check(config, context)
    method = RDED(config, context)
    method.setup()
    for label in range(method.iterations if steps is None else steps):
        method.step(label)
    return method


# Crops


def test_squares_are_torchvisions():
    """Areas uniform in [0.08, 1], sides rounded, corners uniform in what is left."""
    n, side = 40_000, 32
    top, left, length = crops.draw_squares(n, side, 0.08, named(0)).unbind(1)
    assert (int(length.min()), int(length.max())) == (9, 32)
    for corner in (top, left):
        assert int(corner.min()) == 0
        assert bool((corner + length <= side).all())
        assert bool((corner[length == 20] == 12).any())
        assert float(corner[length == 20].double().mean()) == pytest.approx(6, abs=0.5)
    # A side of k pixels comes from areas of (k - 1/2)^2 to (k + 1/2)^2, as far as these lie within the bounds.
    for k in range(9, 33):
        low, high = max(0.08 * side**2, (k - 0.5) ** 2), min(side**2, (k + 0.5) ** 2)
        share = (high - low) / (0.92 * side**2)
        assert float((length == k).double().mean()) == pytest.approx(share, abs=4 * math.sqrt(share / n))
    assert crops.draw_squares(50, 3, 0.0, named(0))[:, 2].min() == 1


@pytest.mark.parametrize(("side", "size"), [(32, 32), (28, 14), (33, 16), (13, 4), (8, 2)])
def test_resized_squares_are_torchvisions(side: int, size: int):
    from torchvision.transforms.functional import resized_crop

    images = torch.rand(30, 3, side, side, generator=named(0), dtype=torch.float64)
    boxes = crops.draw_squares(30, side, 0.08, named(1))
    wanted = torch.stack(
        [
            resized_crop(image, top, left, length, length, [size, size], antialias=True)
            for image, (top, left, length) in zip(images, boxes.tolist(), strict=True)
        ]
    )
    torch.testing.assert_close(crops.resize_squares(images, boxes, size), wanted, rtol=0, atol=1e-12)
    narrow = crops.resize_squares(images.float(), boxes, size)
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow.double(), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("length", "size"), [(10, 10), (10, 4), (4, 10), (7, 3), (1, 5)])
def test_resampling_by_its_formula(length: int, size: int):
    first, source = 2, 14
    weights = crops.resample_matrices(torch.tensor([first]), torch.tensor([length]), source, size)[0]
    reach = max(1.0, length / size)
    for i in range(size):
        centre = (i + 0.5) * length / size
        row = [max(0.0, 1 - abs(j + 0.5 - centre) / reach) for j in range(length)]
        wanted = [0.0] * first + [value / sum(row) for value in row] + [0.0] * (source - first - length)
        np.testing.assert_allclose(weights[i].numpy(), wanted, rtol=0, atol=1e-14)


def test_the_whole_image_comes_back():
    images = torch.randint(256, (4, 3, 9, 9), generator=named(0)).double()
    boxes = torch.tensor([[0, 0, 9]]).repeat(4, 1)
    assert torch.equal(crops.resize_squares(images, boxes, 9), images)


@pytest.mark.parametrize(("size", "side"), [(4, 8), (4, 9), (3, 8), (3, 9), (1, 2)])
def test_centred(size: int, side: int):
    patches = torch.rand(5, 2, size, size, generator=named(0))
    before = (side - size) // 2
    after = side - size - before
    assert after in (before, before + 1)
    wanted = F.pad(patches, (before, after, before, after))
    assert torch.equal(crops.centred(patches, torch.zeros(1, 2, side, side)), wanted)
    full = torch.rand(2, 2, side, side)
    assert crops.centred(full, torch.zeros(1, 2, side, side)) is full


def test_grey_levels_are_cut_off():
    values = torch.tensor([-0.5, 0.0, 0.99, 1.0, 56.9999999, 56.99, 57.0, 254.6, 255.0, 255.3], dtype=torch.float64)
    kept = values.clone()
    assert crops.grey_levels(values).tolist() == [0, 0, 0, 1, 57, 56, 57, 254, 255, 255]
    assert torch.equal(values, kept)


def stitched_by_loops(patches: Tensor, ipc: int, factor: int, side: int) -> Tensor:
    """Cell by cell, fitted by torch's nearest interpolation."""
    image = torch.full((ipc, patches.shape[1], side, side), -1.0, dtype=patches.dtype)
    lengths = [side // factor + 1 if k < side % factor else side // factor for k in range(factor)]
    for j in range(ipc):
        for row in range(factor):
            for column in range(factor):
                patch = patches[(row * factor + column) * ipc + j]
                top, left = sum(lengths[:row]), sum(lengths[:column])
                high, wide = lengths[row], lengths[column]
                fitted = F.interpolate(patch[None], size=(high, wide), mode="nearest")[0]
                image[j, :, top : top + high, left : left + wide] = fitted
    return image


@pytest.mark.parametrize(("factor", "side"), [(1, 5), (2, 8), (2, 9), (3, 8), (3, 11), (4, 15), (5, 5)])
def test_stitching(factor: int, side: int):
    ipc, size = 3, side // factor
    patches = torch.rand(ipc * factor**2, 2, size, size, generator=named(0))
    found = crops.stitch(patches, ipc, factor, side)
    assert torch.equal(found, stitched_by_loops(patches, ipc, factor, side))
    assert crops.cells(side, factor) == sorted(crops.cells(side, factor), reverse=True)
    for wrong in (patches[1:], torch.cat([patches, patches]), patches[:, :, :-1]):
        with pytest.raises(ValueError, match=f"{ipc} images of {factor}x{factor}"):
            crops.stitch(wrong, ipc, factor, side)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg(channels: int):
    smooth = torch.linspace(0, 255, 32).outer(torch.linspace(0.2, 1, 32)).to(torch.uint8)
    images = torch.stack([smooth, smooth.T]).unsqueeze(1).repeat(1, channels, 1, 1)
    found = crops.jpeg(images)
    assert found.shape == images.shape
    assert 0 < float((found.double() - images.double()).abs().mean()) < 3
    for image, after in zip(images, found, strict=True):
        array = image[0].numpy() if channels == 1 else image.permute(1, 2, 0).numpy()
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "JPEG", quality=75)
        wanted = np.asarray(Image.open(buffer))
        assert np.array_equal(after[0].numpy() if channels == 1 else after.permute(1, 2, 0).numpy(), wanted)


# Scores


def test_realism_is_minus_the_cross_entropy():
    logits = 5 * torch.randn(20, 4, generator=named(0))
    for label in range(4):
        for row, score in zip(logits.tolist(), realism(logits, label).tolist(), strict=True):
            total = math.fsum(math.exp(value - max(row)) for value in row)
            assert score == pytest.approx(row[label] - max(row) - math.log(total), rel=1e-12, abs=1e-15)


def test_a_confident_observer_still_has_an_order():
    """Where float32 knows only ties."""
    logits = torch.tensor([[20.0, 0.0], [25.0, 0.0], [22.0, 0.0]])
    assert torch.equal(-F.cross_entropy(logits, torch.zeros(3, dtype=torch.int64), reduction="none"), torch.zeros(3))
    assert realism(logits, 0).argsort(descending=True).tolist() == [1, 2, 0]


@pytest.mark.parametrize("levels", [3, 1000])
def test_best_crops(levels: int):
    """Against plain loops; few levels make many ties."""
    scores = -torch.randint(levels, (50, 4), generator=named(levels)).double()
    ranked = []
    for image, row in enumerate(scores.tolist()):
        best = max(row)
        ranked.append((-best, image, row.index(best)))
    ranked.sort()
    for count in (0, 1, 17, 50):
        images, which = best_crops(scores, count)
        assert images.tolist() == [image for _, image, _ in ranked[:count]]
        assert which.tolist() == [crop for _, _, crop in ranked[:count]]
    with pytest.raises(ValueError, match="51 of 50"):
        best_crops(scores, 51)


# The method


def by_loops(config: RDEDConfig, context: Context, label: int) -> tuple[list[list[int]], Tensor]:
    """Chosen crops and images of a class, one crop at a time, with torchvision, PIL's rules and Python's sort."""
    from torchvision.transforms.functional import resized_crop

    train, side = context.train, context.dataset.spec.size
    net = context.given(TrainedTeacher).network("cpu")
    generator = seeds.generator(context.seed, "crops", label)
    own = [k for k in range(len(train)) if int(train.labels[k]) == label]
    pool = sorted(own[k] for k in torch.randperm(len(own), generator=generator).tolist()[: config.mipc])
    boxes = crops.draw_squares(len(pool) * config.num_crop, side, 0.08, generator).tolist()
    factor, size = config.factor, side // config.factor
    spec = context.dataset.spec
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (spec.mean, spec.std))
    before = (side - size) // 2
    after = side - size - before
    best = []
    for k, position in enumerate(pool):
        scored = []
        for c in range(config.num_crop):
            top, left, length = boxes[k * config.num_crop + c]
            pixels = resized_crop(
                train.images[position].double() / 255, top, left, length, length, [size, size], antialias=True
            )
            x = F.pad(((pixels - mean) / std).float(), (before, after, before, after))
            with torch.no_grad():
                row = net(x[None])[0].double().numpy()
            error = float(np.log(np.exp(row - row[label]).sum()))
            scored.append((error, c, [position, top, left, length], pixels))
        best.append(min(scored, key=lambda one: one[:2]))
    order = sorted(range(len(best)), key=lambda k: best[k][0])[: context.ipc * factor**2]
    patches = torch.stack([((best[k][3] * 255) + 1e-6).floor() for k in order])
    return [best[k][2] for k in order], stitched_by_loops(patches, context.ipc, factor, side).to(torch.uint8)


@pytest.mark.parametrize(
    ("size", "channels", "factor", "ipc"), [(12, 1, 1, 4), (12, 3, 2, 2), (13, 1, 2, 2), (11, 1, 3, 1), (9, 3, 2, 1)]
)
@pytest.mark.parametrize("batch", [5, 1000])
def test_selection_and_stitching(
    size: int,
    channels: int,
    factor: int,
    ipc: int,
    batch: int,
    context_for: Callable[..., Context],
    monkeypatch: pytest.MonkeyPatch,
):
    """The whole method against loops, whatever the batches."""
    monkeypatch.setattr(rded, "BATCH", {"cpu": batch})
    monkeypatch.setattr(rded, "CROP_BATCH", batch)
    context = context_for(small_dataset(size, channels), ipc)
    config = RDEDConfig(mipc=10, num_crop=3, factor=factor)
    method = made(config, context)
    product = method.distilled()
    assert product.images.dtype == torch.uint8
    assert product.patches == factor
    assert product.labels.tolist() == [label for label in range(CLASSES) for _ in range(ipc)]
    chosen = method.state().tensors["chosen"]
    for label in range(CLASSES):
        wanted, images = by_loops(config, context, label)
        assert chosen[label].tolist() == wanted
        assert torch.equal(product.images[label * ipc : (label + 1) * ipc], images)
    assert len(set(chosen[..., 0].flatten().tolist())) == chosen[..., 0].numel(), "one crop an image"


def test_the_observer_sees_zeros_around_a_patch(context_for: Callable[..., Context], monkeypatch: pytest.MonkeyPatch):
    seen: list[Tensor] = []
    network = Teacher.network

    def spied(self: Teacher, device: Any) -> Any:
        net = network(self, device)
        net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        return net

    monkeypatch.setattr(Teacher, "network", spied)
    made(RDEDConfig(factor=2), context_for(small_dataset(13, 3), 1))
    for x in seen:
        assert int((x[:, :, 3:9, 3:9] != 0).sum()) > 0
        outside = x.clone()
        outside[:, :, 3:9, 3:9] = 0
        assert torch.equal(outside, torch.zeros_like(x))


def test_zca_too_sees_zeros_around_a_patch(context_for: Callable[..., Context], monkeypatch: pytest.MonkeyPatch):
    """The crop lies in the mean image, which the transform makes zero."""
    context = context_for(small_dataset(8), 2, preprocess="zca")
    method = made(RDEDConfig(factor=2), context)
    zero = context.preprocess.apply(method._canvas)
    torch.testing.assert_close(zero, torch.zeros_like(zero), rtol=0, atol=1e-5)
    assert method.distilled().images.shape == (CLASSES * 2, 1, 8, 8)


def test_ties_go_by_position(context_for: Callable[..., Context]):
    """An observer without an opinion: the first crop of the first images of the pool, in the order of the data."""

    def undecided(net: Any) -> None:
        net.classifier.weight.zero_()
        net.classifier.bias.zero_()

    context = context_for(small_dataset(), 5, change=undecided)
    config = RDEDConfig(mipc=9, num_crop=3, factor=1)
    chosen = made(config, context).state().tensors["chosen"]
    for label in range(CLASSES):
        generator = seeds.generator(0, "crops", label)
        own = (context.train.labels == label).nonzero().flatten()
        pool = sorted(own[torch.randperm(EACH, generator=generator)[:9]].tolist())
        boxes = crops.draw_squares(27, 12, 0.08, generator)
        assert chosen[label, :, 0].tolist() == pool[:5]
        assert torch.equal(chosen[label, :, 1:], boxes[0:15:3])


def test_a_small_class_is_used_whole(context_for: Callable[..., Context]):
    dataset = small_dataset(each=(4, 20, 30))
    chosen = made(RDEDConfig(mipc=25, num_crop=2), context_for(dataset, 4)).state().tensors["chosen"]
    assert sorted(chosen[0, :, 0].tolist()) == (dataset.train.labels == 0).nonzero().flatten().tolist()


def test_factor_by_size():
    assert [rded.resolved_factor(RDEDConfig(), side) for side in (8, 32, 64, 127, 128, 224)] == [1, 1, 1, 1, 2, 2]
    assert rded.resolved_factor(RDEDConfig(factor=3), 32) == 3


@pytest.mark.parametrize(
    ("settings", "ipc", "needles"),
    [
        ({"mipc": 0}, 1, ["--mipc 0", "at least 1"]),
        ({"num_crop": 0}, 1, ["--num-crop 0", "at least 1"]),
        ({"factor": -1}, 1, ["--factor -1", "at least 0"]),
        ({"factor": 13}, 1, ["--factor 13", "12 px", "at most 12"]),
        ({"mipc": 7, "factor": 2}, 2, ["--mipc 7", "--ipc 2", "2x2", "8 images", "--mipc 8"]),
        ({"factor": 2}, 3, ["--ipc 3", "2x2", "12 images", "'kind 1' has only 9", "--ipc 2 or less", "--factor"]),
        ({"factor": 4}, 1, ["--ipc 1", "4x4", "only 9", "images; choose a smaller --factor"]),
        ({"factor": 1}, 10, ["--ipc 10", "10 images", "'kind 1' has only 9", "--ipc 9 or less"]),
    ],
)
def test_refused(settings: dict[str, int], ipc: int, needles: list[str], context_for: Callable[..., Context]):
    context = dataclasses.replace(context_for(small_dataset(each=(20, 9, 20)), ipc), resources={})
    with pytest.raises(UserError) as error:
        RDED.check(RDEDConfig(**settings), context)
    assert "\n" not in str(error.value)
    for needle in needles:
        assert needle in str(error.value)
    RDED.check(RDEDConfig(factor=2), dataclasses.replace(context, ipc=2))


@pytest.mark.parametrize("flags", [("--factor", 9), ("--factor", 5, "--mipc", 200), ("--mipc", 3), ("--num-crop", 0)])
def test_refused_before_a_teacher_is_trained(flags: tuple[object, ...], refused: Callable[..., str], tmp_path: Path):
    refused(
        [
            *("distill", "--method", "rded", "--dataset", "digits", "--ipc", 5, "--recipe", "none"),
            *("--out", tmp_path / "run", "--teachers", tmp_path / "teachers", *flags),
        ],
        str(flags[0]) if flags[0] != "--factor" or flags[1] == 9 else "5x5",
    )


def test_outputs_that_are_not_finite(context_for: Callable[..., Context]):
    def spoiled(net: Any) -> None:
        net.classifier.weight.fill_(3e38)

    with pytest.raises(UserError, match=r"safetensors: its outputs for crops of class 'kind 0' are not finite"):
        made(RDEDConfig(), context_for(small_dataset(), 2, change=spoiled))


@pytest.mark.parametrize("as_jpeg", [False, True])
def test_resumed_is_uninterrupted(as_jpeg: bool, context_for: Callable[..., Context]):
    context = context_for(small_dataset(13), 2)
    config = RDEDConfig(factor=2, num_crop=2, jpeg=as_jpeg)
    whole = made(config, context)
    state = made(config, context, 2).state()
    fresh = made(config, context, 0)
    fresh.load_state(State())
    assert not fresh.state().tensors
    fresh.load_state(state)
    fresh.step(2)
    assert torch.equal(fresh.distilled().images, whole.distilled().images)
    assert torch.equal(fresh.state().tensors["chosen"], whole.state().tensors["chosen"])
    as_pixels = made(RDEDConfig(factor=2, num_crop=2), context).distilled().images
    assert torch.equal(whole.distilled().images, as_pixels) == (not as_jpeg)


@pytest.mark.parametrize(
    ("column", "value"), [(0, -1), (0, CLASSES * EACH), (1, -1), (2, 12), (3, 0), (3, 13)], ids=str
)
def test_a_damaged_state_is_refused(column: int, value: int, context_for: Callable[..., Context]):
    method = made(RDEDConfig(), context_for(small_dataset(), 2), 1)
    chosen = method.state().tensors["chosen"]
    chosen[0, 1, column] = value
    with pytest.raises(ValueError, match="outside"):
        method.load_state(State(tensors={"chosen": chosen}))
    for wrong in (chosen[:, 1:], chosen.double(), chosen[..., 1:]):
        with pytest.raises(ValueError, match="expected int64"):
            method.load_state(State(tensors={"chosen": wrong}))


def test_the_seed_names_the_draws(context_for: Callable[..., Context]):
    dataset = small_dataset()
    one, two, three = (
        made(RDEDConfig(mipc=6), context_for(dataset, 2, seed=seed)).distilled().images for seed in (0, 0, 1)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


def test_the_synset_names_its_observer(tmp_path: Path, data_root: Path, ddb: Callable[..., Any]):
    """And an evaluation with a teacher takes that one by itself."""
    dataset = load_dataset("digits", data_root)
    path = observer(dataset, teacher_file(tmp_path / "teachers", "digits", OBSERVER, "abc")).path
    settings = RunSettings(
        ipc=2,
        student=OBSERVER,
        seed=0,
        preprocess="meanstd",
        holdout=0.0,
        validate_every=0,
        validate_epochs=1,
        track="jsonl",
        checkpoint_every=0,
        device="cpu",
        threads=1,
        compile="off",
        flags=(TeacherFlags(teachers=tmp_path / "teachers", teacher_student=OBSERVER),),
    )
    made_at = distill(
        "rded",
        RDED,
        RDEDConfig(factor=2, mipc=20),
        dataset=dataset,
        data=data_root,
        settings=settings,
        out=tmp_path / "run",
        console=Console(quiet=True),
    )
    synset = read_synset(made_at)
    assert synset.teacher == read_teacher(path).reference()
    assert synset.patches == 2
    assert synset.label_kind == "hard"
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 10
    done = ddb(
        *("evaluate", tmp_path / "run", "--protocol", "rded", "--students", OBSERVER, "--seeds", 1, "--epochs", 1),
        *("--teachers", tmp_path / "teachers", "--workers", 1, "--quiet", "--compile", "off", "--threads", 1),
    )
    assert done.code == 0, done.err


def peak_since(reset: bool = False) -> int:
    """Peak of resident memory since the last reset, bytes (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak of a span")
def test_memory_is_that_of_a_batch(tmp_path: Path, context_for: Callable[..., Context]):
    """A folder of 2,000 images, all looked at: 64 MB are enough, the crops of one class alone are 196 MB."""
    coarse = np.random.default_rng(0).integers(0, 256, (2000, 8, 8, 3), dtype=np.uint8)
    for number, pixels in enumerate(coarse):
        place = tmp_path / "images" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((64, 64), Image.Resampling.BILINEAR).save(place / f"{number:04}.bmp")
    dataset = load_dataset(f"folder:{tmp_path / 'images'}", tmp_path / "data", size=64)
    assert len(dataset.train) == 1600
    method = made(RDEDConfig(mipc=800), context_for(dataset, 10), 0)
    before = peak_since(reset=True)
    for label in range(2):
        method.step(label)
    assert method.distilled().images.shape == (20, 3, 64, 64)
    assert 800 * 5 * 3 * 64**2 * 4 > 196e6
    assert peak_since() - before < 64e6
