"""PDD: stages, frozen images, derived trajectories, kills, training in stages, refused settings."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import EAGER, TINY, contents, record_digits
from torch import Tensor, nn
from trajectory_context import TINY_SETTINGS, linear, make_context, reference, started

from ddbench.distillation import runner
from ddbench.evaluation.forecast import _student as evaluation_of
from ddbench.experts import derived
from ddbench.experts.recipe import ExpertRecipe
from ddbench.experts.store import read_store
from ddbench.methods import METHODS
from ddbench.methods.base import Context, Distilled
from ddbench.methods.mtt import MTT
from ddbench.methods.needs.experts import Experts
from ddbench.methods.pdd import PDD, PDDConfig, base_config, content_hash
from ddbench.networks.build import build_student
from ddbench.networks.names import REGISTERED, StudentSpec
from ddbench.protocols.plan import Plan
from ddbench.protocols.protocol import PROTOCOLS, changed
from ddbench.protocols.training import Settings, stage_plan, trained_students
from ddbench.runtime.errors import UserError
from ddbench.synset import Budget, Synset, check_synset, read_synset, write_synset
from ddbench.training.flat import flatten_parameters, load_flat
from ddbench.training.loops import TEST_BATCH

SETTINGS: dict[str, Any] = {"iterations": 2, "student_steps": 2, "expert_epochs": 1, "stage_epochs": 4}
HOW = Settings(device="cpu", threads=1)


@pytest.fixture
def context(tiny_experts: Path, data_root: Path, tmp_path: Path) -> Context:
    """IPC 4, in a folder of its own."""
    return make_context(tiny_experts, data_root, tmp_path / "run", ipc=4)


def run(context: Context, **settings: Any) -> Any:
    """PDD with all its steps done."""
    method = started(PDD, context, **{**SETTINGS, "stages": 2, **settings})
    for iteration in range(method.iterations):
        method.step(iteration)
    return method


# Stages


@pytest.mark.parametrize("base", ["mtt", "ftd", "tesla", "datm", "ast"])
def test_one_stage_is_the_base_method(base: str, context: Context):
    """Bit for bit with its own first images, and without derived trajectories."""
    pdd = run(context, base=base, stages=1, stage_epochs=0, iterations=4)
    settings = {**TINY_SETTINGS, **{k: v for k, v in SETTINGS.items() if k != "stage_epochs"}}
    alone = started(METHODS.get(base), context, **settings)
    for iteration in range(4):
        alone.step(iteration)
    ours, theirs = pdd.distilled(), alone.distilled()
    assert torch.equal(ours.images, theirs.images)
    assert torch.equal(ours.labels, theirs.labels)
    assert ours.learned_lr.tolist() == [float(theirs.learned_lr)]
    assert ours.stage.tolist() == [0] * 40
    assert not context.folder.exists()


def test_product_of_the_stages(context: Context):
    pdd = started(PDD, context, **{**SETTINGS, "stages": 4})
    seen: list[Tensor] = []
    for iteration in range(pdd.iterations):
        metrics = pdd.step(iteration)
        assert metrics["stage"] == iteration // 2
        product = pdd.distilled()
        assert product.labels.tolist() == [label for label in range(10) for _ in range(4)]
        assert product.stage.tolist() == [0, 1, 2, 3] * 10
        seen.append(product.images)
    for one, two in itertools.pairwise(range(8)):
        moved = (seen[one] != seen[two]).flatten(1).any(1).view(10, 4).any(0)
        at_work = two // 2
        wanted = [stage == at_work for stage in range(4)]
        assert moved.tolist() == wanted, f"step {two}: only the images of its stage move"
    rates = pdd.distilled().learned_lr
    assert rates.shape == (4,)
    assert len(set(rates.tolist())) == 4, "every stage starts at beta_0 and learns its own"
    first = run(dataclasses.replace(context, ipc=1), stages=1, stage_epochs=0)
    assert torch.equal(first.distilled().images, seen[-1][0::4]), "the first stage is a run of the base method"


def test_student_sees_kept_images_and_they_do_not_move(context: Context):
    """Gradient of the images of a stage, the earlier ones being there: against numpy, with a linear student."""
    small = dataclasses.replace(context, ipc=2)
    method = MTT(MTT.config_class(**TINY_SETTINGS), small)
    pixels = context.preprocess.apply(context.train.images[:7])
    method.kept = Distilled(images=pixels, labels=torch.arange(7))
    method.setup()
    assert len(method.images) == 27
    assert method.hard_labels.tolist() == [*range(7), *small.hard_labels().tolist()]
    segment = linear(method)
    wanted, _, _ = reference(method, segment, method.hard_labels).gradients()
    method.draw_segment = lambda iteration: segment
    method.canvas.optimizer.parameters = [method.canvas.value]
    before = method.images.detach().clone()
    method.step(0)
    assert torch.equal(method.images.detach()[:7], before[:7])
    moved = (before - method.images.detach())[7:].flatten(1).numpy() / method.config.lr_images
    np.testing.assert_allclose(moved, wanted[7:], rtol=1e-10, atol=1e-10 * np.abs(wanted).max())
    assert np.abs(wanted[:7]).max() > 1e-6, "they would move if they were not kept"


@pytest.fixture(scope="module")
def flat_experts(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    root = tmp_path_factory.mktemp("flat")
    record_digits(root, data_root, ExpertRecipe(epochs=3, lr=0.1, batch=64, kind="gsam"))
    return root


@pytest.mark.parametrize("base", ["datm", "ftd"])
def test_other_base_methods(base: str, flat_experts: Path, data_root: Path, tmp_path: Path):
    """Experts of their kind, their own settings, and (DATM) soft labels, which do not move after their stage."""
    assert PDD.needs(PDDConfig(base=base)) == (Experts("gsam"),)
    context = make_context(flat_experts, data_root, tmp_path, ipc=2, kind="gsam")
    options = {"datm": "skip_above=100,lr_labels=0.5,init=correct", "ftd": "ema=0.5"}[base]
    pdd = started(PDD, context, **{**SETTINGS, "stages": 2, "base": base, "base_options": options, "iterations": 3})
    products = []
    for iteration in range(pdd.iterations):
        pdd.step(iteration)
        products.append(pdd.distilled())
    assert products[-1].labels.is_floating_point() == (base == "datm")
    first = [(one.images[one.stage == 0], one.labels[one.stage == 0]) for one in products]
    assert not torch.equal(first[1][0], first[2][0])
    for images, labels in first[3:]:
        assert torch.equal(images, first[2][0])
        assert torch.equal(labels, first[2][1])
    assert pdd.base.config.min_start_epoch == pdd.config.min_start_epoch
    assert getattr(pdd.base.config, "ema", None) == (0.5 if base == "ftd" else None)
    synset = wrap(context, products[-1])
    check_synset(tmp_path / "x", synset)


def wrap(context: Context, product: Distilled, **more: Any) -> Synset:
    """A synset around a product."""
    return Synset(
        images=product.images,
        labels=product.labels,
        preprocess=context.preprocess.to_json(),
        budget=Budget("ipc", len(product.labels) // 10),
        dataset="digits",
        fingerprint=context.dataset.fingerprint,
        class_names=context.dataset.spec.class_names,
        method="pdd",
        config={},
        seed=0,
        **{"learned_lr": product.learned_lr, "stage": product.stage, **more},
    )


# Derived trajectories


def test_derived_trajectories(context: Context):
    """A store of their own: linked to its parent, from networks that know the stages before, as long as needed."""
    pdd = run(context, stages=2, stage_epochs=30, expert_epochs=2)
    product, base = pdd.distilled(), context.given(Experts)
    folder = context.folder / "trajectories" / "stage_1"
    store = read_store(folder)
    assert (store.indices, store.recipe.epochs) == (base.indices, 3)
    assert store.recipe == dataclasses.replace(base.recipe, epochs=3)
    assert store.verify() == []
    images, labels = product.images[product.stage == 0], product.labels[product.stage == 0]
    assert store.header["parent"] == {
        "identity": base.identity(),
        "stage": 1,
        "synset": content_hash(images, labels, product.learned_lr[0]),
    }
    net = context.network(0)

    def loss(row: Tensor) -> float:
        load_flat(net, row)
        with torch.no_grad():
            return float(torch.nn.functional.cross_entropy(net(images), labels))

    for index in store.indices:
        assert not torch.equal(store.rows(index, 0)[0], base.rows(index, 0)[0])
        assert loss(store.rows(index, 0)[0]) < loss(base.rows(index, 0)[0]) - 0.01, "trained on the stage before"
        assert store.experts[index].test_accuracy is None, "the test set is for nobody here"
        assert len(store.experts[index].holdout_accuracy) == 3
    rows = [store.rows(index, 0)[0] for index in store.indices]
    assert not torch.equal(*rows), "each from its own expert"


def test_later_stages_go_on_from_the_one_before(context: Context, monkeypatch: pytest.MonkeyPatch):
    starts = []
    import ddbench.methods.pdd as module

    def watched(net: Any, plan: Plan, *rest: Any) -> None:
        starts.append((flatten_parameters(net), len(plan.synset.images), plan.epochs))

    monkeypatch.setattr(module, "train_network", watched)
    run(context, stages=4)
    base = context.given(Experts)
    assert [(count, epochs) for _, count, epochs in starts] == [(n, 4) for n in (10, 10, 20, 20, 30, 30)]
    for number, (start, _, _) in enumerate(starts):
        stage, index = divmod(number, 2)
        parent = read_store(context.folder / "trajectories" / f"stage_{stage}") if stage else base
        assert torch.equal(start, parent.rows(index, 0)[0])


def test_a_rate_of_a_stage_that_trains_nothing_is_told_as_such(context: Context, monkeypatch: pytest.MonkeyPatch):
    """It was told as an evaluation's, with a protocol to choose, which the method has no part in."""
    own = PDD._own
    monkeypatch.setattr(PDD, "_own", lambda method: dataclasses.replace(own(method), learned_lr=torch.tensor(-0.5)))
    with pytest.raises(UserError, match=r"rate of stage 1 of 2 is -0.5, which trains .* a smaller --lr-lr$"):
        run(context)


def test_trajectories_of_another_synset_are_refused(context: Context):
    run(context)
    with pytest.raises(UserError, match=r"trajectories/stage_1: holds trajectories of another synset .* remove that"):
        run(dataclasses.replace(context, seed=1))


def command(buffers: Path, out: Path, *more: object) -> list[object]:
    return [
        *("distill", "--method", "pdd", "--dataset", "digits", "--ipc", 2, "--stages", 2, "--student", TINY),
        *("--recipe", "none", "--iterations", 3, "--student-steps", 2, "--expert-epochs", 1, "--max-start-epoch", 2),
        *("--lr-images", 10, "--stage-epochs", 3, "--checkpoint-every", 1, "--buffers", buffers, "--out", out),
        *("--quiet", *EAGER, *more),
    ]


def test_killed_anywhere(ddb: Callable, buffers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Inside a stage, at its first step, and in the training before it: repeated, the same bytes come out."""
    assert ddb(*command(buffers, tmp_path / "whole")).code == 0
    kept = {"trajectories": (derived, derived.trajectories), "_derive": (PDD, PDD._derive), "step": (PDD, PDD.step)}
    out = tmp_path / "killed"
    kills = (("step", 2, 0), ("_derive", 0, 0), ("trajectories", 0, 0), ("trajectories", 1, 1), ("step", 1, 2))
    for name, calls, recorded in kills:
        place, call = kept[name]
        left = iter(range(calls))

        def dying(*args: Any, call: Any = call, left: Iterator[int] = left, **options: Any) -> Any:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return call(*args, **options)

        monkeypatch.setattr(place, name, dying)
        assert ddb(*command(buffers, out)).code == 130
        monkeypatch.setattr(place, name, call)
        assert not (out / "synset.safetensors").exists()
        found = list((out / "trajectories").rglob("expert_*"))
        assert len(found) == recorded, f"what was recorded before the kill in {name} is kept"
    assert ddb(*command(buffers, out)).code == 0
    assert contents(out, "cost.json") == contents(tmp_path / "whole", "cost.json")


# Training in stages


@pytest.fixture
def staged(context: Context) -> Synset:
    """A synset of three stages with 2, 1 and 1 images a class, each with its own rate."""
    product = Distilled(
        images=context.preprocess.apply(context.random_images("test")),
        labels=context.hard_labels(),
        learned_lr=torch.tensor([0.02, 0.05, 0.01]),
        stage=torch.tensor([1, 0, 2, 0]).repeat(10),
    )
    return wrap(context, product)


def plan_of(context: Context, synset: Synset, name: str = "pdd", **settings: Any) -> Plan:
    protocol, _ = changed(PROTOCOLS[name], **settings)
    return Plan(synset=synset, protocol=protocol, preprocess=context.preprocess, flip=False)


def test_stages_as_plans(context: Context, staged: Synset):
    plan = plan_of(context, staged)
    parts = [stage_plan(plan, stage) for stage in range(plan.stages)]
    assert [len(part.synset.images) for part in parts] == [20, 30, 40]
    assert [part.epochs for part in parts] == [333, 333, 334], "1000 passes together, as hard-v1 makes"
    assert [round(float(part.synset.learned_lr), 4) for part in parts] == [0.02, 0.05, 0.01]
    assert all(part.stages == 1 for part in parts)
    assert torch.equal(parts[1].synset.images, staged.images[staged.stage <= 1])
    assert plan_of(context, staged, "hard-v1").stages == 1
    assert PROTOCOLS["pdd"].epochs == PROTOCOLS["hard-v1"].epochs
    for epochs, each in ((1, [1, 1, 1]), (2, [1, 1, 1]), (4, [1, 1, 2])):
        few = plan_of(context, staged, epochs=epochs)
        assert [stage_plan(few, stage).epochs for stage in range(few.stages)] == each, "no more than there are"


def test_a_plan_counts_a_pass_a_stage(context: Context, staged: Synset):
    """Fewer epochs than stages are one pass a stage: the operations are those of as many epochs."""
    test = context.dataset.test
    flops = [
        evaluation_of(plan_of(context, staged, epochs=epochs), test, TINY, HOW, 1, 0.01)[2] for epochs in (1, 2, 3)
    ]
    assert flops[0] == flops[1] == flops[2]


def test_training_in_stages_against_a_plain_loop(context: Context, staged: Synset):
    """Whole-set batches and no augmentation: torch's SGD, whose momentum is handed on while its rate is set anew."""
    plan = plan_of(context, staged, epochs=13, augmentation="none")
    (net,), _ = trained_students(plan, TINY, [5], HOW)
    twin = build_student(TINY, channels=1, size=8, classes=10, seed=5)
    optimizer = torch.optim.SGD(twin.parameters(), lr=1.0, momentum=0.9, weight_decay=5e-4)
    for stage, (epochs, rate) in enumerate(((4, 0.02), (4, 0.05), (5, 0.01))):
        seen = staged.stage <= stage
        for epoch in range(epochs):
            optimizer.param_groups[0]["lr"] = rate * (0.1 if epoch >= epochs // 2 + 1 else 1.0)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(twin(staged.images[seen]), staged.labels[seen]).backward()
            optimizer.step()
    torch.testing.assert_close(flatten_parameters(net), flatten_parameters(twin), rtol=1e-4, atol=1e-5)
    assert TEST_BATCH >= 40


def test_without_stages_it_is_hard_v1(context: Context, staged: Synset):
    """To the last bit; and each network of several is trained as it is alone."""
    plain = dataclasses.replace(staged, stage=None, learned_lr=torch.tensor(0.02))
    nets = {
        name: trained_students(plan_of(context, plain, name, epochs=4), TINY, [0], HOW)[0][0]
        for name in ("pdd", "hard-v1")
    }
    assert torch.equal(*(flatten_parameters(net) for net in nets.values()))
    both, _ = trained_students(plan_of(context, staged, epochs=6), TINY, [0, 1], HOW)
    for seed, net in enumerate(both):
        (alone,), _ = trained_students(plan_of(context, staged, epochs=6), TINY, [seed], HOW)
        assert torch.equal(flatten_parameters(net), flatten_parameters(alone))


def test_together_the_last_rate_counts(context: Context, staged: Synset):
    one = dataclasses.replace(staged, stage=None, learned_lr=torch.tensor(0.01))
    nets = [
        trained_students(plan_of(context, each, "hard-v1", epochs=3), TINY, [0], HOW)[0][0] for each in (staged, one)
    ]
    assert torch.equal(*(flatten_parameters(net) for net in nets))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learned_lr": torch.tensor([0.1, 0.1])}, r"lr has shape \[2\], expected one number, or 3: one a stage"),
        ({"learned_lr": torch.tensor([0.1] * 4)}, r"lr has shape \[4\], expected one number, or 3: one a stage"),
        ({"learned_lr": torch.tensor([0.1, float("nan"), 0.1])}, "lr is not a finite number"),
        ({"stage": torch.tensor([0, 1, 2])}, "the stage column does not fit 40 images"),
        ({"stage": torch.tensor([0, 1, 2, 0]).repeat(11)}, "the stage column does not fit 40 images"),
        ({"stage": torch.tensor([0, 1, 2, -1]).repeat(10)}, "the stage column does not fit 40 images"),
        ({"stage": torch.tensor([1, 3, 2, 1]).repeat(10)}, "counts 4 stages, some without an image"),
        ({"stage": torch.tensor([0, 2, 0, 2]).repeat(10)}, "counts 3 stages, some without an image"),
        ({"stage": torch.tensor([0, 2**40, 1, 2]).repeat(10)}, "some without an image"),
    ],
)
def test_bad_stages_are_refused(change: dict[str, Any], message: str, staged: Synset, tmp_path: Path):
    check_synset(tmp_path / "x", staged)
    with pytest.raises(UserError, match=message):
        check_synset(tmp_path / "x", dataclasses.replace(staged, **change))


def test_stages_share_a_rate_or_have_none(staged: Synset, tmp_path: Path):
    for rate in (None, torch.tensor(0.1)):
        check_synset(tmp_path / "x", dataclasses.replace(staged, learned_lr=rate))


def test_bad_stages_of_a_file_are_refused(staged: Synset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A stranger's file may hold what ours never writes."""
    path = tmp_path / "synset.safetensors"
    write_synset(path, staged)
    assert torch.equal(read_synset(path).stage, staged.stage)
    monkeypatch.setattr("ddbench.synset.check_synset", lambda *_: None)
    for stage, message in (
        (staged.stage[:-1], "the stage column does not fit 40 images"),
        (staged.stage.float(), "stage is F32"),
        (staged.stage.reshape(2, 20), "expected I64 of 1 dimensions"),
    ):
        write_synset(path, dataclasses.replace(staged, stage=stage))
        with monkeypatch.context() as checked:
            checked.setattr("ddbench.synset.check_synset", check_synset)
            with pytest.raises(UserError, match=message):
                read_synset(path)


def test_from_the_command_line(ddb: Callable, buffers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Validated and evaluated stage by stage; the learning rate shown is the last stage's."""
    train_student, validated = runner.train_student, []

    def noted(plan: Plan, *given: Any) -> Any:
        validated.append((plan.protocol.name, plan.stages, len(plan.synset.images)))
        return train_student(plan, *given)

    monkeypatch.setattr(runner, "train_student", noted)
    assert ddb(*command(buffers, tmp_path / "run", "--validate-every", 3, "--validate-epochs", 2)).code == 0
    assert validated[-1] == ("pdd", 2, 20)
    synset = read_synset(tmp_path / "run" / "synset.safetensors")
    assert synset.stage.tolist() == [0, 1] * 10
    score = ddb(
        *("evaluate", tmp_path / "run", "--protocol", "pdd", "--students", TINY, "--seeds", 2, "--epochs", 4),
        *("--workers", 1, "--max-images", 50, "--quiet", *EAGER),
    )
    assert score.code == 0, score.err
    (path,) = (tmp_path / "run" / "evaluations").glob("pdd*[0-9].json")
    result = json.loads(path.read_text())
    rates = result["learning_rates"][TINY]
    assert (rates["rate"], rates["source"]) == (float(synset.learned_lr[-1]), "synset")
    assert result["protocol"]["settings"]["sequential"] is True


# Refused settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stages": 3}, "--stages 3 with --ipc 4: .* choose --stages 1 or 2 or 4"),
        ({"stages": 0}, "--stages 0 with --ipc 4"),
        ({"stages": 8}, "--stages 8 with --ipc 4"),
        ({"stage_epochs": -1}, "--stage-epochs -1"),
        ({"base": "mt"}, r"--base: unknown method 'mt' \(did you mean 'mtt'\?\)"),
        ({"base": "random"}, "--base random: matches no trajectories; choose mtt, ftd"),
        ({"base": "fred-mtt"}, "--base fred-mtt: its product is no images, .* choose mtt, ftd"),
        ({"base": "ddif-mtt"}, "--base ddif-mtt: its product is no images"),
        ({"base": "pdd"}, "--base pdd: matches no trajectories"),
        ({"base_options": "inner"}, "--base-options 'inner': expected name=value"),
        ({"base_options": "iner=adjoint"}, r"--base-options of mtt: unknown setting 'iner' \(did you mean 'inner'\?\)"),
        ({"base_options": "inner=fast"}, "--base-options of mtt: inner is 'fast', expected one of adjoint, unroll"),
        ({"base_options": "memory=8G,augmentation=none"}, "a setting of pdd itself; give --augmentation none$"),
        ({"base_options": "expert_epochs=2"}, "a setting of pdd itself; give --expert-epochs 2$"),
        ({"max_start_epoch": 9}, "needs experts of at least 9 epochs .* ddbench buffer --dataset digits .* --epochs 9"),
        ({"lr_student": 0.0}, "--lr-student 0"),
    ],
)
def test_refused_settings(settings: dict[str, Any], message: str, context: Context):
    with pytest.raises(UserError, match=message):
        started(PDD, context, **{**SETTINGS, "stages": 2, **settings})
    assert not context.folder.exists()


def test_batches_of_later_stages_are_looked_at_before_work(context: Context, tables_kept: None):
    """Of 20 images a stage batches of 19 are all there are in the first one, and leave one image in the second."""

    def build(channels: int, size: int, classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(channels * size**2, 4), nn.BatchNorm1d(4), nn.Linear(4, classes))

    REGISTERED.register("rows", StudentSpec(name="rows", build=build))
    mine = dataclasses.replace(context, student="rows")
    with pytest.raises(UserError, match=r"^--batch-syn 39: of 40 images one is left"):
        started(PDD, mine, **{**SETTINGS, "stages": 2, "batch_syn": 39})
    PDD.check(PDDConfig(**{**TINY_SETTINGS, **SETTINGS, "stages": 2, "batch_syn": 38}), mine)


def test_first_images_are_those_of_the_base_method_or_others():
    """``real``, as it was recorded when it was the default, is still that."""
    found = [base_config(PDDConfig(base=base)).init for base in ("mtt", "ftd", "tesla", "datm", "ast")]
    assert found == ["real", "real", "real", "correct", "representative"]
    for init in ("real", "noise", "dream"):
        assert base_config(PDDConfig(base="datm", init=init)).init == init


def test_options_of_the_base_method():
    made = base_config(PDDConfig(base="ast", base_options="balance=false, perturb=0.5,init=representative"))
    assert (made.balance, made.perturb, made.init) == (False, 0.5, "representative")
    assert (made.student_steps, made.iterations) == (PDDConfig().student_steps, PDDConfig().iterations)
    with pytest.raises(UserError, match="balance is 'no', expected bool"):
        base_config(PDDConfig(base="ast", base_options="balance=no"))


def test_stage_count_from_the_command_line(refused: Callable, buffers: Path, tmp_path: Path):
    refused(command(buffers, tmp_path / "run", "--stages", 5), "--stages 5 with --ipc 2", "choose --stages 1 or 2")
    refused(
        command(buffers, tmp_path / "run", "--base", "datm"),
        "holds sgd experts, pdd asks for gsam",
        "record them with: ddbench buffer",
        "--kind gsam",
    )
