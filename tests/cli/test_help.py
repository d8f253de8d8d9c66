"""Help and lists: they answer, with examples, and need no torch."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import PATIENCE

import ddbench
from ddbench.cli.main import VERBS
from ddbench.runtime.errors import UserError

ROOT = Path(ddbench.__file__).parents[1]

SUB_VERBS = [
    *(("buffer", "verify"), ("buffer", "info"), ("buffer", "import")),
    *(("diffusion", "train"), ("diffusion", "info"), ("diffusion", "sample")),
    *(("teacher", "info"), ("leaderboard", "build"), ("leaderboard", "show")),
    *(("leaderboard", "verify"), ("leaderboard", "check")),
]


@pytest.mark.parametrize("verb", [(name,) for name in VERBS] + SUB_VERBS, ids=" ".join)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_of_every_verb(verb: tuple[str, ...], flag: str, ddb: Callable):
    result = ddb(*verb, flag)
    assert (result.code, result.err) == (0, "")
    assert "examples:" in result.out
    examples = result.out[result.out.index("examples:") :]
    assert f"ddbench {verb[0]}" in examples


def examples_of(verb: str) -> list[list[str]]:
    """The commands of a verb's examples, as arguments."""
    text = importlib.import_module(VERBS[verb][0]).EXAMPLES.replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize(
    "verb",
    [
        "buffer",
        "teacher",
        "relabel",
        "distill",
        "evaluate",
        "scores",
        "export",
        "import",
        "submit",
        "list",
        "push",
        "doctor",
        "pull",
    ],
)
def test_examples_are_valid(verb: str, ddb: Callable, monkeypatch: pytest.MonkeyPatch):
    """Every example passes the parser: with an unknown flag put in, that flag is all that is complained about."""
    examples = examples_of(verb)
    assert examples
    for words in examples:
        assert words[:2] == ["ddbench", verb]
        if "--help" in words or words[2:3] in (["info"], ["verify"]):
            continue
        result = ddb(*words[1:], "--never-heard-of")
        assert result.code == 2
        assert "unknown flag --never-heard-of" in result.err, (words, result.err)
        parsed = []
        with monkeypatch.context() as patch:
            module = importlib.import_module(VERBS[verb][0])
            whole = module.parse

            def stop(*args: object, whole=whole, parsed=parsed, **options: object) -> object:
                parsed.append(whole(*args, **options))
                raise UserError("parsed")

            patch.setattr(module, "parse", stop)
            result = ddb(*words[1:])
        assert result.err == "ddbench: error: parsed\n", (words, result.err)
        assert len(parsed) == 1


def test_overview(ddb: Callable):
    for argv in ((), ("--help",), ("-h",), ("help",)):
        result = ddb(*argv)
        assert (result.code, result.err) == (0, "")
        for verb, (_, text) in VERBS.items():
            assert f"  {verb} " in result.out
            assert text in result.out
    from ddbench import __version__

    assert ddb("--version").out == f"ddbench {__version__}\n"


@pytest.mark.parametrize("verb", ["export", "import", "pull", "buffer import"])
def test_verbs_that_only_read_ask_nothing_of_the_machine(verb: str, ddb: Callable, refused: Callable):
    text = ddb(*verb.split(), "--help").out
    assert "\nwhere the data are:\n  --data PATH " in text
    assert not [flag for flag in ("--device", "--threads", "--compile") if f"\n  {flag} " in text]
    refused([*verb.split(), "x", "--threads", 1], "unknown flag --threads")


def test_help_of_a_method_shows_its_own_flags(ddb: Callable):
    result = ddb("distill", "--method", "mtt", "--help")
    assert result.code == 0
    for flag in ("--student-steps", "--lr-images", "--ipc", "--buffers"):
        assert flag in result.out
    assert "T+" in result.out, "the documentation of the fields"
    other = ddb("distill", "--method", "random", "--help")
    assert other.code == 0
    assert "--student-steps" not in other.out


def test_help_of_distill_lists_the_methods(ddb: Callable):
    from ddbench.methods import METHODS, description

    text = " ".join(ddb("distill", "--help").out.split())
    for name in METHODS:
        assert name in text
        assert description(name).split("(")[0].strip() in text


def test_defaults_in_the_help_are_those_of_the_recipe(ddb: Callable):
    plain = ddb("distill", "--method", "mtt", "--help").out
    argv = ("distill", "--method", "mtt", "--recipe", "cifar10-ipc1", "--help")
    assert "default: 50)" in " ".join(ddb(*argv).out.split())
    assert plain != ddb(*argv).out


@pytest.mark.parametrize("what", ["methods", "datasets", "students", "protocols", "tasks", "decoders", "recipes"])
def test_lists(what: str, ddb: Callable):
    table = json.loads(ddb("list", what, "--json").out)
    text = ddb("list", what).out
    assert table
    for name, description in table.items():
        assert name in text
        assert (description["line"] if what == "methods" else description) in text
    expected = {
        "methods": {"mtt", "herding"},
        "datasets": {"digits", "folder:PATH"},
        "students": {"lenet", "tv-resnet18", "timm-NAME", "all-small (group)"},
        "protocols": {"hard-v1", "fkd", "FILE.toml"},
        "tasks": {"continual", "membership", "nas", "transfer"},
        "decoders": {"ddif", "fred", "multi-formation"},
        "recipes": {"mtt/cifar10-ipc1"},
    }
    assert expected[what] <= set(table)


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "torchvision", "numpy", "scipy", "sklearn", "kornia", "safetensors", "PIL"}:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Block())
from ddbench.cli.main import run
import contextlib, io, json
report = {}
for command in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            run(command)
        except SystemExit as stop:
            code = stop.code or 0
        except BaseException as error:
            code = repr(error)
    report[" ".join(command)] = [code, len(out.getvalue()), err.getvalue()]
print(json.dumps(report))
"""


def test_help_lists_and_refusals_without_torch():
    """In a process where torch (and numpy, Pillow, ...) cannot be imported."""
    helps = [[verb, "--help"] for verb in VERBS] + [[*verbs, "--help"] for verbs in SUB_VERBS]
    lists = [["list", what] for what in ("methods", "datasets", "students", "protocols", "recipes")]
    lists += [["list", "methods", "--json"], ["list", "methods", "--bibtex"]]
    refusals = [
        ["destill"],
        ["list", "method"],
        ["buffer", "--epoch", "3"],
        ["buffer", "verfy"],
        ["distill", "--ipc", "1"],
        ["distill", "--method", "mttt", "--ipc", "1"],
        ["evaluate", "runs/x", "--protocol", "hard"],
        ["evaluate", "runs/x", "--seeds", "0"],
        ["evaluate", "runs/x", "--students", "lenett"],
        ["relabel", "runs/x", "--protocol", "fdk"],
        ["scores", "runs/x", "--repeats", "1"],
        ["teacher", "inf"],
    ]
    commands = [[], ["--help"], ["--version"], *helps, *lists, *refusals]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, json.dumps(commands)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    report = json.loads(done.stdout)
    assert len(report) == len(commands)
    for command in commands:
        code, length, err = report[" ".join(command)]
        if command in refusals:
            assert (code, length) == (2, 0), (command, err)
            assert len(err.splitlines()) == 1
        else:
            assert (code, err) == (0, ""), (command, code, err)
            assert length > 0
