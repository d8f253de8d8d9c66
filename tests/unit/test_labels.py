"""Stored labels: replay is exact, a killed relabel ends in the same bytes, and what does not fit is refused."""

from __future__ import annotations

import copy
import errno
import fcntl
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import contents, listing
from safetensors.torch import load_file, save_file
from torch import nn

from ddbench.data.policy import Mix
from ddbench.data.preprocess import Preprocess
from ddbench.decoders.multi_formation import MultiFormation
from ddbench.protocols import labels as stored_labels
from ddbench.protocols import relabel as making
from ddbench.protocols.labels import KIND, PROBE_TOLERANCE, PROBED, StoredLabels, probe_of, read_labels
from ddbench.protocols.plan import Plan, check_labels, policy_of, view_settings
from ddbench.protocols.protocol import PROTOCOLS, Protocol
from ddbench.protocols.relabel import earlier_try, relabel
from ddbench.protocols.targets import teacher_labels
from ddbench.protocols.training import Settings, trained_students
from ddbench.runtime.errors import UserError
from ddbench.runtime.progress import Console
from ddbench.runtime.seeds import generator, isolated
from ddbench.synset import Budget, Synset
from ddbench.training.flat import flatten_parameters
from ddbench.training.loops import View, train, views
from ddbench.training.optimizers import OptimizerSettings

CPU = torch.device("cpu")
SETTINGS = Settings(device="cpu", threads=1)
EPOCHS, BATCH, IMAGES, CLASSES, SEED = 3, 5, 12, 4, 7
SHA = "5" * 64
PROTOCOL = replace(PROTOCOLS["fkd"], epochs=EPOCHS, batch=BATCH)


class Teacher:
    """A teacher that is in no file."""

    path = Path("teacher.safetensors")

    def __init__(self, net: nn.Module, sha256: str = "a" * 64) -> None:
        self.net, self.sha256 = net, sha256

    def network(self, device: torch.device) -> nn.Module:
        return copy.deepcopy(self.net).to(device).eval()

    def reference(self) -> dict[str, Any]:
        return {"sha256": self.sha256, "student": "mlp", "dataset_fingerprint": "f" * 64, "test_accuracy": 0.5}


class Killed(BaseException):
    """What no handler catches, as a kill."""


class Fuse(nn.Module):
    """Passes its input through ``calls`` times, then acts."""

    def __init__(self, calls: int, act: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.left, self.act = calls, act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        return x if self.left >= 0 else self.act(x)


def network(dropout: float = 0.0, seed: int = 0) -> nn.Sequential:
    with isolated(seed, "test teacher"):
        return nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Dropout(dropout), nn.Linear(108, CLASSES)
        )


def fused(calls: int, error: type[BaseException], dropout: float = 0.0) -> Teacher:
    """The teacher that dies at a call."""

    def die(x: torch.Tensor) -> torch.Tensor:
        raise error

    return Teacher(nn.Sequential(Fuse(calls, die), *network(dropout)))


def make_plan(protocol: Protocol = PROTOCOL, **synset: Any) -> Plan:
    images = torch.randint(256, (IMAGES, 1, 8, 8), dtype=torch.uint8, generator=generator(0, "images"))
    preprocess = Preprocess("meanstd", (0.3,), (0.4,))
    made = Synset(
        images=images,
        labels=torch.arange(CLASSES).repeat_interleave(IMAGES // CLASSES),
        preprocess=preprocess.to_json(),
        budget=Budget("ipc", IMAGES // CLASSES),
        dataset="squares",
        fingerprint="f" * 64,
        class_names=tuple("abcd"),
        method="random",
        config={},
        seed=0,
        **synset,
    )
    return Plan(synset=made, protocol=protocol, preprocess=preprocess, flip=True, synset_sha256=SHA)


def make(
    out: Path,
    *,
    plan: Plan | None = None,
    teacher: Any = None,
    epochs: int = EPOCHS,
    seed: int = SEED,
    loud: bool = False,
) -> StoredLabels:
    return relabel(
        plan=plan or make_plan(),
        teacher=teacher or Teacher(network()),
        epochs=epochs,
        seed=seed,
        out=out,
        settings=SETTINGS,
        console=Console(quiet=not loud),
    )


@pytest.fixture(autouse=True)
def same_threads_and_global_randomness() -> Iterator[None]:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run" / "labels.safetensors"


@pytest.fixture
def always_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every epoch is recorded as done as soon as it is."""
    monkeypatch.setattr(making, "SAVE_SECONDS", -1.0)


def all_views(plan: Plan, seed: int = SEED, epochs: int = EPOCHS) -> list[View]:
    policy = policy_of(plan.protocol, plan.synset, plan.flip)
    inputs = plan.inputs(CPU)
    return [
        view for epoch in range(epochs) for view in views(inputs, batch=BATCH, policy=policy, seed=seed, epoch=epoch)
    ]


# What is stored


def test_rows_are_the_teachers_logits_of_the_views(out: Path):
    plan, net = make_plan(), network().eval()
    stored = make(out, plan=plan)
    logits = load_file(out)["logits"]
    assert (logits.dtype, logits.shape) == (torch.float16, (EPOCHS, IMAGES, CLASSES))
    assert (stored.epochs, stored.images, stored.classes, stored.seed) == (EPOCHS, IMAGES, CLASSES, SEED)
    assert stored.bytes == logits.numel() * 2 == out.stat().st_size - stored.start
    seen = torch.zeros(EPOCHS, IMAGES, dtype=torch.int64)
    for view in all_views(plan):
        with torch.no_grad():
            assert torch.equal(logits[view.epoch, view.index], net(view.x).half())
        seen[view.epoch, view.index] += 1
    assert bool((seen == 1).all())
    assert len({logits[epoch, 0].numpy().tobytes() for epoch in range(EPOCHS)}) == EPOCHS, "a view is a new one"
    assert not torch.equal(logits, load_file(make(out.with_name("b"), plan=plan, seed=8).path)["logits"])


def test_header_says_all_that_decides_and_no_path_nor_time(out: Path):
    stored = make(out)
    raw = out.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(json.loads(raw[8 : 8 + length])["__metadata__"]["ddbench"])
    assert length % 8 == 0
    assert header["views"] == stored.views == view_settings(make_plan())
    assert stored.views == {
        "batch": 5,
        "augmentation": "rrc+flip+cutmix",
        "crop_scale": 0.08,
        "mix_alpha": 1.0,
        "mix_probability": 1.0,
        "patches": 1,
        "flip": True,
        "teacher_mode": "eval",
    }
    assert (header["synset_sha256"], header["teacher"]["sha256"]) == (SHA, "a" * 64)
    assert stored.reference() == {
        "synset_sha256": SHA,
        "teacher": header["teacher"],
        "views": stored.views,
        "seed": SEED,
        "epochs": EPOCHS,
        "precision": "float32",
        "bytes": stored.bytes,
    }
    again = out.parent.parent / "elsewhere" / "other-name.safetensors"
    make(again)
    assert again.read_bytes() == raw
    assert set(contents(out.parent)) == {"labels.safetensors", "labels.cost.json"}


def test_views_of_patches_and_of_a_small_synset():
    """The settings that decide the views are those that act, not those that are written down."""
    plan = make_plan(replace(PROTOCOLS["rded"], labels="stored", batch_rule="fixed", batch=512), patches=2)
    assert view_settings(plan)["crop_scale"] == 0.5
    assert view_settings(plan)["patches"] == 2
    assert view_settings(plan)["batch"] == IMAGES


def test_the_batch_of_views_is_of_decoded_images(out: Path):
    """Twelve stored images decode to 48: batches of 12 and of 20 are other views, though both are over 11."""

    def of(batch: int) -> Plan:
        return make_plan(replace(PROTOCOL, batch_rule="fixed", batch=batch), decoder=MultiFormation(factor=2))

    assert [view_settings(of(batch))["batch"] for batch in (12, 20, 64)] == [12, 20, 48]
    stored = make(out, plan=of(20))
    check_labels(stored, of(20))
    with pytest.raises(UserError, match="labels of views with batch 20, but protocol fkd has batch 12"):
        check_labels(stored, of(12))


# A teacher in batch mode

BATCHWISE = replace(PROTOCOLS["sre2l-cifar"], epochs=EPOCHS, batch=11)
"""Of twelve images one is left for a batch."""


def flat_network(dropout: float = 0.0) -> nn.Sequential:
    """Its batch norm is of one value an image."""
    with isolated(0, "test teacher"):
        hidden = (nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(dropout))
        return nn.Sequential(*hidden, nn.Linear(8, CLASSES))


def test_a_single_image_is_labelled_by_the_statistics_of_the_teachers_training(out: Path):
    plan, teacher = make_plan(BATCHWISE), Teacher(flat_network())
    label = teacher_labels(teacher, BATCHWISE, CPU, "float32")  # type: ignore[arg-type]
    stored = load_file(make(out, plan=plan, teacher=teacher).path)["logits"]
    sizes = []
    for epoch in range(EPOCHS):
        for view in views(plan.inputs(CPU), batch=11, policy=plan.policy, seed=SEED, epoch=epoch):
            net = copy.deepcopy(teacher.net).train(len(view.x) > 1)
            with torch.no_grad():
                wanted = net(view.x)
            assert torch.equal(label(view), wanted)
            assert torch.equal(stored[epoch, view.index], wanted.half())
            sizes.append(len(view.x))
    assert sizes == [11, 1] * EPOCHS
    trained_students(replace(plan, teacher=teacher), "convnet-d1-w4-in", [0], SETTINGS)  # type: ignore[arg-type]


def test_students_at_once_have_the_draws_of_their_teacher_alone():
    """Dropout of a teacher in batch mode draws for each student, whoever is trained beside it."""
    plan = replace(make_plan(BATCHWISE), teacher=Teacher(flat_network(dropout=0.5)))  # type: ignore[arg-type]
    both, _ = trained_students(plan, "convnet-d1-w4-in", [0, 1], SETTINGS)
    for seed, net in enumerate(both):
        (alone,), _ = trained_students(plan, "convnet-d1-w4-in", [seed], SETTINGS)
        assert torch.equal(flatten_parameters(net), flatten_parameters(alone))


# Replay


def test_replay_is_exact(out: Path):
    """Training on stored labels sees the views that were labelled, bit for bit, and their labels as float16."""
    plan, teacher = make_plan(), Teacher(network())
    stored = make(out, plan=plan, teacher=teacher)
    replay, online = stored.labels(CPU), teacher_labels(teacher, PROTOCOL, CPU, "float32")  # type: ignore[arg-type]
    seen: list[View] = []

    def watched(view: View) -> torch.Tensor:
        labels = replay(view)
        assert labels.dtype == torch.float32
        assert torch.equal(labels, online(view).half().float())
        seen.append(view)
        return labels

    def student(seed: int) -> None:
        with isolated(0, "test student"):
            net = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))
        arguments = {"epochs": EPOCHS, "batch": BATCH, "optimizer": OptimizerSettings(), "policy": plan.policy}
        loss = nn.MSELoss()
        for _ in train(net, plan.inputs(CPU), seed=seed, labels=watched, loss=loss, view_seed=stored.seed, **arguments):
            pass

    student(seed=0)
    first = seen.copy()
    student(seed=1)
    for run in (first, seen[len(first) :]):
        assert len(run) == EPOCHS * 3
        for view, labelled in zip(run, all_views(plan), strict=True):
            assert torch.equal(view.x, labelled.x)
            assert torch.equal(view.index, labelled.index)
            assert view.mix is not None
            assert labelled.mix is not None
            assert view.mix.share == labelled.mix.share
            assert torch.equal(view.mix.partner, labelled.mix.partner)
    assert any(view.mix is not None and view.mix.share < 1 for view in seen)


def test_student_on_stored_labels_is_the_student_on_live_ones(out: Path):
    plan, teacher = make_plan(), Teacher(network())
    stored = make(out, plan=plan, teacher=teacher)

    def weights(labels: Callable[[torch.device], Any], seed: int = SEED, student_seed: int = 0) -> torch.Tensor:
        source: Any = SimpleNamespace(seed=seed, labels=labels)
        (net,), _ = trained_students(replace(plan, stored=source), "mlp-d2-w8", [student_seed], SETTINGS)
        return torch.cat([part.detach().flatten() for part in net.parameters()])

    def live(device: torch.device) -> Any:
        return teacher_labels(teacher, PROTOCOL, device, "float32")  # type: ignore[arg-type]

    def rounded(device: torch.device) -> Any:
        labels = live(device)
        return lambda view: labels(view).half().float()

    replayed = weights(stored.labels)
    assert torch.equal(replayed, weights(rounded))
    assert float((replayed - weights(live)).abs().max()) < 1e-4
    assert not torch.equal(replayed, weights(rounded, seed=8))
    assert not torch.equal(replayed, weights(stored.labels, student_seed=1))


def test_an_epoch_is_read_when_it_is_needed(out: Path):
    stored = make(out)
    spoil(out, (1, 3, 2), float("nan"))
    labels = stored.labels(CPU)
    for view in all_views(make_plan()):
        if view.epoch == 1:
            break
        labels(view)
    with pytest.raises(UserError, match=r"labels\.safetensors: the logits of epoch 1 hold NaN"):
        labels(view)
    with pytest.raises(UserError, match="epoch 1 hold NaN"):
        check_labels(stored, make_plan())
    check_labels(stored, make_plan(replace(PROTOCOL, epochs=1)))


def test_views_of_another_version_are_noticed(out: Path, monkeypatch: pytest.MonkeyPatch):
    stored = make(out)
    first = all_views(make_plan())[0]
    stored.labels(CPU)(first)
    assert first.mix is not None
    for other in (
        replace(first, x=first.x + 0.02),
        replace(first, index=first.index.flip(0)),
        replace(first, mix=replace(first.mix, share=first.mix.share - 0.01)),
    ):
        with pytest.raises(UserError, match="not those that were labelled"):
            stored.labels(CPU)(other)


# Killed and repeated


@pytest.mark.parametrize("mode", ["eval", "batch"])
@pytest.mark.parametrize("calls", [1, 2, 4, 5, 7, 9])
def test_a_kill_costs_one_epoch_and_no_byte(
    calls: int, mode: str, out: Path, tmp_path: Path, always_saved: None, capsys: pytest.CaptureFixture[str]
):
    """A teacher in batch mode draws dropout too; the first call is the probe's, three are an epoch's."""
    plan = make_plan(replace(PROTOCOL, teacher_mode=mode))
    whole = make(tmp_path / "whole" / "labels.safetensors", plan=plan, teacher=fused(99, Killed, dropout=0.5))
    with pytest.raises(Killed):
        make(out, plan=plan, teacher=fused(calls, Killed, dropout=0.5))
    assert not out.exists()
    assert {".labels.safetensors.partial"} <= set(contents(out.parent))
    make(out, plan=plan, teacher=fused(99, Killed, dropout=0.5), loud=True)
    done = (calls - 1) // 3
    assert (f"going on at epoch {done} of 3" if done else "relabel: 3/3") in capsys.readouterr().err
    assert out.read_bytes() == whole.path.read_bytes()
    assert set(contents(out.parent)) == {"labels.safetensors", "labels.cost.json"}


def test_what_is_done_is_not_done_again(out: Path, always_saved: None):
    with pytest.raises(Killed):
        make(out, teacher=fused(1 + 2 * 3, Killed))
    make(out, teacher=fused(1 + 3, Killed))  # the probe and one epoch suffice


def test_an_interrupt_loses_nothing(out: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(KeyboardInterrupt):
        make(out, teacher=fused(8, KeyboardInterrupt))
    make(out, loud=True)
    assert "going on at epoch 2 of 3" in capsys.readouterr().err


def test_a_folder_that_is_taken_away(out: Path, always_saved: None, monkeypatch: pytest.MonkeyPatch):
    epoch = making._epoch

    def and_gone(*args: Any) -> torch.Tensor:
        if args[4] == 2:
            shutil.rmtree(out.parent)
        return epoch(*args)

    monkeypatch.setattr(making, "_epoch", and_gone)
    with pytest.raises(UserError, match="is gone: its folder was removed or replaced during work"):
        make(out)
    assert not out.parent.exists()


def test_killed_before_the_rename(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def stop(source: Path, target: Path) -> None:
        if source.suffix == ".partial":
            raise Killed
        source.rename(target)

    with monkeypatch.context() as patch:
        patch.setattr(making.os, "replace", stop)
        with pytest.raises(Killed):
            make(out)
    assert not out.exists()
    make(out, teacher=fused(1, Killed))
    assert out.read_bytes() == make(tmp_path / "whole" / "labels.safetensors").path.read_bytes()


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "seed": {"seed": 8},
    "epochs": {"epochs": 2},
    "teacher": {"teacher": Teacher(network(seed=1), "b" * 64)},
    "views": {"plan": make_plan(replace(PROTOCOL, batch=4))},
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_another_configuration_does_not_go_on(
    name: str, out: Path, tmp_path: Path, always_saved: None, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(Killed):
        make(out, teacher=fused(6, Killed))
    assert earlier_try(out)[0] == "a" * 64
    make(out, **CONFIGURATIONS[name], loud=True)
    text = capsys.readouterr().err
    assert "starting again: " in text
    assert "going on" not in text
    whole = make(tmp_path / "whole" / "labels.safetensors", **CONFIGURATIONS[name])
    assert out.read_bytes() == whole.path.read_bytes()


@pytest.mark.parametrize("damage", ["no record", "torn", "other file", "too many", "short", "header"])
def test_what_a_kill_left_damaged_is_made_again(damage: str, out: Path, tmp_path: Path, always_saved: None):
    with pytest.raises(Killed):
        make(out, teacher=fused(6, Killed))
    partial = out.with_name(".labels.safetensors.partial")
    progress = out.with_name(".labels.safetensors.partial.json")
    record = json.loads(progress.read_text())
    assert (record["epochs"], record["kind"]) == (1, "ddbench-labels-progress")
    if damage == "no record":
        progress.unlink()
    elif damage == "torn":
        progress.write_text(progress.read_text()[:20])
    elif damage == "other file":
        progress.write_text(json.dumps({**record, "header": "0" * 64, "epochs": 2}))
    elif damage == "too many":
        progress.write_text(json.dumps({**record, "epochs": 4}))
    elif damage == "short":
        partial.write_bytes(partial.read_bytes()[:-1])
    else:
        partial.write_bytes(b"x" + partial.read_bytes()[1:])
    make(out)
    assert out.read_bytes() == make(tmp_path / "whole" / "labels.safetensors").path.read_bytes()


def test_finished_is_left_as_it_is(out: Path, capsys: pytest.CaptureFixture[str]):
    make(out)
    before = listing(out.parent)
    out.with_name(".labels.safetensors.partial.json").write_text("{}")
    stored = make(out, teacher=fused(0, Killed), loud=True)
    assert stored.epochs == EPOCHS
    assert make(out, epochs=2).epochs == EPOCHS, "more epochs than wanted will do"
    assert "finished already" in capsys.readouterr().err
    assert listing(out.parent) == before
    assert earlier_try(out)[0] == "a" * 64
    assert earlier_try(out.with_name("other")) == (None, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 8}, r"holds other labels \(seed 7, not 8\)"),
        ({"epochs": 4}, "holds labels of 3 epochs, not 4"),
        ({"teacher": Teacher(network(), "b" * 64)}, r"other labels \(teacher.sha256 a+, not b+\)"),
        ({"plan": make_plan(replace(PROTOCOL, batch=4))}, r"other labels \(views.batch 5, not 4\)"),
    ],
)
def test_other_labels_are_not_overwritten(change: dict[str, Any], message: str, out: Path):
    make(out)
    before = listing(out.parent)
    with pytest.raises(UserError, match=message):
        make(out, **change)
    assert listing(out.parent) == before


def test_two_at_once(out: Path):
    out.parent.mkdir()
    partial = out.with_name(".labels.safetensors.partial")
    with open(partial, "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another ddbench relabel is writing it"):
            make(out)
    assert partial.read_bytes() == b""
    make(out)


# Refused


@pytest.mark.parametrize("value", [1e6, float("nan"), float("inf")])
def test_logits_that_float16_cannot_hold(value: float, out: Path):
    """At once, without a trace; or in a later epoch, when what was written is of no use."""
    for calls in (0, 1 + 4):
        net = nn.Sequential(*network(), Fuse(calls, lambda x: torch.full_like(x, value)))
        with pytest.raises(UserError, match=rf"image \d+ in epoch {calls // 4} reach .*float16") as caught:
            make(out, teacher=Teacher(net))
        assert f"reach {value:g}, expected finite values up to 65504" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not out.parent.exists() or contents(out.parent) == {}
        assert calls or not out.parent.exists()


def test_too_little_space(out: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    usage = SimpleNamespace(total=0, used=0, free=2 * EPOCHS * IMAGES * CLASSES - 1)
    monkeypatch.setattr(making.shutil, "disk_usage", lambda place: usage)
    before = listing(tmp_path)
    message = r"the labels take 0\.0 MB \(3 epochs x 12 images x 4 classes x 2 bytes\), but .* has .*: free some space"
    with pytest.raises(UserError, match=message):
        make(out)
    assert listing(tmp_path) == before
    usage.free += 1
    make(out)


def test_more_than_is_read_is_not_written(out: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    per_epoch = 2 * IMAGES * CLASSES
    monkeypatch.setattr(making, "MAX_LABELS", EPOCHS * per_epoch - 1)
    before = listing(tmp_path)
    message = rf"would take {EPOCHS * per_epoch} bytes \(3 epochs x 12 images x 4 classes x 2 bytes\), more than the"
    with pytest.raises(UserError, match=rf"{message} .*: lower --epochs to {EPOCHS - 1} or less, take a synset of"):
        make(out)
    monkeypatch.setattr(making, "MAX_LABELS", per_epoch - 1)
    with pytest.raises(UserError, match="read: take a synset of fewer images"):
        make(out)
    assert listing(tmp_path) == before
    monkeypatch.setattr(making, "MAX_LABELS", EPOCHS * per_epoch)
    make(out)
    monkeypatch.setattr(stored_labels, "MAX_LABELS", EPOCHS * per_epoch - 1)
    with pytest.raises(UserError, match=f"more than {EPOCHS * per_epoch - 1} bytes"):
        read_labels(out)


def test_a_full_disk_keeps_what_is_done(out: Path, monkeypatch: pytest.MonkeyPatch, capsys, always_saved: None):
    calls = 0
    fsync = os.fsync

    def full(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="repeat the command, it goes on where it was"):
            make(out)
    make(out, loud=True)
    assert "going on at epoch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "--epochs 0: expected at least 1"),
        ({"seed": -1}, "--seed -1: expected at least 0"),
        ({"plan": make_plan(PROTOCOLS["hard-v1"])}, "hard-v1 takes its labels from the synset"),
        ({"plan": make_plan(replace(PROTOCOL, augmentation="rrc+flop"))}, "'flop'"),
    ],
)
def test_bad_settings(change: dict[str, Any], message: str, out: Path, tmp_path: Path):
    with pytest.raises(UserError, match=message):
        make(out, **change)
    assert listing(tmp_path) == {}


def test_places_that_cannot_be_written(out: Path, tmp_path: Path):
    out.parent.write_text("a file")
    with pytest.raises(UserError, match="cannot write to"):
        make(out)
    with pytest.raises(UserError, match="a folder, expected the name of a file"):
        make(tmp_path)
    with pytest.raises(UserError, match=r"not a whole safetensors file.*choose another --out"):
        make(out.parent)


VIEWS = {
    "batch": replace(PROTOCOL, batch=4),
    "augmentation": replace(PROTOCOL, augmentation="rrc+cutmix"),
    "crop_scale": replace(PROTOCOL, crop_scale=0.5),
    "mix_alpha": replace(PROTOCOL, mix_alpha=0.8),
    "mix_probability": replace(PROTOCOL, mix_probability=0.5),
    "teacher_mode": replace(PROTOCOL, teacher_mode="batch"),
}


@pytest.mark.parametrize("name", VIEWS)
def test_labels_of_other_views(name: str, out: Path):
    stored = make(out)
    here, there = getattr(PROTOCOL, name), getattr(VIEWS[name], name)
    with pytest.raises(UserError) as caught:
        check_labels(stored, make_plan(VIEWS[name]))
    assert f"labels of views with {name} {here}, but protocol fkd has {name} {there}" in str(caught.value)


def test_labels_of_something_else(out: Path):
    stored, plan = make(out), make_plan()
    check_labels(stored, plan)
    check_labels(stored, make_plan(replace(PROTOCOL, epochs=2)))
    check_labels(stored, make_plan(replace(PROTOCOL, temperature=4.0)))
    few = replace(plan.synset, images=plan.synset.images[:8], labels=plan.synset.labels[:8])
    for other, message in (
        (make_plan(replace(PROTOCOL, epochs=4)), "labels of 3 epochs, but protocol fkd trains 4; .*--epochs 3"),
        (replace(plan, synset_sha256="6" * 64), "another synset .sha256 555555555555, this one has 666666666666"),
        (replace(plan, synset_sha256=""), "another synset .*this one has none"),
        (replace(plan, synset=few), "labels of 12 images and 4 classes, but the synset has 8 and 4"),
        (replace(plan, synset=replace(plan.synset, class_names=tuple("abcde"))), "but the synset has 12 and 5"),
        (replace(plan, flip=False), "views with flip True, but protocol fkd has flip False"),
        (make_plan(patches=2), "views with patches 1, but protocol fkd has patches 2"),
    ):
        with pytest.raises(UserError, match=message):
            check_labels(stored, other)


def spoil(path: Path, place: tuple[int, int, int], value: float) -> None:
    """Change one logit in a file."""
    stored = read_labels(path)
    offset = 2 * ((place[0] * IMAGES + place[1]) * CLASSES + place[2])
    with open(path, "r+b") as handle:
        handle.seek(stored.start + offset)
        handle.write(torch.tensor(value).half().numpy().tobytes())


def rewrite(path: Path, tensors: dict[str, torch.Tensor] | None = None, **change: Any) -> None:
    """Change the header's fields (``None``: drop it), and put other tensors in."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(json.loads(raw[8 : 8 + length])["__metadata__"]["ddbench"])
    header = {key: value for key, value in {**header, **change}.items() if value is not None}
    save_file(tensors or load_file(path), path, metadata={"ddbench": json.dumps(header)})


DAMAGE: dict[str, tuple[dict[str, Any], str]] = {
    "kind": ({"kind": "ddbench-synset"}, f"a ddbench-synset file, expected {KIND}"),
    "newer": ({"schema": 2}, "newer ddbench"),
    "epochs": ({"epochs": 4}, "its header says 4 epochs, its logits have 3"),
    "images": ({"images": 13}, "its header says 13 images"),
    "classes": ({"classes": None}, "header field 'classes' is None"),
    "seed": ({"seed": "7"}, "header field 'seed' is '7', expected int"),
    "views": ({"views": []}, "header field 'views'"),
    "teacher": ({"teacher": {}}, "no sha256"),
    "synset": ({"synset_sha256": 5}, "header field 'synset_sha256'"),
    "no probe": ({"probe": None}, "header field 'probe'"),
    "probe": ({"probe": {"index": [0, 1], "share": 1.0, "means": [0.5]}}, "header field 'probe'"),
    "empty probe": ({"probe": {"index": [], "share": 1.0, "means": []}}, "header field 'probe'"),
    "probe text": ({"probe": {"index": ["0"], "share": 1.0, "means": [0.5]}}, "header field 'probe'"),
    "dtype": ({"tensors": {"logits": torch.zeros(3, 12, 4)}}, "logits is F32"),
    "dims": ({"tensors": {"logits": torch.zeros(12, 4).half()}}, "expected F16 of 3 dimensions"),
    "empty": ({"tensors": {"logits": torch.zeros(0, 12, 4).half()}}, "out of bounds"),
    "other tensor": ({"tensors": {"labels": torch.zeros(3, 12, 4).half()}}, "has no tensor 'logits'"),
    "more": ({"tensors": {"logits": torch.zeros(3, 12, 4).half(), "x": torch.zeros(1)}}, "more than logits"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_and_foreign_files(name: str, out: Path):
    make(out)
    change, message = DAMAGE[name]
    rewrite(out, **change)
    with pytest.raises(UserError, match=message) as caught:
        read_labels(out)
    assert str(out) in str(caught.value)


def test_truncated_and_missing_files(out: Path):
    with pytest.raises(UserError, match="no such file"):
        read_labels(out)
    make(out)
    raw = out.read_bytes()
    for length in (0, 7, 100, len(raw) - 1):
        out.write_bytes(raw[:length])
        with pytest.raises(UserError, match="not a whole safetensors file"):
            read_labels(out)


def test_what_views_are_recognised_by():
    """Files of labels hold it, so it may not change: the first images, their means, their share in a mix (1: alone)."""
    x = torch.arange(PROBED + 2.0).reshape(-1, 1, 1, 1).expand(-1, 2, 3, 3) / 3
    index = torch.arange(PROBED + 2).flip(0)
    alone = {
        "index": index[:PROBED].tolist(),
        "share": 1.0,
        "means": [round(number / 3, 4) for number in range(PROBED)],
    }
    assert probe_of(View(x=x, index=index, epoch=0, mix=None)) == alone
    assert probe_of(View(x=x, index=index, epoch=0, mix=Mix(index, 2 / 3))) == {**alone, "share": 0.6667}


@pytest.mark.parametrize(
    ("change", "known"),
    [
        ({}, True),
        ({"share": 0.9995}, True),
        ({"share": 0.998}, False),
        ({"index": [1, 0]}, False),
        ({"means": [0.0]}, False),
        ({"means": [0.0, 0.5 + 2 * PROBE_TOLERANCE]}, False),
        ({"means": [0.0, 0.5 - PROBE_TOLERANCE / 2]}, True),
    ],
)
def test_views_of_another_make_are_refused(change: dict[str, Any], known: bool, out: Path):
    view = View(
        x=torch.tensor([0.0, 0.5]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4),
        index=torch.arange(2),
        epoch=0,
        mix=None,
    )
    stored = replace(make(out), probe={**probe_of(view), **change})
    if known:
        stored._recognise(view)
    else:
        with pytest.raises(UserError, match="not those that were labelled"):
            stored._recognise(view)
