"""Published formats come in, pictures and arrays go out."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, evaluate_tiny, random_tiny
from made_synsets import made
from PIL import Image

from ddbench.data.load import load_dataset
from ddbench.data.preprocess import Preprocess, fit_preprocess
from ddbench.exchange.write import export_synset, folder_name
from ddbench.preview import grid
from ddbench.runtime.errors import UserError
from ddbench.synset import Synset, read_synset, write_synset


def images(count: int = 20) -> torch.Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def imported(ddb: Callable, tmp_path: Path) -> Callable[..., Synset]:
    """``imported(file, *flags)``: the synset that the import verb makes."""
    count = iter(range(100))

    def call(path: Path, *flags: object) -> Synset:
        out = tmp_path / f"run-{next(count)}"
        result = ddb("import", path, "--dataset", "digits", "--out", out, *flags)
        assert result.code == 0, result.err
        assert {"synset.safetensors", "preview.png", "config.json"} <= {found.name for found in out.iterdir()}
        return read_synset(out / "synset.safetensors")

    return call


def save(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def test_images_labels_and_lr_of_mtt(imported: Callable, tmp_path: Path):
    published = images().requires_grad_()
    best = save(tmp_path / "images_best.pt", published)
    labels = save(tmp_path / "labels_best.pt", torch.arange(10).repeat_interleave(2))
    lr = save(tmp_path / "lr_best.pt", torch.tensor(0.0187))
    flags = ("--labels", labels, "--method", "mtt", "--student", TINY, "--augmentation", "crop")
    synset = imported(best, *flags, "--lr", lr)
    assert torch.equal(synset.images, published.detach())
    assert synset.labels.tolist() == torch.arange(10).repeat_interleave(2).tolist()
    assert float(synset.learned_lr) == pytest.approx(0.0187)
    assert (synset.method, synset.student, synset.augmentation) == ("mtt", TINY, "crop")
    assert (synset.budget.unit, synset.budget.value, synset.space) == ("ipc", 2, "input")
    assert synset.config == {"imported_from": "images_best.pt"}
    assert float(imported(best, *flags, "--lr", "0.5").learned_lr) == 0.5
    assert float(imported(best, "--lr", save(tmp_path / "x.pt", 0.25)).learned_lr) == 0.25


def test_labels_that_are_missing_are_class_major(imported: Callable, tmp_path: Path):
    synset = imported(save(tmp_path / "images_best.pt", images(30).double()))
    assert synset.labels.tolist() == [label for label in range(10) for _ in range(3)]
    assert synset.images.dtype == torch.float32
    assert synset.learned_lr is None
    assert synset.method == "imported"


def test_soft_labels(imported: Callable, tmp_path: Path):
    soft = torch.randn(20, 10).half()
    synset = imported(save(tmp_path / "images_best.pt", images()), "--labels", save(tmp_path / "labels_best.pt", soft))
    assert synset.label_kind == "soft"
    assert torch.equal(synset.labels, soft.float())


def dc_file(path: Path, accuracy: object) -> Path:
    """DC's, DSA's and DM's ``res_*.pt``: sets of several experiments, and accuracies as numpy scalars."""
    sets = [[images() + k, torch.arange(10).repeat_interleave(2)] for k in range(3)]
    return save(path, {"data": sets, "accs_all_exps": {"ConvNet": [accuracy, accuracy]}})


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64, float])
def test_result_file_of_dc(kind: type, imported: Callable, tmp_path: Path):
    path = dc_file(tmp_path / "res_DC_x.pt", kind(0.5))
    for index, shift in ((0, 0), (2, 2), (-1, 2), (-3, 0)):
        assert torch.equal(imported(path, "--index", index).images, images() + shift)


def test_result_file_with_the_numpy_names_of_its_time(imported: Callable, tmp_path: Path):
    """Files of 2021 name numpy's reconstruction function as ``numpy.core.multiarray.scalar``."""
    path = dc_file(tmp_path / "res.pt", np.float64(0.5))
    raw = path.read_bytes()
    assert b"numpy._core.multiarray" in raw or b"numpy.core.multiarray" in raw
    old = tmp_path / "res_old.pt"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(old, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name).replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert torch.equal(imported(old).images, images())


def test_npz(imported: Callable, tmp_path: Path):
    np.savez(tmp_path / "a.npz", images=images().numpy(), labels=np.arange(20) // 2)
    assert torch.equal(imported(tmp_path / "a.npz").images, images())
    raw = (images().abs() * 50).to(torch.uint8)
    np.savez(tmp_path / "b.npz", images=raw.numpy())
    synset = imported(tmp_path / "b.npz")
    assert synset.space == "pixels"
    assert torch.equal(synset.images, raw)


@pytest.mark.parametrize("numbered", [True, False], ids=["as-exported", "class-names"])
def test_png_folder(numbered: bool, imported: Callable, tmp_path: Path):
    raw = (images().abs() * 50).to(torch.uint8)
    for label in range(10):
        folder = tmp_path / "png" / (folder_name(label, str(label)) if numbered else str(label))
        folder.mkdir(parents=True)
        for number in range(2):
            Image.fromarray(raw[2 * label + number, 0].numpy()).save(folder / f"{number}.png")
    synset = imported(tmp_path / "png")
    assert torch.equal(synset.images, raw)
    assert synset.labels.tolist() == [label for label in range(10) for _ in range(2)]


def test_png_export_comes_back_with_the_same_pixels(ddb: Callable, imported: Callable, tmp_path: Path):
    assert ddb(*random_tiny(tmp_path / "real", "--ipc", 3)).code == 0
    assert ddb("export", tmp_path / "real", "--format", "png", "--out", tmp_path / "png").out.startswith("30 file(s)")
    original = read_synset(tmp_path / "real" / "synset.safetensors")
    back = imported(tmp_path / "png")
    assert torch.equal(back.images, original.images)
    assert torch.equal(back.labels, original.labels)
    # and it scores the same
    scores = []
    for run in (tmp_path / "real", tmp_path / "run-0"):
        assert ddb(*evaluate_tiny(run, "--out", tmp_path / f"{run.name}.json")).code == 0
        scores.append(json.loads((tmp_path / f"{run.name}.json").read_text())["runs"])
    assert scores[0] == scores[1]


def test_npz_export_holds_everything(ddb: Callable, imported: Callable, mtt_run: Path, tmp_path: Path):
    assert ddb("export", mtt_run, "--format", "npz", "--out", tmp_path / "out").code == 0
    original = read_synset(mtt_run / "synset.safetensors")
    with np.load(tmp_path / "out" / "synset.npz", allow_pickle=False) as arrays:
        assert set(arrays.files) == {"images", "labels", "pixels", "header", "lr"}
        assert np.array_equal(arrays["images"], original.images.numpy())
        assert np.array_equal(arrays["labels"], original.labels.numpy())
        assert arrays["pixels"].dtype == np.uint8
        assert float(arrays["lr"]) == float(original.learned_lr)
        assert json.loads(str(arrays["header"])) == original.header()
    back = imported(tmp_path / "out" / "synset.npz", "--lr", float(original.learned_lr))
    assert torch.equal(back.images, original.images)
    assert float(back.learned_lr) == float(original.learned_lr)


def test_a_list_of_one_rate_comes_back_and_is_used(ddb: Callable, random_run: Path, tmp_path: Path):
    """Without stages it is the rate of the whole, as in files of others; several are told to be of no use."""
    original = read_synset(random_run / "synset.safetensors")
    for rates in ([0.02], [0.02, 0.03]):
        run = tmp_path / f"rates-{len(rates)}"
        write_synset(run / "synset.safetensors", replace(original, learned_lr=torch.tensor(rates)))
        assert ddb("export", run, "--format", "npz", "--out", run / "out").code == 0
        result = ddb("import", run / "out" / "synset.npz", "--dataset", "digits", "--out", run / "back")
        assert ("several learned rates and no stages" in result.err + result.out) is (len(rates) > 1)
        assert (run / "back/synset.safetensors").read_bytes() == (run / "synset.safetensors").read_bytes()
    out = tmp_path / "score.json"
    assert ddb(*evaluate_tiny(tmp_path / "rates-1" / "back", "--out", out)).code == 0
    found = json.loads(out.read_text())
    assert found["learning_rates"][TINY] == {"rate": pytest.approx(0.02), "source": "synset", "searched": {}}
    assert found["synset"]["learned_lr"] == pytest.approx(0.02)


def test_npz_export_says_its_dataset(ddb: Callable, refused: Callable, random_run: Path, tmp_path: Path):
    """As an export of the form hub does; an archive of others says none, and images of one's own may lie elsewhere."""
    assert ddb("export", random_run, "--format", "npz", "--out", tmp_path / "out").code == 0
    archive = tmp_path / "out" / "synset.npz"
    assert ddb("import", archive, "--out", tmp_path / "back").code == 0
    original = read_synset(random_run / "synset.safetensors")
    assert torch.equal(read_synset(tmp_path / "back" / "synset.safetensors").images, original.images)
    with np.load(archive, allow_pickle=False) as arrays:
        held = dict(arrays)
    for dataset, needle in (("folder:pets", "--dataset folder:PATH"), (7, "--dataset NAME is needed")):
        held["header"] = np.array(json.dumps({**original.header(), "dataset": dataset}))
        np.savez(tmp_path / "own.npz", **held)
        refused(["import", tmp_path / "own.npz", "--out", tmp_path / "other"], needle)
    np.savez(tmp_path / "theirs.npz", images=held["images"])
    refused(["import", tmp_path / "theirs.npz", "--out", tmp_path / "other"], "--dataset NAME is needed")


def test_two_sets_do_not_mix_in_a_folder(ddb: Callable, refused: Callable, random_run: Path, tmp_path: Path):
    """What stays of a larger export would be imported as images of the smaller one."""
    pictures = tmp_path / "png"
    export = ("export", random_run, "--format", "png", "--out", pictures)
    assert ddb(*export).code == 0
    own = read_synset(random_run / "synset.safetensors")
    count = len(own.images)
    assert ddb(*export).out.startswith(f"{count} file(s)"), "the same again"
    (pictures / ".hidden").touch()
    next(pictures.rglob("00000.png")).unlink()
    assert ddb(*export).code == 0, "what is missing of it"
    assert len(list(pictures.rglob("*.png"))) == count
    assert ddb(*random_tiny(tmp_path / "more", "--ipc", 3)).code == 0
    assert ddb("export", tmp_path / "more", "--format", "png", "--out", tmp_path / "three").code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "three").rglob("*.png")}
    refused([*export[:-1], tmp_path / "three"], "--out", "png, not of this export; if that is an older")
    assert {path: path.read_bytes() for path in (tmp_path / "three").rglob("*.png")} == before
    refused([*export[:-1], before.popitem()[0]], "a file, expected a folder")


@pytest.mark.parametrize("forms", [("grid", "npz", "png"), ("png", "npz", "grid")], ids="-".join)
def test_the_forms_of_a_set_in_one_folder(
    forms: tuple[str, ...], ddb: Callable, refused: Callable, imported: Callable, random_run: Path, tmp_path: Path
):
    """In any order; another set's picture or archive is in the way of class folders, and one of a hub is of all."""
    out = tmp_path / "out"
    for _ in range(2):
        for form in forms:
            assert ddb("export", random_run, "--format", form, "--out", out).code == 0
    own = read_synset(random_run / "synset.safetensors")
    assert len(imported(out, "--dataset", "digits").images) == len(own.images)
    hub = "; if that is an older export of this run, remove its files first, else choose another folder"
    refused(["export", random_run, "--format", "hub", "--out", out], "holds 0000_0, and", hub)
    for name in ("grid.png", "synset.npz"):
        foreign = tmp_path / name.partition(".")[0]
        foreign.mkdir()
        (foreign / name).write_bytes(b"mine")
        refused(["export", random_run, "--out", foreign], f"holds {name}, not of this export")


@pytest.mark.parametrize("format", ["png", "grid", "npz"])
def test_another_sets_export_is_not_written_over(format: str, random_run: Path, tmp_path: Path):
    one = read_synset(random_run / "synset.safetensors")
    other = replace(one, images=255 - one.images)
    preprocess = fit_preprocess(load_dataset("digits"), "meanstd")
    files = export_synset(one, preprocess, format, tmp_path / "out")
    before = [path.read_bytes() for path in files]
    with pytest.raises(UserError, match="is there with other contents, of another export") as told:
        export_synset(other, preprocess, format, tmp_path / "out")
    assert "; if that is an older export of this run, remove its files first, else choose" in str(told.value)
    assert export_synset(one, preprocess, format, tmp_path / "out") == files
    assert [path.read_bytes() for path in files] == before


def test_an_archive_that_no_import_takes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    synset, preprocess = made((1, 8, 8), pixels=False), Preprocess("meanstd", (0.3,), (0.4,))
    (path,) = export_synset(synset, preprocess, "npz", tmp_path / "out")
    with zipfile.ZipFile(path) as archive:
        unfolded = sum(member.file_size for member in archive.infolist())
    monkeypatch.setattr("ddbench.exchange.read.MAX_FILE", unfolded - 1)
    with pytest.raises(UserError, match=rf"synset.npz: would have [0-9,]+ bytes, .* at most {unfolded - 1:,}"):
        export_synset(synset, preprocess, "npz", tmp_path / "large")
    assert not (tmp_path / "large").exists()


def test_grid_export_is_the_preview(ddb: Callable, mtt_run: Path, tmp_path: Path):
    assert ddb("export", mtt_run, "--format", "grid", "--out", tmp_path / "out").code == 0
    assert (tmp_path / "out" / "grid.png").read_bytes() == (mtt_run / "preview.png").read_bytes()
    with Image.open(tmp_path / "out" / "grid.png") as picture:
        picture.load()
        assert picture.mode == "RGB"


def test_grid_of_images_whose_labels_are_elsewhere():
    """Soft labels at whose largest entries none of the classes that are shown stands."""
    made = grid(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.tensor([25, 26, 27]), 30)
    assert bool((made == 255).all())


def test_grid_layout():
    """One row a class, whole factors, two white pixels apart."""
    shown = torch.stack([torch.full((1, 24, 24), 10 * k, dtype=torch.uint8) for k in range(6)])
    made = grid(shown, torch.tensor([0, 0, 1, 1, 2, 2]), 3)
    assert made.shape == (3, 3 * 50 - 2, 2 * 50 - 2)
    for k in range(6):
        top, left = 50 * (k // 2), 50 * (k % 2)
        assert bool((made[:, top : top + 48, left : left + 48] == 10 * k).all())
    assert bool((made[:, 48:50] == 255).all())
    assert bool((made[:, :, 48:50] == 255).all())


def test_names_of_class_folders():
    assert folder_name(3, "cat") == "0003_cat"
    assert folder_name(12, "../../etc/passwd") == "0012_______etc_passwd"
    assert "/" not in folder_name(0, "a/b")
    assert folder_name(7, "") == "0007"
    assert len(folder_name(0, "x" * 300)) <= 60


def test_import_killed_half_way_goes_on(ddb: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = save(tmp_path / "images_best.pt", images())
    argv = ("import", path, "--dataset", "digits", "--out", tmp_path / "run")
    import ddbench.preview

    def die(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ddbench.preview, "preview_png", die)
        assert ddb(*argv).code == 130
    assert not (tmp_path / "run" / "synset.safetensors").exists()
    assert ddb(*argv).code == 0
    assert torch.equal(read_synset(tmp_path / "run" / "synset.safetensors").images, images())
