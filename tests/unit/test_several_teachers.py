"""G-VBSM and EDC: SRe2L as a special case, several teachers in turn, each further term, resuming, pieces, refusals."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import EAGER
from torch import Tensor

from ddbench.data.dataset import Split, class_indices
from ddbench.data.load import load_dataset
from ddbench.data.preprocess import fit_preprocess
from ddbench.distillation.recipes import method_recipes
from ddbench.methods import METHODS
from ddbench.methods.base import Context, NotFiniteError, State
from ddbench.methods.needs.teacher import TrainedTeacher
from ddbench.runtime.errors import UserError
from ddbench.runtime.progress import Console
from ddbench.synset import read_synset
from ddbench.teachers.join import join_teachers
from ddbench.teachers.recipe import TeacherRecipe
from ddbench.teachers.store import find_teacher
from ddbench.teachers.train import train_teacher
from ddbench.training.layer_statistics import densification
from ddbench.training.losses import soft_target_kl

NAMES = ("convnet-d2-w4-bn", "convnet-d1-w4-bn", "convnet-d1-w4-in")
CLASSES = 10

SRE2L: dict[str, Any] = {
    "lr_images": 0.25,
    "bn_weight": 0.01,
    "crop_scale": 1.0,
    "flip": False,
    "jitter": 4,
    "convolutions": False,
    "average": 0.0,
    "category": "none",
    "start": "noise",
}
"""The settings of EDC with which it is SRe2L, if there is one teacher."""


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """A store of three small teachers of digits, the last one without batch norm."""
    root = tmp_path_factory.mktemp("teachers")
    for student in NAMES:
        train_teacher(
            root=root,
            dataset=load_dataset("digits", data_root),
            data=data_root,
            student=student,
            recipe=TeacherRecipe(epochs=3, batch=32),
            device="cpu",
            threads=1,
            compile="off",
            console=Console(quiet=True),
        )
    return root


@pytest.fixture
def context(teachers: Path, data_root: Path, tmp_path: Path) -> Context:
    """Few real images, so that looking at all of them is quick; all three teachers."""
    dataset = load_dataset("digits", data_root)
    index = torch.cat([part[:12] for part in class_indices(dataset.train.labels, CLASSES)])
    train = Split(dataset.train.images[index], dataset.train.labels[index])
    preprocess = fit_preprocess(dataset, "meanstd")
    members = [find_teacher(teachers, student=name) for name in NAMES]
    together = join_teachers(
        teachers,
        [one for one in members if one is not None],
        dataset=dataset,
        preprocess=preprocess,
        device=torch.device("cpu"),
        console=Console(quiet=True),
    )
    return Context(
        dataset=dataset,
        train=train,
        held_out=train,
        preprocess=preprocess,
        ipc=3,
        student=NAMES[2],
        seed=0,
        device=torch.device("cpu"),
        folder=tmp_path,
        compile="off",
        console=Console(quiet=True),
        architectures={"teacher": "+".join(NAMES)},
    ).give(TrainedTeacher, together)


@pytest.fixture
def alone(context: Context, teachers: Path) -> Context:
    """The same with the first teacher only."""
    one = find_teacher(teachers, student=NAMES[0])
    assert one is not None
    return dataclasses.replace(context, architectures={"teacher": NAMES[0]}).give(TrainedTeacher, one)


def fresh(name: str, context: Context, **settings: Any) -> Any:
    kind = METHODS.get(name)
    config = kind.config_class(**{"iterations": 4, **settings})
    kind.check(config, context)
    method = kind(config, context)
    method.setup()
    return method


def finished(method: Any, start: int = 0) -> Tensor:
    for iteration in range(start, method.iterations):
        method.step(iteration)
    images: Tensor = method.distilled().images
    return images


# SRe2L as a special case


def test_sre2l_is_a_special_case_of_edc(alone: Context):
    """The same pixels, and on the way the same floats."""
    ours, theirs = fresh("edc", alone, **SRE2L), fresh("sre2l", alone)
    for iteration in range(6):
        assert ours.step(iteration) == theirs.step(iteration)
        assert ours.state().tensors.keys() == theirs.state().tensors.keys(), "nothing more is kept"
        for name, tensor in theirs.state().tensors.items():
            assert torch.equal(ours.state().tensors[name], tensor), (iteration, name)
    assert torch.equal(finished(ours, 6), finished(theirs, 6))
    assert ours.distilled().teacher == theirs.distilled().teacher


@pytest.mark.parametrize(
    "change",
    [
        {"convolutions": True},
        {"average": 0.5},
        {"category": "class"},
        {"category": "local"},
        {"start": "real"},
        {"densify": 1.0, "order": "class"},
        {"flatness": 5.0},
        {"pad": True},
        {"first_weight": 1.0},
        {"joint": True},
    ],
    ids=lambda change: "-".join(change),
)
def test_each_setting_leaves_sre2l(alone: Context, change: dict[str, Any]):
    settings = {**SRE2L, "densify": 0.0, "bn_weight": 1.0}
    plain = finished(fresh("edc", alone, **settings))
    assert not torch.equal(finished(fresh("edc", alone, **{**settings, **change})), plain)


def test_drop_and_legacy_average_change_what_they_are_about(alone: Context):
    plain = finished(fresh("edc", alone))
    assert not torch.equal(finished(fresh("edc", alone, drop=0.6)), plain)
    assert not torch.equal(finished(fresh("edc", alone, legacy_average=True)), plain)
    with pytest.raises(UserError, match=r"--drop 0\.6: it has no effect with --convolutions False"):
        fresh("edc", alone, drop=0.6, convolutions=False)
    with pytest.raises(UserError, match="--legacy-average True: it has no effect with --average 0"):
        fresh("edc", alone, legacy_average=True, average=0.0)


# What is particular


def test_teachers_in_turn(context: Context):
    """Step i asks teacher i mod K, beginning anew with every batch."""
    method = fresh("edc", context)
    asked: list[int] = []
    for number, taught in enumerate(method._taught):
        taught.net.register_forward_pre_hook(lambda *_, number=number: asked.append(number))
    finished(method)
    assert asked == [0, 1, 2, 0] * 3
    assert method.distilled().teacher["members"][2]["student"] == NAMES[2]


def test_half_of_the_distance_is_to_the_classes(alone: Context):
    """By hand, from the parts: norms to the memory of the norms and to the mean over the batch's classes."""
    method = fresh("edc", alone, convolutions=False, average=0.0)
    batch = method.stages()[0]
    x = method.initial(batch)
    terms = method.objective(batch, 0, x)
    view = method.view(batch, 0, x)
    (taught,) = method._taught
    seen: list[Tensor] = []
    handles = [layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])) for layer in taught.layers]
    logits = taught.net(view)
    for handle in handles:
        handle.remove()
    total = 0.0
    for layer, (inputs, norm) in enumerate(zip(seen, taught.layers, strict=True)):
        mean, variance = inputs.mean((0, 2, 3)), inputs.var((0, 2, 3), unbiased=False)
        classes = taught.targets.classes[layer]
        for wanted_variance, wanted_mean in (
            (norm.running_var, norm.running_mean),
            (classes[0][batch.labels].mean(0), classes[1][batch.labels].mean(0)),
        ):
            weight = 0.5 * (10 if layer == 0 else 1)
            total += weight * float((variance - wanted_variance).norm() + (mean - wanted_mean).norm())
    assert terms["statistics"].item() == pytest.approx(0.01 * total, rel=1e-5)
    assert terms["cross_entropy"].item() == pytest.approx(
        torch.nn.functional.cross_entropy(logits, batch.labels).item(), rel=1e-6
    )


def test_local_statistics_are_those_of_real_images_of_the_batchs_classes(alone: Context):
    method = fresh("edc", alone, category="local", local_images=5)
    batch = method.stages()[1]
    index = method._local_images(batch)
    assert torch.equal(alone.train.labels[index], batch.labels.repeat_interleave(5))
    assert torch.equal(index, method._local_images(batch)), "named by the batch"
    assert not torch.equal(index, method._local_images(method.stages()[0]))
    (taught,) = method._taught
    pixels = alone.preprocess.apply(alone.train.images[index])
    own = method._own(batch, 0)
    assert own[0][1].item() == pytest.approx(float(pixels.mean()), abs=1e-5)
    assert len(own) == len(taught.layers)


def test_images_of_a_class_are_made_together(context: Context):
    """G-VBSM's batches go class after class; EDC's hold one image of every class."""
    together = fresh("gvbsm", context, batch=9).stages()
    assert torch.equal(torch.cat([batch.positions for batch in together]), torch.arange(30))
    assert [len(batch.labels) for batch in together] == [9, 9, 9, 3]
    assert together[0].labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    across = fresh("edc", context).stages()
    assert [batch.labels.tolist() for batch in across] == [list(range(10))] * 3


def test_further_terms(context: Context):
    """Density and flatness are what their functions say of the step's view, times their weight."""
    method = fresh("gvbsm", context, densify=0.5, flatness=2.0, flatness_decay=0.75)
    batch = method.stages()[0]
    for step in range(3):
        method.step(step)
    x, smooth = method._iterate.x.clone(), method._smooth.clone()
    terms = method.objective(batch, 3, x)
    view = method.view(batch, 3, x)
    net = method._taught[0].net
    assert terms["density"].item() == pytest.approx(0.5 * densification(view, batch.labels).item(), rel=1e-5)
    steady = net(method.view(batch, 3, smooth))
    assert terms["flatness"].item() == pytest.approx(2 * soft_target_kl(net(view), steady, 4.0).item(), rel=1e-4)


def test_the_average_of_the_images(alone: Context):
    """It begins as the first image; ``a`` of it and the rest of the iterate before the step."""
    method = fresh("edc", alone, flatness=1.0, flatness_decay=0.75)
    expected = None
    for step in range(3):
        before = method._iterate.x.clone() if step else method.initial(method.stages()[0])
        expected = before if expected is None else 0.75 * expected + 0.25 * before
        method.step(step)
        torch.testing.assert_close(method._smooth, expected, rtol=0, atol=1e-6)


def test_real_start(context: Context):
    """Different real images of the class, one each."""
    images = fresh("edc", context).distilled().images
    assert torch.equal(images, context.random_images("init"))
    assert not torch.equal(fresh("gvbsm", context).distilled().images, images)


# Resuming and sharing out

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "edc": ("edc", {"flatness": 1.0, "iterations": 4}),
    "gvbsm": ("gvbsm", {"batch": 15, "iterations": 4}),
    "local": ("edc", {"category": "local", "local_images": 2, "iterations": 3, "legacy_average": True}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_anywhere(kind: str, context: Context):
    """After every single step, what a state gives is all that goes on."""
    name, settings = KINDS[kind]
    whole = fresh(name, context, **settings)
    states = [whole.state()]
    for iteration in range(whole.iterations):
        whole.step(iteration)
        state = whole.state()
        states.append(State(tensors={k: t.clone() for k, t in state.tensors.items()}, values=state.values))
    images = whole.distilled().images
    for done, state in enumerate(states):
        method = fresh(name, context, **settings)
        method.load_state(state)
        assert torch.equal(finished(method, done), images), done


@pytest.mark.parametrize("name", ["edc", "gvbsm"])
def test_batches_need_nothing_of_each_other(name: str, context: Context):
    """Each in a process of its own, then put together: what one process makes."""
    settings = {"batch": 15, "order": "class", "iterations": 3}
    whole = fresh(name, context, **settings)
    images, pieces = finished(whole), whole.pieces()
    assert len(pieces) == len(whole.stages())
    states = []
    for piece in reversed(pieces):
        method = fresh(name, context, **settings)
        for iteration in piece:
            method.step(iteration)
        states.append(method.state())
    last = fresh(name, context, **settings)
    last.load_state(last.merge(states[::-1]))
    assert torch.equal(last.distilled().images, images)


def test_a_step_that_is_not_finite_changes_nothing(context: Context):
    method = fresh("edc", context, flatness=1.0)
    method.step(0)
    before = {name: tensor.clone() for name, tensor in method.state().tensors.items()}
    method._taught[1].targets.whole[0] = tuple(part * float("nan") for part in method._taught[1].targets.whole[0])
    with pytest.raises(NotFiniteError, match="the loss is nan"):
        method.step(1)
    after = method.state().tensors
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_the_same_bytes_by_the_command(ddb: Callable, teachers: Path, tmp_path: Path):
    """EDC as SRe2L: apart from method, settings and their record the two synsets are one."""
    argv = ["--dataset", "digits", "--ipc", 1, "--iterations", 3, "--recipe", "none", "--teachers", teachers]
    argv += ["--teacher-student", NAMES[0], "--student", NAMES[2], *EAGER]
    flags = ["--lr-images", 0.25, "--crop-scale", 1, "--no-flip", "--jitter", 4, "--no-convolutions", "--average", 0]
    for name, more in (("sre2l", []), ("edc", [*flags, "--category", "none", "--start", "noise"])):
        result = ddb("distill", "--method", name, *argv, *more, "--out", tmp_path / name)
        assert result.code == 0, result.err
    one, other = (read_synset(tmp_path / name / "synset.safetensors") for name in ("sre2l", "edc"))
    assert torch.equal(one.images, other.images)
    headers = [{**found.header(), "method": "", "config": {}} for found in (one, other)]
    assert headers[0] == headers[1]


# Refusals

REFUSALS: dict[str, tuple[str, tuple[object, ...], str]] = {
    "unknown teacher": ("edc", ("--teacher-student", "convnet-d1-w4-bn,convnt"), "unknown student 'convnt'"),
    "nothing between commas": ("edc", ("--teacher-student", "convnet-d1-w4-bn,"), "unknown student ''"),
    "twice": ("gvbsm", ("--teacher-student", f"{NAMES[0]}, {NAMES[0]}"), f"names {NAMES[0]} twice"),
    "does not fit": ("gvbsm", ("--teacher-student", f"{NAMES[0]},convnet-d9-w4-bn"), "convnet-d9-w4-bn"),
    "no layer": (
        "edc",
        ("--teacher-student", f"{NAMES[0]},mlp-d3-w8"),
        "mlp-d3-w8: a teacher without batch norm or conv",
    ),
    "no norm": (
        "edc",
        ("--teacher-student", NAMES[2], "--no-convolutions"),
        f"{NAMES[2]}: a teacher without batch norm",
    ),
    "several for one": ("sre2l", ("--teacher-student", f"{NAMES[0]},{NAMES[1]}"), "unknown student"),
    "average": ("edc", ("--average", 1), "--average 1.0"),
    "drop": ("gvbsm", ("--drop", 1), "--drop 1.0"),
    "category": ("edc", ("--category", "clas"), "clas"),
    "densify": ("gvbsm", ("--densify", -1), "--densify -1.0"),
    "batch": ("gvbsm", ("--batch", 0), "--batch 0"),
    "flatness": ("edc", ("--flatness-decay", 1), "--flatness-decay 1.0"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refused(name: str, refused: Callable[..., str], tmp_path: Path):
    """One line, before a teacher is trained or a folder is made."""
    method, flags, needle = REFUSALS[name]
    argv = ["distill", "--method", method, "--dataset", "digits", "--ipc", 2, "--recipe", "none", *EAGER]
    refused([*argv, "--teachers", tmp_path / "t", "--out", tmp_path / "run", *flags], needle)


# Of the public scripts: least share of a crop, padded window, convolutions left out, numbers of the preprocess.
VIEWS = {
    ("edc", "cifar10"): (0.08, False, 0.0, "cifar10"),
    ("edc", "cifar100"): (0.5, False, 0.0, "meanstd"),
    ("edc", "tiny-imagenet"): (0.5, False, 0.0, "meanstd"),
    ("edc", "imagenet-1k"): (0.5, False, 0.0, "meanstd"),
    ("gvbsm", "cifar10"): (1.0, True, 0.4, "cifar10"),
    ("gvbsm", "cifar100"): (1.0, True, 0.4, "meanstd"),
    ("gvbsm", "imagenet-1k"): (0.08, False, 0.0, "meanstd"),
}


def test_published_recipes_have_the_views_of_their_scripts():
    seen = set()
    for recipe in [*method_recipes("edc").values(), *method_recipes("gvbsm").values()]:
        if "official" not in recipe.source:
            continue
        config = METHODS.get(recipe.method).config_class(**recipe.config)
        cell = recipe.method, recipe.run["dataset"]
        found = config.crop_scale, config.pad, config.drop, recipe.run["preprocess"]
        assert found == VIEWS[cell], recipe.name
        seen.add(cell)
    assert seen == set(VIEWS)


def test_published_recipes_have_the_convnets_of_their_scripts():
    """Instance norm, as DC's networks have it, and three blocks also on Tiny-ImageNet."""
    seen = set()
    for recipe in [*method_recipes("edc").values(), *method_recipes("gvbsm").values()]:
        if "official" not in recipe.source:
            continue
        names = [one for one in recipe.run["teacher_student"].split(",") if one.startswith("convnet")]
        assert set(names) <= {f"convnet-{one}-in" for one in ("d3-w128", "d1-w128", "d2-w128", "d3-w32")}, recipe.name
        seen.update((recipe.method, recipe.run["dataset"]) for _ in names)
    assert seen == {cell for cell in VIEWS if cell[1] != "imagenet-1k"}
