"""What public codes save, rebuilt as their saving code writes it, and what the import makes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ddbench.data.load import load_dataset
from ddbench.data.preprocess import fit_preprocess
from ddbench.protocols.plan import regression_targets
from ddbench.synset import Synset, read_synset

LABELS = torch.arange(10).repeat_interleave(2)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def pixels(low: float = 0.0, high: float = 1.0) -> Tensor:
    """Float pixels (20, 1, 8, 8) from ``low`` to ``high``."""
    made = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    made[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    return low + (high - low) * made


@pytest.fixture
def take(ddb: Callable, tmp_path: Path) -> Callable[..., tuple[Synset, str]]:
    """``take(path, *flags)``: the synset that the import makes of it, and what it says."""
    count = iter(range(100))

    def call(path: Path, *flags: object) -> tuple[Synset, str]:
        out = tmp_path / f"run-{next(count)}"
        result = ddb("import", path, "--dataset", "digits", "--out", out, *flags)
        assert result.code == 0, result.err
        return read_synset(out / "synset.safetensors"), result.out

    return call


def save(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def seen(data_root: Path, made: Tensor) -> Tensor:
    """Network input of pixels, by the dataset's mean and std."""
    return fit_preprocess(load_dataset("digits", data_root), "meanstd").apply(made)


def test_mtt(take: Callable, tmp_path: Path):
    """Network input by mean and std, and class numbers in class order, in two files; the rate is in neither."""
    images = save(tmp_path / "images_best.pt", draw(20, 1, 8, 8))
    synset, _ = take(images, "--labels", save(tmp_path / "labels_best.pt", LABELS))
    assert torch.equal(synset.images, draw(20, 1, 8, 8))
    assert (synset.labels.tolist(), synset.learned_lr) == (LABELS.tolist(), None)


def test_mtt_whitened(take: Callable, refused: Callable, tmp_path: Path):
    """``images_zca_N.pt`` is not whitened but what the whitened ``images_N.pt`` shows, in pixels beyond 0 and 1."""
    path = save(tmp_path / "images_zca_5000.pt", pixels(-0.4, 1.3))
    refused(
        ["import", path, "--dataset", "digits", "--out", tmp_path / "out"], "images_zca_5000.pt", "--preprocess zca"
    )
    assert take(path, "--preprocess", "pixels")[0].space == "input"
    assert take(save(tmp_path / "images_5000.pt", draw(20, 1, 8, 8)), "--preprocess", "zca")[0].space == "input"


def test_ftd(take: Callable, tmp_path: Path):
    """As MTT, and the moving average of the images under names of its own."""
    images = save(tmp_path / "ema_images_best.pt", draw(20, 1, 8, 8))
    synset, _ = take(images, "--labels", save(tmp_path / "ema_labels_best.pt", LABELS))
    assert torch.equal(synset.images, draw(20, 1, 8, 8))


def test_tesla(take: Callable, tmp_path: Path):
    """Class numbers in a file of the first step, a teacher's probabilities in those of later ones."""
    chances = (4 * draw(20, 10)).softmax(1)
    synset, _ = take(
        save(tmp_path / "images_500.pt", draw(20, 1, 8, 8)), "--labels", save(tmp_path / "labels_500.pt", chances)
    )
    torch.testing.assert_close(synset.labels.softmax(1), chances, rtol=0, atol=1e-6)


def test_datm(take: Callable, tmp_path: Path):
    """Logits, and the rate as a scalar tensor in a third file."""
    labels, rate = (
        save(tmp_path / "labels_best.pt", 3 * draw(20, 10)),
        save(tmp_path / "lr_best.pt", torch.tensor(0.02)),
    )
    synset, _ = take(save(tmp_path / "images_best.pt", draw(20, 1, 8, 8)), "--labels", labels, "--lr", rate)
    assert torch.equal(synset.labels, 3 * draw(20, 10))
    assert float(synset.learned_lr) == pytest.approx(0.02)


def test_haba(take: Callable, tmp_path: Path):
    """Its images are contents without labels: told, since the styles lie beside them."""
    path = save(tmp_path / "images_best.pt", draw(20, 1, 8, 8))
    assert "styles" not in take(path)[1]
    save(tmp_path / "weights_best.pt", {})
    assert "HaBa's images are contents" in take(path)[1]


def test_dc(take: Callable, tmp_path: Path):
    """One set an experiment, and accuracies by network."""
    sets = [[draw(20, 1, 8, 8) + k, LABELS] for k in range(5)]
    path = save(tmp_path / "res_DC_x_1ipc.pt", {"data": sets, "accs_all_exps": {"ConvNet": [0.5]}})
    synset, said = take(path, "--index", 3)
    assert torch.equal(synset.images, draw(20, 1, 8, 8) + 3)
    assert "set 4 of 5" in said


def test_datadam(take: Callable, tmp_path: Path):
    """The form of DC, but its sets are one run's at each evaluation, from the first images on: take the last."""
    sets = [[draw(20, 1, 8, 8) + k, LABELS] for k in range(5)]
    path = save(tmp_path / "res_DataDAM_x_1ipc_.pt", {"data": sets, "accs_all_exps": {"ConvNet": []}})
    synset, said = take(path)
    assert torch.equal(synset.images, draw(20, 1, 8, 8))
    assert "is its result: --index -1" in said
    synset, said = take(path, "--index", -1)
    assert torch.equal(synset.images, draw(20, 1, 8, 8) + 4)
    assert "--index -1" not in said
    assert "--index" not in take(save(tmp_path / "one.pt", {"data": sets[:1]}))[1]


def test_idc(take: Callable, data_root: Path, tmp_path: Path):
    """Pixels, not network input, that are not cut to [0, 1]; each is four images."""
    path = save(tmp_path / "data.pt", [pixels(-0.1, 1.2), LABELS])
    synset, said = take(path, "--decode-factor", 2)
    assert "pixels that overshoot 0 to 1" in said
    torch.testing.assert_close(synset.images, seen(data_root, pixels(-0.1, 1.2)))
    assert (synset.decode_factor, synset.decoded_images) == (2, 80)
    plain, said = take(path, "--preprocess", "meanstd")
    assert torch.equal(plain.images, pixels(-0.1, 1.2))
    assert "overshoot" not in said


def test_frepo(take: Callable, tmp_path: Path):
    """Channels last, and targets of a regression: one-hot rows less 1/K at first, so that they add up to 0."""
    targets = torch.eye(10)[LABELS] - 0.1 + 0.01 * draw(20, 10)
    path = tmp_path / "step000100.npz"
    np.savez(path, image=draw(20, 8, 8, 1).numpy(), label=targets.numpy())
    synset, said = take(path)
    assert synset.label_kind == "soft"
    assert "--label-form targets" in said
    synset, said = take(path, "--label-form", "targets")
    assert torch.equal(synset.images, draw(20, 8, 8, 1).permute(0, 3, 1, 2))
    assert synset.label_kind == "targets"
    assert torch.equal(regression_targets(synset), targets)
    assert "targets of a regression" in said


@pytest.mark.parametrize(
    ("folder", "name"),
    [("new{:03d}", "class{:03d}_id{:03d}.jpg"), ("{:05d}", "class{:05d}_id{:05d}.jpg")],
    ids=["sre2l", "rded"],
)
def test_sre2l_and_rded(folder: str, name: str, take: Callable, tmp_path: Path):
    """Folders by class number, JPEG; pixels were cut off after the point, not rounded. They come as they are stored."""
    for label in range(10):
        (tmp_path / "syn" / folder.format(label)).mkdir(parents=True)
        for number in range(2):
            grey = (pixels()[2 * label + number, 0].numpy() * 255).astype(np.uint8)
            Image.fromarray(grey).save(tmp_path / "syn" / folder.format(label) / name.format(label, number))
    synset, _ = take(tmp_path / "syn")
    assert synset.labels.tolist() == LABELS.tolist()
    with Image.open(tmp_path / "syn" / folder.format(7) / name.format(7, 1)) as image:
        assert np.array_equal(np.array(image), synset.images[15, 0].numpy())


def test_minimax(take: Callable, tmp_path: Path):
    """Folders by class name, PNG named by number without zeros: their order, ``10`` before ``2``, changes no label."""
    for label in range(10):
        (tmp_path / "syn" / str(label)).mkdir(parents=True)
        for number in range(11):
            grey = np.full((8, 8), 20 * label + number, np.uint8)
            Image.fromarray(grey).save(tmp_path / "syn" / str(label) / f"{number}.png")
    synset, _ = take(tmp_path / "syn")
    assert (synset.images[:, 0, 0, 0] // 20).tolist() == synset.labels.tolist()
    assert sorted(synset.images[:11, 0, 0, 0].tolist()) == list(range(11))


@pytest.mark.parametrize("network", ["mtt", "ftd", "datm"])
def test_buffers(network: str, ddb: Callable, tmp_path: Path):
    """Lists of experts, of snapshots, of parameters in the network's order, the first one untrained."""
    from ddbench.networks.build import build_student

    shapes = [p.shape for p in build_student("mlp-d2-w4", channels=1, size=8, classes=10, seed=0).parameters()]
    experts = [[[draw(*shape) + e + 10 * k for shape in shapes] for e in range(3)] for k in range(2)]
    path = save(tmp_path / "replay_buffer_0.pt", experts)
    where = ("--student", "mlp-d2-w4", "--dataset", "digits", "--buffers", tmp_path / "buffers")
    done = ddb("buffer", "import", path, *where, "--lr", 0.01, "--augmentation", "none", "--preprocess", "meanstd")
    assert done.code == 0, done.err
    assert "2 experts" in done.out
