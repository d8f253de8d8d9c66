"""What methods need: a need from a file of one's own, flags in the help, what is counted, what code made a run."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import EAGER, TINY, contents, distill_tiny, evaluate_tiny, random_tiny

import ddbench.runtime.resources as resources
from ddbench.cli.distill import needed
from ddbench.distillation import runner, start
from ddbench.leaderboard.pages.details import _made
from ddbench.leaderboard.result import Result
from ddbench.leaderboard.schema import check_result, result_id
from ddbench.methods import METHODS
from ddbench.methods.base import Distilled, Method
from ddbench.methods.needs import Need, Request
from ddbench.methods.needs.diffusion import Diffusion
from ddbench.methods.needs.experts import Experts
from ddbench.methods.needs.teacher import TrainedTeacher
from ddbench.runtime.errors import UserError
from ddbench.runtime.resources import Meter
from ddbench.synset import read_synset

OWN = '''
"""Nearest images to the class mean of cached features."""
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from ddbench.methods.base import Distilled, Method
from ddbench.methods.needs import Need
from ddbench.runtime.files import text_hash, write_json


@dataclass(frozen=True, kw_only=True)
class CacheFlags:
    """Of the cache."""

    feature_root: Path = Path("features")
    """Root of the cached features."""
    feature_width: int = 4
    """How many features an image has."""


@dataclass(frozen=True)
class Features(Need[torch.Tensor]):
    """Random projections of the training images."""

    key = "features"
    flags = CacheFlags
    root = "feature_root"

    def _path(self, run):
        flags = run.flags_of(CacheFlags)
        return flags.feature_root / f"{run.dataset.spec.name}-{flags.feature_width}.json"

    def look(self, run):
        path = self._path(run)
        if not path.exists():
            return None
        run.console.say(f"features: {path}")
        return torch.tensor(json.loads(path.read_text()))

    def make(self, run):
        run.console.say(f"making {self._path(run)}")
        images = run.dataset.train.images.flatten(1).float()
        width = run.flags_of(CacheFlags).feature_width
        made = images @ torch.randn(images.shape[1], width, generator=torch.Generator().manual_seed(0))
        write_json(self._path(run), made.tolist())
        return made

    def refer(self, found):
        return {"sha256": text_hash(found.tolist()), "width": found.shape[1]}

    def cost(self, found):
        return {"wall_seconds": 12.0, "images": len(found)}


@dataclass(frozen=True, kw_only=True)
class NearestConfig:
    """Settings."""

    cached: bool = True
    """Take the cached features; else the pixels."""


class Nearest(Method[NearestConfig]):
    """The image nearest to the mean of its class."""

    config_class = NearestConfig
    title = "Nearest"

    @classmethod
    def needs(cls, config):
        return (Features(),) if config.cached else ()

    @property
    def iterations(self):
        return 2

    def step(self, iteration):
        return {"loss": 0.0}

    def distilled(self):
        context = self.context
        features = context.given(Features) if self.config.cached else context.train.images.flatten(1).float()
        labels = context.dataset.train.labels if self.config.cached else context.train.labels
        images = context.dataset.train.images if self.config.cached else context.train.images
        chosen = []
        for label in range(context.classes):
            index = (labels == label).nonzero().squeeze(1)
            distance = (features[index] - features[index].mean(0)).norm(dim=1)
            chosen.append(index[distance.argsort()[: context.ipc]])
        return Distilled(images=images[torch.cat(chosen)], labels=context.hard_labels())
'''


@pytest.fixture
def own(tmp_path: Path, tables_kept: None) -> Callable[..., list[object]]:
    """Commands with the method above."""
    path = tmp_path / "nearest.py"
    path.write_text(OWN)

    def call(out: str = "run", *more: object) -> list[object]:
        return [
            *("distill", "--method", "nearest", "--method-file", path, "--dataset", "digits", "--ipc", 1),
            *("--student", TINY, "--out", tmp_path / out, "--feature-root", tmp_path / "cache", *EAGER, *more),
        ]

    return call


def record(run: Path, name: str = "config.json") -> Any:
    return json.loads((run / name).read_text())


# A need from a file


def test_made_on_the_first_run_and_found_on_the_second(own: Callable, ddb: Callable, tmp_path: Path):
    first = ddb(*own("one"))
    assert first.code == 0, first.err
    assert f"making {tmp_path / 'cache' / 'digits-4.json'}" in first.err
    kept = contents(tmp_path / "cache")
    second = ddb(*own("two"))
    assert (second.code, "making" in second.err) == (0, False)
    assert f"features: {tmp_path / 'cache' / 'digits-4.json'}" in second.err
    assert contents(tmp_path / "cache") == kept
    one, two = tmp_path / "one", tmp_path / "two"
    assert contents(one, "cost.json") == contents(two, "cost.json")
    reference = record(one)["features"]
    assert reference["width"] == 4
    assert read_synset(one / "synset.safetensors").parents == {"features": reference["sha256"]}
    upstream = record(one, "cost.json")["upstream"]
    assert upstream == {"experts": None, "teacher": None, "features": {"wall_seconds": 12.0, "images": 1297}}


def test_own_flag_in_the_help_and_in_a_recipe(own: Callable, ddb: Callable, tmp_path: Path):
    text = ddb(*own("run", "--help")).out
    assert "--feature-width" in text
    assert "How many features an image has." in text
    assert "--feature-width" not in ddb(*own("run", "--no-cached", "--help")).out, "it needs them no more"
    recipe = tmp_path / "mine.toml"
    recipe.write_text('[one]\nsource = "me"\nfeature_width = 3\n')
    assert ddb(*own("three", "--recipe", recipe)).code == 0
    assert record(tmp_path / "three")["features"]["width"] == 3
    assert ddb(*own("five", "--recipe", recipe, "--feature-width", 5)).code == 0
    assert record(tmp_path / "five")["features"]["width"] == 5
    recipe.write_text('[one]\nsource = "me"\nfeature_widht = 3\n')
    said = ddb(*own("four", "--recipe", recipe)).err
    assert "unknown key 'feature_widht' (did you mean 'feature_width'?)" in said


def test_another_reference_is_another_run(own: Callable, ddb: Callable, tmp_path: Path):
    assert ddb(*own()).code == 0
    (tmp_path / "run" / "synset.safetensors").unlink()
    ddb(*own("other", "--feature-width", 3))
    before = contents(tmp_path / "run")
    result = ddb(*own("run", "--feature-width", 3))
    assert result.code == 2
    assert "holds another run: features.sha256, features.width differ(s)" in result.err
    assert contents(tmp_path / "run") == before


def test_settings_decide_what_is_needed(own: Callable, ddb: Callable, refused: Callable, tmp_path: Path):
    refused(own("run", "--no-cached"), "unknown flag --feature-root")
    argv = [str(part) for part in own("run", "--cached")]
    assert [need.key for need in needed(argv[1:])] == ["features"]
    assert needed([*argv[1:], "--no-cached"]) == ()


# Flags


@pytest.mark.parametrize(
    ("method", "flags"),
    [
        ("dm", set()),
        ("random", set()),
        ("mtt", {"--buffers"}),
        ("pdd", {"--buffers"}),
        ("rded", {"--teachers", "--teacher-student"}),
        ("mgd3", {"--diffusions", "--diffusion-model"}),
    ],
)
def test_help_shows_only_what_is_used(method: str, flags: set[str], ddb: Callable):
    result = ddb("distill", "--method", method, "--help")
    assert result.code == 0
    known = ("--buffers", "--teachers", "--teacher-student", "--diffusions", "--diffusion-model")
    assert {flag for flag in known if f"{flag} " in result.out} == flags


def test_plain_help_says_that_needs_add_flags(ddb: Callable):
    result = ddb("distill", "--help")
    assert "of what it needs" in result.out
    assert "--teachers" not in result.out


def test_flags_of_other_needs_are_refused(refused: Callable, tmp_path: Path):
    refused(random_tiny(tmp_path / "run", "--teachers", tmp_path / "t"), "unknown flag --teachers")
    with pytest.raises(UserError, match=r"distill random: unknown setting 'teachers'"):
        start.distill("random", ipc=1, out=tmp_path / "run", teachers="t")
    recipe = tmp_path / "mine.toml"
    recipe.write_text('[one]\nsource = "me"\nteacher_student = "lenet"\n')
    refused(
        random_tiny(tmp_path / "run", "--recipe", recipe), "recipe one: teacher_student is a setting of nothing that"
    )


def test_keys_and_roots():
    """Plans take locks and folders from them."""
    assert [(one.key, one.root, one.early) for one in (Experts, TrainedTeacher, Diffusion)] == [
        ("experts", "buffers", True),
        ("teacher", "teachers", False),
        ("diffusion", "diffusions", False),
    ]


# In Python


def test_distill_in_python_is_the_command(ddb: Callable, buffers: Path, tmp_path: Path, data_root: Path):
    assert ddb(*distill_tiny(buffers, tmp_path / "one")).code == 0
    path = start.distill(
        "mtt",
        dataset="digits",
        ipc=1,
        student=TINY,
        recipe="none",
        out=str(tmp_path / "two"),
        data=data_root,
        threads=1,
        compile="off",
        quiet=True,
        iterations=4,
        student_steps=2,
        expert_epochs=1,
        max_start_epoch=2,
        lr_images=10,
        buffers=str(buffers),
    )
    assert path == tmp_path / "two" / "synset.safetensors"
    assert contents(tmp_path / "one", "cost.json") == contents(tmp_path / "two", "cost.json")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "--ipc is missing"),
        ({"ipc": 1, "iteration": 3}, r"distill mtt: unknown setting 'iteration' \(did you mean 'iterations'\?\)"),
        ({"ipc": 1, "iterations": "many"}, "--iterations many: expected int"),
        ({"ipc": 1, "method_file": "nowhere.py"}, "nowhere.py: no such Python file"),
    ],
)
def test_wrong_settings_in_python(settings: dict[str, Any], message: str, tmp_path: Path, data_root: Path):
    with pytest.raises(UserError, match=message):
        start.distill("mtt", out=tmp_path / "run", data=data_root, recipe="none", **settings)
    assert not (tmp_path / "run").exists()


# What is counted


class Clock:
    """Two clocks that go on only when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.now / 2


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(resources, "time", made)
    return made


def test_meter_pauses(clock: Clock):
    meter = Meter(earlier_wall=1000.0, earlier_cpu=2000.0)
    clock.now += 10
    with meter.paused():
        clock.now += 100
    clock.now += 6
    with contextlib.suppress(KeyError), meter.paused():
        clock.now += 100
        raise KeyError
    assert (meter.wall, meter.cpu) == (1016.0, 2008.0)


class Slow(Need[str]):
    """Takes 1000 seconds to look for, and 10000 to make."""

    key = "slow"
    clock: Clock

    def look(self, run: Request) -> str | None:
        self.clock.now += 1000
        return None

    def make(self, run: Request) -> str:
        self.clock.now += 10000
        return "made"

    def refer(self, found: str) -> dict[str, Any]:
        return {"sha256": found}


class Timed(Method[Any]):
    """Takes 1 second a step, 10 to set up and 100000 to prepare."""

    config_class = METHODS.get("random").config_class
    clock: Clock
    dies = -1

    @classmethod
    def needs(cls, config: Any) -> tuple[Slow]:
        return (Slow(),)

    @property
    def iterations(self) -> int:
        return 4

    def setup(self) -> None:
        self.clock.now += 10

    def prepare(self) -> dict[str, Any]:
        self.clock.now += 100000
        return {"prepared": {"wall_seconds": 100000}}

    def step(self, iteration: int) -> dict[str, float]:
        if iteration == self.dies:
            raise KeyboardInterrupt
        self.clock.now += 1
        return {}

    def distilled(self) -> Distilled:
        return Distilled(images=self.context.random_images("x"), labels=self.context.hard_labels())


def test_cost_is_the_runs_own(clock: Clock, tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch):
    """Neither making what is needed nor preparing counts; what earlier tries took does."""
    from ddbench.data.load import load_dataset
    from ddbench.runtime.progress import Console

    monkeypatch.setattr(Slow, "clock", clock, raising=False)
    monkeypatch.setattr(Timed, "clock", clock, raising=False)
    settings = runner.RunSettings(
        ipc=1, student=TINY, seed=0, preprocess="meanstd", holdout=0.1, validate_every=0, validate_epochs=1,
        track="jsonl", checkpoint_every=1, device="cpu", threads=1, compile="off",
    )  # fmt: skip

    def run() -> None:
        runner.distill(
            "timed",
            Timed,
            Timed.config_class(),
            dataset=load_dataset("digits", data_root),
            data=data_root,
            settings=settings,
            out=tmp_path / "run",
            console=Console(quiet=True),
        )

    monkeypatch.setattr(Timed, "dies", 3)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert clock.now == 11000 + 10 + 100000 + 3
    monkeypatch.setattr(Timed, "dies", -1)
    run()
    cost = record(tmp_path / "run", "cost.json")
    assert cost["wall_seconds"] == (10 + 3) + (10 + 1)
    assert cost["cpu_seconds"] == cost["wall_seconds"] / 2
    assert cost["upstream"]["prepared"] == {"wall_seconds": 100000}


# What code made it


def interrupted(command: list[object], ddb: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command that dies after its first checkpoint."""

    def die(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runner, "_wrap", die)
        assert ddb(*command).code == 130


def test_a_run_records_its_code(ddb: Callable, tmp_path: Path):
    for name in ("one", "two"):
        assert ddb(*random_tiny(tmp_path / name)).code == 0
    code = record(tmp_path / "one")["code"]
    assert set(code) == {"version", "commit", "dirty", "method_file"}
    assert code["method_file"] is None
    assert code == record(tmp_path / "two")["code"]


def test_changed_method_file_is_not_gone_on_with(
    own: Callable, ddb: Callable, refused: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    command = own()
    interrupted(command, ddb, monkeypatch)
    code = record(tmp_path / "run")["code"]
    assert len(code["method_file"]) == 64
    (tmp_path / "nearest.py").write_text(OWN + "\n# edited\n")
    said = refused(command, "was begun by a method file that changed since", "restore the file", "another --out")
    assert code["method_file"][:12] in said
    (tmp_path / "nearest.py").write_text(OWN)
    assert ddb(*command).code == 0
    assert record(tmp_path / "run")["code"] == code
    (tmp_path / "nearest.py").write_text(OWN + "\n# edited\n")
    before = contents(tmp_path / "run")
    result = ddb(*command)
    assert result.code == 0
    assert "was made by a method file that changed since" in result.err
    assert "it stays as it is" in result.err
    assert "it stays as it is" in ddb(*command, "--quiet").err
    assert contents(tmp_path / "run") == before


def test_another_version_is_told_and_recorded(
    own: Callable, ddb: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    command = own()
    interrupted(command, ddb, monkeypatch)
    begun = record(tmp_path / "run")["code"]
    newer = {**begun, "commit": "f" * 40, "dirty": True}
    monkeypatch.setattr(runner, "code_record", lambda kind: newer)
    result = ddb(*command)
    assert result.code == 0
    assert f"warning: {tmp_path / 'run'} was begun by ddbench {begun['version']}" in result.err
    assert f"this is {begun['version']} at ffffffffffff with changes: both are recorded" in result.err
    also = [{name: newer[name] for name in ("version", "commit", "dirty")}]
    assert record(tmp_path / "run")["code"] == {**begun, "also": also}


def test_a_checkpoint_that_is_refused_leaves_no_record(
    own: Callable, ddb: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    command = own()
    interrupted(command, ddb, monkeypatch)
    (tmp_path / "run" / "checkpoint.safetensors").write_bytes(b"damaged")
    before = contents(tmp_path / "run")
    monkeypatch.setattr(runner, "code_record", lambda kind: {**record(tmp_path / "run")["code"], "commit": "f" * 40})
    result = ddb(*command)
    assert result.code == 2
    assert "checkpoint.safetensors: not a whole" in result.err
    assert contents(tmp_path / "run") == before


def test_run_of_an_older_ddbench_goes_on(own: Callable, ddb: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It has no record of its code, and gets none: nobody knows what began it."""
    command = own()
    interrupted(command, ddb, monkeypatch)
    config = record(tmp_path / "run")
    del config["code"]
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    assert ddb(*command).code == 0
    assert record(tmp_path / "run") == config


@pytest.mark.parametrize("code", [[], {}, {"version": "1", "commit": None, "dirty": None, "also": [3]}])
def test_damaged_record(code: Any, ddb: Callable, refused: Callable, tmp_path: Path):
    assert ddb(*random_tiny(tmp_path / "run")).code == 0
    config = {**record(tmp_path / "run"), "code": code}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    refused(random_tiny(tmp_path / "run"), "config.json: code is no record of the code")


def test_the_row_says_it(own: Callable, ddb: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A row of the board has it, and a run of the same numbers by other code is no other row."""
    assert ddb(*own()).code == 0
    assert ddb(*evaluate_tiny(tmp_path / "run")).code == 0
    submit = ("submit", tmp_path / "run", "--leaderboard", tmp_path / "board")
    assert ddb(*submit).code == 0
    (path,) = (path for path in (tmp_path / "board").rglob("*.json") if "ddbench-result" in path.read_text())
    row, config = json.loads(path.read_text()), record(tmp_path / "run")
    assert row["code"] == config["code"]
    assert "code" not in row["recipe"]
    assert f"method file {row['code']['method_file'][:12]}" in _made(Result.from_json(row))
    code = {**config["code"], "commit": "f" * 40}
    (tmp_path / "run" / "config.json").write_text(json.dumps({**config, "code": code}))
    before = contents(tmp_path / "board")
    assert ddb(*submit).code == 0
    assert contents(tmp_path / "board") == before
    for wrong in ({**code, "commit": "main"}, {**code, "more": 1}, {**code, "also": [{"version": "1"}]}):
        with pytest.raises(UserError, match="code"):
            check_result({**row, "code": wrong}, "row")
    silent = {name: value for name, value in row.items() if name != "code"}
    check_result({**silent, "id": result_id(silent)}, "row")
    assert "distilled by" not in _made(Result.from_json(silent))


def test_commit_is_that_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The repository that tracks the package; one that surrounds it, or that one stands in, is not asked."""
    import subprocess

    from ddbench.runtime import origin

    def git(*command: str) -> str:
        who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        return subprocess.run(
            ["git", "-C", tmp_path, *who, *command], check=True, capture_output=True, text=True
        ).stdout

    def found() -> dict[str, Any]:
        origin._checkout.cache_clear()
        with monkeypatch.context() as patch:
            patch.setenv("GIT_DIR", str(tmp_path / "nowhere"))  # as in a hook of another repository
            return origin._checkout(package)

    package = tmp_path / "site" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    nothing = {"commit": None, "dirty": None}
    assert found() == nothing
    git("init", "-q")
    (tmp_path / "mine.txt").touch()
    git("add", "mine.txt")
    git("commit", "-qm", "mine")
    assert found() == nothing
    git("add", "site")
    git("commit", "-qm", "package")
    commit = git("rev-parse", "HEAD").strip()
    (tmp_path / "other.txt").touch()
    assert found() == {"commit": commit, "dirty": False}
    (package / "__init__.py").write_text("X = 1\n")
    assert found() == {"commit": commit, "dirty": True}
    origin._checkout.cache_clear()


def test_record_of_a_class_without_a_file():
    from ddbench.runtime.origin import code_record

    assert code_record(SimpleNamespace)["method_file"] is None  # type: ignore[arg-type]
