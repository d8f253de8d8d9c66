"""What every registered method promises, on digits with tiny settings."""

from __future__ import annotations

import dataclasses
import inspect
import json
import shutil
import tomllib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, contents, digits_context, held_out_mask, negative, record_digits

from ddbench.config import recorded_config
from ddbench.data.dataset import Dataset
from ddbench.data.load import load_dataset
from ddbench.diffusion.store import find_model
from ddbench.distillation import runner
from ddbench.distillation.begin import Sharing
from ddbench.distillation.recipes import content_folder
from ddbench.distillation.runner import RunSettings, distill
from ddbench.experts.recipe import KINDS
from ddbench.experts.store import find_stores
from ddbench.methods import METHODS, description
from ddbench.methods.base import Context, Method, NotFiniteError, State, check_ipc
from ddbench.methods.needs.diffusion import Diffusion, Generator
from ddbench.methods.needs.experts import Experts
from ddbench.methods.needs.flags import DiffusionFlags, ExpertsFlags, TeacherFlags
from ddbench.methods.needs.teacher import TrainedTeacher
from ddbench.methods.parts import features
from ddbench.protocols.training import DivergedError
from ddbench.runtime.errors import Unfinished, UserError
from ddbench.runtime.progress import Console
from ddbench.runtime.shards import Shard
from ddbench.runtime.tensors import open_tensors, write_tensors
from ddbench.synset import read_synset
from ddbench.teachers.recipe import TeacherRecipe
from ddbench.teachers.store import Teacher, find_teacher
from ddbench.teachers.train import train_teacher

NORMED = "convnet-d1-w4-bn"

EVERY = list(METHODS)
NAMES = [name for name in EVERY if "image" in METHODS.get(name).modalities]
CORESETS = [name for name in NAMES if METHODS.get(name).facts.family == "coreset"]
IPC = 2
CLASSES = 10
CARDS = Path(__file__).parents[2] / "methods"


def smoke(name: str) -> dict[str, Any]:
    """What ``smoke.toml`` beside a method's card says; a method without one runs with its defaults.

    ``config``: settings with which it ends in a second; ``student``: where it cannot take any; ``teacher_student``: the
    teacher's architecture, for methods that cannot take any.
    """
    path = CARDS / name / "smoke.toml"
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def small_config(name: str) -> Any:
    return METHODS.get(name).config_class(**smoke(name).get("config", {}))


def teacher_student(name: str) -> str:
    return smoke(name).get("teacher_student", TINY)


@pytest.fixture(scope="session")
def teachers(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """Root of a store with tiny teachers of digits: one of each architecture, and one with a penalty."""
    root = tmp_path_factory.mktemp("teachers")
    for student, penalty in ((TINY, "none"), (NORMED, "none"), (NORMED, "curvature")):
        train_teacher(
            root=root,
            dataset=load_dataset("digits", data_root),
            data=data_root,
            student=student,
            recipe=TeacherRecipe(epochs=2, penalty=penalty),
            device="cpu",
            threads=1,
            compile="off",
            console=Console(quiet=True),
        )
    return root


@pytest.fixture(scope="session")
def all_experts(tmp_path_factory: pytest.TempPathFactory, tiny_experts: Path, data_root: Path) -> Path:
    """Root of stores with tiny experts of every kind."""
    root = Path(shutil.copytree(tiny_experts, tmp_path_factory.mktemp("all") / "buffers"))
    (plain,) = find_stores(root)
    for kind in KINDS:
        record_digits(root, data_root, dataclasses.replace(plain.recipe, kind=kind))
    return root


@pytest.fixture
def buffers(all_experts: Path, tmp_path: Path) -> Path:
    """A copy of them."""
    return Path(shutil.copytree(all_experts, tmp_path / "buffers"))


def with_experts(context: Context, kind: type[Method[Any]], config: Any, buffers: Path) -> Context:
    """The context with experts of the kind that a method asks for."""
    kinds = [need.kind for need in kind.needs(config) if isinstance(need, Experts)] or ["sgd"]
    (store,) = [one for one in find_stores(buffers) if one.recipe.kind == kinds[0]]
    return context.give(Experts, store)


def with_teacher(context: Context, name: str, teachers: Path) -> Context:
    """The context with a teacher that a method can take."""
    student = teacher_student(name)
    needs = METHODS.get(name).needs(small_config(name))
    penalty = next((need.penalised for need in needs if isinstance(need, TrainedTeacher)), {})
    found = find_teacher(teachers, student=student, penalty=penalty)
    assert found is not None
    context = dataclasses.replace(context, architectures={"teacher": student})
    return context.give(TrainedTeacher, found)


@pytest.fixture
def make(buffers: Path, teachers: Path, tiny_diffusions: Path, data_root: Path, tmp_path: Path) -> Callable[..., Any]:
    """``make(name, folder)`` runs a method through the runner; returns the synset."""

    def call(
        name: str,
        out: Path,
        seed: int = 0,
        ipc: int = IPC,
        config: Any = None,
        dataset: Dataset | None = None,
        **more: Any,
    ) -> Any:
        settings = RunSettings(
            **{
                "ipc": ipc,
                "student": smoke(name).get("student", TINY),
                "seed": seed,
                "preprocess": "meanstd",
                "holdout": 0.1,
                "validate_every": 0,
                "validate_epochs": 2,
                "track": "jsonl",
                "checkpoint_every": 2,
                "device": "cpu",
                "threads": 1,
                "compile": "off",
                "flags": (
                    ExpertsFlags(buffers=buffers),
                    TeacherFlags(teachers=teachers, teacher_student=teacher_student(name)),
                    DiffusionFlags(diffusions=tiny_diffusions),
                ),
                **more,
            }
        )
        path = distill(
            name,
            METHODS.get(name),
            config or small_config(name),
            dataset=dataset or load_dataset("digits", data_root),
            data=data_root,
            settings=settings,
            out=out,
            console=Console(quiet=True),
        )
        return read_synset(path)

    return call


@pytest.fixture
def context(teachers: Path, tiny_diffusions: Path, data_root: Path, tmp_path: Path) -> Context:
    """What the runner would give to a method."""
    teacher, model = find_teacher(teachers, student=TINY), find_model(tiny_diffusions, dataset="digits")
    assert teacher is not None
    assert model is not None
    context = digits_context(data_root, tmp_path / "run", ipc=IPC).give(TrainedTeacher, teacher)
    return context.give(Diffusion, Generator(model=model, latents=tmp_path / "latents"))


@pytest.mark.parametrize("name", NAMES)
def test_class(name: str):
    kind = METHODS.get(name)
    assert issubclass(kind, Method)
    assert kind.title
    assert kind.unit in ("ipc", "all")
    assert kind.__doc__
    assert dataclasses.is_dataclass(kind.config_class)
    assert kind.config_class.__dataclass_params__.frozen
    for field in dataclasses.fields(kind.config_class):
        assert field.default is not dataclasses.MISSING, f"{field.name} has no default"
    json.dumps(dataclasses.asdict(kind.config_class()), allow_nan=False)


@pytest.mark.parametrize("name", NAMES)
def test_compile_is_used_where_the_method_says_so(name: str):
    """Where its code does not look at the context's, the run tells that ``--compile on`` has no effect."""
    kind = METHODS.get(name)
    looks = any("context.compile" in inspect.getsource(one) for one in kind.__mro__[: kind.__mro__.index(Method)])
    assert kind.compiles(small_config(name)) == looks


@pytest.mark.parametrize("name", EVERY)
def test_card_and_description(name: str):
    assert len(description(name)) > 10
    folder = content_folder()
    assert folder is not None
    card = folder / name / "README.md"
    assert card.is_file(), f"methods/{name} has no card"
    assert f"--method {name}" in card.read_text(encoding="utf-8")


def test_no_card_without_a_method():
    folder = content_folder()
    assert folder is not None
    assert {path.name for path in folder.iterdir() if path.is_dir()} == set(METHODS)


@pytest.mark.parametrize("name", NAMES)
def test_product(name: str, make: Callable, tmp_path: Path, data_root: Path):
    synset = make(name, tmp_path / "run")
    dataset = load_dataset("digits", data_root)
    kind = METHODS.get(name)
    assert synset.method == name
    assert (synset.dataset, synset.fingerprint) == ("digits", dataset.fingerprint)
    assert synset.class_names == dataset.spec.class_names
    assert synset.config == {**recorded_config(small_config(name)), "holdout": 0.1}
    assert synset.images.shape[1:] == (1, 8, 8)
    counts = torch.bincount(synset.hard_labels(), minlength=CLASSES)
    if kind.unit == "ipc":
        assert (synset.budget.unit, synset.budget.value) == ("ipc", IPC)
        each = IPC if synset.decoder is None else synset.decoder.per_class(IPC)
        assert counts.tolist() == [each] * CLASSES
    else:
        assert (synset.budget.unit, synset.budget.value) == ("all", len(dataset.train))
        assert len(synset.images) == len(dataset.train)
    assert bool(torch.isfinite(synset.images.float()).all())
    assert set(synset.parents) == {need.key for need in kind.needs(small_config(name))}
    files = set(contents(tmp_path / "run"))
    assert {"config.json", "cost.json", "preview.png", "synset.safetensors"} <= files
    assert not {file for file in files if file.endswith(".tmp") or "checkpoint" in file}
    cost = json.loads((tmp_path / "run" / "cost.json").read_text())
    assert cost["wall_seconds"] > 0
    assert cost["peak_memory_bytes"] > 0


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_product(name: str, make: Callable, tmp_path: Path):
    for folder, seed in (("one", 0), ("two", 0), ("three", 1)):
        make(name, tmp_path / folder, seed=seed)
    one, two, three = ((tmp_path / folder / "synset.safetensors").read_bytes() for folder in ("one", "two", "three"))
    assert one == two
    assert one != three
    assert contents(tmp_path / "one", "cost.json") == contents(tmp_path / "two", "cost.json")


@pytest.mark.parametrize("name", NAMES)
def test_killed_half_way(name: str, make: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A run that dies in any step and is repeated leaves the bytes of one that did not."""
    kind = METHODS.get(name)
    make(name, tmp_path / "whole")
    step = kind.step
    left = [3]

    def dying(self: Any, iteration: int) -> dict[str, float]:
        if iteration == left[0]:
            left[0] += 2
            raise KeyboardInterrupt
        return step(self, iteration)

    monkeypatch.setattr(kind, "step", dying)
    tries = 0
    while not (tmp_path / "killed" / "synset.safetensors").exists():
        tries += 1
        assert tries < 10
        try:
            make(name, tmp_path / "killed")
        except KeyboardInterrupt:
            assert not (tmp_path / "killed" / "synset.safetensors").exists()
    metrics = tmp_path / "whole" / "metrics.jsonl"
    steps = len(metrics.read_text().splitlines()) if metrics.exists() else 0
    assert tries == 1 + len(range(3, steps, 2)), "it died in step 3 and every second one after it"
    assert contents(tmp_path / "killed", "cost.json") == contents(tmp_path / "whole", "cost.json")


def shared_out(name: str, make: Callable, out: Path, order: Sequence[int], count: int) -> None:
    """Do the shards of a run in this order; the last one finishes it."""
    for position, index in enumerate(order):
        left = position + 1 < len(order)
        with pytest.raises(Unfinished) if left else nullcontext():
            make(name, out, sharing=Sharing(shard=Shard(index, count)))
        assert (out / "synset.safetensors").exists() != left


def pieces_of(name: str, context: Context) -> int:
    return len(METHODS.get(name)(small_config(name), context).pieces())


def test_which_methods_are_shared_out(context: Context):
    shared = {name for name in NAMES if pieces_of(name, context) > 1}
    assert shared >= {"rded", "sre2l", "cda", "guard", "d3hr", "mgd3", "unguided", *CORESETS}
    assert not shared & {"mtt", "dm", "dc", "cudd", "random"}


@pytest.mark.parametrize("name", NAMES)
def test_shards(name: str, make: Callable, context: Context, tmp_path: Path):
    """Any number of shards in any order leaves the bytes of one process; what is of one piece is refused."""
    if pieces_of(name, context) < 2:
        with pytest.raises(UserError, match=r"^--shard 0/2: .* is of one piece here"):
            make(name, tmp_path / "run", sharing=Sharing(shard=Shard(0, 2)))
        assert not (tmp_path / "run").exists()
        return
    make(name, tmp_path / "whole")
    whole = contents(tmp_path / "whole", "cost.json")
    for order in ([1, 0], [2, 0, 1]):
        out = tmp_path / f"of-{len(order)}"
        few = pieces_of(name, context) < len(order)  # the last shard has nothing to do
        shared_out(name, make, out, order[few:], len(order))
        assert contents(out, "cost.json") == whole
    make(name, tmp_path / "one", sharing=Sharing(shard=Shard(0, 1)))
    assert contents(tmp_path / "one", "cost.json") == whole
    costs = [json.loads((tmp_path / run / "cost.json").read_text()) for run in ("whole", "of-2")]
    assert costs[0].keys() == costs[1].keys()
    assert costs[1]["iterations"] == costs[0]["iterations"]
    assert costs[1]["wall_seconds"] > 0


@pytest.mark.parametrize("name", NAMES)
def test_killed_shards(name: str, make: Callable, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One process is killed, then each of two shards, and gone on with by the other ones and by one process."""
    if pieces_of(name, context) < 2:
        return
    kind = METHODS.get(name)
    make(name, tmp_path / "whole")
    step, left = kind.step, [0]

    def dying(self: Any, iteration: int) -> dict[str, float]:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return step(self, iteration)

    monkeypatch.setattr(kind, "step", dying)
    half = len((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()) // 2
    for case, begin in (("first", None), ("second", Sharing(shard=Shard(0, 2)))):
        out = tmp_path / case
        tries: list[Any] = [{} if begin is None else {"sharing": begin}]
        tries += [{"sharing": Sharing(shard=Shard(index, 2))} for index in (1, 0)]
        for number, more in enumerate(tries):
            left[0] = min(half + 1 if begin is None and not number else 2, half)
            with pytest.raises(KeyboardInterrupt):
                make(name, out, **more)
        left[0] = 0
        if begin is None:
            shared_out(name, make, out, [0, 1], 2)
        else:
            make(name, out)
        assert contents(out, "cost.json") == contents(tmp_path / "whole", "cost.json")


@pytest.mark.parametrize("name", NAMES)
def test_state_round_trip(name: str, context: Context, buffers: Path, teachers: Path, tmp_path: Path):
    """What ``state`` gives, written to a file and read back into a fresh object, is all that goes on."""
    kind = METHODS.get(name)
    context = with_teacher(with_experts(context, kind, small_config(name), buffers), name, teachers)
    context = dataclasses.replace(context, student=smoke(name).get("student", TINY))

    def fresh() -> Any:
        kind.check(small_config(name), context)
        method = kind(small_config(name), context)
        method.setup()
        method.prepare()
        return method

    whole = fresh()
    for iteration in range(whole.iterations):
        assert all(isinstance(value, float) for value in whole.step(iteration).values())
    half = whole.iterations // 2
    first = fresh()
    for iteration in range(half):
        first.step(iteration)
    state = first.state()
    path = tmp_path / "state.safetensors"
    write_tensors(path, state.tensors, {"kind": "test", "schema": 1, "values": state.values})
    kept = {key: value.clone() for key, value in state.tensors.items()}
    second = fresh()
    with open_tensors(path, "test", 1) as (handle, header):
        read = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118 (not a dict)
        second.load_state(State(tensors=read, values=header["values"]))
    for iteration in range(half, whole.iterations):
        second.step(iteration)
    for field in dataclasses.fields(whole.distilled()):
        one, two = getattr(whole.distilled(), field.name), getattr(second.distilled(), field.name)
        assert type(one) is type(two), field.name
        if isinstance(one, dict):
            tensors = {key for key, value in one.items() if isinstance(value, torch.Tensor)}
            assert all(torch.equal(one[key], two[key]) for key in tensors), field.name
            assert {key: one[key] for key in one.keys() - tensors} == {key: two[key] for key in two.keys() - tensors}
            continue
        assert torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two, field.name
    # what was handed to load_state is not changed by going on
    assert all(torch.equal(kept[key], read[key]) for key in kept)


@pytest.mark.parametrize("name", NAMES)
def test_test_images_are_never_looked_at(name: str, make: Callable, tmp_path: Path, data_root: Path):
    """With other test images (same fingerprint) the product is the same, validated or not."""
    make(name, tmp_path / "one")
    other = negative(load_dataset("digits", data_root), test=True)
    make(name, tmp_path / "two", dataset=other, validate_every=3)
    one, two = (tmp_path / folder / "synset.safetensors" for folder in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_validation_is_on_held_out_images(make: Callable, tmp_path: Path, data_root: Path):
    """``metrics.jsonl`` says the same of other test images; of other held-out images another accuracy and no more."""
    digits = load_dataset("digits", data_root)
    lines = {}
    for name, dataset in (
        ("one", digits),
        ("tested", negative(digits, test=True)),
        ("held out", negative(digits, held_out_mask(digits))),
    ):
        make("dm", tmp_path / name, dataset=dataset, validate_every=1)
        lines[name] = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
    assert lines["tested"] == lines["one"]
    found, known = ([line.pop("holdout_accuracy") for line in lines[name]] for name in ("held out", "one"))
    assert found != known
    assert lines["held out"] == lines["one"]


def test_only_a_student_that_diverges_is_a_bad_score(make: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Any other refusal is told: it was kept as an accuracy of 0."""

    def refuse(*_: object) -> None:
        raise errors[0]

    monkeypatch.setattr(runner, "train_student", refuse)
    errors = [DivergedError("not finite"), UserError("no memory")]
    make("dm", tmp_path / "one", validate_every=1)
    lines = (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()
    assert {json.loads(line)["holdout_accuracy"] for line in lines} == {0.0}
    del errors[0]
    with pytest.raises(UserError, match="no memory"):
        make("dm", tmp_path / "two", validate_every=1)


@pytest.mark.parametrize("name", ["random", *CORESETS])
def test_real_images_are_training_images_that_are_not_held_out(
    name: str, make: Callable, context: Context, tmp_path: Path
):
    synset = make(name, tmp_path / "run", ipc=112)
    assert synset.images.dtype == torch.uint8
    assert torch.equal(synset.labels, torch.arange(CLASSES).repeat_interleave(112))
    real = {image.numpy().tobytes() for image in context.train.images}
    held = {image.numpy().tobytes() for image in context.held_out.images} - real
    chosen = [image.numpy().tobytes() for image in synset.images]
    assert set(chosen) <= real
    assert not set(chosen) & held
    assert len(set(chosen)) > 0.99 * len(chosen), "chosen without replacement (the data hold few equal images)"
    for image, label in zip(synset.images[::50], synset.labels[::50], strict=True):
        matches = (context.train.images == image).flatten(1).all(1)
        assert int(label) in context.train.labels[matches].tolist()


def class_features(context: Context, label: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of a class and the teacher's features of them, all at once, float64."""
    net = context.given(TrainedTeacher).network("cpu")
    images = context.train.images[context.train.labels == label]
    with torch.no_grad():
        return images, net.features(context.preprocess.apply(images)).double()


@pytest.mark.parametrize("batch", [7, 256])
def test_features_of_every_class(batch: int, context: Context, monkeypatch: pytest.MonkeyPatch):
    """Class by class and in batches, they are those of the whole class at once; every image has its turn."""
    monkeypatch.setattr(features, "BATCH", batch)
    positions = []
    for label, (index, made) in enumerate(features.teacher_features(context)):
        assert made.dtype == torch.float32
        assert not made.requires_grad
        torch.testing.assert_close(made.double(), class_features(context, label)[1], rtol=1e-5, atol=1e-5)
        assert set(context.train.labels[index].tolist()) == {label}
        positions += index.tolist()
    assert sorted(positions) == list(range(len(context.train)))


def test_herding_goes_by_the_teachers_features(make: Callable, context: Context, tmp_path: Path):
    """Every choice, of all that are left, is the best one for the mean of the chosen."""
    synset = make("herding", tmp_path / "run", ipc=4)
    for label in range(CLASSES):
        images, found = class_features(context, label)
        chosen: list[int] = []
        for image in synset.images[4 * label : 4 * label + 4]:
            position = int((images == image).flatten(1).all(1).nonzero()[0])
            sums = found + found[chosen].sum(0)
            errors = (found.mean(0) - sums / (len(chosen) + 1)).norm(dim=1)
            errors[chosen] = torch.inf
            assert float(errors[position]) <= float(errors.min()) * (1 + 1e-5)
            chosen.append(position)


def test_kcenter_goes_by_the_teachers_features(make: Callable, context: Context, tmp_path: Path):
    """Every choice, of all that are left, is the one farthest from the chosen."""
    synset = make("kcenter", tmp_path / "run", ipc=4)
    for label in range(CLASSES):
        images, found = class_features(context, label)
        chosen: list[int] = []
        for image in synset.images[4 * label : 4 * label + 4]:
            position = int((images == image).flatten(1).all(1).nonzero()[0])
            if chosen:
                gaps = torch.cdist(found, found[chosen]).min(1).values
            else:
                gaps = -(found - found.mean(0)).norm(dim=1)
            assert float(gaps[position]) >= float(gaps.max()) - 1e-5
            chosen.append(position)


def test_coresets_of_one_image_are_the_same(make: Callable, tmp_path: Path):
    """The image nearest to the class mean."""
    made = [make(name, tmp_path / name, ipc=1).images for name in CORESETS]
    assert torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[2])


@pytest.mark.parametrize("name", CORESETS)
def test_seeds_of_coresets(name: str, make: Callable, tmp_path: Path):
    """Only k-means has anything to draw."""
    one, two = (make(name, tmp_path / str(seed), ipc=5, seed=seed).images for seed in (0, 1))
    assert torch.equal(one, two) == (name != "kmeans")


@pytest.mark.parametrize("name", ["herding", "kcenter"])
def test_normalised_features_choose_otherwise(name: str, make: Callable, tmp_path: Path):
    config = METHODS.get(name).config_class(normalise=True)
    one, two = (make(name, tmp_path / str(k), ipc=5, config=made).images for k, made in enumerate((None, config)))
    assert not torch.equal(one, two)


@pytest.mark.parametrize("name", CORESETS)
def test_features_that_are_not_finite(name: str, context: Context, monkeypatch: pytest.MonkeyPatch):
    network = Teacher.network

    def spoiled(self: Teacher, device: Any) -> Any:
        net = network(self, device)
        next(net.parameters()).fill_(torch.inf)
        return net

    monkeypatch.setattr(Teacher, "network", spoiled)
    with pytest.raises(UserError, match=r"safetensors: its features of class '0' are not finite"):
        METHODS.get(name)(small_config(name), context).setup()


def test_features_that_do_not_fit_into_memory(context: Context, monkeypatch: pytest.MonkeyPatch):
    import ddbench.data.limits as limits

    monkeypatch.setattr(limits, "available_memory", lambda: 1000)
    with pytest.raises(UserError, match=r"features of class '0' needs .* 1000 bytes are available; use a teacher"):
        METHODS.get("herding")(small_config("herding"), context).setup()


def test_smallest_class_is_named(context: Context):
    counts = torch.bincount(context.train.labels)
    names = tuple(f"class {label}" for label in range(CLASSES))
    check_ipc(int(counts.min()), context.train, CLASSES, names)
    with pytest.raises(UserError, match=f"class 'class {int(counts.argmin())}' has only {int(counts.min())} "):
        check_ipc(int(counts.min()) + 1, context.train, CLASSES, names)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("mtt", {"lr_images": 1e30}, "the matching loss is .*likely cause"),
        ("dsa", {"lr_student": 1e20, "outer_loops": 3, "inner_epochs": 5}, "training the network .*lower --lr-student"),
        ("frepo", {"lr_pool": 1e38, "iterations": 1}, "a network of the pool diverged; likely cause"),
        ("rcig", {"lr_pool": 1e38}, "a network of the pool diverged; likely cause"),
    ],
)
def test_diverging_run_keeps_its_last_good_state(
    name: str, changes: dict[str, Any], words: str, make: Callable, tmp_path: Path
):
    config = dataclasses.replace(small_config(name), **changes)
    with pytest.raises(UserError, match=rf"iteration [0-9]: {words}.*last_good"):
        make(name, tmp_path / "run", config=config)
    synset = read_synset(tmp_path / "run" / "last_good.safetensors")
    assert bool(torch.isfinite(synset.images).all())
    assert (tmp_path / "run" / "checkpoint.safetensors").exists()
    assert not (tmp_path / "run" / "synset.safetensors").exists()


@pytest.mark.parametrize("name", ["frepo", "rcig"])
def test_features_without_a_regression_are_a_step_that_is_not_taken(name: str, context: Context):
    method = METHODS.get(name)(small_config(name), context)
    method.setup()
    method.pool.weights.fill_(torch.nan)
    with pytest.raises(NotFiniteError, match=r"a network's features have no regression|the meta loss is nan"):
        method.step(0)


def test_first_ages_of_frepo_are_those_of_a_life(context: Context):
    config = dataclasses.replace(small_config("frepo"), pool=12, oldest=100)
    method = METHODS.get("frepo")(config, context)
    assert method.first_ages() == [*range(0, 100, 10), 0, 10]
