"""``ddbench scores``: what is trained, what is kept and shared, what is refused."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from conftest import EAGER, TINY, Outcome, contents, listing, random_tiny

from ddbench.data import load
from ddbench.evaluation import tasks
from ddbench.evaluation.ddranking.definitions import Accuracies, repeat_scores, summary
from ddbench.leaderboard.recorded import read_scores
from ddbench.protocols import training
from ddbench.protocols.protocol import PROTOCOLS
from ddbench.runtime.errors import UserError
from ddbench.synset import read_synset, write_synset

LEGS = tuple(Accuracies.__dataclass_fields__)
RATES = len(PROTOCOLS["hard-v1"].lr_grid)
EPOCHS = 3

Command = Callable[..., Outcome]


def scores_tiny(run: Path, cache: Path, *more: object) -> list[object]:
    """A scores command that takes a fraction of a second."""
    return [
        *("scores", run, "--student", TINY, "--repeats", 2, "--epochs", EPOCHS, "--workers", 1),
        *("--cache", cache, "--quiet", *EAGER, *more),
    ]


def scored(ddb: Command, run: Path, cache: Path, *more: object) -> dict[str, Any]:
    out = run / "out.json"
    result = ddb(*scores_tiny(run, cache, "--out", out, *more))
    assert (result.code, result.err) == (0, ""), result.err
    return json.loads(out.read_text())


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The synset file of every training that is done, in order."""
    files: list[Path] = []
    run_task = tasks.run_task

    def record(job: Any, task: Any) -> Any:
        files.append(job.synset)
        return run_task(job, task)

    monkeypatch.setattr(tasks, "run_task", record)
    return files


@pytest.fixture
def other_run(random_run: Path, tmp_path: Path) -> Path:
    """Another synset of the same cell: the images of the random run, the other way round."""
    synset = read_synset(random_run / "synset.safetensors")
    path = tmp_path / "other" / "synset.safetensors"
    write_synset(path, replace(synset, images=synset.images.flip(3), method="mirrored"))
    return path.parent


@pytest.fixture
def soft_run(random_run: Path, tmp_path: Path) -> Path:
    """A synset with soft labels."""
    synset = read_synset(random_run / "synset.safetensors")
    path = tmp_path / "soft" / "synset.safetensors"
    labels = 3 * torch.nn.functional.one_hot(synset.labels, 10).float() + 0.3 * torch.arange(10.0)
    write_synset(path, replace(synset, labels=labels, method="soft", student=TINY))
    return path.parent


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """A tiny teacher of digits."""
    from ddbench.cli.main import run

    root = tmp_path_factory.mktemp("teachers")
    argv = ("teacher", "--dataset", "digits", "--student", "convnet-d1-w4-bn", "--epochs", 1, "--teachers", root)
    run([str(part) for part in (*argv, "--data", data_root, "--quiet", *EAGER)])
    return next(root.rglob("*.safetensors"))


def accuracies(path: Path, student: str = TINY) -> list[float]:
    return [run["metrics"]["accuracy"] for run in json.loads(path.read_text())["runs"] if run["student"] == student]


# What is measured


def test_every_accuracy_is_that_of_an_ordinary_evaluation(ddb: Command, mtt_run: Path, tmp_path: Path):
    """Each leg once more with the verbs of every day: distil random and full, evaluate."""
    found = scored(ddb, mtt_run, tmp_path / "cache")

    def evaluated(run: Path, *flags: object, seeds: int = 2) -> list[float]:
        out = tmp_path / "score.json"
        out.unlink(missing_ok=True)
        argv = ("evaluate", run, "--students", TINY, "--seeds", seeds, "--epochs", EPOCHS, "--workers", 1, *flags)
        result = ddb(*argv, "--out", out, "--quiet", *EAGER)
        assert result.code == 0, result.err
        return accuracies(out)

    plain = ("--augmentation", "none")
    full = ("distill", "--method", "full", "--dataset", "digits", "--out", tmp_path / "full", "--quiet", *EAGER)
    assert ddb(*full).code == 0
    expected = {
        "real_hard": evaluated(tmp_path / "full", *plain, "--lr-source", "search"),
        "syn_hard": evaluated(mtt_run, *plain),  # at its learned learning rate
        "syn": evaluated(mtt_run),
        "syn_plain": evaluated(mtt_run, *plain),
        "random": [],
        "random_plain": [],
    }
    for repeat in range(2):
        run = tmp_path / f"random-{repeat}"
        assert ddb(*random_tiny(run, "--seed", repeat)).code == 0
        expected["random"].append(evaluated(run)[repeat])
        expected["random_plain"].append(evaluated(run, *plain)[repeat])
    assert [repeat["seed"] for repeat in found["repeats"]] == [0, 1]
    for name in LEGS:
        assert [repeat[name] for repeat in found["repeats"]] == expected[name], name
    assert len(set(expected["syn"])) > 1


def test_record(ddb: Command, random_run: Path, tmp_path: Path):
    found = scored(ddb, random_run, tmp_path / "cache", "--weight", 0.25)
    assert (found["kind"], found["schema"], found["student"], found["weight"]) == ("ddbench-scores", 1, TINY, 0.25)
    for repeat in found["repeats"]:
        expected = repeat_scores(Accuracies(**{name: repeat[name] for name in LEGS}), 0.25)
        assert {name: repeat[name] for name in expected} == expected
    assert found["summary"] == summary([{k: v for k, v in one.items() if k != "seed"} for one in found["repeats"]])
    assert found["protocol"]["name"] == "hard-v1"
    assert found["protocol"]["changed"] == {"epochs": EPOCHS, "full_epochs": EPOCHS}
    assert found["standard"] is False
    legs = found["legs"]
    assert {name: (leg["subject"], leg["shared"]) for name, leg in legs.items()} == {
        "real_hard": ("real", True),
        "syn_hard": ("synset", False),
        "syn": ("synset", False),
        "random": ("random", True),
        "syn_plain": ("synset", False),
        "random_plain": ("random", True),
    }
    assert all(len(leg["protocol"]["hash"]) == 16 for leg in legs.values())
    assert [len(legs[name]["synsets"]) for name in ("real_hard", "syn", "random")] == [1, 1, 2]
    assert legs["random"]["synsets"] == legs["random_plain"]["synsets"]
    assert legs["syn_hard"]["learning_rate_sources"] == ["search on held-out training images"]
    assert legs["syn"]["learning_rates"] == [0.01]
    costs = json.loads((random_run / "out.cost.json").read_text())
    assert (costs["found"], costs["trained"]) == (0, 2 * (RATES + 2) + 4 * 2)
    assert not any("seconds" in key or str(tmp_path) in key for key in json.dumps(found).split('"'))


def test_table(ddb: Command, random_run: Path, tmp_path: Path):
    found = scored(ddb, random_run, tmp_path / "cache")
    text = ddb(*scores_tiny(random_run, tmp_path / "cache")).out
    lines = text.splitlines()
    assert lines[0].startswith(f"random on digits, ipc 1, hard-v1, {TINY}, 2 repeats")
    assert "NON-STANDARD" in lines[1]
    assert [line.split()[0] for line in lines[2:8]] == ["HLR", "IOR", "A1", "A0", "LRS", "ARS"]
    entry = found["summary"]["hlr"]
    end = "1.0000, clipped" if entry["high"] > 1 else f"{entry['high']:.4f}"
    assert f"{entry['mean']:.4f}   {entry['low']:.4f} to {end}" in lines[2]
    assert f"{found['summary']['lrs']['mean']:.2f}   " in lines[6]
    place = random_run / "scores" / f"hard-v1-nonstandard-epochs={EPOCHS}-full_epochs={EPOCHS}-{TINY}.json"
    assert lines[-1] == f"result: {place}"
    assert json.loads(place.read_text()) == found


def test_search_looks_at_training_images_only(ddb: Command, random_run: Path, tmp_path: Path, monkeypatch):
    """With the test images spoilt, the searched learning rates are the same."""
    found = scored(ddb, random_run, tmp_path / "cache")
    whole = load.load_dataset

    def spoilt(*args: object, **options: object) -> Any:
        dataset = whole(*args, **options)
        test = replace(dataset.test, labels=dataset.test.labels.flip(0))
        return replace(dataset, test=test)

    tasks._loaded.cache_clear()
    monkeypatch.setattr(load, "load_dataset", spoilt)
    other = scored(ddb, Path(shutil.copytree(random_run, tmp_path / "copy", ignore=_no_results)), tmp_path / "cache2")
    tasks._loaded.cache_clear()
    for name in ("real_hard", "syn_hard"):
        assert other["legs"][name]["learning_rates"] == found["legs"][name]["learning_rates"]
    assert other["summary"]["real_hard"]["mean"] < found["summary"]["real_hard"]["mean"] - 0.2


def _no_results(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name.startswith("out.") or name == "evaluations"]


# What is kept and shared


def test_a_second_synset_costs_its_own_trainings_only(
    ddb: Command, random_run: Path, other_run: Path, soft_run: Path, tmp_path: Path, trained: list[Path]
):
    cache = tmp_path / "cache"
    first = scored(ddb, random_run, cache)
    assert len(trained) == 2 * (RATES + 2) + 4 * 2
    before = listing(cache)
    trained.clear()
    second = scored(ddb, other_run, cache)
    assert trained == [other_run / "synset.safetensors"] * (RATES + 2 + 2 + 2)
    for name in ("real_hard", "random", "random_plain"):
        assert [one[name] for one in second["repeats"]] == [one[name] for one in first["repeats"]]
        assert second["legs"][name] == first["legs"][name]
    costs = json.loads((other_run / "out.cost.json").read_text())
    assert (costs["legs"]["real_hard"]["found"], costs["legs"]["real_hard"]["trained"]) == (RATES + 2, 0)
    assert (costs["legs"]["random"]["found"], costs["legs"]["syn"]["trained"]) == (2, 2)
    trained.clear()
    scored(ddb, soft_run, cache)
    assert set(trained) == {soft_run / "synset.safetensors"}, "hard labels of real images serve soft synsets, too"
    assert listing(cache) == before


def test_more_repeats_add_to_what_is_there(ddb: Command, random_run: Path, tmp_path: Path, trained: list[Path]):
    cache = tmp_path / "cache"
    first = scored(ddb, random_run, cache)
    trained.clear()
    second = scored(ddb, random_run, cache, "--repeats", 3)
    assert len(trained) == 6
    assert second["repeats"][:2] == first["repeats"]
    assert [path.parent.name.rpartition("-")[2] for path in trained[-2:]] == ["s2", "s2"]


def test_repeated_command_trains_nothing(ddb: Command, random_run: Path, tmp_path: Path, trained: list[Path]):
    cache = tmp_path / "cache"
    scored(ddb, random_run, cache)
    before = contents(tmp_path, ".cost.json")
    trained.clear()
    scored(ddb, random_run, cache)
    assert trained == []
    assert contents(tmp_path, ".cost.json") == before


@pytest.mark.parametrize("after", [1, RATES + 3, 2 * RATES + 7, 2 * RATES + 11])
def test_killed(after: int, ddb: Command, random_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Killed anywhere and repeated: the same bytes as without, nothing trained twice."""
    whole = Path(shutil.copytree(random_run, tmp_path / "whole" / "run"))
    scored(ddb, whole, tmp_path / "whole" / "cache")
    run = Path(shutil.copytree(random_run, tmp_path / "parts" / "run"))
    run_task, done = tasks.run_task, []

    def stop(job: Any, task: Any) -> Any:
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(task)
        return run_task(job, task)

    with monkeypatch.context() as patch:
        patch.setattr(tasks, "run_task", stop)
        assert ddb(*scores_tiny(run, tmp_path / "parts" / "cache", "--out", run / "out.json")).code == 130
    assert not (run / "out.json").exists()

    def count(job: Any, task: Any) -> Any:
        done.append(task)
        return run_task(job, task)

    monkeypatch.setattr(tasks, "run_task", count)
    scored(ddb, run, tmp_path / "parts" / "cache")
    assert len(done) == 2 * (RATES + 2) + 4 * 2
    assert contents(tmp_path / "parts", "cost.json") == contents(tmp_path / "whole", "cost.json")


@pytest.fixture
def diverging(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, int]]:
    """Method and seed of synsets whose network of seed 1 diverges where it is augmented."""
    tested, lost = training.tested_students, set[tuple[str, int]]()

    def spoilt(plan: Any, test: Any, nets: Any, *how: Any) -> Any:
        found = tested(plan, test, nets, *how)
        bad = plan.protocol.augmentation != "none" and (plan.synset.method, plan.synset.seed) in lost
        return [None if bad and seed == 1 else one for seed, one in zip(nets, found, strict=True)]

    monkeypatch.setattr(training, "tested_students", spoilt)
    return lost


@pytest.mark.parametrize(("lost", "leg"), [(("random", 1), "random"), (("mirrored", 0), "syn")])
def test_a_repeat_that_diverges(
    lost: tuple[str, int],
    leg: str,
    diverging: set[tuple[str, int]],
    ddb: Command,
    other_run: Path,
    tmp_path: Path,
    trained: list[Path],
):
    """The rest is kept and told; means of what a repeat lacks are not, and nothing is trained twice."""
    diverging.add(lost)
    found = scored(ddb, other_run, tmp_path / "cache")
    (entry,) = found["diverged"]
    assert (entry["leg"], entry["seed"]) == (leg, 1)
    assert "not finite" in entry["diverged"]
    gone = {leg, "ior", "a1", "lrs", "ars"}
    assert [gone & one.keys() for one in found["repeats"]] == [gone, set()]
    assert set(found["summary"]) == {*LEGS, "hlr", "a0"} - {leg}
    done = len(trained)
    again = ddb(*scores_tiny(other_run, tmp_path / "cache", "--out", other_run / "out.json"))
    assert (again.code, len(trained)) == (0, done)
    assert json.loads((other_run / "out.json").read_text()) == found
    assert re.search(r"LRS  of HLR and IOR, 0 to 100 +diverged: repeats 1 \(1 of 2\); it has no mean", again.out)
    status = ddb(*scores_tiny(other_run, tmp_path / "cache", "--out", other_run / "out.json", "--status"))
    assert "open" not in status.out, status.out
    row = SimpleNamespace(
        synset=SimpleNamespace(sha256=found["synset"]["sha256"]),
        protocol=SimpleNamespace(hash=found["protocol"]["hash"]),
        teacher=None,
    )
    with pytest.raises(UserError, match=r"repeat 1 diverged \(.*own protocol\), and the scores of a row have every"):
        read_scores(other_run / "out.json", cast(Any, row))


def test_other_evaluations_stay_and_serve(ddb: Command, random_run: Path, tmp_path: Path, trained: list[Path]):
    """What ``ddbench evaluate`` trained is not trained again, not changed, and still alone for ``ddbench submit``."""
    argv = ("evaluate", random_run, "--students", TINY, "--epochs", EPOCHS, "--workers", 1, "--quiet", *EAGER)
    assert ddb(*argv, "--seeds", 2).code == 0
    folder = random_run / "evaluations"
    before = {path: path.read_bytes() for path in folder.glob("*.json")}
    assert before
    trained.clear()
    found = scored(ddb, random_run, tmp_path / "cache")
    own = random_run / "synset.safetensors"
    assert trained.count(own) == RATES + 2 + 2, "hard labels and no augmentation; not its own protocol"
    assert {path: path.read_bytes() for path in folder.glob("*.json")} == before
    assert [one["syn"] for one in found["repeats"]] == accuracies(
        folder / f"hard-v1-nonstandard-epochs={EPOCHS}-full_epochs={EPOCHS}.json"
    )
    trained.clear()
    scored(ddb, random_run, tmp_path / "cache", "--repeats", 3)
    assert trained.count(own) == 5, "too few seeds there: trained apart, the other file stays"
    assert {path: path.read_bytes() for path in folder.glob("*.json")} == before


def test_evaluation_with_other_threads_is_left_alone(ddb: Command, random_run: Path, tmp_path: Path):
    place = random_run / "evaluations" / f"hard-v1-nonstandard-epochs={EPOCHS}-full_epochs={EPOCHS}.json"
    argv = ("evaluate", random_run, "--students", TINY, "--epochs", EPOCHS, "--workers", 1, "--seeds", 2, "--quiet")
    assert ddb(*argv, *EAGER).code == 0
    text = place.read_text().replace('"threads": 1', '"threads": 2')
    place.write_text(text)
    found = scored(ddb, random_run, tmp_path / "cache")
    assert place.read_text() == text
    assert [one["syn"] for one in found["repeats"]] == accuracies(place), "the same runs, trained again"


def test_students_and_hard_augmentation_have_results_of_their_own(ddb: Command, mtt_run: Path, tmp_path: Path):
    argv = [part for part in scores_tiny(mtt_run, tmp_path / "cache") if part not in ("--student", TINY)]
    for more in ((), ("--student", "mlp-d1-w8"), ("--hard-augmentation",), ("--weight", 0.3)):
        result = ddb(*argv, *more)
        assert result.code == 0, result.err
    stem = f"hard-v1-nonstandard-epochs={EPOCHS}-full_epochs={EPOCHS}"
    names = {path.name for path in (mtt_run / "scores").iterdir() if not path.name.endswith(".cost.json")}
    assert names == {
        f"{stem}.json",
        f"{stem}-mlp-d1-w8.json",
        f"{stem}-hard_augmentation=True.json",
        f"{stem}-weight=0.3.json",
    }
    augmented = json.loads((mtt_run / "scores" / f"{stem}-hard_augmentation=True.json").read_text())
    assert [one["syn_hard"] for one in augmented["repeats"]] == [one["syn"] for one in augmented["repeats"]]


def test_protocol_of_ones_own(ddb: Command, random_run: Path, tmp_path: Path, trained: list[Path]):
    """Without augmentation there is nothing to take away: A0 is A1, trained once; random images are searched, too."""
    file = tmp_path / "mine.toml"
    file.write_text('name = "mine"\naugmentation = "none"\nlr_source = "search"\n')
    found = scored(ddb, random_run, tmp_path / "cache", "--protocol", file)
    assert found["protocol"]["name"] == "mine"
    assert [one["a0"] for one in found["repeats"]] == [one["a1"] for one in found["repeats"]]
    assert found["legs"]["random"]["learning_rate_sources"] == ["search on held-out training images"]
    # real, synset (whose leg with hard labels is the same again), two random subsets
    assert len(trained) == 2 * (RATES + 2) + 2 * (RATES + 1)


def test_preprocess_of_ones_own(ddb: Command, random_run: Path, tmp_path: Path):
    """Numbers that no dataset has: real images get the dataset's, the synset keeps its own."""
    path = random_run / "synset.safetensors"
    write_synset(path, replace(read_synset(path), preprocess={"kind": "meanstd", "mean": [0.5], "std": [0.5]}))
    result = ddb(*[part for part in scores_tiny(random_run, tmp_path / "cache") if part != "--quiet"])
    assert result.code == 0
    assert "the synset's preprocess is of its own" in result.err
    (folder,) = (tmp_path / "cache").glob("*/random-*-s0")
    assert read_synset(folder / "synset.safetensors").preprocess["mean"] == [0.3067]


# Soft labels and teachers


def test_soft_labels(ddb: Command, refused: Callable, soft_run: Path, teacher: Path, tmp_path: Path):
    found = scored(ddb, soft_run, tmp_path / "cache")
    assert (found["protocol"]["name"], found["random_labels"]) == ("soft-v1", "hard")
    assert found["legs"]["syn"]["protocol"]["name"] == "soft-v1"
    assert found["legs"]["random"]["protocol"]["name"] == "hard-v1"
    out = soft_run / "labelled.json"
    assert ddb(*scores_tiny(soft_run, tmp_path / "cache", "--teacher", teacher, "--out", out)).code == 0
    labelled = json.loads(out.read_text())
    assert labelled["random_labels"] == "teacher"
    assert labelled["legs"]["random"]["protocol"]["name"] == "soft-v1"
    for name in ("real_hard", "syn_hard", "syn", "syn_plain"):
        assert labelled["legs"][name] == found["legs"][name]
    (subset,) = (tmp_path / "cache").glob("*/random-*-s0-teacher-*/synset.safetensors")
    made = read_synset(subset)
    hard = read_synset(Path(str(subset.parent).partition("-teacher-")[0]) / "synset.safetensors")
    assert torch.equal(made.images, hard.images)
    assert made.label_kind == "soft"
    again = scores_tiny(soft_run, tmp_path / "cache", "--out")
    refused([*again, out], f"differs); give --teacher FILE, that of there (sha256 {labelled['teacher'][:12]}), or")
    refused([*again, soft_run / "out.json", "--teacher", teacher], "differs); leave --teacher out, or choose")

    from ddbench.data.load import load_dataset
    from ddbench.data.preprocess import fit_preprocess
    from ddbench.teachers.store import read_teacher

    x = fit_preprocess(load_dataset("digits"), "meanstd").apply(hard.images)
    torch.testing.assert_close(made.labels, read_teacher(teacher).network("cpu")(x), rtol=1e-4, atol=1e-5)


def test_protocol_with_a_teacher(ddb: Command, random_run: Path, teacher: Path, tmp_path: Path):
    found = scored(ddb, random_run, tmp_path / "cache", "--protocol", "kd-v1", "--teacher", teacher)
    assert found["random_labels"] == "teacher"
    for name in ("syn", "random"):
        assert found["legs"][name]["protocol"]["changed"] == {"epochs": EPOCHS, "full_epochs": EPOCHS}
    changed = found["legs"]["syn_hard"]["protocol"]["changed"]
    assert (changed["labels"], changed["loss"], changed["augmentation"]) == ("own", "ce", "none")
    root = tmp_path / "root" / "digits" / "convnet-d1-w4-bn"
    root.mkdir(parents=True)
    shutil.copy(teacher, root / "one.safetensors")
    again = scored(ddb, random_run, tmp_path / "cache", "--protocol", "kd-v1", "--teachers", tmp_path / "root")
    assert again == found


def test_examples(monkeypatch: pytest.MonkeyPatch):
    """Every example of the help is a command."""
    import ddbench.cli.scores as verb

    seen: list[Any] = []
    monkeypatch.setattr(verb, "run_scores", seen.append)
    lines = verb.EXAMPLES.splitlines()
    for line in lines:
        words = shlex.split(line, comments=True)
        assert words[:2] == ["ddbench", "scores"]
        verb.main(words[2:])
    assert len(seen) == len(lines) >= 3
    assert (seen[1].student, seen[1].repeats) == ("mlp-d3-w128", 10)


# What is refused


@pytest.fixture
def refused_scores(refused: Callable[..., str], tmp_path: Path) -> Callable[..., str]:
    def call(run: Path, flags: Sequence[object], *needles: str) -> str:
        return refused([*scores_tiny(run, tmp_path / "cache"), *flags], *needles)

    return call


FLAGS = {
    "repeats-1": (("--repeats", 1), "--repeats 1", "at least 2"),
    "repeats-0": (("--repeats", 0), "--repeats 0", "at least 2"),
    "protocol": (("--protocol", "hard"), "--protocol", "'hard'", "did you mean 'hard-v1'"),
    "protocol-file": (("--protocol", "mine.toml"), "mine.toml"),
    "stored": (("--protocol", "fkd"), "fkd", "stored labels", "kd-v1"),
    "soft": (("--protocol", "soft-v1"), "soft-v1", "soft labels", "hard"),
    "student": (("--student", "lenett"), "'lenett'", "did you mean 'lenet'"),
    "student-size": (("--student", "convnet-d6-w4-in"), "convnet-d6-w4-in"),
    "weight-high": (("--weight", 1.5), "--weight 1.5", "0 to 1"),
    "weight-low": (("--weight", -0.1), "--weight -0.1", "0 to 1"),
    "weight-nan": (("--weight", "nan"), "--weight nan", "0 to 1"),
    "epochs": (("--epochs", 0), "--epochs 0", "at least 1"),
    "workers": (("--workers", -1), "--workers -1", "at least 0"),
    "device": (("--device", "gpu"), "'gpu'", "cuda"),
    "teacher-needless": (("--teacher", "t.safetensors"), "--teacher", "hard-v1"),
    "teacher-none": (("--protocol", "kd-v1"), "kd-v1", "teacher", "ddbench teacher --dataset digits"),
    "teacher-missing": (("--protocol", "kd-v1", "--teacher", "no.safetensors"), "no.safetensors", "no such"),
    "lr": (("--lr", 0.1), "--lr"),
    "flag": (("--repeat", 3), "unknown flag --repeat", "--repeats"),
}


@pytest.mark.parametrize("case", FLAGS.values(), ids=FLAGS)
def test_flags(case: Any, refused_scores: Callable[..., str], random_run: Path):
    flags, *needles = case
    refused_scores(random_run, flags, *needles)


def test_run_without_a_synset(refused_scores: Callable[..., str], random_run: Path, tmp_path: Path):
    refused_scores(tmp_path / "nowhere", (), "nowhere", "no such synset")
    (random_run / "synset.safetensors").unlink()
    refused_scores(random_run, (), "no such synset", "ddbench distill")


def test_full_is_no_synset_to_score(ddb: Command, refused_scores: Callable[..., str], tmp_path: Path):
    argv = ("distill", "--method", "full", "--dataset", "digits", "--out", tmp_path / "full", "--quiet", *EAGER)
    assert ddb(*argv).code == 0
    refused_scores(tmp_path / "full", (), "full", "all real images", "images per class")


def test_holdout_that_is_none(refused_scores: Callable[..., str], random_run: Path):
    path = random_run / "synset.safetensors"
    synset = read_synset(path)
    for value in (1.5, "a", -0.1, True):
        write_synset(path, replace(synset, config={"holdout": value}))
        refused_scores(random_run, (), "held-out fraction", "0 to 0.9")


def test_more_images_than_there_are(refused_scores: Callable[..., str], random_run: Path):
    path = random_run / "synset.safetensors"
    synset = read_synset(path)
    many = replace(
        synset,
        images=synset.images.repeat_interleave(120, 0),
        labels=synset.labels.repeat_interleave(120),
        budget=replace(synset.budget, value=120),
    )
    write_synset(path, many)
    refused_scores(random_run, (), "--ipc 120", "has only 112")


def test_out_that_is_something_else(
    ddb: Command, refused_scores: Callable[..., str], random_run: Path, other_run: Path, tmp_path: Path
):
    out = tmp_path / "notes.json"
    out.write_text('{"kind": "notes"}')
    refused_scores(random_run, ("--out", out), "notes.json", "something else")
    out.write_text("not JSON")
    refused_scores(random_run, ("--out", out), "notes.json", "not a scores file")
    scored(ddb, random_run, tmp_path / "cache")
    refused_scores(other_run, ("--out", random_run / "out.json"), "other scores", "synset")
    refused_scores(random_run, ("--out", random_run / "out.json", "--weight", 0.4), "other scores", "weight")


def test_cache_that_is_another_run(ddb: Command, refused_scores: Callable[..., str], random_run: Path, tmp_path: Path):
    scored(ddb, random_run, tmp_path / "cache")
    (folder,) = (tmp_path / "cache").glob("*/random-*-s0")
    (other,) = (tmp_path / "cache").glob("*/random-*-s1")
    shutil.copy(other / "synset.safetensors", folder / "synset.safetensors")
    refused_scores(random_run, (), str(folder), "seed differ")
    (folder / "synset.safetensors").write_bytes(b"x" * 100)
    refused_scores(random_run, (), str(folder), "not a whole safetensors file")
