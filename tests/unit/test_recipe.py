"""Recipes of experts and methods, and the helpers of the command line that read settings."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import ddbench
from ddbench.cli.buffer import EXAMPLES, Args
from ddbench.cli.parse import _one_line, options_from_text, parse, peek
from ddbench.cli.settings import Common, worker_count
from ddbench.config import apply_config
from ddbench.distillation.recipes import choose_recipe, method_recipes, read_recipes
from ddbench.experts.recipe import ExpertRecipe, buffer_command
from ddbench.methods.mtt import MTTConfig
from ddbench.runtime.device import cores
from ddbench.runtime.errors import UserError

UNUSUAL = ExpertRecipe(
    epochs=7,
    optimizer="adamw",
    lr=0.003,
    momentum=0.5,
    weight_decay=1e-4,
    options=(("amsgrad", 1.0), ("eps", 1e-8)),
    batch=64,
    decay=True,
    augmentation="crop_rotate",
    preprocess="zca",
    holdout=0.25,
    seed=11,
    precision="bfloat16",
)


def test_json_round_trip():
    import json

    for recipe in (ExpertRecipe(), UNUSUAL):
        assert ExpertRecipe.from_json(json.loads(json.dumps(recipe.to_json())), "here") == recipe
    assert ExpertRecipe.from_json({"lr": 1}, "here").lr == 1.0
    for data, message in (
        ([], "the recipe is not a table"),
        ({"colour": 1}, "unknown expert setting 'colour'"),
        ({"epochs": 1.5}, "'epochs' is 1.5, expected int"),
        ({"epochs": True}, "'epochs' is True, expected int"),
        ({"lr": "fast"}, "'lr' is 'fast', expected float"),
        ({"decay": 1}, "'decay' is 1, expected bool"),
        ({"options": [1]}, "'options' is not a table"),
    ):
        with pytest.raises(UserError, match=f"^here: .*{message}"):
            ExpertRecipe.from_json(data, "here")


@pytest.mark.parametrize("recipe", [ExpertRecipe(), UNUSUAL, ExpertRecipe(options=(("nesterov", 1.0),))])
@pytest.mark.parametrize("size", [None, 64])
@pytest.mark.parametrize("buffers", ["expert_trajectories", "elsewhere", "with space"])
def test_buffer_command_is_that_of_the_recipe(recipe: ExpertRecipe, size: int | None, buffers: str):
    """The command that messages name, parsed, asks for the very same experts."""
    command = buffer_command("folder:my images", "convnet-d1-w4-in", recipe, 12, buffers, size)
    words = shlex.split(command)
    assert words[:2] == ["ddbench", "buffer"]
    args = parse(Args, words[2:], "ddbench buffer", "", EXAMPLES)
    assert (args.dataset, args.student, args.experts, args.size) == ("folder:my images", "convnet-d1-w4-in", 12, size)
    assert str(args.buffers) == buffers
    assert args.settings == recipe


def test_check():
    UNUSUAL.check()
    for change, message in (
        ({"epochs": 0}, "--epochs 0"),
        ({"batch": 0}, "--batch 0"),
        ({"lr": 0.0}, "--lr 0"),
        ({"lr": float("inf")}, "--lr inf"),
        ({"holdout": 0.95}, "--holdout 0.95"),
        ({"holdout": float("nan")}, "--holdout nan"),
        ({"preprocess": "zac"}, "--preprocess 'zac'"),
        ({"precision": "half"}, "--precision 'half'"),
    ):
        with pytest.raises(UserError, match=message):
            ExpertRecipe(**change).check()


# Recipe files


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


GOOD = """
[one]
source = "me"
dataset = "digits"
ipc = 1
holdout = 0
config = { iterations = 5, lr_images = 10 }
experts = { experts = 3, epochs = 7 }
"""


def test_recipe_file(tmp_path: Path):
    path = write(tmp_path / "mine.toml", GOOD)
    (recipe,) = read_recipes(path, "mtt").values()
    assert recipe.run == {"dataset": "digits", "ipc": 1, "holdout": 0.0}
    assert isinstance(recipe.run["holdout"], float)
    assert recipe.expert_recipe() == ExpertRecipe(epochs=7, holdout=0.0)
    config = apply_config(MTTConfig, recipe.config, "one")
    assert (config.iterations, config.lr_images) == (5, 10.0)
    assert choose_recipe(str(path), "mtt", {}) == recipe
    assert choose_recipe(f"{path}:one", "mtt", {}) == recipe
    write(path, GOOD + GOOD.replace("[one]", "[two]"))
    assert choose_recipe(f"{path}:two", "mtt", {}).name == "two"
    for wanted in (str(path), f"{path}:three"):
        with pytest.raises(UserError, match=r"name one of its recipes as FILE\.toml:NAME: one, two"):
            choose_recipe(wanted, "mtt", {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[one", "not a recipe file"),
        ("one = 3", r"expected a table \[one\]"),
        ("[one]\nsorce = 'me'", r"recipe one: unknown key 'sorce' \(did you mean 'source'\?\)"),
        ("[one]\nipc = 'ten'", "ipc is 'ten', expected int"),
        ("[one]\nipc = true", "ipc is True, expected int"),
        ("[one]\nconfig = 3", "config is 3, expected dict"),
        ("[one]\nexperts = { epoch = 3 }", "unknown expert setting 'epoch'"),
        ("[one]\nexperts = { options = { dampening = nan } }", "'options' is not a table of numbers"),
        ("[one]\nexperts = { epochs = 'many' }", "'epochs' is 'many', expected int"),
    ],
)
def test_wrong_recipe_files(text: str, message: str, tmp_path: Path):
    with pytest.raises(UserError, match=message):
        read_recipes(write(tmp_path / "mine.toml", text), "mtt")


def test_large_and_binary_recipe_files(tmp_path: Path):
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"mine\.toml: not a recipe file"):
        read_recipes(tmp_path / "mine.toml", "mtt")
    with open(tmp_path / "mine.toml", "r+b") as handle:
        handle.truncate(2**20 + 1)
    with pytest.raises(UserError, match="too large"):
        read_recipes(tmp_path / "mine.toml", "mtt")


def test_apply_config():
    for values, message in (
        ({"iteration": 3}, r"here: unknown setting 'iteration' \(did you mean 'iterations'\?\)"),
        ({"iterations": 3.5}, "here: iterations is 3.5, expected int"),
        ({"iterations": True}, "here: iterations is True, expected int"),
        ({"lr_images": "fast"}, "here: lr_images is 'fast', expected float"),
        ({"init": 3}, "here: init is 3, expected str"),
    ):
        with pytest.raises(UserError, match=message):
            apply_config(MTTConfig, values, "here")
    assert apply_config(MTTConfig, {}, "here") == MTTConfig()


def test_auto_recipe_fits_dataset_and_ipc():
    name, recipe = next(iter(method_recipes("mtt").items()))
    run = {"dataset": recipe.run["dataset"], "ipc": recipe.run["ipc"], "student": None, "size": None}
    assert choose_recipe("auto", "mtt", run).name == name
    assert choose_recipe("none", "mtt", run) is None
    assert choose_recipe("auto", "mtt", {**run, "dataset": "mnist", "ipc": 7}) is None
    assert choose_recipe("auto", "mtt", {**run, "dataset": None, "ipc": 1}).name == "digits-ipc1", "digits by default"
    assert choose_recipe("auto", "mtt", {**run, "ipc": None}) is None
    assert choose_recipe("auto", "mtt", {**run, "ipc": 7}) is None
    assert choose_recipe("auto", "mtt", {**run, "student": "lenet"}) is None
    assert choose_recipe("auto", "random", run) is None


def test_flags_override_the_recipe(tmp_path: Path, ddb, buffers: Path):
    from conftest import EAGER, TINY

    text = GOOD.replace("holdout = 0\n", "").replace(
        "config = {", "config = { student_steps = 2, expert_epochs = 1, max_start_epoch = 2,"
    )
    path = write(tmp_path / "mine.toml", text)
    argv = ("distill", "--method", "mtt", "--recipe", path, "--student", TINY, "--buffers", buffers, *EAGER)
    assert ddb(*argv, "--iterations", 2, "--out", tmp_path / "run").code == 0
    import json

    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["config"]["iterations"] == 2, "the flag"
    assert config["config"]["lr_images"] == 10.0, "the recipe"
    assert config["config"]["momentum"] == MTTConfig().momentum, "the default"
    assert (config["dataset"], config["ipc"]) == ("digits", 1)


# Helpers of the command line


def test_options_from_text():
    assert options_from_text(()) == ()
    assert options_from_text(("eps=1e-8", "beta=2")) == (("beta", 2.0), ("eps", 1e-8))
    for text in ("eps", "eps=", "eps=small", ""):
        with pytest.raises(UserError, match="expected name=number"):
            options_from_text((text,))


def test_peek():
    argv = ["--method", "mtt", "--ipc=10", "--recipe", "--out", "x=y", "--empty="]
    assert peek(argv, "--method") == "mtt"
    assert peek(argv, "--ipc") == "10"
    assert peek(argv, "--out") == "x=y"
    assert peek(argv, "--empty") == ""
    assert peek(argv, "--seed") is None
    assert peek(["--method"], "--method") is None
    assert peek(["--method-file", "x"], "--method") is None
    for argv in (["--method_file", "x_y"], ["--method_file=x_y"]):
        assert peek(argv, "--method-file") == "x_y"


def test_worker_count():
    assert worker_count(3, 2) == (3, 2)
    assert worker_count(0, 0) == (cores(), 1)
    assert worker_count(1, 0) == (1, cores())
    assert worker_count(0, 1024) == (1, 1024)
    with pytest.raises(UserError, match="--threads 1000000: expected at most 1024"):
        worker_count(0, 10**6)
    for workers, threads in ((-1, 0), (0, -1)):
        with pytest.raises(UserError, match=f"--workers {workers} --threads {threads}"):
            worker_count(workers, threads)


@dataclass(frozen=True, kw_only=True)
class Flags(Common):
    """Flags for the tests."""

    count: int = 3
    """A number."""
    loud: bool = False
    """A switch."""
    rate: float
    """Needed."""


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--cuont", "3"], "unknown flag --cuont (did you mean '--count'?); see prog --help"),
        (["--rate", "1", "--louder"], "unknown flag --louder (did you mean '--loud'?); see prog --help"),
        (["--rate=1", "--cuont=3"], "unknown flag --cuont (did you mean '--count'?); see prog --help"),
        (["--rate", "fast"], "fast"),
        (["--rate", "1", "--count", "2.5"], "2.5"),
        (["--rate", "1", "--count"], "--count"),
        ([], "--rate"),
        (["--rate", "1", "stray"], "stray"),
        (["--rate", "1", "--compile", "maybe"], "maybe"),
    ],
)
def test_parse_errors_are_one_line(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(UserError) as caught:
        parse(Flags, argv, "prog", "Text.", "  prog --count 3")
    text = str(caught.value)
    assert message in text
    assert text.endswith("see prog --help")
    assert "\n" not in text
    assert not set("╭│╰─") & set(text)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


BOXES = {
    "lines": "╭─ Value error ──╮\n│ Error parsing x: │\n│ not a number │\n│ ────────── │\n│ --help │\n╰──╯\n",
    "ascii": " Value error \n ------------- \n  Error parsing x:  \n  not a number  \n  -----\n  --help  \n  \n",
    "colours": "\x1b[31m╭─\x1b[0m Value error ──╮\n│ Error parsing x: not a number │\n╰──╯\n",
    "plain": "Error parsing x: not a number\n",
}


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_sentence_of_an_error_box(box: str):
    assert _one_line(box) == "Error parsing x: not a number"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_parse_errors_say_what_is_wrong_in_every_encoding(encoding: str):
    """The boxes that the parser draws depend on what the terminal can show."""
    code = (
        "from ddbench.cli.main import run\n"
        "for argv in (['--quiet', 'stray'], ['--epochs', '2.5'], ['--epochs'], ['--compile', 'maybe']):\n"
        "    try: run(['buffer', *argv])\n"
        "    except SystemExit: pass\n"
    )
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(Path(ddbench.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    lines = done.stderr.decode(encoding).splitlines()
    assert len(lines) == 4
    for line, needle in zip(lines, ("stray", "2.5", "--epochs", "maybe"), strict=True):
        assert line.startswith("ddbench: error: ")
        assert needle in line
        assert "full helptext" not in line


def test_parse():
    args = parse(Flags, ["--rate", "2", "--loud", "--count", "-4"], "prog", "Text.", "")
    assert (args.rate, args.loud, args.count, args.compile) == (2.0, True, -4, "auto")
    assert parse(Flags, ["--rate=2", "--no-loud"], "prog", "Text.", "").loud is False
    default = Flags(rate=5.0, count=9)
    assert parse(Flags, ["--loud"], "prog", "Text.", "", default=default) == Flags(rate=5.0, count=9, loud=True)
