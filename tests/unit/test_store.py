"""The trajectory store: what is recorded, what is read, what is noticed; and the reader of official buffers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import TINY, TINY_EPOCHS, TINY_EXPERTS
from safetensors.torch import load_file, save_file

from ddbench.data.load import load_dataset
from ddbench.data.policy import parse_policy
from ddbench.experts.importer import import_buffers
from ddbench.experts.recipe import OWN, ExpertRecipe
from ddbench.experts.record import checked
from ddbench.experts.store import TrajectoryStore, expert_file, find_stores, read_store
from ddbench.networks.build import build_student
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError
from ddbench.training.flat import flatten_parameters, load_flat
from ddbench.training.loops import Inputs, train
from ddbench.training.optimizers import OptimizerSettings


@pytest.fixture
def store(store_folder: Path) -> TrajectoryStore:
    return read_store(store_folder)


def tiny(seed: int = 0) -> torch.nn.Module:
    return build_student(TINY, channels=1, size=8, classes=10, seed=seed)


@pytest.mark.parametrize(
    ("text", "done"),
    [
        ("dsa", "color_crop_cutout_scale_rotate"),
        ("DSA", "color_crop_cutout_scale_rotate"),
        ("crop+flip", "crop"),
        ("randomresizedcrop+flip", "rrc"),
        ("dsa+cutmix", "color_crop_cutout_scale_rotate+cutmix"),
        ("flip", "none"),
    ],
)
def test_experts_of_digits_see_no_mirrored_image(text: str, done: str, data_root: Path):
    """And the store says what was done; that of ``dsa`` has the key that it always had."""
    digits = load_dataset("digits", data_root)
    recipe = checked(ExpertRecipe(augmentation=text), digits, TINY, 1, 1)
    assert recipe.augmentation == done
    assert parse_policy(recipe.augmentation) == parse_policy(text, flip=False)
    if text == "dsa":
        assert recipe.key(TINY, "0" * 64) == "978184c00e20"


def test_what_is_left_of_an_augmentation_is_checked(data_root: Path):
    digits = load_dataset("digits", data_root)
    for text in ("flip+flip+crop", "crop+flip_crop"):
        with pytest.raises(UserError, match="named twice"):
            checked(ExpertRecipe(augmentation=text), digits, TINY, 1, 1)


def test_snapshots_are_copies():
    """The official code on a CPU stores one tensor many times; here later training changes no earlier row."""
    net = tiny()
    rows, before = [flatten_parameters(net)], flatten_parameters(net).tolist()
    inputs = Inputs(torch.randn(20, 1, 8, 8), torch.arange(20) % 10, None, torch.device("cpu"))
    for _ in train(net, inputs, epochs=3, batch=5, optimizer=OptimizerSettings(lr=0.1), policy=None, seed=0):
        rows.append(flatten_parameters(net))
    assert rows[0].tolist() == before
    assert len({tuple(row.tolist()) for row in rows}) == 4
    assert len({row.data_ptr() for row in rows}) == 4
    for parameter in net.parameters():
        parameter.data.zero_()
    assert all(row.any() for row in rows)


def test_load_flat_is_the_inverse_and_copies():
    one, two = tiny(0), tiny(1)
    vector = flatten_parameters(one)
    load_flat(two, vector)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    with torch.no_grad():
        next(two.parameters()).add_(1)
    assert torch.equal(vector, flatten_parameters(one))
    with pytest.raises(ValueError, match=rf"\(3,\) for {len(vector)} parameters"):
        load_flat(two, torch.zeros(3))


def test_recorded_rows_differ_between_epochs_and_experts(store: TrajectoryStore):
    assert store.indices == list(range(TINY_EXPERTS))
    rows = [row for index in store.indices for row in store.rows(index, *range(TINY_EPOCHS + 1))]
    assert len(rows) == TINY_EXPERTS * (TINY_EPOCHS + 1)
    assert len({tuple(row.tolist()) for row in rows}) == len(rows)
    assert all(row.shape == (store.size,) and row.dtype == torch.float32 for row in rows)


def test_first_row_is_the_initialisation(store: TrajectoryStore):
    for index in store.indices:
        seed = seeds.derive(0, "expert", index)
        assert store.experts[index].seed == seed
        assert torch.equal(store.rows(index, 0)[0], flatten_parameters(tiny(seed)))


def test_rows_are_those_of_the_file(store: TrajectoryStore, store_folder: Path):
    whole = load_file(store_folder / expert_file(1))["w"]
    assert whole.shape == (TINY_EPOCHS + 1, store.size)
    read = store.rows(1, 4, 0, 2)
    assert all(torch.equal(row, whole[epoch]) for row, epoch in zip(read, (4, 0, 2), strict=True))
    read[0].zero_()  # a fresh copy: the next reader does not see this
    assert torch.equal(store.rows(1, 4)[0], whole[4])


def test_curves(store: TrajectoryStore):
    for entry in store.experts.values():
        assert len(entry.loss) == len(entry.train_accuracy) == len(entry.holdout_accuracy) == TINY_EPOCHS
        assert entry.loss[-1] < entry.loss[0]
        assert entry.test_accuracy is not None
        assert 0 <= entry.test_accuracy <= 1


def test_expert_that_is_not_there(store: TrajectoryStore):
    with pytest.raises(UserError, match=r"expert_00007\.safetensors: no such file"):
        store.rows(7, 0)


def test_row_with_nan(store: TrajectoryStore, store_folder: Path):
    path = store_folder / expert_file(0)
    spoil(path, lambda w: w[2].__setitem__(5, float("nan")))
    assert torch.isfinite(store.rows(0, 1)[0]).all()
    with pytest.raises(UserError, match=r"expert_00000\.safetensors: epoch 2 holds NaN or infinite weights"):
        store.rows(0, 1, 2)


def spoil(path: Path, change: Callable[[torch.Tensor], object]) -> None:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as handle:
        metadata = handle.metadata()
    weights = load_file(path)["w"].clone()
    made = change(weights)
    save_file({"w": made if isinstance(made, torch.Tensor) else weights}, path, metadata=metadata)


@pytest.mark.parametrize(
    "change", [lambda w: w[:-1].clone(), lambda w: w[:, :-1].clone()], ids=["epochs", "parameters"]
)
def test_file_of_another_shape(change: Callable, store: TrajectoryStore, store_folder: Path):
    spoil(store_folder / expert_file(0), change)
    with pytest.raises(UserError, match=rf"w has shape \[.*expected \[5, {store.size}\]"):
        store.rows(0, 0)


def test_verify(store: TrajectoryStore, store_folder: Path):
    assert store.verify() == []
    first, second = (store_folder / expert_file(index) for index in (0, 1))
    whole = first.read_bytes()
    first.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    (line,) = store.verify()
    assert str(first) in line
    assert "sha256" in line
    first.write_bytes(whole[:-10])
    (line,) = store.verify()
    assert f"{len(whole) - 10:,} bytes, the manifest says {len(whole):,}" in line
    first.unlink()
    second.write_bytes(second.read_bytes() + b"x")
    lines = store.verify()
    assert len(lines) == 2
    assert lines[0].endswith("missing")


def test_verify_verb(ddb: Callable, store_folder: Path, buffers: Path):
    assert ddb("buffer", "verify", buffers).out == "2 experts in 1 store(s): all as recorded\n"
    path = store_folder / expert_file(1)
    path.unlink()
    result = ddb("buffer", "verify", buffers)
    assert result.code == 2
    assert result.out == f"{path}: missing\n"
    assert "1 defect(s)" in result.err


def test_removed_and_recorded_again(ddb: Callable, store_folder: Path, buffers: Path, data_root: Path):
    """What ``verify`` advises: the same bytes come back, and the manifest names them."""
    path = store_folder / expert_file(0)
    whole, manifest = path.read_bytes(), (store_folder / "manifest.json").read_bytes()
    path.unlink()
    argv = ("buffer", "--dataset", "digits", "--student", TINY, "--experts", 2, "--epochs", 4, "--workers", 1)
    result = ddb(*argv, "--buffers", buffers, "--compile", "off", "--threads", "1")
    assert result.code == 0
    assert "1 of 2 experts are recorded" in result.err
    assert path.read_bytes() == whole
    assert (store_folder / "manifest.json").read_bytes() == manifest


def test_other_bytes_of_the_same_size_are_taken_in(store: TrajectoryStore, store_folder: Path, ddb: Callable, buffers):
    """An expert that is recorded again by another version has another hash: the manifest must not keep the old one."""
    record = json.loads((store_folder / "manifest.json").read_text())
    record["experts"]["00000"]["sha256"] = "0" * 64
    (store_folder / "manifest.json").write_text(json.dumps(record))
    (store_folder / expert_file(0)).unlink()
    argv = ("buffer", "--dataset", "digits", "--student", TINY, "--experts", 2, "--epochs", 4, "--workers", 1)
    assert ddb(*argv, "--buffers", buffers, "--compile", "off", "--threads", "1").code == 0
    assert read_store(store_folder).verify() == []


def test_manifest_is_made_again_from_the_files(store: TrajectoryStore, store_folder: Path, ddb: Callable, buffers):
    manifest = (store_folder / "manifest.json").read_bytes()
    (store_folder / "manifest.json").unlink()
    argv = ("buffer", "--dataset", "digits", "--student", TINY, "--experts", 2, "--epochs", 4, "--workers", 1)
    assert ddb(*argv, "--buffers", buffers, "--compile", "off", "--threads", "1").code == 0
    assert (store_folder / "manifest.json").read_bytes() == manifest


def test_truncated_expert_stops_recording_with_a_line(store_folder: Path, ddb: Callable, buffers: Path):
    path = store_folder / expert_file(0)
    path.write_bytes(path.read_bytes()[:100])
    argv = ("buffer", "--dataset", "digits", "--student", TINY, "--experts", 2, "--epochs", 4, "--workers", 1)
    result = ddb(*argv, "--buffers", buffers, "--compile", "off", "--threads", "1", "--quiet")
    assert (result.code, len(result.err.splitlines())) == (2, 1)
    assert str(path) in result.err


def test_more_experts_of_the_same_store(store_folder: Path, ddb: Callable, buffers: Path):
    before = {path.name: path.read_bytes() for path in store_folder.glob("*.safetensors")}
    argv = ("buffer", "--dataset", "digits", "--student", TINY, "--experts", 3, "--epochs", 4, "--workers", 1)
    assert ddb(*argv, "--buffers", buffers, "--compile", "off", "--threads", "1").code == 0
    after = {path.name: path.read_bytes() for path in store_folder.glob("*.safetensors")}
    assert len(after) == 3
    assert {name: after[name] for name in before} == before
    assert len({*after.values()}) == 3


def test_identity_names_the_content(store: TrajectoryStore, store_folder: Path):
    first = store.identity()
    assert read_store(store_folder).identity() == first
    del store.experts[1]
    assert store.identity() != first


def test_find_stores(buffers: Path, store_folder: Path, tmp_path: Path):
    assert [one.folder for one in find_stores(buffers)] == [store_folder]
    assert [one.folder for one in find_stores(store_folder)] == [store_folder]
    assert [one.folder for one in find_stores(buffers, "digits", TINY)] == [store_folder]
    assert find_stores(buffers, "mnist") == []
    assert find_stores(buffers, "digits", "lenet") == []
    assert find_stores(tmp_path / "none") == []
    shutil.copytree(store_folder, store_folder.with_name("another"))
    assert len(find_stores(buffers)) == 2


def test_a_page_beside_the_stores(ddb: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A checkout's ``expert_trajectories`` holds a README: no store, and in nobody's way."""
    page = tmp_path / "expert_trajectories" / "README.md"
    page.parent.mkdir()
    page.write_text("# Expert trajectories\n")
    assert find_stores(page.parent) == []
    monkeypatch.chdir(tmp_path)
    told = ddb("buffer", "info")
    assert (told.code, told.out) == (2, "")
    assert "expert_trajectories: holds no recorded experts" in told.err
    small = ("--student", TINY, "--experts", 1, "--epochs", 1, "--workers", 1, "--compile", "off", "--quiet")
    assert ddb("buffer", *small).code == 0, "the default folder is that one"
    (store,) = find_stores(page.parent, "digits", TINY)
    assert store.folder.parent == page.parent / "digits" / TINY
    assert str(store.folder.relative_to(tmp_path)) in ddb("buffer", "info").out
    assert ddb("buffer", "verify").code == 0
    assert page.read_text() == "# Expert trajectories\n"


def test_info_verb(ddb: Callable, buffers: Path, store_folder: Path):
    header, row = ddb("buffer", "info", buffers).out.splitlines()
    assert header.split()[:4] == ["dataset", "student", "experts", "epochs"]
    assert row.split()[:4] == ["digits", TINY, "2", "4"]
    assert row.endswith(str(store_folder))


# Official buffers


def official(experts: int = 2, snapshots: int = 3) -> list[list[list[torch.Tensor]]]:
    """What the public code pickles: experts, snapshots, parameters."""
    return [
        [[p.detach().clone() for p in tiny(10 * e + s).parameters()] for s in range(snapshots)] for e in range(experts)
    ]


@pytest.fixture
def take_in(tmp_path: Path, data_root: Path) -> Callable[..., TrajectoryStore]:
    def call(*contents: object, student: str = TINY) -> TrajectoryStore:
        files = []
        for number, content in enumerate(contents):
            files.append(tmp_path / f"replay_buffer_{number}.pt")
            torch.save(content, files[-1])
        return import_buffers(
            files,
            root=tmp_path / "imported",
            dataset=load_dataset("digits", data_root),
            data=data_root,
            student=student,
            preprocess="meanstd",
            lr=0.01,
            augmentation="dsa",
        )

    return call


def test_import_of_official_buffers(take_in: Callable):
    one, two = official(2), official(1, 3)
    two[0][0] = [part + 1 for part in two[0][0]]
    two[0][-1] = [part + 2 for part in two[0][-1]]
    store = take_in(one, two)
    assert store.indices == [0, 1, 2]
    assert (store.recipe.epochs, store.recipe.kind, store.recipe.holdout) == (2, "imported", 0.0)
    for index, expert in enumerate([*one, *two]):
        for epoch, row in enumerate(store.rows(index, 0, 1, 2)):
            assert torch.equal(row, torch.cat([part.reshape(-1) for part in expert[epoch]]))
    assert read_store(store.folder).verify() == []
    # a network with these weights computes what the snapshot's did
    net, x = tiny(99), torch.randn(2, 1, 8, 8)
    load_flat(net, store.rows(1, 2)[0])
    assert torch.equal(net(x), tiny(12)(x))


def test_import_twice_takes_in_once(take_in: Callable):
    take_in(official())
    store = take_in(official())
    assert store.indices == [0, 1]


def test_aliased_snapshots_are_refused(take_in: Callable, tmp_path: Path):
    """The public code on a CPU: every snapshot is the same storage, so all hold the last weights."""
    last = [p.detach() for p in tiny().parameters()]
    with pytest.raises(UserError, match=r"replay_buffer_0\.pt: expert 1: all 3 snapshots are equal"):
        take_in([official(1)[0], [last, last, last]])
    assert not (tmp_path / "imported").exists()


WRONG = {
    "dict": ({"a": 1}, "expected a list of experts, found dict"),
    "empty": ([], "expected a list of experts"),
    "no-snapshots": ([[]], r"expert 0: expected a list of at least 2 snapshots"),
    "one-snapshot": ([official(1)[0][:1]], r"at least 2 snapshots"),
    "no-tensors": ([[[1, 2], [3, 4]]], r"expert 0, snapshot 0: expected a list of tensors"),
    "fewer": ([[s[:-1] for s in official(1)[0]]], r"snapshot 0: parameter \d+ has shape missing"),
    "more": ([[[*s, s[0]] for s in official(1)[0]]], r"has no such parameter"),
    "nan": ([[[p * float("nan") for p in s] for s in official(1)[0]]], "NaN or infinite"),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
def test_wrong_buffers(case, take_in: Callable, tmp_path: Path):
    content, message = case
    with pytest.raises(UserError, match=message):
        take_in(content)
    assert not (tmp_path / "imported").exists()


def test_buffers_of_another_network(take_in: Callable, tmp_path: Path):
    with pytest.raises(UserError, match=r"parameter 0 has shape \(4, 1, 3, 3\), convnet-d1-w8-in has \(8, 1, 3, 3\)"):
        take_in(official(), student="convnet-d1-w8-in")
    with pytest.raises(UserError, match="the experts have 2, 3 epochs"):
        take_in(official(1, 3), official(1, 4))
    assert not (tmp_path / "imported").exists()


def test_imported_experts_can_be_distilled_from(take_in: Callable, ddb: Callable, tmp_path: Path):
    from conftest import distill_tiny

    take_in(official(2, 4))
    argv = distill_tiny(tmp_path / "imported", tmp_path / "run", "--holdout", 0)
    result = ddb(*argv)
    assert result.code == 0, result.err


# Recipes of experts


def test_store_folder_depends_on_every_setting():
    base = ExpertRecipe()
    keys = {base.key(TINY, "f")}
    other = {"epochs": 51, "optimizer": "adam", "lr": 0.02, "momentum": 0.9, "weight_decay": 0.1, "batch": 128}
    other |= {"options": (("eps", 1e-8),), "decay": True, "augmentation": "none", "preprocess": "zca", "holdout": 0.2}
    other |= {"seed": 1, "precision": "bfloat16", "kind": "imported"}
    own = {
        "gsam": {"rho": 0.02, "alpha": 1.0},
        "smooth": {"clip": 0.6, "clip_epochs": 5, "penalty": 0.0, "drop": 0.5},
    }
    assert {kind: tuple(values) for kind, values in own.items()} == OWN
    assert {*other, *(name for values in own.values() for name in values)} == set(vars(base))
    for name, value in other.items():
        keys.add(ExpertRecipe(**{name: value}).key(TINY, "f"))
    for kind, values in own.items():
        keys.add(ExpertRecipe(kind=kind).key(TINY, "f"))
        for name, value in values.items():
            keys.add(ExpertRecipe(kind=kind, **{name: value}).key(TINY, "f"))
    keys |= {base.key("lenet", "f"), base.key(TINY, "g")}
    assert len(keys) == len(other) + 3 + 2 + 6


def test_store_folders_of_plain_experts_are_those_of_the_first_version():
    """Settings that came later are no part of the key while they are not in use."""
    assert ExpertRecipe().key(TINY, "f") == "b2de6d867ee2"
    assert ExpertRecipe(kind="gsam", clip=0.7) != ExpertRecipe(kind="gsam")
    assert ExpertRecipe(kind="gsam", clip=0.7).to_json() == ExpertRecipe(kind="gsam").to_json()


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_folder_within_the_root_is_no_root(
    level: int, refused: Callable, ddb: Callable, store_folder: Path, buffers: Path
):
    """A store that was recorded there would be listed by nothing; the line names the root."""
    inner = [store_folder, *store_folder.parents][level]
    give = f"is {['itself a store', 'of one dataset and network', 'of one dataset'][level]}, expected the root of all"
    argv = ["buffer", "--dataset", "digits", "--student", TINY, "--epochs", 2, "--experts", 1, "--buffers", inner]
    for more in ((), ("--status",)):
        refused([*argv, *more, "--quiet"], f"--buffers {inner}: {give} stores: give --buffers {buffers}")
    # a store itself will do here; the command that records more names the root
    wanting = ["distill", "--method", "mtt", "--student", "mlp-d1-w4", "--ipc", 1, "--buffers", inner, "--quiet"]
    refused([*wanting, "--recipe", "none", "--out", buffers / "run"], f"{'give ' if level else ''}--buffers {buffers}")
    assert ddb("buffer", "info", buffers).out.count(str(store_folder)) == 1


def test_a_store_that_was_moved_is_no_root(refused: Callable, store_folder: Path, tmp_path: Path):
    moved = store_folder.rename(tmp_path / "mine")
    argv = ["buffer", "--dataset", "digits", "--student", TINY, "--epochs", 2, "--experts", 1, "--buffers", moved]
    refused([*argv, "--quiet"], f"--buffers {moved}: is itself a store", "give a folder in which stores lie")


def test_one_store_that_cannot_be_read_hides_no_other(ddb: Callable, store_folder: Path, buffers: Path):
    other = Path(shutil.copytree(store_folder, store_folder.with_name("0")))
    manifest = other / "manifest.json"
    manifest.write_text(manifest.read_text()[:40])
    (store_folder / expert_file(1)).unlink()
    listed, verified = (ddb("buffer", verb, buffers) for verb in ("info", "verify"))
    assert (listed.code, verified.code) == (2, 2)
    assert str(store_folder) in listed.out
    assert verified.out == f"{store_folder / expert_file(1)}: missing\n"
    assert verified.err.startswith("ddbench: error: 1 defect(s)")
    for told in (listed, verified):
        assert f"1 of 2 stores cannot be read: {manifest}: " in told.err
