"""What an imported set is taken for: found out, said by flags, checked; and what a student then sees."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, evaluate_tiny
from PIL import Image

from ddbench.data.load import load_dataset
from ddbench.data.preprocess import fit_preprocess
from ddbench.decoders.multi_formation import MultiFormation
from ddbench.exchange.importer import inspect, learned_lr
from ddbench.exchange.settings import ImportSettings
from ddbench.runtime.errors import UserError
from ddbench.synset import Replay, Synset, read_synset, write_synset

LABELS = torch.arange(10).repeat_interleave(2)


def raw() -> torch.Tensor:
    """uint8 pixels (20, 1, 8, 8) that use the whole range."""
    made = torch.randint(0, 256, (20, 1, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    made[0, 0, 0, :2] = torch.tensor([0, 255], dtype=torch.uint8)
    return made


def network_input() -> torch.Tensor:
    return torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def take(ddb: Callable, tmp_path: Path) -> Callable[..., tuple[Synset, str]]:
    """``take(content or path, *flags)``: the synset that the import makes of it, and what it says."""
    count = iter(range(100))

    def call(content: object, *flags: object, dataset: str = "digits") -> tuple[Synset, str]:
        number = next(count)
        path = content if isinstance(content, Path) else tmp_path / f"set-{number}.pt"
        if not isinstance(content, Path):
            torch.save(content, path)
        out = tmp_path / f"run-{number}"
        result = ddb("import", path, "--dataset", dataset, "--out", out, *flags)
        assert result.code == 0, result.err
        return read_synset(out / "synset.safetensors"), result.out

    return call


@pytest.fixture
def refuse(refused: Callable[..., str], tmp_path: Path) -> Callable[..., str]:
    """``refuse(content, flags, *needles)``: the import refuses it in one line."""

    def call(content: object, flags: tuple[object, ...], *needles: str) -> str:
        torch.save(content, tmp_path / "set.pt")
        argv = ["import", tmp_path / "set.pt", "--dataset", "digits", "--out", tmp_path / "out", *flags]
        return refused(argv, *needles)

    return call


def test_sets_in_a_tuple_are_counted(refuse: Callable):
    refuse({"data": ((raw(), None), (raw(), None))}, ("--index", 2), "holds 2 set(s)")


# Images


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("top", [1, 255])
def test_pixels_as_floats_are_the_same_pixels(top: int, dtype: torch.dtype, take: Callable):
    synset, said = take((raw().double() * top / 255).to(dtype))
    assert synset.space == "pixels"
    assert torch.equal(synset.images, raw())
    mean, std = (f"{synset.preprocess[name][0]:.4g}" for name in ("mean", "std"))
    assert f"-> uint8, seen through meanstd, mean {mean}, std {std} (" in said


def test_pixel_floats_and_uint8_score_the_same(take: Callable, ddb: Callable, tmp_path: Path):
    runs = []
    for number, images in enumerate((raw(), raw().float() / 255, raw().float())):
        take(images)
        assert ddb(*evaluate_tiny(tmp_path / f"run-{number}", "--out", tmp_path / f"{number}.json")).code == 0
        runs.append(json.loads((tmp_path / f"{number}.json").read_text())["runs"])
    assert runs[0] == runs[1] == runs[2]


def test_pixels_between_the_steps_are_kept_as_network_input(take: Callable, data_root: Path):
    learned = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    synset, said = take(learned)
    preprocess = fit_preprocess(load_dataset("digits", data_root), "meanstd")
    assert torch.equal(synset.images, preprocess.apply(learned))
    assert "not multiples of 1/255" in said


def test_what_images_went_through_can_be_said(take: Callable):
    unit = raw().float() / 255
    plain, _ = take(unit, "--preprocess", "none")
    assert torch.equal(plain.images, unit)
    assert (plain.preprocess["mean"], plain.preprocess["std"]) == ([0.0], [1.0])
    said, _ = take(unit, "--preprocess", "meanstd")  # the user's word against the range, with a note
    assert torch.equal(said.images, unit)
    half, text = take(2 * unit - 1, "--mean", 0.5, "--std", 0.5)
    assert (half.preprocess["mean"], half.preprocess["std"]) == ([0.5], [0.5])
    assert "network input -> float32, by the given numbers, mean 0.5, std 0.5 (--preprocess, --mean, --std)" in text
    white, text = take(network_input(), "--preprocess", "zca")
    assert (white.preprocess["kind"], "by zca" in text) == ("zca", True)
    dim, _ = take(raw().float().clamp(max=15), "--preprocess", "pixels255")
    assert torch.equal(dim.images, raw().clamp(max=15))


RANGES = {
    "input-255": (255 * network_input(), (), "cannot be network input of this dataset", "--preprocess pixels"),
    "said-meanstd": (raw().float(), ("--preprocess", "meanstd"), "cannot be network input", "pixels255"),
    "said-zca": (raw().float(), ("--preprocess", "zca"), "cannot be network input"),
    "said-pixels": (network_input(), ("--preprocess", "pixels"), "--preprocess pixels: values from", "expected 0 to 1"),
    "said-pixels255": (network_input(), ("--preprocess", "pixels255"), "expected 0 to 255"),
    "unknown": (raw(), ("--preprocess", "pixel"), "'pixel'", "did you mean 'pixels'"),
    "mean-alone": (raw(), ("--mean", 0.5), "give both"),
    "mean-channels": (raw(), ("--mean", 0.5, 0.5, "--std", 1, 1), "expected 1 or 1"),
    "std-zero": (raw(), ("--mean", 0.5, "--std", 0), "--mean and --std", "std 0"),
    "factor": (raw(), ("--decode-factor", 9), "decoder factor is 9"),
    "no-factor": (raw(), ("--decode-factor", 0), "--decode-factor 0", "at least 1"),
    "augmentation": (raw(), ("--augmentation", "flipp"), "flipp"),
}


@pytest.mark.parametrize("case", RANGES.values(), ids=RANGES)
def test_impossible_ranges_and_flags(case, refuse: Callable):
    content, flags, *needles = case
    refuse(content, flags, *needles)


def test_channels_last_and_grey_without_a_channel(take: Callable):
    assert torch.equal(take(raw().permute(0, 2, 3, 1).contiguous())[0].images, raw())
    assert torch.equal(take(raw()[:, 0])[0].images, raw())


# Labels


def test_label_columns_and_class_numbers_as_floats(take: Callable, tmp_path: Path):
    for labels in (LABELS[:, None], LABELS.float(), LABELS[:, None].double(), LABELS.to(torch.uint8), LABELS.tolist()):
        synset, _ = take([network_input(), labels])
        assert synset.labels.tolist() == LABELS.tolist()
    np.savez(tmp_path / "column.npz", images=network_input().numpy(), labels=LABELS[:, None].numpy())
    assert take(tmp_path / "column.npz")[0].labels.tolist() == LABELS.tolist()
    assert take({"data": [[network_input(), LABELS[:, None]]]})[0].labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_one_hot_rows_are_classes(dtype: torch.dtype, take: Callable):
    synset, said = take([network_input(), torch.eye(10)[LABELS].to(dtype)])
    assert synset.labels.tolist() == LABELS.tolist()
    assert "one-hot" in said


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_trained_target_of_probabilities_is_the_probabilities(temperature: float, take: Callable):
    probabilities = torch.softmax(3 * torch.randn(20, 10, generator=torch.Generator().manual_seed(2)), 1)
    synset, said = take([network_input(), probabilities], "--label-temperature", temperature)
    assert torch.allclose(torch.softmax(synset.labels / temperature, 1), probabilities, atol=1e-6)
    assert "probabilities" in said
    zeros = torch.tensor([[0.25, 0.75, *[0.0] * 8]]).repeat(20, 1)
    synset, _ = take([network_input(), zeros])
    assert torch.allclose(torch.softmax(synset.labels, 1), zeros, atol=1e-7)


def test_logits_stay(take: Callable):
    logits = torch.randn(20, 10, generator=torch.Generator().manual_seed(2))
    assert torch.equal(take([network_input(), logits])[0].labels, logits)
    unit = torch.rand(20, 10, generator=torch.Generator().manual_seed(2))
    assert torch.equal(take([network_input(), unit], "--label-form", "logits")[0].labels, unit)


WRONG_LABELS = {
    "neither": (torch.full((20, 10), 0.05), (), "neither one-hot", "--label-form logits"),
    "not-probabilities": (torch.randn(20, 10), ("--label-form", "probabilities"), "do not add up to 1"),
    "not-classes": (torch.eye(10)[LABELS], ("--label-form", "classes"), "one-hot rows"),
    "not-soft": (LABELS, ("--label-form", "logits"), "class numbers"),
    "fraction": (LABELS + 0.5, (), "no whole class numbers"),
    "nan": (LABELS * float("nan"), (), "NaN"),
    "one-based": (LABELS + 1, (), "labels from 1 to 10", "0 to 9"),
    "unequal": (torch.tensor([0] * 11 + [1] * 9), (), "11 images of class '0'"),
    "dims": (torch.zeros(20, 10, 1), (), "[20, 10, 1]"),
    "one": (torch.tensor(1.0), (), "labels of shape [] for 20 images"),
    "complex": (LABELS + 0j, (), "labels are torch.complex64"),
}


@pytest.mark.parametrize("case", WRONG_LABELS.values(), ids=WRONG_LABELS)
def test_labels_that_can_be_nothing(case, refuse: Callable):
    labels, flags, *needles = case
    refuse([network_input(), labels], flags, *needles)


# Class order


def folder_of(root: Path, names: list[str], size: int, each: int = 2, ending: str = ".png") -> Path:
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(each):
            shade = np.full((size, size, 3), (20 * number + 10) % 256, np.uint8)
            shade[..., 0] = index
            Image.fromarray(shade).save(root / name / f"{index:03d}{ending}")
    return root


TWELVE = [str(number) for number in range(12)]


@pytest.fixture
def twelve(tmp_path: Path) -> str:
    """A dataset whose class folders are named 0 to 11."""
    folder_of(tmp_path / "twelve" / "train", TWELVE, 8)
    folder_of(tmp_path / "twelve" / "test", TWELVE, 8)
    return f"folder:{tmp_path / 'twelve'}"


def test_numbers_as_class_names_are_numbers(twelve: str, take: Callable, tmp_path: Path):
    images = torch.zeros(12, 3, 8, 8, dtype=torch.uint8)
    synset, said = take([images, torch.arange(12)], "--size", 8, dataset=twelve)
    assert [synset.class_names[label] for label in synset.labels] == TWELVE
    assert "--class-order" in said
    rows = torch.randn(12, 12, generator=torch.Generator().manual_seed(0))
    soft, _ = take([images, rows], "--size", 8, dataset=twelve)
    at = [soft.class_names.index(name) for name in TWELVE]
    assert torch.equal(soft.labels[:, at], rows)
    unlabelled, _ = take(images, "--size", 8, dataset=twelve)
    assert [unlabelled.class_names[label] for label in unlabelled.labels] == TWELVE
    as_is, _ = take([images, torch.arange(12)], "--size", 8, "--class-order", "dataset", dataset=twelve)
    assert as_is.labels.tolist() == list(range(12))
    (tmp_path / "order.txt").write_text("\n".join(reversed(TWELVE)))
    listed, _ = take([images, torch.arange(12)], "--size", 8, "--class-order", tmp_path / "order.txt", dataset=twelve)
    assert [listed.class_names[label] for label in listed.labels] == TWELVE[::-1]


@pytest.mark.parametrize(
    ("content", "flags", "why"),
    [
        (raw(), ("--label-form", "logits"), "it holds no labels; leave --label-form out"),
        (raw(), ("--label-temperature", 4), "its labels are none; leave --label-temperature out"),
        ([raw(), torch.arange(20) % 10], ("--label-temperature", 4), "its labels are classes; leave"),
    ],
)
def test_a_flag_without_effect_is_refused(content: object, flags: tuple[object, ...], why: str, refuse: Callable):
    refuse(content, flags, why)


def test_folders_named_by_class_have_their_order(
    take: Callable, refused: Callable[..., str], ddb: Callable, tmp_path: Path
):
    _, _ = take(raw())
    assert ddb("export", tmp_path / "run-0", "--format", "png", "--out", tmp_path / "png").code == 0
    argv = ["import", tmp_path / "png", "--dataset", "digits", "--out", tmp_path / "out", "--class-order", "numbers"]
    refused(argv, "its folders say their class by name; leave --class-order out")


def test_class_orders_that_are_none(refuse: Callable, tmp_path: Path):
    refuse(raw(), ("--class-order", "alphabet"), "--class-order alphabet", "expected dataset, numbers")
    (tmp_path / "order.txt").write_text("\n".join([*"012345678", "x"]))
    refuse(raw(), ("--class-order", tmp_path / "order.txt"), "order.txt", "'9'")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    refuse(raw(), ("--class-order", tmp_path / "bytes.txt"), "bytes.txt")


# Folders


WNIDS = [f"n{number:08d}" for number in range(10)]


@pytest.fixture
def real(tmp_path: Path) -> str:
    """A dataset of ten classes named as ImageNet's are."""
    folder_of(tmp_path / "real" / "train", WNIDS, 16, 3)
    folder_of(tmp_path / "real" / "test", WNIDS, 16)
    return f"folder:{tmp_path / 'real'}"


@pytest.mark.parametrize("ending", [".png", ".jpg", ".JPEG"])
@pytest.mark.parametrize("naming", ["new{:03d}", "{:05d}", "n{:08d}"], ids=["sre2l", "rded", "wnid"])
def test_folders_as_they_are_published(naming: str, ending: str, real: str, take: Callable, tmp_path: Path):
    published = folder_of(tmp_path / "published", [naming.format(k) for k in range(10)], 16, 2, ending)
    synset, _ = take(published, "--size", 16, "--patches", 2, "--method", "rded", dataset=real)
    assert synset.labels.tolist() == LABELS.tolist()
    shades = synset.images[:, 2].float().mean((1, 2))
    assert torch.allclose(shades, 20.0 * LABELS + 10, atol=4)  # JPEG is not exact
    assert (synset.patches, synset.space, synset.method) == (2, "pixels", "rded")


def test_numbers_of_imagenet_in_a_subset():
    from ddbench.data.specs import DATASETS
    from ddbench.exchange.folders import _by_number

    spec = DATASETS["imagewoof"]
    classes = {f"new{index:03d}": [Path(str(index))] for index in spec.indices}
    by_label = _by_number(Path("synsets"), classes, spec)
    assert [str(by_label[label][0]) for label in range(10)] == [str(index) for index in spec.indices]


FOLDERS = {
    "extra": ([*WNIDS, "train"], "train", "no class of folder:"),
    "missing": ([f"{k:05d}" for k in range(9)], "9 class folders with numbers from 0 to 8", "9 is missing"),
    "one-based": ([f"{k:05d}" for k in range(1, 11)], "numbers from 1 to 10", "0 is missing"),
    "twice": ([*(f"{k:05d}" for k in range(10)), "new003"], "new003", "second folder of class number 3"),
    "words": (["cat", "dog"], "cat", "no class of folder:"),
}


@pytest.mark.parametrize("case", FOLDERS.values(), ids=FOLDERS)
def test_folders_that_are_no_classes(case, real: str, refused: Callable, tmp_path: Path):
    names, *needles = case
    published = folder_of(tmp_path / "published", names, 16)
    load_dataset(real, tmp_path / "data", size=16)  # decoded before the command, which then writes nothing
    argv = ["import", published, "--dataset", real, "--size", 16, "--data", tmp_path / "data", "--out", tmp_path / "o"]
    refused([*argv, "--quiet"], *needles)


def test_class_names_that_are_not_utf8(refused: Callable, tmp_path: Path):
    for split in (b"train", b"test"):
        for name in (b"caf\xe9", b"tea"):
            folder = os.path.join(os.fsencode(tmp_path), b"latin", split, name)  # noqa: PTH118
            os.makedirs(folder)  # noqa: PTH103
            Image.new("L", (16, 16)).save(tmp_path / "one.png")
            with open(os.path.join(folder, b"0.png"), "wb") as handle:  # noqa: PTH118
                handle.write((tmp_path / "one.png").read_bytes())
    argv = ["distill", "--method", "random", "--dataset", f"folder:{tmp_path / 'latin'}", "--size", 16, "--ipc", 1]
    refused([*argv, "--holdout", 0, "--out", tmp_path / "run"], "caf\\udce9", "not UTF-8", "rename")


# Files


@pytest.mark.parametrize("kind", [list, tuple])
def test_pairs_and_the_factor_of_idc(kind: type, take: Callable):
    pair = kind([raw().float() / 255, LABELS])
    synset, said = take(pair, "--decode-factor", 2, "--method", "idc")
    assert torch.equal(synset.images, raw())
    assert synset.labels.tolist() == LABELS.tolist()
    assert (synset.decode_factor, synset.decoded_images) == (2, 80)
    assert "decode factor 2" in said
    plain, said = take(pair)
    assert plain.decode_factor == 1
    assert "--decode-factor 2" in said  # told, since the file cannot say it


def test_dicts(take: Callable):
    synset, _ = take({"module.images": network_input(), "module.labels": LABELS, "lr": torch.tensor([0.02])})
    assert torch.equal(synset.images, network_input())
    assert float(synset.learned_lr) == pytest.approx(0.02)
    assert take({"data": network_input(), "targets": LABELS})[0].labels.tolist() == LABELS.tolist()
    staged, _ = take({"images": network_input(), "labels": LABELS, "stage": torch.tensor([0, 1] * 10)})
    assert staged.stage.tolist() == [0, 1] * 10


def test_rates_that_no_protocol_uses_are_told(take: Callable):
    content = {"images": network_input(), "labels": LABELS, "lr": torch.tensor([0.02, 0.03])}
    told = "several learned rates and no stages: no protocol uses them"
    assert told in take(content)[1]
    assert told not in take({**content, "stage": torch.tensor([0, 1] * 10)})[1]


def test_what_is_not_read_of_a_file_is_told(take: Callable, tmp_path: Path):
    """Labels under a name that is not known would else be taken for class order without a word."""
    synset, said = take({"images": network_input(), "y_syn": LABELS.flip(0)})
    assert synset.labels.tolist() == LABELS.tolist()
    assert (
        "note: not read, for its name is not known: y_syn; labels are looked for under labels, label, targets" in said
    )
    np.savez(tmp_path / "set.npz", x=network_input().numpy(), y=LABELS.numpy(), rate=np.float32(0.1))
    assert "is not known: rate;" in take(tmp_path / "set.npz")[1]
    assert "not read" not in take({"images": network_input(), "labels": LABELS, "stage": LABELS % 2})[1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            {"syn_images": network_input(), "lr": 0.1},
            r"a dict of syn_images, lr, and no images: .* under images, image",
        ),
        ([[image, label] for image, label in zip(network_input(), LABELS, strict=True)], r"a list of 20, expected"),
        (torch.utils.data.TensorDataset(network_input()), r"it holds torch\.utils\.data\.dataset\.TensorDataset; save"),
    ],
    ids=["names", "pairs", "dataset"],
)
def test_a_file_of_another_form_says_what_it_holds(content: object, words: str, tmp_path: Path):
    torch.save(content, tmp_path / "set.pt")
    with pytest.raises(UserError, match=words):
        inspect(tmp_path / "set.pt", ImportSettings())


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before-1.6"])
def test_tensors_saved_on_a_gpu(zipped: bool, take: Callable, tmp_path: Path):
    path, moved = tmp_path / "cpu.pt", tmp_path / "cuda.pt"
    torch.save([network_input(), LABELS], path, _use_new_zipfile_serialization=zipped)
    place, gpu = b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"
    if zipped:
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(moved, "w") as target:
            for name in source.namelist():
                target.writestr(name, source.read(name).replace(place, gpu))
    else:
        moved.write_bytes(path.read_bytes().replace(place, gpu))
    assert gpu in moved.read_bytes()
    assert torch.equal(take(moved)[0].images, network_input())


def test_plain_arrays(take: Callable, tmp_path: Path):
    np.save(tmp_path / "images.npy", raw().numpy())
    np.save(tmp_path / "labels.npy", LABELS.numpy())
    synset, _ = take(tmp_path / "images.npy", "--labels", tmp_path / "labels.npy")
    assert torch.equal(synset.images, raw())
    assert synset.labels.tolist() == LABELS.tolist()


def test_small_files_that_claim_much(refuse: Callable):
    refuse(torch.zeros(1).expand(10**10, 1, 8, 8), (), "too large for a synset")
    refuse([network_input(), torch.zeros(1).expand(20, 10**10)], (), "labels", "too large")


def test_a_pipe_is_not_waited_for(refused: Callable, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory):
    pipe = tmp_path_factory.mktemp("elsewhere") / "pipe.pt"
    os.mkfifo(pipe)
    refused(["import", pipe, "--dataset", "digits", "--out", tmp_path / "out"], "pipe.pt")


# What ddbench itself exported


def test_own_export_comes_back_equal(ddb: Callable, take: Callable, mtt_run: Path, tmp_path: Path):
    from dataclasses import replace

    path = mtt_run / "synset.safetensors"
    original = read_synset(path)
    stages = torch.arange(len(original.images)) % 2
    rich = replace(
        original, stage=stages, decoder=MultiFormation(factor=2), patches=2, teacher={"sha256": "0" * 64}, seed=7
    )
    schedule = Replay(epochs=3, init="default", fixed=1)
    rates = torch.linspace(0.01, 0.06, 6)
    rich = replace(rich, schedule=schedule, learned_lr=rates, labels=torch.eye(10) - 0.1, label_scale=4.0)
    write_synset(path, rich)
    assert ddb("export", mtt_run, "--format", "npz", "--out", tmp_path / "out").code == 0
    back, said = take(tmp_path / "out" / "synset.npz")
    assert f"-> as exported, meanstd, mean {rich.preprocess['mean'][0]:.4g}, std " in said
    assert back.header() == rich.header()
    for name in ("images", "labels", "learned_lr", "stage"):
        assert torch.equal(getattr(back, name), getattr(rich, name))
    named, _ = take(tmp_path / "out" / "synset.npz", "--method", "theirs", "--decode-factor", 1, "--student", TINY)
    assert (back.schedule, back.label_kind) == (schedule, "targets")
    assert (named.method, named.decode_factor, named.student) == ("theirs", 1, TINY)


def test_own_export_with_a_header_that_does_not_fit(ddb: Callable, refused: Callable, mtt_run: Path, tmp_path: Path):
    assert ddb("export", mtt_run, "--format", "npz", "--out", tmp_path / "out").code == 0
    with np.load(tmp_path / "out" / "synset.npz") as file:
        arrays = dict(file)
    argv = ["import", tmp_path / "set.npz", "--dataset", "digits", "--out", tmp_path / "run"]
    np.savez(tmp_path / "set.npz", **arrays)
    refused([*argv, "--preprocess", "zca"], "its header says", "leave --preprocess out")
    np.savez(tmp_path / "set.npz", **{**arrays, "labels": np.eye(10, dtype=np.float32)})
    refused(argv, "'label_kind'", "'hard'")
    for header in ("[" * 10_000, "{}", str(arrays["header"]).replace('"schema": 1', '"schema": 2')):
        np.savez(tmp_path / "set.npz", **{**arrays, "header": np.array(header)})
        refused(argv, "set.npz")


# Looking without importing


def test_inspect(ddb: Callable, real: str, tmp_path: Path):
    torch.save([raw().float() / 255, LABELS[:, None]], tmp_path / "pair.pt")
    result = ddb("import", "--inspect", tmp_path / "pair.pt")
    assert result.code == 0
    for part in ("a list of images, labels", "[20, 1, 8, 8] float32", "values 0 to 1: pixels", "2 of each of 10"):
        assert part in result.out
    published = folder_of(tmp_path / "published", [f"new{k:03d}" for k in range(10)], 16)
    result = ddb("import", published, "--inspect")
    assert "new000, new001, new002, ... new009" in result.out
    assert "2 of each of 10 classes" in result.out
    assert sorted(item.name for item in tmp_path.iterdir()) == ["pair.pt", "published", "real"]


def test_inspect_takes_the_flags_of_a_folder(tmp_path: Path):
    published = folder_of(tmp_path / "published", [f"new{k:03d}" for k in range(10)], 16)
    soft, stage = tmp_path / "soft.pt", tmp_path / "stage.npy"
    torch.save(torch.randn(20, 10, generator=torch.Generator().manual_seed(0)), soft)
    np.save(stage, np.arange(20) % 4)
    found = inspect(published, ImportSettings(lr="0.25", labels=soft, stage=stage))
    assert (found.lr, found.label_form, found.label_shape, found.stages) == ((0.25,), "logits", (20, 10), 4)
    assert sum(found.counts) == 20
    torch.save(torch.zeros(19, 10), soft)
    with pytest.raises(UserError, match=r"soft.pt: labels of shape \[19, 10\] for 20 images"):
        inspect(published, ImportSettings(labels=soft))


@pytest.mark.parametrize("images", [torch.tensor(1.0), torch.ones(3), torch.ones(2, 2), torch.ones(1, 1, 2, 2, 2)])
def test_inspect_refuses_what_are_no_images(images: torch.Tensor, refused: Callable, tmp_path: Path):
    torch.save({"images": images, "labels": LABELS}, tmp_path / "set.pt")
    refused(["import", tmp_path / "set.pt", "--inspect"], f"images of shape {list(images.shape)}")


def test_inspect_refuses_labels_of_no_class(refused: Callable, tmp_path: Path):
    torch.save([raw(), torch.zeros(20, 0)], tmp_path / "set.pt")
    argv = ["import", tmp_path / "set.pt", "--label-form", "logits", "--inspect"]
    refused(argv, "labels of shape [20, 0] for 20 images")


def test_a_learned_rate_is_a_real_number(tmp_path: Path):
    torch.save(torch.tensor([0.5 + 0j]), tmp_path / "rate.pt")
    with pytest.raises(UserError, match=r"rate\.pt: learning rates are torch\.complex64, expected"):
        learned_lr(str(tmp_path / "rate.pt"))


def test_what_is_needed_beside_the_file(refused: Callable, tmp_path: Path):
    torch.save(raw(), tmp_path / "set.pt")
    refused(["import", tmp_path / "set.pt", "--out", tmp_path / "out"], "--dataset NAME is needed", "--inspect")
    refused(["import", tmp_path / "set.pt", "--dataset", "digits"], "--out FOLDER is needed")
