"""``import ddbench``: light, typed; a synset as a torch Dataset, evaluations as objects, names of one's own; README."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from conftest import EAGER, TINY, contents
from torch import nn

import ddbench
from ddbench.data.dataset import Split, make_dataset
from ddbench.data.formation import decode
from ddbench.data.specs import DATASETS, DatasetSpec
from ddbench.decoders.multi_formation import MultiFormation
from ddbench.networks.build import build_student
from ddbench.networks.names import REGISTERED
from ddbench.protocols.protocol import PROTOCOLS
from ddbench.runtime.errors import UserError
from ddbench.synset import Synset, read_synset, write_synset

README = Path(__file__).parents[2] / "README.md"
pytestmark = pytest.mark.usefixtures("one_thread")


# The package


def test_import_is_light():
    code = "import ddbench, sys; dir(ddbench); sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    found = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(found) < 0.1


def test_names():
    assert set(ddbench.__all__) <= set(dir(ddbench))
    for name in ddbench.__all__:
        assert getattr(ddbench, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ddbench.nothing


def test_readme_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_root: Path):
    """The code of the section "From Python", as it stands."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DDBENCH_DATA", str(data_root))
    section = README.read_text(encoding="utf-8").split("## From Python")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.S)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    scores = names["scores"]
    assert isinstance(scores, ddbench.Evaluation)
    assert scores.path.is_file()
    assert list((tmp_path / "leaderboard").rglob("*.json"))


# Synsets


@pytest.fixture
def synset(random_run: Path) -> Synset:
    """The stored synset of the finished run."""
    return read_synset(random_run / "synset.safetensors")


def test_load(random_run: Path, synset: Synset):
    loaded = ddbench.load(random_run)
    assert len(loaded) == 10
    image, label = loaded[3]
    assert (image.dtype, image.shape, type(label), label) == (torch.float32, (1, 8, 8), int, int(synset.labels[3]))
    mean, std = (torch.tensor(synset.preprocess[name]) for name in ("mean", "std"))
    assert torch.allclose(image, (synset.images[3].float() / 255 - mean) / std, atol=1e-6)
    assert torch.equal(loaded[-1][0], loaded.images[9])
    assert (loaded.method, loaded.dataset, loaded.ipc, loaded.learned_lr) == ("random", "digits", 1, None)
    assert (loaded.class_names, loaded.student, loaded.seed) == (tuple("0123456789"), None, 0)
    assert repr(loaded) == "random on digits, ipc 1: 10 images of 1 x 8 x 8, 10 classes, hard labels"
    assert len(ddbench.load(str(random_run / "synset.safetensors"))) == 10
    for index in (10, -11):
        with pytest.raises(IndexError, match=f"image {index} of 10"):
            loaded[index]


def test_loaded_synset_in_a_loader(random_run: Path):
    loaded = ddbench.load(random_run)
    batches = list(torch.utils.data.DataLoader(loaded, batch_size=4))
    assert [x.shape[0] for x, _ in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([x for x, _ in batches]), loaded.images)
    assert torch.equal(torch.cat([y for _, y in batches]), loaded.labels)


def test_pictures(random_run: Path, synset: Synset):
    loaded = ddbench.load(random_run)
    picture = loaded.to_pil(2)
    assert (picture.mode, picture.size) == ("L", (8, 8))
    assert list(picture.tobytes()) == synset.images[2].flatten().tolist()
    assert loaded.grid().size == (5 * 50 - 2, 2 * 50 - 2), "one image a class: two rows of five, enlarged six times"


def test_learned_synset(random_run: Path, synset: Synset, tmp_path: Path):
    """Decoded to more images, soft labels, a rate a stage."""
    path = tmp_path / "learned.safetensors"
    images = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.eye(10) * 3
    write_synset(
        path,
        replace(synset, images=images, labels=labels, decoder=MultiFormation(factor=2), learned_lr=torch.tensor(0.5)),
    )
    loaded = ddbench.load(path)
    assert len(loaded) == 40
    assert loaded.learned_lr == 0.5
    image, label = loaded[11]
    assert torch.equal(label, labels[1])
    own = loaded.preprocess
    assert torch.allclose(image, own.apply(decode(own.invert(images), 2))[11])
    expected = (own.invert(image[None]).clamp(0, 1) * 255).round()
    assert list(loaded.to_pil(11).tobytes()) == expected.flatten().int().tolist()


def test_load_with_zca(synset: Synset, tmp_path: Path, data_root: Path):
    from ddbench.data.load import load_dataset
    from ddbench.data.preprocess import fit_preprocess

    dataset = load_dataset("digits", data_root)
    zca = fit_preprocess(dataset, "zca")
    path = tmp_path / "zca.safetensors"
    write_synset(path, replace(synset, images=zca.apply(synset.images), preprocess=zca.to_json()))
    loaded = ddbench.load(path, data=data_root)
    assert torch.equal(loaded.images, zca.apply(synset.images))
    assert (loaded.pixels().int() - synset.images.int()).abs().max() <= 1


def test_slices_are_batches(random_run: Path):
    loaded = ddbench.load(random_run)
    for index in (slice(2, 5), slice(None), slice(None, None, -3), slice(20, 30)):
        images, labels = loaded[index]
        wanted = list(range(10))[index]
        assert torch.equal(images, loaded.images[wanted])
        assert torch.equal(labels, loaded.labels[wanted])
    assert loaded[torch.tensor(3)][1] == loaded[3][1]
    with pytest.raises(UserError, match="slice indices must be integers"):
        loaded["a":]  # type: ignore[misc]
    with pytest.raises(UserError, match="slice indices must be integers"):
        loaded.pixels(slice("a"))
    for index in ("a", 1.0, None, [0, 1]):
        with pytest.raises(UserError, match=r"safetensors: image .*, expected a whole number or a slice"):
            loaded[index]  # type: ignore[call-overload]
        with pytest.raises(UserError, match="expected a whole number"):
            loaded.to_pil(index)  # type: ignore[arg-type]
    for positions in ([2, 0], numpy.array([2, 0]), torch.tensor([2, 0])):
        assert torch.equal(loaded.pixels(positions), loaded.pixels()[[2, 0]])
    for index in (3, "a", [0.5], None):
        with pytest.raises(UserError, match=r"images .*, expected a list of positions, or a slice"):
            loaded.pixels(index)  # type: ignore[arg-type]


def test_load_nothing(tmp_path: Path):
    with pytest.raises(UserError, match="no such synset"):
        ddbench.load(tmp_path)


# Arguments of another type

WRONG = {
    "distill: ipc is '1', expected int": lambda: ddbench.distill("random", ipc="1"),
    "distill: ipc is True, expected int": lambda: ddbench.distill("random", ipc=True),
    "distill: method is None, expected str": lambda: ddbench.distill(None, ipc=1),
    "distill: holdout is '0.1', expected float": lambda: ddbench.distill("random", holdout="0.1", ipc=1),
    "distill: out is 3, expected a path": lambda: ddbench.distill("random", out=3, ipc=1),
    "distill: shard is '1/2', expected a Shard": lambda: ddbench.distill("random", shard="1/2", ipc=1),
    "--buffers 3: expected a path": lambda: ddbench.distill("mtt", buffers=3, ipc=1),
    "load: run is 3, expected a path": lambda: ddbench.load(3),
    "evaluate: run is None, expected a path": lambda: ddbench.evaluate(None),
    "evaluate: students is 3, expected str or a list": lambda: ddbench.evaluate("r", students=3),
    "evaluate: students is [3], expected str or a list of str": lambda: ddbench.evaluate("r", students=[3]),
    "evaluate: teacher is 3, expected a path": lambda: ddbench.evaluate("r", teacher=3),
    "evaluate: data is 3, expected a path": lambda: ddbench.evaluate("r", data=3),
    "task: runs is 3, expected a path or a list": lambda: ddbench.task("transfer", 3),
    "task: name is 3, expected str": lambda: ddbench.task(3, "r"),
    "submit: authors is 'Me', expected a list": lambda: ddbench.submit("r", authors="Me"),
    "submit: claims is {'a': 'b'}, expected a dict of float": lambda: ddbench.submit("r", claims={"a": "b"}),
    "register_dataset: spec is 3, expected a DatasetSpec": lambda: ddbench.register_dataset(3),
    "register_method: kind is 3, expected a class": lambda: ddbench.register_method("mine", 3),
    "register_task: name is 3, expected str": lambda: ddbench.register_task(3, int),
    "dataset 'x': classes is '2', expected int": lambda: _register(classes="2"),
    "dataset 'x': class_names is None, expected a list": lambda: _register(class_names=None),
    "dataset 'x': class_names is a list, expected a tuple": lambda: _register(class_names=["a", "d"]),
    "dataset 'x': mean is 0.3, expected a list": lambda: _register(mean=0.3),
    "dataset 'x': std is array([0.2]), expected a list": lambda: _register(std=numpy.array([0.2])),
    "dataset 'x': mean and std need one number a channel": lambda: _register(std=(0.0,)),
    "dataset 'x': has no reader": lambda: _register(reader="made"),
    "stripes, training set: of type tuple, expected a Split": lambda: make_dataset(STRIPES, (1, 2), (3, 4)),
    "stripes, test set: of type NoneType, expected a Split": lambda: make_dataset(STRIPES, _HALF, None),
    "spec is 'digits', expected a DatasetSpec": lambda: make_dataset("digits", _HALF, _HALF),
    "protocol 'x': epochs is None, expected int": lambda: ddbench.register_protocol(
        ddbench.Protocol(name="x", epochs=None)
    ),
    "protocol: name is 3, expected str": lambda: ddbench.register_protocol(ddbench.Protocol(name=3)),
}


_HALF = Split(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.arange(2))


def _register(**changes: Any) -> None:
    ddbench.register_dataset(replace(STRIPES, name="x", **changes))


@pytest.mark.parametrize("words", WRONG)
def test_arguments_of_another_type_are_told(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(words)):
        WRONG[words]()
    assert not list(tmp_path.iterdir())


def test_arguments_of_like_types_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Numbers of numpy, whole numbers for floats."""
    monkeypatch.chdir(tmp_path)
    run = ddbench.distill("random", ipc=numpy.int64(1), out="run", holdout=numpy.int64(0), quiet=numpy.bool_(True))
    assert len(ddbench.load(run)) == 10
    with pytest.raises(UserError, match="hold-out fraction"):
        ddbench.distill("random", ipc=1, out="other", holdout=numpy.float32(1.5), quiet=True)


@pytest.mark.parametrize(
    "runs", [{"no-run": 1}.keys(), iter(["no-run"]), numpy.array(["no-run"])], ids=["keys", "iterator", "array"]
)
def test_collections_of_any_kind_are_taken(runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The run itself is not there, which is said by the task."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no-run"):
        ddbench.task("transfer", runs)


# Evaluations


def test_evaluate_as_the_command_line(random_run: Path, ddb: Callable, tmp_path: Path, data_root: Path):
    """The same bytes; a finished one is gone on with; the caller's threads stay as they were."""
    more = {"epochs": 3, "data": str(data_root), "compile": "off", "quiet": True}
    torch.set_num_threads(2)
    own = ddbench.evaluate(random_run, students=[TINY, "mlp-d1-w8"], seeds=2, out=tmp_path / "own.json", **more)
    assert torch.get_num_threads() == 2
    argv = ["evaluate", random_run, "--students", f"{TINY},mlp-d1-w8", "--seeds", 2, "--epochs", 3, "--workers", 1]
    told = ddb(*argv, *EAGER, "--quiet", "--out", tmp_path / "line.json", "--data", data_root)
    assert (tmp_path / "own.json").read_bytes() == (tmp_path / "line.json").read_bytes()
    assert told.out == f"{own!r}\nresult: {tmp_path / 'line.json'}\n"
    before = contents(tmp_path)
    again = ddbench.evaluate(random_run, students=[TINY, "mlp-d1-w8"], seeds=2, out=tmp_path / "own.json", **more)
    assert again == own
    assert contents(tmp_path) == before


@pytest.fixture
def scores(random_run: Path, data_root: Path) -> ddbench.Evaluation:
    """Two students, two seeds."""
    return ddbench.evaluate(
        random_run, students=f"{TINY},mlp-d1-w8", seeds=2, epochs=3, data=data_root, compile="off", quiet=True
    )


def test_evaluation(scores: ddbench.Evaluation):
    frame = scores.frame()
    assert list(frame.columns) == ["method", "dataset", "protocol", "student", "seed", "accuracy"]
    assert list(zip(frame.student, frame.seed, strict=True)) == [(n, s) for n in (TINY, "mlp-d1-w8") for s in (0, 1)]
    assert scores.students == (TINY, "mlp-d1-w8")
    assert scores.accuracy(TINY) == pytest.approx(frame[frame.student == TINY].accuracy.mean())
    assert scores.summary("mlp-d1-w8")["n"] == 2
    assert not scores.standard
    lines = repr(scores).splitlines()
    assert lines[0].startswith("random on digits, ipc 1, hard-v1  NON-STANDARD: {'epochs': 3")
    assert f"{100 * scores.accuracy(TINY):.2f} %" in lines[1]
    with pytest.raises(UserError, match="2 students, name one of"):
        scores.accuracy()
    with pytest.raises(UserError, match=r"unknown student of this evaluation 'mlp-d1-w9'.*did you mean 'mlp-d1-w8'"):
        scores.accuracy("mlp-d1-w9")
    with pytest.raises(UserError, match="unknown metric of this evaluation 'ece'"):
        scores.summary(TINY, "ece")


def test_a_metric_that_some_runs_have(scores: ddbench.Evaluation):
    """More students and seeds may come after a measurement."""
    runs = [{**run, "metrics": {**run["metrics"]}} for run in scores.data["runs"]]
    runs[0]["metrics"]["ece"] = 0.1
    metrics = {**scores.data["metrics"], "ece": {}}
    part = replace(scores, data={**scores.data, "runs": runs, "metrics": metrics})
    assert part.by_seed(runs[0]["student"], "ece") == {0: 0.1}
    with pytest.raises(UserError, match="unknown metric of mlp-d1-w8 'ece'; known: accuracy"):
        part.by_seed("mlp-d1-w8", "ece")


def test_plot(scores: ddbench.Evaluation):
    """The mean's red bar stands where the value is."""
    picture = scores.plot()
    red = [x for x in range(picture.width) if picture.getpixel((x, 2 * (56 + 14))) == (0xEE, 0x66, 0x77)]
    middle = (red[0] + red[-1]) / 2 / 2
    assert middle == pytest.approx(200 + 320 * scores.accuracy(TINY), abs=1.5)
    with pytest.raises(UserError, match="unknown metric"):
        scores.plot("ece")


@pytest.mark.parametrize(
    ("settings", "needle"),
    [
        ({"epoch": 3}, r"evaluate: unknown setting 'epoch' \(did you mean 'epochs'\?\)"),
        ({"seeds": "5"}, "evaluate: seeds is '5', expected int"),
        ({"seeds": 0}, "--seeds 0: expected at least 1"),
        ({"students": []}, "empty student name"),
        ({"robustness": "hard"}, "unknown budget 'hard'"),
        ({"protocol": "hard-v2"}, "unknown protocol 'hard-v2'"),
    ],
)
def test_evaluate_refuses(settings: dict, needle: str, random_run: Path):
    before = contents(random_run)
    with pytest.raises(UserError, match=needle):
        ddbench.evaluate(random_run, quiet=True, **settings)
    assert contents(random_run) == before


def test_submit(random_run: Path, tmp_path: Path):
    board = tmp_path / "board"
    plan = ddbench.submit(random_run, board, dry_run=True)
    assert not board.exists()
    made = ddbench.submit(random_run / "synset.safetensors", board, claims={TINY: 0.5}, claim_source="a table")
    assert made.path.is_file()
    assert made.path.parent == plan.path.parent
    assert made.result.submission.claims[0].value == 0.5
    assert ddbench.submit(random_run, board, claims={TINY: 0.5}, claim_source="a table").known
    with pytest.raises(UserError, match="expected a fraction between 0 and 1"):
        ddbench.submit(random_run, board, claims={TINY: 50})


# Names of one's own


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables as before anything was looked up, and put back at the end."""
    for table in (DATASETS, REGISTERED, PROTOCOLS):
        monkeypatch.setattr(table, "_table", dict.fromkeys(table._builtin, "ddbench"))
        monkeypatch.setattr(table, "_objects", {name: table._objects[name] for name in table._builtin})
        monkeypatch.setattr(table, "_scanned", False)


def _stripes(spec: DatasetSpec, root: Path, download: bool, console: object) -> object:
    """Two classes: stripes down and across, with a grey level of each image."""
    down = torch.zeros(1, 8, 8, dtype=torch.uint8)
    down[:, :, ::2] = 100
    images = torch.stack([(down if k % 2 else down.transpose(1, 2)) + k for k in range(40)])
    labels = torch.arange(40) % 2
    return make_dataset(spec, Split(images[:30], labels[:30]), Split(images[30:], labels[30:]), root=root)


STRIPES = DatasetSpec("stripes", 1, 8, 2, ("a", "d"), (0.3,), (0.2,), True, "made here", reader=_stripes)


def _pair(channels: int, size: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size**2, 5), nn.ReLU(), nn.Linear(5, classes))


def _odd(channels: int, size: int) -> None:
    if size > 16:
        raise UserError(f"student 'pair': images of {size} px are too large, expected at most 16")


PAIR = ddbench.StudentSpec(name="pair", build=_pair, title="two linear layers", check=_odd)


@pytest.mark.usefixtures("fresh")
def test_from_start_to_end_with_own_names(tmp_path: Path):
    short = replace(PROTOCOLS["hard-v1"], name="short", epochs=2, full_epochs=2)
    ddbench.register_dataset(STRIPES)
    ddbench.register_student(PAIR)
    ddbench.register_protocol(short)
    ddbench.register_protocol(short)  # the same again: a cell of a notebook that is run twice
    how = {"data": tmp_path, "compile": "off", "quiet": True}
    how_dm = {"iterations": 2, "augmentation": "none", "threads": 1, **how}
    run = ddbench.distill("dm", dataset="stripes", ipc=1, student="pair", out=tmp_path / "run", **how_dm)
    scores = ddbench.evaluate(run, students=["pair", TINY], protocol="short", seeds=1, **how)
    assert scores.standard
    assert scores.data["protocol"]["hash"] == short.hash
    assert scores.students == (TINY, "pair")
    assert ddbench.load(run).student == "pair"


@pytest.mark.usefixtures("fresh")
def test_docs_example(tmp_path: Path):
    """The code of docs/api.md, as it stands."""
    from ddbench.data.load import load_dataset

    text = (README.parent / "docs" / "api.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    exec(compile(code, "api.md", "exec"), {})
    first, again = (load_dataset("mine", tmp_path) for _ in range(2))
    assert len(first.train) == 80
    assert first.fingerprint == again.fingerprint, "else what was distilled from it cannot be scored"
    assert build_student("linear", channels=1, size=8, classes=2, seed=0)(torch.zeros(3, 1, 8, 8)).shape == (3, 2)
    assert PROTOCOLS["mine-v1"].epochs == 50


@pytest.mark.usefixtures("fresh")
def test_own_names_that_are_refused():
    for register, entry, needle in [
        (ddbench.register_dataset, replace(STRIPES, name="digits"), "dataset 'digits' exists already"),
        (ddbench.register_dataset, replace(STRIPES, channels=2), "2 channels, side 8"),
        (ddbench.register_dataset, replace(STRIPES, reader=""), "has no reader"),
        (ddbench.register_dataset, replace(STRIPES, mean=()), "one number a channel"),
        (ddbench.register_dataset, replace(STRIPES, class_names=("a",)), "1 class names for 2 classes"),
        (ddbench.register_dataset, replace(STRIPES, name="../x"), "expected one name"),
        (ddbench.register_student, replace(PAIR, name="lenet"), "this name has a meaning already"),
        (ddbench.register_student, replace(PAIR, name="quick"), "this name has a meaning already"),
        (ddbench.register_student, replace(PAIR, name="A b"), "expected one name"),
        (ddbench.register_protocol, PROTOCOLS["hard-v1"], None),
        (ddbench.register_protocol, replace(PROTOCOLS["hard-v1"], epochs=3), "protocol 'hard-v1' exists already"),
        (ddbench.register_protocol, replace(PROTOCOLS["hard-v1"], name="x", lr=-1.0), "lr"),
        (ddbench.register_protocol, replace(PROTOCOLS["hard-v1"], name="x.toml"), "expected one name"),
    ]:
        if needle is None:
            register(entry)
            continue
        with pytest.raises(UserError, match=needle):
            register(entry)
    assert "stripes" not in DATASETS
    with pytest.raises(UserError, match=r"is DatasetSpec.*, expected a StudentSpec"):
        ddbench.register_student(STRIPES)  # type: ignore[arg-type]


@pytest.mark.usefixtures("fresh")
def test_a_registered_student_is_checked_and_seeded():
    ddbench.register_student(PAIR)
    shape = {"channels": 1, "size": 8, "classes": 3}
    one, other = (build_student("pair", **shape, seed=seed) for seed in (0, 0))
    x = torch.randn(4, 1, 8, 8)
    assert torch.equal(one(x), other(x))
    assert not torch.equal(one(x), build_student("pair", **shape, seed=1)(x))
    assert torch.equal(one.classifier(one.features(x)), one(x))
    with pytest.raises(UserError, match="32 px are too large"):
        build_student("pair", channels=1, size=32, classes=3, seed=0)
    ddbench.register_student(replace(PAIR, name="odd", build=lambda channels, size, classes: nn.Linear(3, 3)))
    with pytest.raises(UserError, match="student 'odd' does not take images of 1 x 8 x 8"):
        build_student("odd", **shape, seed=0)
    ddbench.register_student(replace(PAIR, name="gone", build="no_such_module:x"))
    with pytest.raises(UserError, match="student 'gone': no_such_module:x cannot be loaded"):
        build_student("gone", **shape, seed=0)
    with pytest.raises(UserError, match=r"unknown student 'pairs' \(did you mean 'pair'\?\)"):
        build_student("pairs", **shape, seed=0)


@pytest.mark.usefixtures("fresh")
def test_arrays_in_place_of_tensors_are_told(random_run: Path):
    """In one line, as whole numbers that would be taken for fractions are."""
    pixels = numpy.zeros((2, 1, 8, 8), numpy.uint8)
    preprocess = ddbench.load(random_run).preprocess
    for act in (preprocess.apply, preprocess.invert):
        with pytest.raises(UserError, match=r"^images are of type ndarray, expected a torch tensor; torch\.as_tensor"):
            act(pixels)
        with pytest.raises(UserError, match=r"^images of shape \[1, 8, 8\], expected \(N, C, H, W\)$"):
            act(torch.zeros(1, 8, 8))
    with pytest.raises(UserError, match=r"^images of torch\.int64, expected torch\.uint8, or floats in \[0, 1\]$"):
        preprocess.apply(torch.as_tensor(pixels).long())
    labels = torch.tensor([0, 1])
    for images, classes in ((pixels, labels), (torch.as_tensor(pixels), labels.numpy())):
        with pytest.raises(UserError, match=r"^dataset stripes, training set: images are of type .*ndarray"):
            make_dataset(STRIPES, Split(images, classes), Split(images, classes))


def test_reader_that_gives_something_else(tmp_path: Path):
    from ddbench.data.load import load_dataset

    ddbench.register_dataset(replace(STRIPES, reader=lambda *given: None))
    with pytest.raises(UserError, match="its reader gave NoneType, expected a Dataset"):
        load_dataset("stripes", tmp_path)


MODULE = '''"""What another package adds."""
from dataclasses import replace

import ddbench
from ddbench.protocols.protocol import PROTOCOLS

waves = ddbench.DatasetSpec(
    "waves", 1, 8, 2, ("a", "b"), (0.5,), (0.5,), True, "made elsewhere", reader="elsewhere_reader:read"
)
triple = ddbench.StudentSpec(name="triple", build="elsewhere_reader:build", title="a net of elsewhere")
brief = replace(PROTOCOLS["hard-v1"], name="brief", epochs=2)
wrong = replace(waves, name="wrong", channels=7)
'''

POINTS = """[ddbench.datasets]
waves = elsewhere:waves
digits = elsewhere:waves
wrong = elsewhere:wrong
late = no_such_module:x

[ddbench.students]
triple = elsewhere:triple

[ddbench.protocols]
brief = elsewhere:brief
broken = elsewhere:nothing
"""


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder with an installed package that adds names by entry points."""
    info = tmp_path / "site" / "elsewhere-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    (info.parent / "elsewhere.py").write_text(MODULE)
    return info.parent


@pytest.mark.usefixtures("fresh")
def test_entry_points(elsewhere: Path, ddb: Callable, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(elsewhere))
    told = ddb("list", "datasets")
    names = [line.split()[0] for line in told.out.splitlines()]
    assert names[names.index("waves") + 1] == "folder:PATH"
    assert "1x8x8, 10 classes; embedded" in told.out
    for needle in (
        "dataset 'digits' is defined twice: ddbench and elsewhere:waves; rename one; the second is ignored",
        "dataset 'wrong' (elsewhere:wrong) cannot be loaded: dataset 'wrong': 7 channels",
        "dataset 'late' (no_such_module:x) cannot be loaded: No module named 'no_such_module'; ignored",
    ):
        assert told.err.count(needle) == 1, told.err
    assert "a net of elsewhere" in ddb("list", "students").out
    told = ddb("list", "protocols")
    assert "elsewhere:brief" in told.out
    assert "protocol 'broken' (elsewhere:nothing) cannot be loaded" in told.err
    assert PROTOCOLS["brief"].epochs == 2
    assert PROTOCOLS["hard-v1"].hash == ddbench.Protocol(name="hard-v1").hash


def test_lists_need_no_torch(elsewhere: Path):
    code = (
        "import sys; from ddbench.cli.main import run\n"
        "for what in ('datasets', 'students', 'protocols', 'methods'): run(['list', what])\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": f"{elsewhere}:{README.parent}"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "waves" in done.stdout
