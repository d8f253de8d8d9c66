"""Tables of plug-ins: suggestions, clashes, entry points, and a method from a file that runs from end to end."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from conftest import EAGER, TINY, contents, evaluate_tiny

from ddbench import registry
from ddbench.methods import METHODS
from ddbench.registry import Registry, load_file, suggest, unknown
from ddbench.runtime.errors import UserError


def table(**more: str) -> Registry:
    return Registry("method", None, {"json": "json:dumps", "path": "pathlib:Path", **more})


def test_suggestions():
    assert suggest("cifar-10", ["cifar10", "cifar100"]) == " (did you mean 'cifar10'?)"
    assert suggest("zebra", ["cifar10", "mnist"]) == ""
    assert suggest("x", []) == ""
    error = unknown("method", "mt", ["random", "mtt"], "--method")
    assert str(error) == "--method: unknown method 'mt' (did you mean 'mtt'?); known: mtt, random"
    assert str(unknown("method", "zzz", ["mtt"])) == "unknown method 'zzz'; known: mtt"


def test_get_imports_when_asked():
    import json

    made = table()
    assert list(made) == ["json", "path"]
    assert "json" in made
    assert "yaml" not in made
    assert made.origin("json") == "json:dumps"
    assert made.get("json") is json.dumps
    assert made.get("path") is Path
    with pytest.raises(UserError, match=r"--method: unknown method 'jsn' \(did you mean 'json'\?\); known: json, path"):
        made.get("jsn", "--method")


@pytest.mark.parametrize("target", ["no_such_module:x", "json:no_such_name"])
def test_code_that_cannot_be_loaded(target: str):
    made = table(broken=target)
    assert "broken" in made, "listing imports nothing"
    with pytest.raises(UserError, match=f"method 'broken' \\({target}\\) cannot be loaded"):
        made.get("broken")


def test_clashes():
    made = table()
    made.add("json", "json:dumps")  # the same again is fine
    with pytest.raises(UserError, match="method 'json' is defined twice: json:dumps and other:Json"):
        made.add("json", "other:Json")
    made.register("mine", dict)
    assert made.get("mine") is dict
    assert made.origin("mine") == "builtins:dict"
    with pytest.raises(UserError, match=r"method 'json' exists already \(json:dumps\)"):
        made.register("json", dict)
    with pytest.raises(UserError, match="method 'mine' exists already"):
        made.register("mine", list)


def test_entry_points(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def points(group: str) -> list[EntryPoint]:
        asked.append(group)
        return [EntryPoint("decimal", "decimal:Decimal", group), EntryPoint("late", "no_such_module:x", group)]

    monkeypatch.setattr(registry, "entry_points", points)
    made = Registry("method", "some.group", {"json": "json:dumps"})
    assert asked == [], "nothing is looked up before it is needed"
    assert list(made) == ["decimal", "json", "late"]
    from decimal import Decimal

    assert made.get("decimal") is Decimal
    assert made.get("decimal") is Decimal
    assert asked == ["some.group"]


def test_entry_point_that_clashes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Another package's clashing name is told and ignored; it does not stop every verb that lists methods."""
    monkeypatch.setattr(registry, "entry_points", lambda group: [EntryPoint("json", "other:Json", group)])
    made = Registry("method", "some.group", {"json": "json:dumps"})
    assert list(made) == ["json"]
    assert made.origin("json") == "json:dumps"
    said = capsys.readouterr().err
    assert said.count("method 'json' is defined twice: json:dumps and other:Json; rename one") == 1


# Files


def test_load_file(tmp_path: Path):
    path = tmp_path / "extra.py"
    path.write_text("VALUE = 3\n")
    assert load_file(path).VALUE == 3
    path.write_text("1 / 0\n")
    with pytest.raises(UserError, match=r"extra\.py: ZeroDivisionError while loading it: division by zero"):
        load_file(path)
    assert "ddbench_ext_extra" not in sys.modules
    path.write_text("def f(:\n")
    with pytest.raises(UserError, match=r"extra\.py: SyntaxError while loading it"):
        load_file(path)
    (tmp_path / "extra.txt").write_text("VALUE = 3\n")
    with pytest.raises(UserError, match="not a Python file"):
        load_file(tmp_path / "extra.txt")
    with pytest.raises(UserError, match="no such Python file"):
        load_file(tmp_path)


OWN = '''"""Class means: one blurred image a class."""
{future}
from dataclasses import dataclass

import torch

from ddbench.methods.base import Distilled, Method, State


@dataclass(frozen=True, kw_only=True)
class MeanConfig:
    """Settings of the class means."""

    steps: int = 3
    """How often the images are moved towards the mean."""
    rate: float = 0.5
    """How far."""
    sizes: tuple[int, ...] = (1, 2)
    """Not used; a setting that JSON writes in another type."""


class ClassMean(Method[MeanConfig]):
    """Real images that move towards the mean of their class."""

    config_class = MeanConfig
    title = "Class means"
    name = "class-mean"

    @property
    def iterations(self):
        return self.config.steps

    def setup(self):
        context = self.context
        self.images = context.preprocess.apply(context.random_images("own"))
        labels, train = context.hard_labels(), context.train
        real = context.preprocess.apply(train.images)
        self.means = torch.stack([real[train.labels == label].mean(0) for label in labels])

    def step(self, iteration):
        self.images = self.images + self.config.rate * (self.means - self.images)
        return {{"loss": float((self.images - self.means).square().mean())}}

    def distilled(self):
        return Distilled(images=self.images, labels=self.context.hard_labels())

    def state(self):
        return State(tensors={{"images": self.images}})

    def load_state(self, state):
        self.images = state.tensors["images"].clone()
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tables_kept: None) -> Callable[..., list[object]]:
    """Commands with a method of a file."""

    def call(name: str = "class-mean", future: str = "", *more: object) -> list[object]:
        monkeypatch.setattr(METHODS, "_table", {k: v for k, v in METHODS._table.items() if "ddbench_ext" not in v})
        path = tmp_path / "mean.py"
        path.write_text(OWN.format(future=future))
        return [
            *("distill", "--method", name, "--method-file", path, "--dataset", "digits", "--ipc", 1, "--student", TINY),
            *("--out", tmp_path / "run", *EAGER, *more),
        ]

    return call


def test_method_from_a_file_by_a_flag_with_an_underscore(own: Callable, ddb: Callable):
    """The file is read before the other flags, whose underscores are dashes too."""
    argv = ["--method_file" if word == "--method-file" else word for word in own()]
    result = ddb(*argv, "--status")
    assert (result.code, result.err) == (0, "")


@pytest.mark.parametrize("future", ["", "from __future__ import annotations\n"], ids=["plain", "postponed"])
@pytest.mark.parametrize("name", ["class-mean", "classmean"])
def test_method_from_a_file(name: str, future: str, own: Callable, ddb: Callable, tmp_path: Path):
    result = ddb(*own(name, future, "--rate", 0.25))
    assert result.code == 0, result.err
    before = contents(tmp_path / "run")
    assert b'"rate": 0.25' in before["config.json"]
    assert len(before["metrics.jsonl"].splitlines()) == 3
    again = ddb(*own(name, future, "--rate", 0.25))
    assert (again.code, again.err.count("finished already")) == (0, 1), again.err
    assert contents(tmp_path / "run") == before
    assert "config.rate" in ddb(*own(name, future, "--rate", 0.5)).err
    result = ddb(*evaluate_tiny(tmp_path / "run"))
    assert result.code == 0
    assert name in result.out


def test_help_of_a_method_from_a_file(own: Callable, ddb: Callable):
    result = ddb(*own("class-mean", "from __future__ import annotations\n"), "--help")
    assert result.code == 0
    assert "Class means" in result.out
    assert "--rate" in result.out
    assert "How far." in result.out


def test_wrong_names_in_a_file(own: Callable, refused: Callable, tmp_path: Path):
    without = own("class-mean")
    refused([*without[:3], *without[5:]], "unknown method 'class-mean'", "; one of your own: --method-file FILE")
    own("x")
    refused(own("class-men"), "mean.py", "'class-men'", "it defines: class-mean, classmean")
    refused(own("mtt"), "mean.py", "defines no method 'mtt'")
    command = own()
    refused([*command[:1], *command[3:]], f"--method is missing; {command[4]} defines: class-mean, classmean")
    argv = own("class-mean")
    (tmp_path / "mean.py").write_text("raise ValueError('broken')\n")
    refused(argv, "mean.py", "ValueError", "broken")


def test_file_cannot_replace_a_method(own: Callable, refused: Callable, tmp_path: Path):
    argv = own("random")
    path = tmp_path / "mean.py"
    path.write_text(path.read_text().replace('"class-mean"', '"random"'))
    refused(argv, "method 'random' exists already", "rename yours")


def changed_file(path: Path, *pairs: tuple[str, str]) -> None:
    text = path.read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


@pytest.mark.parametrize("value", ["-3.0", "nan", "inf"])
def test_a_setting_of_a_file_has_a_range(value: str, own: Callable, refused: Callable, tmp_path: Path):
    """What a foreign config says about a setting is checked, though the method has no check of its own."""
    argv = own("class-mean")
    changed_file(
        tmp_path / "mean.py",
        ("rate: float = 0.5", "lr_images: float = setting(0.5, above=0)"),
        ("self.config.rate", "self.config.lr_images"),
        ("import torch\n", "import torch\n\nfrom ddbench.config import setting\n"),
    )
    refused([*argv, "--lr-images", value], f"--lr-images {value}: expected a number above 0")


def test_a_setting_of_a_file_is_checked_whatever_its_method_overrides(own: Callable, refused: Callable, tmp_path: Path):
    argv = own("class-mean")
    changed_file(
        tmp_path / "mean.py",
        ("class MeanConfig:", "class MeanConfig(DMConfig):"),
        ("import torch\n", "import torch\n\nfrom ddbench.methods.dm import DMConfig\n"),
        ("    @property\n", "    @classmethod\n    def check(cls, config, context):\n        pass\n\n    @property\n"),
    )
    refused([*argv, "--lr-images", -3], "--lr-images -3.0: expected a number above 0")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("@dataclass(frozen=True, kw_only=True)\n", "", "config MeanConfig: expected a class with @dataclass"),
        ("@dataclass(frozen=True, kw_only=True)", "@dataclass", "config MeanConfig can be changed"),
        ("steps: int = 3", "steps: int", "setting 'steps' of config MeanConfig has no default"),
        ("    config_class = MeanConfig\n", "", "config None: expected a class with @dataclass"),
    ],
)
def test_configs_of_a_file_that_hold_no_settings(
    old: str, new: str, message: str, own: Callable, refused: Callable, tmp_path: Path
):
    argv = own("class-mean")
    changed_file(tmp_path / "mean.py", (old, new))
    refused(argv, f"--method-file {tmp_path / 'mean.py'}", message)
