"""One training under three kinds of labels: each is what it says, and one command runs and compares them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import contents
from torch import Tensor

from ddbench.data.load import load_dataset
from ddbench.data.policy import Mix
from ddbench.evaluation.start import LABELS
from ddbench.protocols.plan import Plan
from ddbench.protocols.protocol import PROTOCOLS, changed
from ddbench.protocols.storage import storage
from ddbench.protocols.targets import image_labels, targets
from ddbench.protocols.training import Settings, trained_students
from ddbench.runtime.errors import UserError
from ddbench.runtime.progress import Console
from ddbench.synset import Synset, check_against, read_synset
from ddbench.teachers.recipe import TeacherRecipe
from ddbench.teachers.store import Teacher
from ddbench.teachers.train import train_teacher
from ddbench.training.flat import flatten_parameters
from ddbench.training.loops import View

CPU = torch.device("cpu")
STUDENT = "convnet-d1-w4-in"
EAGER = ("--workers", 1, "--threads", 1, "--compile", "off", "--device", "cpu")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Teacher:
    return train_teacher(
        root=tmp_path_factory.mktemp("teachers"),
        dataset=load_dataset("digits", data_root),
        data=data_root,
        student="convnet-d1-w4-bn",
        recipe=TeacherRecipe(epochs=2),
        device="cpu",
        threads=1,
        compile="off",
        console=Console(quiet=True),
    )


@pytest.fixture
def synset(random_run: Path) -> Synset:
    return read_synset(random_run / "synset.safetensors")


@pytest.fixture
def plan_of(data_root: Path, teacher: Teacher, synset: Synset) -> Callable[..., Plan]:
    def call(name: str, **changes: Any) -> Plan:
        own = dataclasses.replace(synset, **changes)
        preprocess = check_against(Path("synset"), own, load_dataset("digits", data_root))
        protocol, _ = changed(PROTOCOLS[name], epochs=4)
        return Plan(
            synset=own,
            protocol=protocol,
            preprocess=preprocess,
            flip=False,
            teacher=teacher if protocol.needs_teacher else None,
        )

    return call


def weights(plan: Plan) -> Tensor:
    nets, _ = trained_students(plan, STUDENT, [0], Settings(device="cpu", threads=1))
    return flatten_parameters(nets[0])


def own_words(teacher: Teacher, plan: Plan) -> Tensor:
    """The teacher's logits of the stored images, asked one by one."""
    net = teacher.network("cpu").eval()
    with torch.no_grad():
        return torch.cat([net(plan.preprocess.apply(image[None])) for image in plan.synset.images])


def test_labels_once_is_hard_v1_on_the_teachers_logits(plan_of: Callable[..., Plan], teacher: Teacher):
    """The same weights as from a synset that has them stored."""
    plan = plan_of("labels-once")
    logits = image_labels(teacher, plan.inputs(CPU))
    assert torch.allclose(logits, own_words(teacher, plan), atol=1e-5)
    assert torch.equal(weights(plan), weights(plan_of("hard-v1", labels=logits)))
    assert not torch.equal(weights(plan), weights(plan_of("hard-v1")))


def test_labels_hard_is_hard_v1_on_the_classes(plan_of: Callable[..., Plan], synset: Synset):
    """Also of a set with soft labels: their class is the largest."""
    hard = weights(plan_of("hard-v1"))
    soft = 3 * torch.nn.functional.one_hot(synset.labels, 10).float()
    assert torch.equal(weights(plan_of("labels-hard")), hard)
    assert torch.equal(weights(plan_of("labels-hard", labels=soft)), hard)
    assert not torch.equal(weights(plan_of("hard-v1", labels=soft)), hard)


def test_labels_view_has_the_slope_of_the_soft_labels(plan_of: Callable[..., Plan], teacher: Teacher):
    plan = plan_of("labels-view")
    x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    label, loss = targets(plan, plan.inputs(CPU), CPU, "float32")
    target = label(View(x=x, index=torch.arange(5), epoch=0, mix=None))
    with torch.no_grad():
        spoken = teacher.network("cpu").eval()(x)
    assert torch.allclose(target, spoken, atol=1e-6)
    logits = torch.randn(5, 10, generator=torch.Generator().manual_seed(1)).requires_grad_()
    (ours,) = torch.autograd.grad(loss(logits, target), [logits])
    assert torch.allclose(ours, (logits.softmax(1) - spoken.softmax(1)).detach() / 5, atol=1e-6)


def test_labels_of_mixed_images_are_mixed(plan_of: Callable[..., Plan], teacher: Teacher):
    plan = plan_of("labels-once")
    inputs = plan.inputs(CPU)
    label, _ = targets(plan, inputs, CPU, "float32")
    mix = Mix(partner=torch.tensor([1, 0]), share=0.25)
    shares = image_labels(teacher, inputs).softmax(1)
    mixed = label(View(x=inputs.batch(torch.tensor([3, 7])), index=torch.tensor([3, 7]), epoch=0, mix=mix))
    assert torch.allclose(mixed[0], 0.25 * shares[3] + 0.75 * shares[7])


def test_bytes(plan_of: Callable[..., Plan], teacher: Teacher, data_root: Path):
    dataset = load_dataset("digits", data_root)
    once, view, hard = (storage(plan_of(f"labels-{name}"), dataset) for name in ("once", "view", "hard"))
    assert (once["labels"], once["teacher"]) == (4 * 10 * 10, 0), "ten images, ten classes"
    assert (view["teacher"], view["labels"]) == (teacher.bytes, hard["labels"])
    assert hard["teacher"] == 0


def test_a_label_for_each_image_is_learned_with_cross_entropy():
    with pytest.raises(UserError, match="labels 'once' with loss 'kl'"):
        changed(PROTOCOLS["labels-once"], loss="kl")


# The command


def test_one_command(ddb: Callable[..., Any], random_run: Path, teacher: Teacher):
    argv = ("evaluate", random_run, "--students", STUDENT, "--seeds", 2, "--epochs", 3, *EAGER)
    found = ddb(*argv, "--protocol", "regimes", "--teacher", teacher.path)
    assert found.code == 0, found.err
    lines = [line.partition("result: ") for line in found.out.splitlines()]
    files = [Path(path) for _, head, path in lines if head]
    assert [path.name.partition("-nonstandard")[0] for path in files] == list(LABELS)
    data = {path.name.partition("-nonstandard")[0]: json.loads(path.read_text()) for path in files}
    assert data["labels-hard"]["teacher"] is None
    assert data["labels-once"]["teacher"] == data["labels-view"]["teacher"] == teacher.reference()
    kinds = [data[name]["synset"]["label_kind"] for name in LABELS]
    assert kinds == ["hard", "teacher", "teacher"]
    *_, title, student, hard, once, view = found.out.splitlines()
    assert "accuracy in %, and - labels-hard" in title
    assert student.strip() == STUDENT
    mean = {name: 100 * data[name]["summary"][STUDENT]["accuracy"]["mean"] for name in LABELS}
    for line, name in zip((hard, once, view), LABELS, strict=True):
        assert line.split()[:2] == [name, f"{mean[name]:.1f}"]
    assert once.split()[2] == f"{mean['labels-once'] - mean['labels-hard']:+.1f}"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--protocol", "hard-v1,hard-v1"), "--protocol hard-v1,hard-v1: a protocol is named twice"),
        (("--protocol", "regimes", "--out", "one.json"), "--out one.json: one file for 3 results"),
        (("--protocol", "regimes"), "protocol labels-once needs a teacher"),
        (("--protocol", "hard-v1, regimes"), "protocol labels-once needs a teacher"),
        (("--protocol", "regimes,labels-view"), "a protocol is named twice"),
        (("--protocol", "hard-v1,hard"), "unknown protocol 'hard'"),
        (("--protocol", "hard-v1,soft-v1"), "protocol soft-v1 needs soft labels"),
        (("--size", 0), "--size 0: the synset has images of digits with 8 pixels"),
        (("--size", 16), "--size 16: the synset has images of digits with 8 pixels"),
    ],
)
def test_refused_before_work(ddb: Callable[..., Any], random_run: Path, more: tuple[str, ...], words: str):
    before = contents(random_run)
    found = ddb("evaluate", random_run, "--students", STUDENT, "--seeds", 1, "--epochs", 1, *more, *EAGER)
    assert (found.code, len(found.err.splitlines())) == (2, 1)
    assert words in found.err
    assert contents(random_run) == before


def test_a_shard_does_its_share_of_every_protocol(random_run: Path, ddb: Callable):
    argv = ("evaluate", random_run, "--protocol", "hard-v1,dc-plain", "--students", STUDENT, "--seeds", 2)
    argv = (*argv, "--epochs", 1, *EAGER, "--quiet")
    first = ddb(*argv, "--shard", "0/2")
    assert (first.code, first.err, first.out.count("its runs are done (1 of 2)")) == (0, "", 2)
    second = ddb(*argv, "--shard", "1/2")
    assert (second.code, second.err, second.out.count("result: ")) == (0, "", 2)
